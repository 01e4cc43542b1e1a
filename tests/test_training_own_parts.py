"""Models, losses and augmentations of one's own: what is trained is what was meant, or an error says why not."""

import functools

import pytest
import torch
from torch import nn

from reidlab.errors import DataError
from reidlab.losses import triplet_loss
from reidlab.models import MODELS, Baseline, ReIDModel, wrap
from reidlab.training import TrainConfig, Training, load_checkpoint, save_checkpoint, train
from reidlab.training.own_parts import check_outputs, check_terms, describe
from reidlab.walkers import StreetAugmentation

pytestmark = pytest.mark.usefixtures("half_size")
SMOKE = TrainConfig.preset("smoke", iterations=2, log_every=1, precision="float32")


def layers(*more):
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), *more, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def triplets(outputs, pids):
    return triplet_loss(outputs["features"], pids, margin=None)


@pytest.mark.parametrize("augmentation", ["light", "crop", "zoom"])
def test_training_images_are_normalised_as_the_model_expects_them(colours, augmentation):
    model = wrap(layers(), 64, 32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    config = TrainConfig.preset("smoke", augmentation=augmentation)
    images, _ = next(Training(config, colours, model=model, loss=triplets).inputs.after(0))
    assert images.min() >= -1 and images.max() <= 1 and images.min() < -0.9  # ImageNet's would reach -2.1 and 2.6


@pytest.mark.parametrize(
    ("settings", "model", "loss", "message"),
    [
        (
            {"num_stripes": 4},
            lambda: wrap(layers(), 64, 32),
            triplets,
            "num_stripes=4 is not read beside a model of your own",
        ),
        ({"model": "mgn"}, lambda: Baseline(6), None, "model='mgn' is not read beside a model of your own"),
        ({"margin": 0.5}, lambda: Baseline(6), triplets, "margin=0.5 is not read beside a loss of your own"),
        ({"margin": 0.5}, lambda: Baseline(6), None, "margin=0.5, but the model given was made with margin=0.3"),
        ({}, lambda: Baseline(5), None, "the model distinguishes 5 identities, the data has 6"),
        ({}, lambda: Baseline(6), 0.3, "loss: got float, expected a function of outputs and pids"),
        ({}, lambda: Baseline(6), nn.Linear(2, 2), "loss: got a module with weights that no optimizer would change"),
        (
            {"microbatch_size": 4},
            lambda: wrap(layers(nn.Dropout(0.5)), 64, 32),
            triplets,
            "microbatch_size=4 with dropout in the model",
        ),
    ],
)
def test_what_would_be_ignored_or_wrong_is_refused(colours, settings, model, loss, message):
    with pytest.raises(ValueError, match=message):
        train(
            TrainConfig().replace(**{"iterations": 1, "identities_per_batch": 4, **settings}),
            colours,
            model=model(),
            loss=loss,
        )


def test_an_augmentation_that_is_no_function_is_refused(colours):
    with pytest.raises(ValueError, match="augment: got str, expected a function of images and a generator"):
        train(SMOKE, colours, augment="street")


def test_chunks_with_a_loss_of_ones_own_and_a_frozen_part_give_the_gradient_of_the_whole(colours):
    def step(chunk):
        torch.manual_seed(0)
        network = layers(nn.ReLU(), nn.Conv2d(8, 4, 1)).double()
        network[0].requires_grad_(False)
        config = TrainConfig(identities_per_batch=4, images_per_identity=2, microbatch_size=chunk, precision="float32")
        training = Training(config, colours, model=wrap(network, 64, 32), loss=triplets)
        images = torch.randn(8, 3, 64, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        training.step(images, torch.arange(8) // 2, 1, training.generator)
        return [p.grad for p in network.parameters() if p.requires_grad]

    for whole, parts in zip(step(0), step(4), strict=True):
        assert whole.abs().max() > 0 and torch.allclose(whole, parts, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(
    "outputs",
    [
        torch.zeros(4, 2),
        {"logits": torch.zeros(4, 2)},
        {"features": torch.zeros(4, 2, 1)},
        {"features": torch.zeros(4, 2), "proxies": torch.zeros(6, 2)},
        {"features": torch.zeros(4, 2), "count": torch.zeros(4, dtype=torch.int64)},
        {"features": torch.zeros(4, 2), "scale": torch.tensor(1.0)},
    ],
)
def test_outputs_without_a_row_for_each_image_are_refused(outputs):
    with pytest.raises(ValueError, match="forward: expected tensors of floating-point numbers by name"):
        check_outputs(outputs, 4)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        (None, "expected a tensor of one number"),
        ({}, "expected a tensor of one number"),
        (torch.ones(3, requires_grad=True), "take the mean"),
        ({"iteration": torch.ones((), requires_grad=True)}, "'iteration' is the name of a column of the history"),
        (torch.ones(()), "none of its terms depends on the outputs"),
    ],
)
def test_what_is_no_loss_is_refused(terms, message):
    with pytest.raises(ValueError, match=message):
        check_terms(terms)


def test_a_run_is_resumed_with_the_parts_it_was_begun_with(colours, tmp_path):
    def again(**parts):
        return train(SMOKE, colours, out=tmp_path / "run", resume=True, **parts)

    begun = {"model": Baseline(6, flip=True), "augment": StreetAugmentation(64, 32, colour=0.5)}
    again(**begun)
    again(model=Baseline(6, flip=True), augment=StreetAugmentation(64, 32, colour=0.5))
    with pytest.raises(ValueError, match=r"was begun with model=Baseline\(.*flip=True.*got Baseline\(.*flip=False"):
        again(model=Baseline(6), augment=begun["augment"])
    with pytest.raises(ValueError, match=r"was begun with model=Baseline\(.*got None"):
        again(augment=begun["augment"])
    with pytest.raises(ValueError, match=r"was begun with augment=.*colour=0\.5.*got .*colour=1\.0"):
        again(model=begun["model"], augment=StreetAugmentation(64, 32))


def test_a_model_that_its_checkpoint_could_not_make_again_is_refused_before_training(colours, tmp_path):
    class Odd(ReIDModel):
        name, height, width = "odd", 64, 32

        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, images, precision=None):
            return {"features": self.network(images)}

    try:
        with pytest.raises(ValueError, match=r"Odd could not be made again from its checkpoint .* or leave `name` out"):
            train(SMOKE, colours, model=Odd(layers()), loss=triplets, out=tmp_path / "run")
    finally:
        del MODELS["odd"]
    assert not (tmp_path / "run" / "last.pt").exists()


def test_a_checkpoint_keeps_what_was_set_after_construction(colours, tmp_path):
    result = train(SMOKE, colours)
    result.model.flip = True
    model, _ = load_checkpoint(save_checkpoint(tmp_path / "a.pt", result, colours))
    images = torch.rand(2, 3, 64, 32)
    assert model.flip and torch.equal(model.embed(images), result.model.embed(images))
    with pytest.raises(DataError, match="was trained with flip=True, the model given has flip=False"):
        load_checkpoint(tmp_path / "a.pt", Baseline(6))


def test_a_module_that_has_a_part_called_module_is_trained_as_a_whole(colours):
    class Outer(ReIDModel):
        height, width = 64, 32

        def __init__(self):
            super().__init__()
            self.module = wrap(layers(), 64, 32)

        def forward(self, images, precision=None):
            return self.module(images, precision)

    assert type(train(SMOKE, colours, model=Outer(), loss=triplets).model) is Outer
    model = nn.DataParallel(Baseline(6))
    assert train(SMOKE, colours, model=model).model is model.module


def test_parts_are_remembered_by_name_and_plain_attributes():
    assert describe(triplets) == "triplets" and describe(None) is None
    assert describe(StreetAugmentation(64, 32)).startswith("StreetAugmentation(height=64, width=32, border=1.1")


def test_bound_arguments_of_a_loss_are_remembered():
    assert describe(functools.partial(triplets, pids=3)) == "partial(triplets, pids=3)"


def test_a_rate_for_the_backbone_of_a_model_without_one_is_refused(colours):
    with pytest.raises(ValueError, match=r"backbone_lr_mult=0\.1 is not read: the model given names no"):
        train(SMOKE.replace(backbone_lr_mult=0.1), colours, model=wrap(layers(), 64, 32), loss=triplets)
