import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save

from reidlab.data.records import Splits
from reidlab.models import Baseline
from reidlab.models.pooling import AveragePooling, StripePooling
from reidlab.models.weights import _with_digest, load_weights, save_weights
from reidlab.training import TrainConfig, load_checkpoint, save_checkpoint
from reidlab.training.loop import TrainResult

DATA = Splits("colours", "as given", "halves", [], [], [])


def trained(**arguments):
    """A model with running means of its own, as a training would return it."""
    torch.manual_seed(0)
    model = Baseline(num_classes=3, **arguments)
    with torch.no_grad():
        model(torch.rand(4, 3, 128, 64))
    return TrainResult(model.eval(), TrainConfig.preset("smoke"), [], 0.0, 1.0)


@pytest.mark.parametrize(("channels", "height", "width", "stripes", "length"), [(6, 8, 4, 4, 3), (5, 9, 2, 3, 2)])
def test_stripes_are_those_of_a_naive_loop(channels, height, width, stripes, length):
    pool, maps = StripePooling(channels, stripes, length), torch.randn(3, channels, height, width)
    weight = pool.shorten.weight.detach().reshape(stripes, length, channels)
    expected = np.zeros((3, channels + stripes * length))
    for image in range(3):
        expected[image, :channels] = [maps[image, c].mean() for c in range(channels)]
        for stripe in range(stripes):
            rows = range(stripe * height // stripes, (stripe + 1) * height // stripes)
            means = torch.stack([torch.stack([maps[image, :, row] for row in rows]).mean((0, 2))])[0]
            for number in range(length):
                place = channels + stripe * length + number
                expected[image, place] = sum(weight[stripe, number, c] * means[c] for c in range(channels))
    pooled = pool(maps).detach().numpy()
    assert pooled.shape == expected.shape == (3, pool.channels)
    assert pooled == pytest.approx(expected, abs=1e-5)


def test_average_pooling_is_the_mean():
    maps = torch.randn(2, 5, 4, 3)
    assert AveragePooling(5)(maps).numpy() == pytest.approx(maps.numpy().reshape(2, 5, 12).mean(2), abs=1e-6)


def test_shirt_and_trousers_exchanged_keep_the_mean_and_change_the_stripes():
    pool, maps = StripePooling(8, num_stripes=4, length=5), torch.randn(2, 8, 8, 4)
    exchanged = torch.cat([maps[:, :, 4:], maps[:, :, :4]], dim=2)
    before, after = pool(maps), pool(exchanged)
    assert torch.allclose(before[:, :8], after[:, :8], atol=1e-6)
    assert (before[:, 8:] - after[:, 8:]).abs().mean() > 0.05
    within = maps.unflatten(2, (4, 2)).flip(3).flatten(2, 3)  # rows exchanged inside each stripe
    assert torch.allclose(before, pool(within), atol=1e-5) and not torch.equal(maps, within)


def test_one_stripe_does_not_see_the_others():
    pool, maps = StripePooling(8, num_stripes=4, length=5), torch.randn(1, 8, 8, 4)
    other = maps.clone()
    other[:, :, 2:4] += 1  # the second of four
    changed = (pool(maps) != pool(other))[0]
    assert changed[:8].all() and changed[13:18].all()
    assert not changed[8:13].any() and not changed[18:].any()


def test_a_height_that_cannot_be_cut_is_refused():
    with pytest.raises(ValueError, match="a map of height 7 cannot be cut into 4 equal stripes"):
        StripePooling(8, num_stripes=4)(torch.zeros(1, 8, 7, 4))


@pytest.mark.parametrize(
    ("backbone", "stripes", "rows"),
    [("small", stripes, 8) for stripes in (3, 16, 10**9, -1, -8, 2.5, 4.0, True, False, "4", None)]
    + [("resnet50", 3, 16), ("resnet50", 32, 16)],
)
def test_stripes_that_do_not_fit_the_map_are_refused_before_training(backbone, stripes, rows):
    fit = {8: "0, 1, 2, 4, 8", 16: "0, 1, 2, 4, 8, 16"}[rows]
    with pytest.raises(ValueError, match=rf"num_stripes={stripes!r}: the map has {rows} rows; .* one of \[{fit}\]"):
        Baseline(2, backbone, num_stripes=stripes)


@pytest.mark.parametrize(("backbone", "stripes"), [("small", 1), ("small", 8), ("resnet50", 16)])
def test_stripes_that_fit_are_taken(backbone, stripes):
    model = Baseline(2, backbone, num_stripes=stripes).eval()
    features = model.embed(torch.zeros(1, 3, model.height, model.width))
    assert features.shape == (1, model.backbone.channels + 64 * stripes)


def test_outputs_losses_and_gradients_of_a_baseline_with_stripes():
    model = Baseline(num_classes=5, num_stripes=4, margin=None)
    outputs = model(torch.randn(4, 3, 128, 64))
    wide = 256 + 4 * 64
    assert {name: tuple(tensor.shape) for name, tensor in outputs.items()} == {
        "features": (4, wide), "embedding": (4, wide), "logits": (4, 5)
    }  # fmt: skip
    terms = model.loss(outputs, torch.tensor([0, 0, 4, 4]))
    assert set(terms) == {"cross_entropy", "triplet"}
    assert terms["cross_entropy"].item() == pytest.approx(np.log(5), abs=0.1)  # an untrained classifier guesses
    sum(terms.values()).backward()
    lacking = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert lacking == []
    assert model.eval().embed(torch.randn(2, 3, 128, 64)).shape == (2, wide)


def test_no_stripes_add_no_weights():
    assert not [name for name in Baseline(2).state_dict() if name.startswith("pool")]
    assert sum(p.numel() for p in Baseline(2, num_stripes=4).pool.parameters()) == 4 * 64 * 256


def test_checkpoint_and_weights_bring_back_the_stripes(tmp_path):
    result, images = trained(num_stripes=4, flip=True), torch.rand(3, 3, 128, 64)
    features = result.model.embed(images)
    from_checkpoint, meta = load_checkpoint(save_checkpoint(tmp_path / "a.pt", result, DATA))
    assert meta["model"]["num_stripes"] == 4 and from_checkpoint.flip
    assert torch.allclose(from_checkpoint.embed(images), features, atol=1e-6)
    from_weights = load_weights(save_weights(result.model, tmp_path / "a.safetensors", {}))
    assert from_weights.arguments == {**result.model.arguments, "num_classes": 1}
    assert torch.allclose(from_weights.embed(images), features, atol=2e-3)


def test_files_from_before_the_stripes_still_load(tmp_path):
    result, images = trained(), torch.rand(2, 3, 128, 64)
    path = save_checkpoint(tmp_path / "a.pt", result, DATA)
    content = torch.load(path, weights_only=True)
    for name in ("flip", "num_stripes"):
        del content["model"][name]
    for name in ("distinct_cameras", "augmentation", "precision", "ema_decay", "max_grad_norm"):
        del content["config"][name]
    torch.save(content, path)
    model, meta = load_checkpoint(path)
    assert torch.allclose(model.embed(images), result.model.embed(images), atol=1e-6)
    assert TrainConfig().replace(**meta["config"]) == result.config  # what they lack has today's default

    path = save_weights(result.model, tmp_path / "a.safetensors", {})
    with safe_open(path, framework="pt") as file:
        marks = file.metadata()
    arguments = {k: v for k, v in json.loads(marks["model"]).items() if k not in ("flip", "num_stripes")}
    path.write_bytes(_with_digest(save(load_file(path), {**marks, "model": json.dumps(arguments)})))
    model = load_weights(path)
    assert model.arguments["num_stripes"] == 0 and model.arguments["flip"] is False
    assert torch.allclose(model.embed(images), result.model.embed(images), atol=2e-3)
