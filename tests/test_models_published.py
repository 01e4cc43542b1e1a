"""The authors' checkpoints in our networks, against `published_reference`, which knows nothing of ours."""

import functools
import textwrap
from pathlib import Path

import published_reference as reference
import pytest
import torch
from torch import nn
from torchvision.models import resnet50

from reidlab.errors import DataError
from reidlab.models.published import PublishedReport, load_published, published_shapes
from reidlab.models.relation import RelationNet
from reidlab.models.rga import RelationAwareAttention
from reidlab.models.rganet import RGANet

ATT = "backbone.rga_att"
# 53 convolutions with a batch norm of 4 tensors each
RESNET50 = 53 * (1 + 4)
# θ, φ, g, the layer on the relations, and two that end in the gate, each a convolution and a batch norm
RGA_HALF = 6 * (1 + 4)
# 6 + 4 + 2 parts, and globals of 6, 4 and 2: three convolutions with bias and batch norm each, and three classifiers
RRID_HEADS = (12 + 3) * 3 * (2 + 4 + 2)


@pytest.fixture(scope="module")
def small():
    """Everything that RGA has, on maps of 128×64 images, where the authors' reduction of 8 leaves nothing."""
    return reference.rga_state(height=128, width=64, reduction=4)


@pytest.fixture(scope="module")
def rrid():
    return reference.rrid_state()


def without(state, *parts):
    return {name: tensor for name, tensor in state.items() if not any(part in name for part in parts)}


def swapped(state, one, other):
    """Two layers of the same shapes under each other's names."""
    names = {name: name.replace(one, other) for name in state if name.startswith(one)}
    names |= {there: here for here, there in names.items()}
    return {name: state[names.get(name, name)] for name in state}


def far(found, expected):
    """The largest difference, as a share of the largest number."""
    assert found.shape == expected.shape and found.dtype == expected.dtype
    return ((found - expected).abs().max() / expected.abs().max()).item()


def compare_rga(model, state, images, limit):
    """Compare all that both compute; return the reference's outputs."""
    with torch.no_grad():
        expected, found = reference.rga_network(state, images), model(images)
    for name in ("features", "embedding", "logits"):
        assert far(found[name], expected[name]) < limit, name
    for stage, maps in model.attention_maps(images).items():
        for half, gates in maps._asdict().items():
            if gates is not None:
                assert far(gates, expected.pop(f"{half}{stage}")) < limit, (stage, half)
    assert expected.keys() == {"features", "embedding", "logits"}  # no gate of the reference is without its own
    return expected


def test_the_whole_rga_network_at_the_published_size():
    state = reference.rga_state(num_classes=767)
    model, report = load_published("rga", state)
    assert report == PublishedReport("rga", RESNET50 + 8 * RGA_HALF + 4 + 1, 53 + 8 * 6 + 1)
    assert report.num_loaded == 510
    assert isinstance(model, RGANet) and not model.training and (model.height, model.width) == (256, 128)
    assert model.arguments | {"stages": [1, 2, 3, 4], "reduction": 8, "num_classes": 767} == model.arguments
    images = reference.pictures(256, 128)
    expected = compare_rga(model.double(), reference.double(state), images.double(), 1e-9)
    with torch.no_grad():
        assert far(model.float()(images)["features"].double(), expected["features"]) < 1e-4
        assert torch.equal(model.embed(images), model(images)["features"])  # the authors' better one, feat_


def test_the_whole_relation_network(rrid):
    model, report = load_published("rrid", rrid)
    assert report == PublishedReport("rrid", RESNET50 + RRID_HEADS, 53 + 45) and report.num_loaded == 625
    assert isinstance(model, RelationNet) and not model.training and (model.height, model.width) == (384, 128)
    images = reference.pictures(384, 128)
    with torch.no_grad():
        found, expected = model(images)["features"], reference.rrid_network(rrid, images)["features"]
    assert far(found, expected) < 1e-4

    model, _ = load_published("rrid", rrid, height=192, width=64)
    images, state = reference.pictures(192, 64).double(), reference.double(rrid)
    with torch.no_grad():
        found, expected = model.double()(images), reference.rrid_network(state, images)
        assert far(model.embed(images), reference.rrid_embedding(state, images)) < 1e-9
    assert far(found["features"], expected["features"]) < 1e-9
    heads = {"local": "fc_local", "rest": "fc_rest", "relational": "fc_local_rest"}
    names = [
        f"{heads[kind]}_{n}_list.{i}" for kind in ("relational", "local", "rest") for n in (6, 4, 2) for i in range(n)
    ]
    heads = {"relational": "fc_global", "largest": "fc_global_max", "contrast": "fc_global_rest"}
    names += [f"{heads[kind]}_{n}_list.0" for kind in ("relational", "largest", "contrast") for n in (6, 4, 2)]
    for i, name in enumerate(names):  # in the order of `classified`
        assert far(found["logits"][:, i], expected[name]) < 1e-9, (model.classified[i], name)


@pytest.mark.parametrize("training", [False, True])
def test_one_module_and_its_gradient(small, training):
    state = {name: tensor.double() for name, tensor in small.items() if name.startswith(f"{ATT}1.")}
    module = load_published("rga", small)[0].backbone.attention["1"].double().train(training)
    generator = torch.Generator().manual_seed(0)
    x, weights = torch.randn(2, 2, 256, 32, 16, generator=generator, dtype=torch.float64)

    def value_and_gradient(function):
        leaf = x.clone().requires_grad_(True)
        value = function(leaf.relu())
        (weights * value).sum().backward()
        return value, leaf.grad

    expected = value_and_gradient(lambda maps: reference.rga_module(state, f"{ATT}1", maps, training)[0])
    for method in ("factored", "explicit"):
        module.spatial.method = module.channel.method = method
        found = value_and_gradient(module)
        assert far(found[0], expected[0]) < 1e-9 and far(found[1], expected[1]) < 1e-9, method


def test_the_published_module_has_2673172_parameters():
    module = reference.rga_module_state("module", 256, 64 * 32)
    parameters = [tensor for name, tensor in module.items() if name.endswith(("weight", "bias"))]
    assert sum(tensor.numel() for tensor in parameters) == 2_673_172
    assert sum(p.numel() for p in RelationAwareAttention(256, 64, 32).parameters()) == 2_673_172


@pytest.mark.parametrize(
    "gone, spatial, channel, stages",
    [
        (["_channel"], True, False, [1, 2, 3, 4]),
        (["_spatial", f"{ATT}3", f"{ATT}4"], False, True, [1, 2]),
        ([f"{ATT}2", f"{ATT}4"], True, True, [1, 3]),
    ],
    ids=["RGA-S", "RGA-C in two stages", "both in two stages"],
)
def test_halves_stages_and_reduction_are_those_of_the_file(small, gone, spatial, channel, stages):
    state = without(small, *gone)
    model, report = load_published("rga", state)
    told = {"spatial": spatial, "channel": channel, "stages": stages, "reduction": 4, "height": 128, "width": 64}
    assert model.arguments | told == model.arguments
    assert report.num_loaded == RESNET50 + (spatial + channel) * len(stages) * RGA_HALF + 5
    compare_rga(model.double(), reference.double(state), reference.pictures(128, 64).double(), 1e-9)


@pytest.mark.parametrize("half", ["spatial", "channel"])
def test_a_swapped_pair_is_seen(small, half):
    state = swapped(small, f"{ATT}3.theta_{half}", f"{ATT}3.phi_{half}")
    x = torch.rand(2, 1024, 8, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        right, other = (reference.rga_module(tensors, f"{ATT}3", x)[0] for tensors in (small, state))
        found = load_published("rga", state)[0].backbone.attention["3"](x)
    assert far(found, other) < 1e-4 < 1e-2 < far(found, right)


def test_every_tensor_of_the_references_matters(small, rrid):
    """Else a wrong mapping of some tensor could not be seen in the comparisons above.

    Weights and biases have gradients. Those of running statistics are, up to factors that are not 0, those of the
    bias and the weight of the same norm.
    """
    for network, state, size in ((reference.rga_network, small, (128, 64)), (reference.rrid_network, rrid, (192, 64))):
        learned = {
            name: tensor.clone().requires_grad_() for name, tensor in state.items() if name.endswith(("weight", "bias"))
        }
        outputs = network(state | learned, reference.pictures(*size))
        generator = torch.Generator().manual_seed(0)
        sum((value * torch.randn(value.shape, generator=generator)).sum() for value in outputs.values()).backward()
        weak = [name for name, tensor in learned.items() if (tensor.grad * tensor).abs().max() < 1e-4]
        assert weak == []


def forms_of(state):
    """The same tensors as they may come: by name, or as what a file holds."""
    parallel = {f"module.{name}": tensor for name, tensor in state.items()}
    adam = {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 8e-4, "params": [0]}]}
    return {
        "bare": state,
        "module.": parallel,
        "as the authors save it": {"state_dict": state, "epoch": 600, "best_top1": 0, "optimizer": adam},
        "module. in state_dict": {"state_dict": parallel, "epoch": 600},
        "float64": reference.double(state),
    }


@pytest.mark.parametrize("name", ["rga", "rrid"])
def test_forms_of_a_state_dict(name, small, rrid):
    state, size = (small, {}) if name == "rga" else (rrid, {"height": 192, "width": 64})
    expected = load_published(name, state, **size)[0].state_dict()
    forms = forms_of(state) if name == "rga" else {"a file's": {"state_dict": forms_of(state)["module."]}}
    for form, content in forms.items():
        model, report = load_published(name, content, **size)
        assert report.num_skipped > 0, form
        for key, tensor in model.state_dict().items():
            assert torch.equal(tensor, expected[key]) and tensor.dtype == expected[key].dtype, (form, key)
    model, report = load_published(name, without(state, reference.COUNTER), **size)
    assert report.num_skipped == 0
    assert all(torch.equal(tensor, expected[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    "form, zipped", [("bare", True), ("as the authors save it", False), ("module. in state_dict", False)]
)  # not zipped: as torch wrote before 1.6
def test_files(tmp_path, small, form, zipped):
    state = without(small, f"{ATT}1", f"{ATT}2", f"{ATT}4")
    path = tmp_path / "checkpoint_600.pth.tar"
    torch.save(forms_of(state)[form], path, _use_new_zipfile_serialization=zipped)
    model, report = load_published("rga", str(path) if zipped else path)
    assert report.num_loaded == RESNET50 + 2 * RGA_HALF + 5
    expected = load_published("rga", state)[0].state_dict()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in model.state_dict().items())


def test_a_loaded_model_is_like_a_new_one(small):
    before = torch.random.get_rng_state()
    model, _ = load_published("rga", small)
    assert torch.equal(torch.random.get_rng_state(), before)
    with torch.device("meta"):
        new = RGANet(**model.arguments)
    assert {name: p.requires_grad for name, p in model.named_parameters()} == {
        name: p.requires_grad for name, p in new.named_parameters()
    }
    tensors = [*model.parameters(), *model.buffers()]
    assert {tensor.device.type for tensor in tensors} == {"cpu"}
    kept = small["feat_bn.weight"].clone()
    with torch.no_grad():
        model.neck.weight.zero_()
    assert torch.equal(small["feat_bn.weight"], kept)  # no memory is shared


def test_identities_are_counted_in_the_file(small, rrid):
    few = {name: tensor[:3] if name == "cls.weight" else tensor for name, tensor in small.items()}
    assert load_published("rga", few)[0].classifier.out_features == 3
    few = {name: tensor[:3] if name.startswith("fc_") else tensor for name, tensor in rrid.items()}
    assert load_published("rrid", few)[0].arguments["num_classes"] == 3
    few["fc_rest_4_list.2.bias"] = rrid["fc_rest_4_list.2.bias"]  # of another training
    with pytest.raises(DataError, match=r"0 tensors missing, 0 unknown, 1 of another shape, first \['fc_rest_4_list.2"):
        load_published("rrid", few)


RGA_TENSORS = [
    "backbone.layer3.5.bn2.running_var",
    f"{ATT}1.gg_spatial.0.weight",
    f"{ATT}2.theta_channel.0.weight",
    f"{ATT}4.W_channel.4.bias",
    "cls.weight",
]
RRID_TENSORS = [
    "base.layer1.0.downsample.0.weight",
    "relation_2_conv_list.1.0.bias",
    "global_4_pooling_conv_list.0.1.running_mean",
    "fc_global_max_4_list.0.weight",
]


@pytest.mark.parametrize("name, key", [("rga", key) for key in RGA_TENSORS] + [("rrid", key) for key in RRID_TENSORS])
def test_one_tensor_too_few_too_many_or_of_another_shape(small, rrid, name, key):
    state = {"rga": small, "rrid": rrid}[name]
    lacking = {other: tensor for other, tensor in state.items() if other != key}
    for content, message in (
        (lacking, f"1 tensors missing, 0 unknown, 0 of another shape, first ['{key}']"),
        (state | {f"{key}.new": state[key]}, f"0 tensors missing, 1 unknown, 0 of another shape, first ['{key}.new']"),
        (state | {key: state[key][..., None]}, f"0 tensors missing, 0 unknown, 1 of another shape, first ['{key}']"),
    ):
        with pytest.raises(DataError) as error:
            load_published(name, content)
        assert message in str(error.value) and "nothing was loaded" in str(error.value)


def test_what_cannot_be_told_from_one_tensor_is_told_from_all(small):
    key = f"{ATT}2.theta_channel.0.weight"  # (places / reduction, places, 1, 1)
    state = small | {key: torch.zeros(100, 256, 1, 1)}
    with pytest.raises(DataError, match=r"reduction 4, 128×64 images and 7 identities: .* 1 of another shape, first"):
        load_published("rga", state)
    with pytest.raises(DataError, match=r"1 tensors missing, 0 unknown, 0 of another shape"):
        load_published("rga", without(small, "_channel", f"{ATT}1.theta_spatial.0.weight"))
    unknown = {"backbone.rga_att5.gg_spatial.0.weight": torch.zeros(1), f"foo.{reference.COUNTER}": torch.tensor(0)}
    with pytest.raises(DataError, match=r"0 tensors missing, 2 unknown, 0 of another shape"):
        load_published("rga", small | unknown)


def test_numbers_that_are_none(small):
    broken = small["feat_bn.running_var"].clone()
    broken[3] = float("nan")
    with pytest.raises(DataError, match=r"NaN or infinity in \['feat_bn.running_var'\]"):
        load_published("rga", small | {"feat_bn.running_var": broken})


def test_other_image_sizes_are_told_by_their_user():
    state = reference.rga_state(height=192, width=64, reduction=4, stages=(2,))
    with pytest.raises(
        DataError, match=r"made for images of 12288 pixels \(192×64 or 128×96\).*pass height= and width="
    ):
        load_published("rga", state)
    for height, width in ((256, 128), (192, 96)):
        with pytest.raises(ValueError, match=rf"got height={height}, width={width}, but the state dict was made for"):
            load_published("rga", state, height=height, width=width)
    with pytest.raises(ValueError, match="pass both, or neither"):
        load_published("rga", state, height=192)
    model, _ = load_published("rga", state, height=192, width=64)
    compare_rga(model.double(), reference.double(state), reference.pictures(192, 64).double(), 1e-9)


def test_rga_for_384_by_128():
    state = reference.rga_state(height=384, width=128, settle=False)
    with pytest.raises(DataError, match="384×128"):
        load_published("rga", state)
    model, report = load_published("rga", state, 384, 128)
    assert (model.height, model.width, report.num_loaded) == (384, 128, 510)
    with pytest.raises(ValueError, match=r"got height=256, width=128.* 49152 pixels \(384×128 or 256×192\)"):
        load_published("rga", state, 256, 128)


def test_images_of_the_relation_network_have_rows_for_six_four_and_two_parts(rrid):
    with pytest.raises(ValueError, match="a map of 16 rows cannot be cut into 6"):
        load_published("rrid", rrid, height=256, width=128)


class Traced(nn.Module):
    """A model that tells when it is unpickled."""

    def __init__(self, trace):
        super().__init__()
        self.trace, self.layer = trace, nn.Linear(2, 2)

    def __setstate__(self, state):
        super().__setstate__(state)
        Path(self.trace).touch()


def execute(lines, folder, monkeypatch):
    """Run lines as an old torch does, which unpickles whatever a file holds."""
    monkeypatch.setattr(torch, "load", functools.partial(torch.load, weights_only=False))
    monkeypatch.chdir(folder)
    exec(lines)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip file", "file as before torch 1.6"])
@pytest.mark.parametrize("name", ["rga", "rrid"])
def test_a_pickle_of_a_whole_model_is_explained_and_not_executed(tmp_path, monkeypatch, name, zipped):
    trace, path = tmp_path / "trace", tmp_path / "pretrained_weights.pth"
    model = nn.DataParallel(Traced(str(trace)))
    torch.save(model, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(DataError) as error:
        load_published(name, path)
    assert not trace.exists()
    message = str(error.value)
    assert "pretrained_weights.pth: holds Python objects, first torch.nn.parallel.data_parallel.DataParallel" in message
    assert "0.4.1 will do" in message

    lines = [line for line in message.splitlines() if line.startswith("    ")]
    assert len(lines) == 3
    execute(textwrap.dedent("\n".join(lines)), tmp_path, monkeypatch)
    assert trace.exists()  # the trace works
    exported = torch.load(tmp_path / "state_dict.pth", weights_only=True)
    assert exported.keys() == {"module.layer.weight", "module.layer.bias"}


class Harm:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (Path(self.trace),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4")
@pytest.mark.parametrize("protocol", [2, 4])
def test_code_beside_a_state_dict_is_not_executed(tmp_path, small, protocol):
    trace, path = tmp_path / "trace", tmp_path / "checkpoint.pth"
    torch.save({"state_dict": without(small, "layer"), "epoch": Harm(trace)}, path, pickle_protocol=protocol)
    with pytest.raises(
        DataError, match=r"holds Python objects, first (?s:.*); if the file holds a dict and no model, save"
    ):
        load_published("rga", path)
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists()


@pytest.mark.parametrize("name, expected", [("rga", "of RGA"), ("rrid", "of the relation network")])
def test_checkpoints_of_other_networks(name, expected, small, rrid):
    plain = resnet50(weights=None).state_dict()
    other = {"rga": rrid, "rrid": small}[name]
    for state, number in ((plain, len(plain)), (other, len(other))):
        with pytest.raises(
            DataError, match=rf"not a checkpoint {expected}: got {number} tensors.*expected names such as"
        ):
            load_published(name, state)


@pytest.mark.parametrize(
    "content", [b"", b"<!DOCTYPE html>\n<html>", b"class A:\n    pass\n", b"\x80\x02junk", b"PK\x03\x04"]
)
def test_files_that_are_no_checkpoints(tmp_path, content):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"weights\.pth: cannot be read as a file of tensors"):
        load_published("rga", path)


def test_a_file_that_breaks_off(tmp_path, small):
    path = tmp_path / "weights.pth"
    for zipped in (True, False):
        torch.save(without(small, "layer"), path, _use_new_zipfile_serialization=zipped)
        path.write_bytes(path.read_bytes()[:100_000])
        with pytest.raises(DataError, match=r"weights\.pth: cannot be read as a file of tensors"):
            load_published("rga", path)


def test_what_is_no_source(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such weights file"):
        load_published("rga", tmp_path / "absent.pth")
    with pytest.raises(ValueError, match=r"source: got Linear, expected a path or a state dict"):
        load_published("rga", nn.Linear(2, 2))
    for content in (
        {"state_dict": [1, 2]},
        {"state_dict": {"a": 1}},
        {3: torch.zeros(1)},
        {"other": {"a": torch.zeros(1)}},
        {},
    ):
        with pytest.raises(DataError, match=r"the state dict: got .*expected tensors by name"):
            load_published("rga", content)
    with pytest.raises(ValueError, match="name='mgn': expected one of rga, rrid"):
        load_published("mgn", {})


def test_published_shapes_are_those_of_the_references(small, rrid):
    for name, state in (("rga", small), ("rrid", rrid)):
        model, _ = load_published(name, state)
        wanted = {key: tensor.shape for key, tensor in without(state, reference.COUNTER).items()}
        assert published_shapes(model) == wanted
    with pytest.raises(ValueError, match="backbone='small': only networks on 'resnet50' were published"):
        published_shapes(RGANet(2, backbone="small", height=128, width=64))
