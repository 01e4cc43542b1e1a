"""What all models have in common, and foreign networks that are made into one."""

import copy
import inspect

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from reidlab.evaluation import evaluate_model
from reidlab.models import MGN, MODELS, Baseline, ReIDModel, RelationNet, RelativeDistanceNet, RGANet, wrap
from reidlab.models.pixels import RawPixels
from reidlab.training import TrainConfig, load_checkpoint, save_checkpoint, train
from reidlab.training.checkpoint import checkpoint_of

MADE = {
    "baseline": lambda: Baseline(5, num_stripes=2, flip=True, neck=False, metric_loss="pull_push"),
    "rga": lambda: RGANet(
        5, "small", stages=[2], channel=False, gate_init="half", retrieval_feature="after_bn", height=192
    ),
    "relation": lambda: RelationNet(5, "small", num_stripes=[4, 2], margin=None, contrast="paper", terms=["global"]),
    "mgn": lambda: MGN(5, "small", margin=None, label_smoothing=0.1, height=96, flip=False),
    "relative_distance": lambda: RelativeDistanceNet(48, 36, features=16, triplets_per_image=2),
}
GLOBAL = (nn.AdaptiveAvgPool2d(1), nn.Flatten())


def foreign():
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), *GLOBAL)


@pytest.mark.parametrize("name", MADE)
def test_name_and_arguments_make_the_same_network_again(name):
    model = MADE[name]().eval()
    again = MODELS[name](**model.arguments).eval()
    assert type(again) is type(model) and again.name == name and model.recipe == {}
    assert again.arguments == model.arguments and "weights" not in model.arguments
    assert model.arguments.keys() | {"weights"} >= inspect.signature(type(model)).parameters.keys()
    again.load_state_dict(model.state_dict())
    images = torch.rand(2, 3, model.height, model.width)
    assert torch.equal(again.embed(images), model.embed(images))
    assert torch.equal(copy.deepcopy(model).embed(images), model.embed(images))
    assert [*model.state_dict()] == [*again.state_dict()]
    prefixed = [n for n in model.state_dict() if n.startswith(model.backbone_prefixes)]
    assert bool(prefixed) == bool(model.backbone_prefixes)


@pytest.mark.parametrize("name", MADE)
def test_images_of_its_size_in_evaluation_mode_and_half_precision_for_the_backbone_alone(name):
    model, pids = MADE[name](), torch.tensor([0, 0, 1, 1])
    images = torch.rand(4, 3, model.height, model.width, generator=torch.Generator().manual_seed(0))
    assert model.preprocess(np.zeros((90, 40, 3), np.uint8)).shape == images.shape[1:]
    if name != "relative_distance":  # it has no batch norm
        with pytest.raises(ValueError, match=r"call model\.eval\(\) before embed"):
            model.embed(images)
    sum(model.loss(model(images, torch.bfloat16), pids).values()).backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert grads and all(grad.dtype == torch.float32 and grad.isfinite().all() for grad in grads)
    model.eval()
    if name != "baseline":  # which pools maps of any size
        for wrong in (images[0], images[:, :, 16:]):
            for call in (model, model.embed):
                with pytest.raises(ValueError, match=r"images: got shape .*expected \(B, 3, "):
                    call(wrong)
    full, half = model(images), model(images, torch.bfloat16)
    for key in full:
        assert half[key].dtype == torch.float32 and not torch.equal(full[key], half[key])
    assert F.cosine_similarity(full["features"], half["features"]).min() > 0.999


def test_a_class_of_ones_own_has_a_name_for_itself_alone(colours, tmp_path, half_size):
    class Mine(Baseline):
        name = "mine"

        def __init__(self, extra, **rest):
            super().__init__(**rest)
            self.extra = extra

    try:
        model = Mine(3, num_classes=6, flip=True)
        assert model.arguments == {"extra": 3, "num_classes": 6, "flip": True}
        result = train(TrainConfig.preset("smoke", iterations=1), colours, model=model)
        again, content = load_checkpoint(save_checkpoint(tmp_path / "a.pt", result, colours))
        assert type(again) is Mine and again.extra == 3 and content["kind"] == "mine"
    finally:
        del MODELS["mine"]
    with pytest.raises(
        ValueError, match=r"holds a model called 'mine', expected one of .*import the module of your own class"
    ):
        load_checkpoint(tmp_path / "a.pt")
    with pytest.raises(ValueError, match="Thief: name='mgn' is that of MGN"):
        type("Thief", (Baseline,), {"name": "mgn"})
    nameless = type("Nameless", (Baseline,), {})(6)  # its parent's name would make another class of it
    assert checkpoint_of(nameless, result.config, colours)["kind"] == ""
    with pytest.raises(ValueError, match="no weights of Mine come with the package"):
        Mine.pretrained()


def test_a_checkpoint_names_its_class_in_older_files_in_the_settings(colours, tmp_path, half_size):
    result = train(TrainConfig.preset("smoke", iterations=1, model="mgn"), colours)
    content = checkpoint_of(result.model, result.config, colours)
    assert content.pop("kind") == "mgn"
    torch.save(content, tmp_path / "old.pt")
    model, content = load_checkpoint(tmp_path / "old.pt")
    assert type(model) is MGN and content["kind"] == "mgn"


def test_a_wrapped_network_is_preprocessed_evaluated_and_flipped_as_asked_for(colours):
    network, values = foreign(), (0.5, 0.25, 0.75)
    model = wrap(network, height=48, width=24, mean=values, std=(0.5, 0.5, 1.0), flip=True)
    assert not model.training and not network.training
    image = np.full((90, 40, 3), 255, np.uint8)
    assert model.preprocess(image).shape == (3, 48, 24)
    assert model.preprocess(image)[:, 0, 0].tolist() == pytest.approx([1.0, 1.5, 0.25])
    images = torch.rand(3, 3, 48, 24)
    one, other = network(images), network(images.flip(3))
    torch.testing.assert_close(model.embed(images), (F.normalize(one) + F.normalize(other)) / 2)
    assert torch.equal(wrap(network, 48, 24).embed(images), one)
    assert 0 <= evaluate_model(model, colours).rank1 <= 1 and not model.training
    half = model(images, torch.bfloat16)["features"]
    assert half.dtype == torch.float32 and not torch.equal(half, one) and torch.allclose(half, one, atol=0.05)


@pytest.mark.parametrize(
    ("network", "got"),
    [
        (nn.Conv2d(3, 8, 3), r"Conv2d: got shape \(2, 8, 46, 22\) for 2 images, expected a tensor \(B, D\)"),
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(0)), r"got shape \(16192,\)"),
        (nn.MaxPool2d(2, return_indices=True), "MaxPool2d: got tuple"),
        (nn.Sequential(nn.Flatten(0, 2), nn.Linear(24, 4)), r"got shape \(288, 4\) for 2 images"),
    ],
)
def test_outputs_that_are_no_features_are_refused(network, got):
    with pytest.raises(ValueError, match=got):
        wrap(network, 48, 24).embed(torch.rand(2, 3, 48, 24))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"module": "osnet"}, "module: got str, expected a torch.nn.Module"),
        ({"height": 0}, "height=0: expected a whole number"),
        ({"mean": (123.7, 116.3, 103.5)}, r"mean=\(123.7, .*: expected three values from 0 to 1; divide .* by 255"),
        ({"std": (0.2, 0.0, 0.2)}, r"std=\(0.2, 0.0, 0.2\): expected three values"),
        ({"std": (0.2,)}, r"std=\(0.2,\): expected three values"),
    ],
)
def test_what_cannot_be_wrapped_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        wrap(**{"module": foreign()} | arguments)


def test_a_wrapped_network_has_no_loss_of_its_own(colours):
    model, config = wrap(foreign(), 64, 32), TrainConfig.preset("smoke", iterations=1)
    with pytest.raises(ValueError, match="WrappedModel has no loss and cannot be trained"):
        train(config, colours, model=model)
    model.eval()
    with pytest.raises(ValueError, match=r"got shape \(1, 3, 64, 64\), expected \(B, 3, 64, 32\)"):
        model.embed(torch.rand(1, 3, 64, 64))


def test_raw_pixels_need_no_mode_and_every_model_refuses_what_is_no_image():
    pixels = RawPixels()
    assert pixels.embed(torch.rand(2, 3, 32, 16)).norm(dim=1).tolist() == pytest.approx([1, 1])
    for model in (pixels, wrap(foreign())):
        assert isinstance(model, ReIDModel)
        with pytest.raises(ValueError, match=r"expected a uint8 array \(H, W, 3\)"):
            model.preprocess(np.zeros((20, 10, 3)))
