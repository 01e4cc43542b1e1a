import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import resnet50

from reidlab.losses import triplet_loss
from reidlab.models.backbones import ResNet50Backbone, SmallBackbone
from reidlab.models.mgn import MGN, STRIPES, WHOLES

LABELS = torch.tensor([0, 0, 1, 1, 2, 2])


def images(count, seed=0, height=192, width=64):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def net(**arguments):
    torch.manual_seed(0)
    return MGN(**{"num_classes": 3, "backbone": "small", **arguments})


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """The network over ResNet-50 with weights from a file, and the ResNet-50 that the file came from."""
    torch.manual_seed(0)
    plain = resnet50(weights=None)
    path = tmp_path_factory.mktemp("weights") / "resnet50.pth"
    torch.save(plain.state_dict(), path)
    return MGN(num_classes=3, backbone="resnet50", weights=path), plain, path


def test_the_small_backbone_is_shared_up_to_its_second_stage():
    model = net()
    with torch.no_grad():
        maps = [branch(model.shared(images(1))) for branch in model.eval().branches]
    assert [m.shape for m in maps] == [(1, 256, 12, 4), (1, 256, 24, 8), (1, 256, 24, 8)]
    whole = SmallBackbone()
    whole.load_state_dict(dict(zip(whole.state_dict(), own_state(model, 0).values(), strict=True)))
    with torch.no_grad():
        torch.testing.assert_close(whole.eval()(images(1)), maps[0])


def own_state(model, branch):
    """The tensors of one way through the network, in their order."""
    parts = {"shared": model.shared, "branch": model.branches[branch]}
    return {f"{part}.{name}": tensor for part, m in parts.items() for name, tensor in m.state_dict().items()}


def test_branches_start_as_equals_and_share_nothing(big):
    for model in (net(), big[0]):
        first, *others = (branch.state_dict() for branch in model.branches)
        for other in others:
            assert all(torch.equal(first[name], tensor) for name, tensor in other.items()) and len(other) == len(first)
            assert not {t.data_ptr() for t in first.values()} & {t.data_ptr() for t in other.values()}


def test_branches_part_after_the_first_block_of_the_third_stage(big):
    model, plain, _ = big
    blocks = [sum(type(m).__name__ == "Bottleneck" for m in part.modules()) for part in (model.shared, *model.branches)]
    assert blocks == [3 + 4 + 1, 5 + 3, 5 + 3, 5 + 3]
    for branch in range(3):  # every tensor of the file, once on each way through the network
        own = own_state(model, branch).values()
        theirs = [tensor for name, tensor in plain.state_dict().items() if not name.startswith("fc.")]
        assert len(own) == len(theirs) and all(torch.equal(a, b) for a, b in zip(own, theirs, strict=True))


@torch.no_grad()
def test_the_first_branch_is_a_resnet_with_its_usual_stride_and_the_others_keep_resolution(big):
    model, plain, path = big
    model, plain, fine = model.eval(), copy.deepcopy(plain).eval(), ResNet50Backbone(path).eval()
    batch = images(1, 0, 96, 32)
    coarse = nn.Sequential(*list(plain.children())[:-2])(batch)
    shared = model.shared(batch)
    assert coarse.shape == (1, 2048, 3, 1) and fine(batch).shape == (1, 2048, 6, 2)
    torch.testing.assert_close(model.branches[0](shared), coarse)
    for branch in model.branches[1:]:
        torch.testing.assert_close(branch(shared), fine(batch))


@torch.no_grad()
def test_resnet50_sizes(big):
    model = big[0].eval()
    assert (model.height, model.width) == (384, 128)
    seen = []
    handles = [b.register_forward_hook(lambda m, inputs, output: seen.append(output.shape[1:])) for b in model.branches]
    outputs = model(images(1, 0, 384, 128))
    for handle in handles:
        handle.remove()
    assert seen == [(2048, 12, 4), (2048, 24, 8), (2048, 24, 8)]
    assert outputs["features"].shape == (1, 2048) and outputs["logits"].shape == (1, 8, 3)
    # cross-entropy on 3 wholes of 2048 and 5 stripes of 256 numbers
    assert model.classify_wholes.weight.shape == (3, 3, 2048) and model.classify_stripes.weight.shape == (5, 3, 256)
    assert model.reduce.weight.shape == (8, 256, 2048) and model.reduce.bias is None


def pooled_by_hand(model, batch):
    maps = [branch(model.shared(batch)) for branch in model.branches]
    wholes = [m.amax((2, 3)) for m in maps]
    halves = [maps[1][:, :, :12].amax((2, 3)), maps[1][:, :, 12:].amax((2, 3))]
    thirds = [maps[2][:, :, start : start + 8].amax((2, 3)) for start in (0, 8, 16)]
    return wholes + halves + thirds


def test_eight_features_in_their_order_and_eleven_terms():
    model, batch = net(), images(6)
    with torch.no_grad():
        for classifier in (model.classify_wholes, model.classify_stripes):
            nn.init.normal_(classifier.weight)
            nn.init.normal_(classifier.bias)
    outputs = model(batch)
    pooled = pooled_by_hand(model, batch)
    norm, features = model.reduce.norm, []
    for i, vector in enumerate(pooled):
        shortened, place = vector @ model.reduce.weight[i].T, slice(i * 256, (i + 1) * 256)
        features.append(
            F.relu(F.batch_norm(shortened, None, None, norm.weight[place], norm.bias[place], training=True))
        )
    torch.testing.assert_close(outputs["features"], torch.cat(features, dim=1), rtol=1e-4, atol=1e-4)
    terms = model.loss(outputs, LABELS)
    expected = {}
    for i, name in enumerate(WHOLES):
        expected[f"triplet/{name}"] = triplet_loss(features[i], LABELS, 1.2)
    for i, name in enumerate(WHOLES + STRIPES):
        layer, row = (model.classify_wholes, i) if i < 3 else (model.classify_stripes, i - 3)
        scores = (pooled[i] if i < 3 else features[i]) @ layer.weight[row].T + layer.bias[row]
        expected[f"cross_entropy/{name}"] = (scores.logsumexp(1) - scores[range(6), LABELS]).mean()
    assert list(terms) == list(expected) and len(terms) == 11
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value.item(), rel=1e-3, abs=1e-4), name


# Which features feed which loss. Rows of `reduce` and of the classifiers that a term's gradient reaches:
WIRING = {f"triplet/global{n}": {"reduce": {n - 1}, "branches": {n - 1}} for n in (1, 2, 3)}
WIRING |= {f"cross_entropy/global{n}": {"classify_wholes": {n - 1}, "branches": {n - 1}} for n in (1, 2, 3)}
for place, (branch, stripe) in enumerate([(1, "2.1"), (1, "2.2"), (2, "3.1"), (2, "3.2"), (2, "3.3")]):
    WIRING[f"cross_entropy/part{stripe}"] = {
        "reduce": {3 + place},
        "classify_stripes": {place},
        "branches": {branch},
    }


def test_each_loss_reads_its_features_and_no_others():
    model = net()
    with torch.no_grad():  # so that a classifier's gradient passes through it
        nn.init.normal_(model.classify_wholes.weight)
        nn.init.normal_(model.classify_stripes.weight)
    terms = model.loss(model(images(4)), LABELS[:4])
    assert set(terms) == set(WIRING)
    stacked = {name: getattr(model, name).weight for name in ("reduce", "classify_wholes", "classify_stripes")}
    for name, term in terms.items():
        model.zero_grad()
        term.backward(retain_graph=True)
        reached = {}
        for layer, weight in stacked.items():
            rows = set() if weight.grad is None else set(weight.grad.flatten(1).any(1).nonzero().flatten().tolist())
            reached |= {layer: rows} if rows else {}
        touched = {
            i for i, b in enumerate(model.branches) if any(p.grad is not None and p.grad.any() for p in b.parameters())
        }
        assert reached | {"branches": touched} == WIRING[name], name
        assert model.shared[0][0].weight.grad.any(), name


def test_every_weight_learns():
    model = net()
    sum(model.loss(model(images(6)), LABELS).values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_label_smoothing_is_for_the_classifiers():
    plain, smooth = net(num_classes=50), net(num_classes=50, label_smoothing=0.1)
    outputs = plain(images(6))
    outputs["logits"] = outputs["logits"] * 1000
    first, second = plain.loss(outputs, LABELS), smooth.loss(outputs, LABELS)
    for name in first:
        assert torch.equal(first[name], second[name]) == name.startswith("triplet/"), name
    scores = outputs["logits"][:, 7]
    expected = F.cross_entropy(scores, LABELS, label_smoothing=0.1)
    assert second["cross_entropy/part3.3"].item() == pytest.approx(expected.item(), rel=1e-5)
    untrained = net(num_classes=50)
    entropies = [v.item() for n, v in untrained.loss(untrained(images(6)), LABELS).items() if "entropy" in n]
    assert entropies == pytest.approx([math.log(50)] * 8, abs=0.1)


def test_embedding_is_averaged_as_it_is_and_scaled_once():
    model, batch = net().eval(), images(3)
    one, other = model(batch)["features"], model(batch.flip(3))["features"]
    embedding = model.embed(batch)
    assert embedding.shape == (3, 8 * 256)
    torch.testing.assert_close(embedding, (one + other) / (one + other).norm(dim=1, keepdim=True))
    assert embedding.norm(dim=1).tolist() == pytest.approx([1] * 3, abs=1e-6)
    torch.testing.assert_close(model.embed(batch[1:2]), embedding[1:2], rtol=1e-4, atol=1e-5)  # alone
    model.flip = False
    torch.testing.assert_close(model.embed(batch), F.normalize(one))


def test_what_cannot_be_computed_is_refused():
    model = net()
    with pytest.raises(ValueError, match="batch norm needs at least two images"):
        model(images(1))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"height": 128}, "a map of 16 rows cannot be cut into 3 equal stripes"),
        ({"backbone": "resnet50", "height": 256}, "a map of 16 rows cannot be cut into 3 equal stripes"),
        ({"backbone": "vgg"}, "backbone='vgg': expected one of small, resnet50"),
        ({"weights": "torchvision"}, "only backbone='resnet50' takes ImageNet weights"),
        ({"width": 60}, "got 192×60 images, expected a height and a width that 16 divides"),
        ({"num_classes": 0}, "num_classes=0: expected a whole number of at least 1"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        net(**arguments)
