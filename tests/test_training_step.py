"""Whole batches, parts of batches, other precisions: the same gradient of the same loss."""

import copy

import pytest
import torch
from torch import nn

from reidlab.models import MGN, MODELS, Baseline, RelationNet
from reidlab.training import TrainConfig, train
from reidlab.training.step import Step

pytestmark = pytest.mark.usefixtures("half_size")
LABELS = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])


def gradients(model, images, **settings):
    """What one step leaves in `grad`, and the terms of its loss; the weights are moved by nothing."""
    config = TrainConfig().replace(**{"precision": "float32"} | settings)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    step = Step(model.train(), optimizer, config)
    terms, features, labels = step(images, LABELS, 1, torch.Generator())
    assert torch.equal(labels, LABELS) and len(features) == len(images)
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}, terms


def still(model):
    """Batch norm that does not look at the batch, so that parts of a batch change nothing."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.training = False
            module.train = lambda mode=True, module=module: module
    return model


NETWORKS = {
    "baseline": lambda: Baseline(4, margin=2.0),
    "pull and push": lambda: Baseline(4, metric_loss="pull_push_all"),
    "relation": lambda: RelationNet(4, "small", num_stripes=(4, 2), out_channels=8, flip=False),
    "mgn": lambda: MGN(4, "small", flip=False),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("chunk", [2, 5])
def test_parts_of_a_batch_give_the_gradient_of_the_whole(name, chunk):
    torch.manual_seed(0)
    model = still(NETWORKS[name]()).double()
    images = torch.rand(8, 3, model.height, model.width, dtype=torch.float64)
    whole, terms = gradients(model, images)
    parts, terms_of_parts = gradients(model, images, microbatch_size=chunk)
    assert whole.keys() == parts.keys() and len(whole) > 5
    for key in terms:
        assert terms[key] == pytest.approx(float(terms_of_parts[key]), rel=1e-9), key
    for key, value in whole.items():
        assert torch.allclose(parts[key], value, rtol=1e-7, atol=1e-12), key


def test_parts_are_compared_with_the_whole_batch_and_not_with_themselves():
    """Two images at a time are one person: by themselves they have nobody to be told from."""
    torch.manual_seed(0)
    model = still(Baseline(4, cross_entropy=False, margin=5.0)).double()
    images = torch.rand(8, 3, 64, 32, dtype=torch.float64)
    _, terms = gradients(model, images, microbatch_size=2)
    alone = [model.loss(model(images[i : i + 2]), LABELS[i : i + 2])["triplet"] for i in range(0, 8, 2)]
    assert float(terms["triplet"]) > 1 and not any(value.item() for value in alone)


def test_batch_norm_sees_its_part_and_remembers_their_mean():
    torch.manual_seed(0)
    model = Baseline(4)
    images = torch.rand(8, 3, 64, 32)
    apart = [copy.deepcopy(model).train() for _ in range(2)]
    for part, one in zip(images.split(4), apart, strict=True):
        one(part)
    expected = {key: (value + apart[1].state_dict()[key]) / 2 for key, value in apart[0].state_dict().items()}
    gradients(model, images, microbatch_size=4)
    for key, value in model.state_dict().items():
        assert torch.allclose(value.float(), expected[key].float(), atol=1e-6), key
    assert model.neck.num_batches_tracked == 1


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_is_near_and_trains(precision, colours):
    torch.manual_seed(0)
    model = Baseline(4, margin=2.0)
    images = torch.rand(8, 3, 64, 32)
    full, _ = gradients(copy.deepcopy(model), images)
    half, _ = gradients(copy.deepcopy(model), images, precision=precision)
    one, other = (torch.cat([grad.flatten() for grad in found.values()]) for found in (full, half))
    assert torch.nn.functional.cosine_similarity(one, other, dim=0) > 0.98
    assert torch.linalg.norm(other) == pytest.approx(float(torch.linalg.norm(one)), rel=0.1)
    config = TrainConfig.preset("smoke", iterations=2, log_every=1, precision=precision)
    result = train(config, colours)
    assert {p.dtype for p in result.model.parameters()} == {torch.float32}
    assert train(config, colours).history == result.history
    full_run = train(config.replace(precision="float32"), colours)
    assert result.history[0]["cross_entropy"] == pytest.approx(full_run.history[0]["cross_entropy"], abs=0.2)


def test_gradients_are_shortened_after_they_were_unscaled():
    torch.manual_seed(0)
    model = Baseline(4, margin=2.0)
    grads, _ = gradients(model, torch.rand(8, 3, 64, 32), precision="float16", max_grad_norm=0.5)
    assert torch.linalg.norm(torch.cat([g.flatten() for g in grads.values()])) == pytest.approx(0.5, rel=1e-3)


def test_a_compiled_network_gives_the_same_step(monkeypatch):
    compiled = []

    def as_it_is(model, **_):
        compiled.append(model)
        return torch._dynamo.optimize("eager")(model)

    monkeypatch.setattr(torch, "compile", as_it_is)
    torch.manual_seed(0)
    model = Baseline(4, margin=2.0)
    images = torch.rand(8, 3, 64, 32)
    plain, _ = gradients(copy.deepcopy(model), images)
    own, _ = gradients(model, images, compile=True)
    assert len(compiled) == 1
    assert all(torch.allclose(own[key], value, atol=1e-5) for key, value in plain.items())


@pytest.mark.parametrize("name", ["bnneck", "rga_sc", "relation", "mgn"])
def test_the_papers_presets_train_in_small(name, colours):
    small = {"backbone": "small", "weights": None, "iterations": 2, "log_every": 1, "evaluate_every": 0}
    small |= {"identities_per_batch": 4, "images_per_identity": 2}
    config = TrainConfig.preset(name, **small)
    result = train(config, colours)
    assert [row["iteration"] for row in result.history] == [1, 2]
    assert type(result.model) is MODELS[config.model]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"momentum": 0.5}, "momentum=0.5 is not read with optimizer='adamw'"),
        ({"gamma": 0.5}, r"gamma=0.5 is not read with milestones=\(\)"),
        ({"milestones": "0.5"}, "milestones='0.5' with warmup=0.1: expected shares of the run, increasing"),
        ({"milestones": (0.5, 0.5)}, "increasing"),
        ({"milestones": (0.05, 0.5)}, "after the warm-up"),
        ({"milestones": (0.5, 1.0)}, "below 1"),
        ({"milestones": (1, 2)}, "expected shares of the run"),
        ({"warmup": 0.0, "warmup_start": 0.5}, "warmup_start=0.5 is not read with warmup=0"),
        ({"augmentation": "crop", "jitter": 0.3}, "jitter=0.3 is not read with augmentation='crop'"),
        ({"held_out": 0.2}, "held_out=0.2 is not read with evaluate_every=0"),
        (
            {"model": "relative_distance", "backbone_lr_mult": 0.5},
            "backbone_lr_mult=0.5 is not read with model='relative_distance'",
        ),
        ({"optimizer": "lamb"}, "expected one of adamw, adam, sgd"),
        ({"batch_norm": "synced", "model": "rga"}, "batch_norm='synced' with model='rga'"),
        ({"decay_norm_bias": 1}, "decay_norm_bias=1: expected True or False"),
        ({"microbatch_size": -1}, "microbatch_size=-1: expected a whole number from 0"),
        ({"microbatch_size": 21}, "microbatch_size=21 leaves one image of 64 by itself"),
        ({"microbatch_size": 1}, "microbatch_size=1 leaves one image"),
        ({"microbatch_size": 64}, "microbatch_size=64: a process has 64 images of a batch at a time anyway"),
    ],
)
def test_settings_that_would_change_nothing_or_mean_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig().replace(**settings)


def test_synced_batch_norm_needs_a_gpu(colours):
    config = TrainConfig.preset("smoke", batch_norm="synced")
    with pytest.raises(ValueError, match="torch has it on GPUs only; use batch_norm='local'"):
        train(config, colours)
