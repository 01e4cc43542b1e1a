import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch.nn import functional as F

from reidlab.errors import DataError
from reidlab.models import Baseline
from reidlab.models.backbones import SmallBackbone
from reidlab.models.weights import WEIGHTS, _with_digest, load_weights, save_weights


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = Baseline(num_classes=300, margin=None, flip=True)
    with torch.no_grad():
        model(torch.rand(8, 3, 128, 64))  # running means that are not the initial zeros
    return model.eval()


@pytest.fixture
def path(tmp_path, model):
    return save_weights(model, tmp_path / "deep" / "a.safetensors", {"iterations": 3, "scores": [0.5, None]})


def rewrite(path, change):
    """Write the file again after `change(tensors, marks)`."""
    with safe_open(path, framework="pt") as file:
        marks = file.metadata()
    tensors = load_file(path)
    change(tensors, marks)
    path.write_bytes(_with_digest(save(tensors, marks)))


def names(**arguments):
    """The mark that names a model."""
    return json.dumps({"num_classes": 1, "backbone": "small"} | arguments)


def test_features_come_back_to_the_precision_of_float16(path, model):
    loaded = load_weights(path, num_classes=7)
    images = torch.rand(4, 3, 128, 64)
    assert torch.allclose(loaded.embed(images), model.embed(images), atol=2e-3)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert not loaded.training
    for name, tensor in loaded.state_dict().items():
        if not name.startswith("classifier") and not name.endswith("num_batches_tracked"):
            assert torch.equal(tensor, model.state_dict()[name].half().float()), name


def test_the_classifier_is_new_and_as_large_as_asked_for(path):
    loaded = Baseline.pretrained(num_classes=7, path=path)
    assert loaded.classifier.weight.shape == (7, 256)
    settings = {"backbone": "small", "margin": None, "label_smoothing": 0.1, "flip": True, "num_stripes": 0}
    settings |= {"metric_loss": "batch_hard", "metric": "euclidean", "cross_entropy": True, "neck": True}
    assert loaded.arguments == {"num_classes": 7, **settings}
    terms = loaded.train().loss(loaded(torch.rand(4, 3, 128, 64)), torch.tensor([0, 0, 6, 6]))
    sum(terms.values()).backward()
    assert loaded.backbone.stem[0].weight.grad.any()


def test_the_file_has_halves_no_classifier_no_counters_and_says_how_it_was_made(path, model):
    tensors = load_file(path)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert not [name for name in tensors if "classifier" in name or "num_batches" in name]
    with safe_open(path, framework="pt") as file:
        marks = file.metadata()
    assert marks["format"] == "reidlab weights 1"
    assert json.loads(marks["model"]) == model.arguments
    assert json.loads(marks["recipe"]) == {"iterations": 3, "scores": [0.5, None]}
    numbers = sum(tensor.numel() for tensor in tensors.values())
    assert 2 * numbers < path.stat().st_size < 2 * numbers + 10_000


def test_the_same_weights_and_recipe_give_the_same_bytes(tmp_path, model):
    recipe = {"places": "Zürich → Bern", "iterations": 3}
    files = [save_weights(model, tmp_path / f"{number}.safetensors", recipe) for number in range(8)]
    assert len({file.read_bytes() for file in files}) == 1
    with safe_open(files[0], framework="pt") as file:
        assert json.loads(file.metadata()["recipe"]) == recipe
    assert load_weights(files[0]).flip


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.safetensors: no such weights file; pass the path"):
        load_weights(tmp_path / "absent.safetensors")


def test_a_package_without_weights_says_so(tmp_path, monkeypatch):
    absent = tmp_path / "walkers_small.safetensors"
    monkeypatch.setattr("reidlab.models.weights.WEIGHTS", absent)
    with pytest.raises(FileNotFoundError, match="this copy of reidlab was made without weights; install it again"):
        Baseline.pretrained()


@pytest.mark.parametrize("number", [0, -1, 2.5, True, "3", None])
def test_the_number_of_classes_is_checked_before_the_file(tmp_path, number):
    with pytest.raises(ValueError, match=f"num_classes={number!r}: expected a whole number from 1 on"):
        load_weights(tmp_path / "absent.safetensors", num_classes=number)


@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_a_damaged_file_is_refused(path, damage):
    content = path.read_bytes()
    path.write_bytes({"cut": content[: len(content) // 2], "text": b"version https://git-lfs", "empty": b""}[damage])
    with pytest.raises(DataError, match=r"a\.safetensors: damaged, or not a safetensors file .*; copy it again"):
        load_weights(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, m: m.update(format="reidlab weights 9"), "got 'reidlab weights 9', expected a file marked"),
        (lambda t, m: (m.clear(), m.update(a="b")), "got 'no mark', expected a file marked 'reidlab weights 1'"),
        (lambda t, m: m.pop("model"), "names no model that this version of reidlab has"),
        (lambda t, m: m.update(model="{"), "names no model"),
        (lambda t, m: m.update(model="[]"), "names no model"),
        (lambda t, m: m.update(model='{"backbone": "huge"}'), "names no model .*expected one of small"),
        (lambda t, m: m.update(model='{"layers": 3}'), "names no model .*unknown argument layers"),
        (lambda t, m: m.update(model=names(backbone="resnet50", weights="/absent")), "unknown argument weights"),
        (lambda t, m: m.update(model=names(num_stripes=3)), "names no model .*num_stripes=3: the map has 8 rows"),
        (lambda t, m: m.update(model=names(num_stripes=-1)), "names no model .*num_stripes=-1"),
        (lambda t, m: m.update(model=names(num_stripes=10**9)), "names no model .*num_stripes=1000000000"),
        (lambda t, m: m.update(model=names(num_stripes=True)), "names no model .*num_stripes=True"),
        (
            lambda t, m: t["neck.weight"].fill_(float("nan")),
            r"NaN or infinity in \['neck.weight'\]; copy the file again",
        ),
        (
            lambda t, m: t["backbone.stem.0.weight"][0].fill_(float("-inf")),
            r"infinity in \['backbone\.stem\.0\.weight'",
        ),
        (lambda t, m: t.pop("neck.weight"), r"1 tensors missing, 0 unknown, 0 of another shape.*neck\.weight"),
        (lambda t, m: t.update(extra=torch.zeros(1)), "0 tensors missing, 1 unknown.*extra"),
        (lambda t, m: t.update({"neck.weight": torch.zeros(3)}), "0 unknown, 1 of another shape.*neck"),
        (lambda t, m: t.update({"classifier.weight": torch.zeros(1, 256)}), "1 unknown.*classifier"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_refused(path, change, message):
    rewrite(path, change)
    with pytest.raises(DataError, match=message):
        load_weights(path)


def test_what_cannot_be_written_leaves_no_file(tmp_path):
    model = Baseline(2)
    with pytest.raises(ValueError, match="recipe: expected what JSON can hold"):
        save_weights(model, tmp_path / "a.safetensors", {"data": object()})
    with pytest.raises(ValueError, match="recipe: expected what JSON can hold"):
        save_weights(model, tmp_path / "a.safetensors", {"score": float("nan")})
    with torch.no_grad():
        model.neck.weight[0] = 1e6
    with pytest.raises(ValueError, match=r"too large for float16 in \['neck.weight'\]"):
        save_weights(model, tmp_path / "a.safetensors", {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not WEIGHTS.is_file(), reason="the package's weights are not there yet: make them and run again")
def test_the_weights_of_the_package_load():
    model = Baseline.pretrained()
    features = model.embed(torch.rand(2, 3, model.height, model.width))
    assert features.shape == (2, model.neck.num_features) and torch.isfinite(features).all()
    assert not torch.allclose(F.normalize(features)[0], F.normalize(features)[1])


def test_flip_averages_an_image_and_its_mirror_image():
    torch.manual_seed(0)
    model = Baseline(2, flip=True).eval()
    plain = Baseline(2).eval()
    plain.load_state_dict(model.state_dict())
    images = torch.rand(3, 3, 128, 64)
    mirrored = torch.stack([image.flip(-1) for image in images])
    expected = (F.normalize(plain.embed(images)) + F.normalize(plain.embed(mirrored))) / 2
    assert torch.allclose(model.embed(images), expected, atol=1e-6)
    assert torch.allclose(model.embed(images), model.embed(mirrored), atol=1e-6)
    assert not torch.allclose(plain.embed(images), plain.embed(mirrored), atol=1e-3)


def test_more_blocks_deepen_a_stage_and_keep_the_size_of_the_maps():
    plain, deep = SmallBackbone(), SmallBackbone(blocks=(1, 2, 1))
    images = torch.zeros(1, 3, 128, 64)
    assert deep(images).shape == plain(images).shape == (1, 256, 8, 4)
    assert len(deep.stages) == len(plain.stages) + 1
    extra = 2 * 9 * 128 * 128 + 2 * 2 * 128  # two convolutions and two norms of 128 channels
    assert sum(p.numel() for p in deep.parameters()) - sum(p.numel() for p in plain.parameters()) == extra
    with pytest.raises(ValueError, match=r"blocks=\(1, 0, 1\): expected 4 widths and 3 numbers"):
        SmallBackbone(blocks=(1, 0, 1))
