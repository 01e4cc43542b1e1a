"""Files of tensors: damage is found, foreign names are understood, nothing reaches for the network."""

import io
import socket
import zipfile

import numpy as np
import pytest
import torch
import torchvision

from reidlab.errors import DataError
from reidlab.models import MGN, Baseline, RelationNet, RGANet
from reidlab.models.backbones import BACKBONES, ResNet50Backbone, SmallBackbone, load_resnet50_weights
from reidlab.models.published import load_published
from reidlab.models.tensors import plain_state, state_differences
from reidlab.models.weights import WEIGHTS, load_weights, save_weights
from reidlab.training import RunFolder, TrainConfig, load_checkpoint, train
from reidlab.training.checkpoint import checkpoint_of, write_checkpoint

CONFIG = TrainConfig(iterations=1, identities_per_batch=2, images_per_identity=2, precision="float32")
STATE = {"conv.weight": torch.rand(2, 3), "norm.running_var": torch.rand(2)}


@pytest.fixture(scope="module")
def checkpoint(colours, tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("c") / "last.pt", checkpoint_of(Baseline(6), CONFIG, colours))


@pytest.mark.parametrize("place", np.linspace(0.02, 0.98, 12))
def test_overwritten_bytes_in_a_checkpoint_are_refused(checkpoint, tmp_path, place):
    content = bytearray(checkpoint.read_bytes())
    start = int(place * len(content))
    content[start : start + 16] = bytes(byte ^ 0x5A for byte in content[start : start + 16])
    (tmp_path / "last.pt").write_bytes(content)
    with pytest.raises(DataError, match=r"last.pt: (damaged|a compressed|cannot be read)"):
        load_checkpoint(tmp_path / "last.pt")


@pytest.mark.parametrize("place", [0.0005, 0.001, *np.linspace(0.01, 0.999, 8)])
def test_a_flipped_bit_in_the_shipped_weights_is_refused(tmp_path, place):
    content = bytearray(WEIGHTS.read_bytes())
    content[int(place * len(content))] ^= 1
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(DataError, match=r"w\.safetensors"):
        load_weights(tmp_path / "w.safetensors")


def test_weights_without_a_digest_are_refused(tmp_path):
    file = save_weights(Baseline(2), tmp_path / "a.safetensors", {})
    file.write_bytes(file.read_bytes().replace(b'"sha256"', b'"sha255"'))
    with pytest.raises(DataError, match="digest is wrong or missing"):
        load_weights(file)


def changed(checkpoint, tmp_path, **parts):
    content = torch.load(checkpoint, weights_only=True)
    torch.save(content | {name: change(content.get(name)) for name, change in parts.items()}, tmp_path / "c.pt")
    return tmp_path / "c.pt"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s | {"classifier.weight": s["classifier.weight"] * torch.nan}, "NaN or infinity"),
        (lambda s: s | {"neck.weight": torch.full_like(s["neck.weight"], torch.inf)}, "NaN or infinity"),
        (lambda s: s | {"neck.weight": s["neck.weight"].int()}, r"another type, first 'neck.weight': got torch.int32"),
        (lambda s: s | {"neck.weight": s["neck.weight"][1:]}, r"'neck.weight': got \(255,\), expected \(256,\)"),
        (
            lambda s: {n: t for n, t in s.items() if n != "neck.weight"},
            "1 tensors missing, 0 unknown, .*'neck.weight'",
        ),
        (lambda s: list(s), "parts missing or changed"),
        (lambda s: None, "parts missing or changed"),
        (lambda s: s | {"neck.weight": "text"}, "parts missing or changed"),
    ],
)
def test_lost_and_changed_weights_in_a_checkpoint_are_refused(checkpoint, tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        load_checkpoint(changed(checkpoint, tmp_path, state_dict=change))


def test_archives_that_are_none_of_ours_are_refused(checkpoint, tmp_path):
    content = checkpoint.read_bytes()
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("last/data.pkl", b"0" * 50_000_000)
    torch.save(torch.load(checkpoint, weights_only=True), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    cases = {"cut.pt": content[:-100], "half.pt": content[: len(content) // 2], "text.pt": b"<html>", "empty.pt": b""}
    for name, data in (cases | {"bomb.pt": bomb.getvalue()}).items():
        (tmp_path / name).write_bytes(data)
    for name in (*cases, "bomb.pt", "old.pt"):
        with pytest.raises(DataError, match=name):
            load_checkpoint(tmp_path / name)


@pytest.mark.parametrize("network", [Baseline, RGANet, RelationNet, MGN])
@pytest.mark.parametrize("weights", ["torchvision", "/etc/passwd"])
def test_a_checkpoint_fetches_no_weights(checkpoint, tmp_path, monkeypatch, network, weights):
    def no(*asked):
        raise AssertionError(f"asked the network for {asked}")

    arguments = {"num_classes": 6, "backbone": "small", "weights": weights}
    state = network(6, backbone="small").state_dict()
    file = changed(
        checkpoint, tmp_path, kind=lambda _: network.name, model=lambda _: arguments, state_dict=lambda _: state
    )
    monkeypatch.setattr(socket, "getaddrinfo", no)
    monkeypatch.setattr(torchvision.models.ResNet50_Weights, "get_state_dict", no)
    assert type(load_checkpoint(file)[0]) is network


WRAPPED = {
    "plain": lambda s: s,
    "module.": lambda s: {f"module.{n}": t for n, t in s.items()},
    "_orig_mod.": lambda s: {f"_orig_mod.{n}": t for n, t in s.items()},
    "both": lambda s: {f"module._orig_mod.{n}": t for n, t in s.items()},
    "twice, turned": lambda s: {f"_orig_mod.module.module.{n}": t for n, t in s.items()},
    "some of them": lambda s: {(f"module.{n}" if i else n): t for i, (n, t) in enumerate(s.items())},
    "inside": lambda s: {n.replace(".", "._orig_mod.", 1): t for n, t in s.items()},
    **{key: lambda s, key=key: {key: s, "epoch": 9, "optimizer": {"state": {}}, "name": "x"}
       for key in ("state_dict", "model", "net", "model_state_dict", "params", "network")},
    "in a dict in a dict": lambda s: {"model": {"state_dict": s, "arch": "resnet50"}, "epoch": 3},
    "numbers beside": lambda s: s | {"epoch": 9, "best": 0.5, "note": "x", "extra": None},
}  # fmt: skip


@pytest.mark.parametrize("kind", WRAPPED)
def test_weights_are_found_under_foreign_names(kind):
    found = plain_state(WRAPPED[kind](STATE), "w.pth")
    assert found.keys() == STATE.keys() and all(torch.equal(found[name], STATE[name]) for name in STATE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": STATE, "params": STATE}, "weights under model, params"),
        (STATE | {"module.conv.weight": STATE["conv.weight"]}, "there twice"),
        ({"epoch": 9, "loss": 0.1}, "a dict with the keys epoch, loss"),
        ([STATE["conv.weight"]], "got list"),
        (STATE["conv.weight"], "got Tensor"),
        ({}, "expected tensors by name"),
    ],
)
def test_what_cannot_be_weights_is_named(content, message):
    with pytest.raises(DataError, match=rf"w.pth: .*{message}"):
        plain_state(content, "w.pth")


def test_foreign_weights_of_a_resnet_and_what_does_not_fit(tmp_path):
    state = torchvision.models.resnet50(weights=None).state_dict()
    backbone, file = ResNet50Backbone(), tmp_path / "w.pth"
    torch.save({"model": {f"module._orig_mod.{n}": t for n, t in state.items()}, "epoch": 1}, file)
    assert load_resnet50_weights(backbone, file) == 265 and torch.equal(backbone.conv1.weight, state["conv1.weight"])
    torch.save(state, file, _use_new_zipfile_serialization=False)  # as torchvision's first files are
    assert load_resnet50_weights(backbone, file) == 265
    for change, message in (
        (
            {"conv1.weight": state["conv1.weight"][:, :1]},
            r"'conv1.weight': got \(64, 1, 7, 7\), expected \(64, 3, 7, 7\)",
        ),
        ({"conv1.weight": state["conv1.weight"].int()}, "of another type"),
        ({"bn1.weight": state["bn1.weight"] * torch.nan}, "NaN or infinity"),
        ({"student.x": state["bn1.weight"]}, "1 unknown, .*'student.x'"),
    ):
        torch.save(state | change, file)
        with pytest.raises(DataError, match=message):
            load_resnet50_weights(backbone, file)


def test_published_names_with_foreign_prefixes():
    from reidlab.models.published import published_shapes

    with torch.device("meta"):
        shapes = published_shapes(RGANet(num_classes=7))
    file = {f"_orig_mod.module.{name}": torch.rand(shape) for name, shape in shapes.items()}
    assert load_published("rga", {"net": file, "epoch": 600})[1].num_loaded == 510


def test_differences_name_both_sides():
    assert state_differences(STATE, STATE) == ""
    assert state_differences(STATE, STATE | {"norm.num_batches_tracked": torch.tensor(0)}) == ""


@pytest.mark.parametrize(
    "wrap", [torch.compile, torch.nn.DataParallel, lambda m: torch.compile(torch.nn.DataParallel(m))]
)
def test_training_goes_on_from_a_wrapped_model(colours, wrap):
    model = Baseline(6)
    result = train(CONFIG, colours, model=wrap(model))
    assert result.model is model and not any("_orig_mod" in name for name in result.model.state_dict())


def test_what_lies_beside_the_weights_does_not_hide_them():
    found = plain_state({"state_dict": {"model": STATE}, "net": {}, "best": torch.tensor(0.5)}, "w.pth")
    assert found.keys() == STATE.keys()
    assert plain_state({"conv.module.weight": STATE["conv.weight"]}, "w.pth").keys() == {"conv.weight"}
    with pytest.raises(DataError, match=r"weights under model, conv\.weight"):
        plain_state({"model": STATE} | STATE, "w.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: torch.full_like(t, 1e300, dtype=torch.float64), "NaN or infinity"),
        (lambda t: t.to_sparse(), "expected plain tensors"),
        (lambda t: t.to("meta"), "expected plain tensors"),
        (lambda t: torch.zeros(1).expand(10**12), "expected plain tensors"),
    ],
)
def test_tensors_that_no_network_can_hold_are_refused(checkpoint, tmp_path, change, message):
    name = "backbone.stem.0.weight"
    file = changed(checkpoint, tmp_path, state_dict=lambda state: state | {name: change(state[name])})
    with pytest.raises(DataError, match=rf"c.pt: .*{message}"):
        load_checkpoint(file)


def test_no_memory_is_taken_for_a_network_that_is_not_in_the_file(checkpoint, tmp_path):
    file = changed(checkpoint, tmp_path, model=lambda arguments: arguments | {"num_classes": 10**14})
    with pytest.raises(DataError, match=r"'classifier.weight': got \(6, 256\), expected \(100000000000000, 256\)"):
        load_checkpoint(file)


def test_a_file_in_which_nothing_fits_is_named_by_its_own_keys(tmp_path):
    torch.save({"student.conv": torch.zeros(2), "student.norm": torch.zeros(2)}, tmp_path / "w.pth")
    with pytest.raises(DataError, match=r"265 tensors missing, .*in the file \['student.conv', 'student.norm'\]"):
        load_resnet50_weights(ResNet50Backbone(), tmp_path / "w.pth")


def test_a_run_goes_on_without_the_weights_it_began_from(colours, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setitem(BACKBONES, "resnet50", lambda weights=None: asked.append(weights) or SmallBackbone())
    config = CONFIG.replace(backbone="resnet50", weights="torchvision")
    first = train(config, colours, run=RunFolder(tmp_path / "run")).model.state_dict()
    again = train(config, colours, run=RunFolder(tmp_path / "run", resume=True)).model.state_dict()
    assert asked[-2:] == ["torchvision", None] and all(torch.equal(first[name], again[name]) for name in first)
