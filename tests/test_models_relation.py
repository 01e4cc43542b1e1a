import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from reidlab.models.parts import PartLayer, stripe_maxima
from reidlab.models.relation import GlobalContrastivePooling, OneVsRest, RelationNet, group_terms

CHANNELS, OUT = 10, 4
LABELS = torch.tensor([0, 0, 1, 1, 2, 2])


def random_numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def images(count, seed=0, height=192, width=64):
    return random_numbers(count, 3, height, width, seed=seed)


def shaken(module):
    """The same module with batch norms that do something, in evaluation mode, too."""
    generator = torch.Generator().manual_seed(1)
    for norm in module.modules():
        if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)):
            for tensor in (norm.running_var, norm.weight.data):
                tensor.uniform_(0.5, 2, generator=generator)
            for tensor in (norm.running_mean, norm.bias.data):
                tensor.normal_(std=0.3, generator=generator)
    return module


def net(**arguments):
    torch.manual_seed(0)
    return shaken(RelationNet(**{"num_classes": 3, "backbone": "small", "out_channels": OUT, **arguments}))


# The equations, part by part: an ordinary convolution, batch norm and ReLU each.


class Plain(nn.Module):
    def __init__(self, layer, part):
        super().__init__()
        out, channels = layer.weight.shape[1:]
        place = slice(part * out, (part + 1) * out)
        self.conv, self.norm = nn.Conv2d(channels, out, 1).double(), nn.BatchNorm2d(out).double()
        state = {"conv.weight": layer.weight[part, :, :, None, None], "conv.bias": layer.bias[part]}
        for name, tensor in layer.norm.state_dict().items():
            state[f"norm.{name}"] = tensor[place] if tensor.ndim else tensor
        self.load_state_dict(state)

    def forward(self, x):
        return F.relu(self.norm(self.conv(x[:, :, None, None])))[:, :, 0, 0]


def plain_layers(module):
    return {
        name: nn.ModuleList(Plain(layer, part) for part in range(len(layer.weight)))
        for name, layer in module.named_children()
    }


def plain_one_vs_rest(layers, parts):
    found = []
    for i in range(parts.shape[2]):
        others = [parts[:, :, j] for j in range(parts.shape[2]) if j != i]
        rest = sum(others) / len(others) if others else torch.zeros_like(parts[:, :, 0])
        p, r = layers["local"][i](parts[:, :, i]), layers["rest"][i](rest)
        found.append((p + layers["relation"][i](torch.cat([p, r], dim=1)), p, r))
    return [torch.stack(kind, dim=1) for kind in zip(*found, strict=True)]


def plain_global(layers, parts, contrast):
    largest = parts.max(2).values
    if contrast == "released":  # channel by channel the mean of all but the largest
        rest = parts.sort(2).values[:, :, :-1]
        beside = rest.mean(2) if rest.shape[2] else torch.zeros_like(largest)
    else:
        beside = parts.mean(2) - largest
    a, b = layers["largest"][0](largest), layers["contrast"][0](beside)
    return [a + layers["relation"][0](torch.cat([a, b], dim=1)), a, b]


def assert_same(module, layers, parts, reference, training):
    """Values, gradients of everything, and what batch norm remembers."""
    module.train(training)
    for part_layers in layers.values():
        part_layers.train(training)
    ours, theirs = parts.clone().requires_grad_(), parts.clone().requires_grad_()
    found, expected = module(ours), reference(theirs)
    for value, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-10, atol=1e-12)
    weights = [random_numbers(*value.shape, seed=5).double() for value in expected]
    sum((value * weight).sum() for value, weight in zip(found, weights, strict=True)).backward()
    sum((value * weight).sum() for value, weight in zip(expected, weights, strict=True)).backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-11)
    for name, layer in module.named_children():
        each = layers[name]
        for key, value in (
            (layer.weight.grad, torch.stack([p.conv.weight.grad[:, :, 0, 0] for p in each])),
            (layer.bias.grad, torch.stack([p.conv.bias.grad for p in each])),
            (layer.norm.weight.grad, torch.cat([p.norm.weight.grad for p in each])),
            (layer.norm.bias.grad, torch.cat([p.norm.bias.grad for p in each])),
            (layer.norm.running_mean, torch.cat([p.norm.running_mean for p in each])),
            (layer.norm.running_var, torch.cat([p.norm.running_var for p in each])),
        ):
            torch.testing.assert_close(key, value, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("num_parts", [1, 2, 3, 4, 6, 8])
def test_one_vs_rest_is_the_loop_over_parts(num_parts, training):
    module = shaken(OneVsRest(CHANNELS, OUT, num_parts).double())
    parts, layers = random_numbers(5, CHANNELS, num_parts).double(), plain_layers(module)
    assert_same(module, layers, parts, lambda x: plain_one_vs_rest(layers, x), training)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("contrast", ["released", "paper"])
@pytest.mark.parametrize("num_parts", [1, 2, 3, 4, 6, 8])
def test_global_contrastive_pooling_is_its_equations(num_parts, contrast, training):
    module = shaken(GlobalContrastivePooling(CHANNELS, OUT, num_parts, contrast).double())
    parts, layers = random_numbers(5, CHANNELS, num_parts).double(), plain_layers(module)
    assert_same(module, layers, parts, lambda x: plain_global(layers, x, contrast), training)


def one_channel(module, relation):
    """One number a part; convolutions hand it on, and the relation is `relation` · [own, other]."""
    module.eval()
    for name, layer in module.named_children():
        layer.norm.eps = 0.0  # batch norm as it starts then changes nothing
        nn.init.zeros_(layer.bias)
        layer.weight.data = torch.tensor(relation if name == "relation" else [1.0]).expand_as(layer.weight).clone()
    return module


def test_three_parts_by_hand():
    parts = torch.tensor([[[1.0, 2.0, 6.0]]])
    found = one_channel(OneVsRest(1, 1, 3), [1.0, -1.0])(parts)
    assert found.local.flatten().tolist() == [1, 2, 6]
    assert found.rest.flatten().tolist() == [4, 3.5, 1.5]
    assert found.relational.flatten().tolist() == [1, 2, 10.5]  # only the last part stands out: 6 + (6 - 1.5)
    released = one_channel(GlobalContrastivePooling(1, 1, 3), [1.0, -1.0])(parts)
    assert [value.item() for value in released] == [10.5, 6, 1.5]
    paper = one_channel(GlobalContrastivePooling(1, 1, 3, "paper"), [1.0, -1.0])(parts)
    assert [value.item() for value in paper] == [12, 6, 0]  # 3 - 6 is negative: ReLU lets nothing through


def test_with_one_part_there_is_nothing_else():
    parts = torch.tensor([[[6.0]]])
    assert one_channel(OneVsRest(1, 1, 1), [1.0, -1.0])(parts).rest.item() == 0
    for contrast in ("released", "paper"):
        assert one_channel(GlobalContrastivePooling(1, 1, 1, contrast), [1.0, -1.0])(parts).contrast.item() == 0


def test_the_global_feature_does_not_depend_on_the_order_of_parts_and_one_vs_rest_does():
    parts = random_numbers(3, CHANNELS, 6)
    whole, each = shaken(GlobalContrastivePooling(CHANNELS, OUT, 6)).eval(), shaken(OneVsRest(CHANNELS, OUT, 6)).eval()
    turned = parts.flip(2)
    torch.testing.assert_close(whole(parts).relational, whole(turned).relational)
    assert not torch.allclose(each(parts).relational, each(turned).relational.flip(1), atol=1e-3)


@pytest.mark.parametrize("build", [OneVsRest, GlobalContrastivePooling])
def test_modules_refuse_what_does_not_fit(build):
    with pytest.raises(ValueError, match=r"parts: got shape \(2, 10, 4\), expected \(B, 10, 6\)"):
        build(CHANNELS, OUT, 6)(torch.zeros(2, CHANNELS, 4))
    with pytest.raises(ValueError, match=r"a batch of 1 in training mode.*call model\.eval"):
        build(CHANNELS, OUT, 6)(torch.zeros(1, CHANNELS, 6))
    for bad in (0, 2.0, True):
        with pytest.raises(ValueError, match=f"num_parts={bad}: expected a whole number of at least 1"):
            build(CHANNELS, OUT, bad)
    with pytest.raises(ValueError, match="contrast='text': expected one of released, paper"):
        GlobalContrastivePooling(CHANNELS, OUT, 6, "text")


@pytest.mark.parametrize("num_parts", [1, 2, 3, 4, 6, 12])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_stripes_are_cut_from_top_to_bottom(num_parts, memory_format):
    maps = random_numbers(2, 5, 12, 4).contiguous(memory_format=memory_format)
    rows = 12 // num_parts
    found = stripe_maxima(maps, num_parts)
    assert found.shape == (2, 5, num_parts)
    for i in range(num_parts):
        assert torch.equal(found[:, :, i], maps[:, :, i * rows : (i + 1) * rows].amax((2, 3)))


def test_stripes_that_do_not_divide_the_map_are_refused():
    with pytest.raises(ValueError, match=r"a map of 12 rows cannot be cut into 5 equal .*\[1, 2, 3, 4, 6, 12\] fit"):
        stripe_maxima(torch.zeros(1, 2, 12, 4), 5)


# The network


def parts_of(model, batch):
    """What the modules find in each of the model's cuts of the map, which are made by slicing here."""
    maps = model.backbone(batch)
    rows = maps.shape[2]
    found = {}
    for n in model.num_stripes:
        cuts = [maps[:, :, i * rows // n : (i + 1) * rows // n] for i in range(n)]
        stripes = torch.stack([cut.flatten(2).max(2).values for cut in cuts], dim=2)
        found[n] = model.one_vs_rest[str(n)](stripes), model.global_pooling[str(n)](stripes)
    return found


def test_features_come_in_the_published_order():
    model, batch = net().eval(), images(3)
    found = parts_of(model, batch)
    expected = [found[n][0].relational[:, i] for n in (6, 4, 2) for i in range(n)]
    expected += [found[n][1].relational for n in (6, 4, 2)]
    outputs = model(batch)
    torch.testing.assert_close(outputs["features"], torch.cat(expected, dim=1))
    torch.testing.assert_close(model.describe(batch), outputs["features"])
    assert outputs["features"].shape == (3, 15 * OUT) and outputs["logits"].shape == (3, 45, 3)
    names = [f"part{n}.{i}" for n in (6, 4, 2) for i in range(1, n + 1)] + ["global6", "global4", "global2"]
    assert model.feature_names == names


def naive_batch_hard(features, labels, margin):
    losses = []
    for anchor, label in zip(features, labels, strict=True):
        distances = ((anchor - features) ** 2).sum(1).clamp(min=1e-24).sqrt()
        losses.append(F.relu(distances[labels == label].max() - distances[labels != label].min() + margin))
    return sum(losses) / len(losses)


def test_sixty_terms_and_their_sum_is_the_published_loss():
    model, batch = net(margin=1.2), images(6)
    with torch.no_grad():
        nn.init.normal_(model.classify.weight)
        nn.init.normal_(model.classify.bias)
    found = parts_of(model, batch)
    outputs = model(batch)
    terms = model.loss(outputs, LABELS)
    features, entropies = {}, {}
    for n, (of_parts, of_whole) in found.items():
        for kind, value in of_parts._asdict().items():
            features |= {f"{kind}/part{n}.{i + 1}": value[:, i] for i in range(n)}
        features |= {f"{kind}/global{n}": value for kind, value in of_whole._asdict().items()}
    for name, feature in features.items():
        row = model.classified.index(name)
        logits = feature @ model.classify.weight[row].T + model.classify.bias[row]
        picked = logits[range(6), LABELS]
        entropies[name] = (logits.exp().sum(1).log() - picked).mean()
    triplets = {
        f"triplet/{name.removeprefix('relational/')}": naive_batch_hard(feature, LABELS, 1.2)
        for name, feature in features.items()
        if name.startswith("relational/")
    }
    assert set(terms) == set(entropies) | set(triplets) and len(terms) == 60 and len(triplets) == 15
    for name, value in triplets.items():
        assert terms[name].item() == pytest.approx(value.item(), rel=1e-4), name
    for name, value in entropies.items():
        assert terms[name].item() == pytest.approx(2 * value.item(), rel=1e-4), name
    published = sum(triplets.values()) + 2 * sum(entropies.values())
    assert sum(terms.values()).item() == pytest.approx(published.item(), rel=1e-5)


def test_groups_add_up_to_the_whole():
    model = net()
    terms = model.loss(model(images(6)), LABELS)
    groups = group_terms(terms)
    assert list(groups) == ["triplet", "relational", "local", "rest", "global"]
    assert sum(groups.values()).item() == pytest.approx(sum(terms.values()).item(), rel=1e-6)
    ones = group_terms({name: torch.tensor(1.0) for name in terms})
    assert {name: value.item() for name, value in ones.items()} == {
        **{"triplet": 15, "relational": 12},
        **{"local": 12, "rest": 12, "global": 9},
    }
    for group in ("local", "rest"):
        direct = sum(value for name, value in terms.items() if name.startswith(f"{group}/"))
        assert groups[group].item() == pytest.approx(direct.item(), rel=1e-6)


def test_an_untrained_classifier_guesses():
    model = net(num_classes=50, terms=("relational", "global"))
    terms = model.loss(model(images(6)), LABELS)
    assert len(terms) == 21
    assert [value.item() for value in terms.values()] == pytest.approx([2 * math.log(50)] * 21, abs=0.1)


def test_every_weight_learns():
    model = net()
    sum(model.loss(model(images(6)), LABELS).values()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # batch norm takes a convolution's bias out again; its gradient is rounding, and can be 0
    assert [name for name in without if not name.endswith(("local.bias", "rest.bias", "contrast.bias"))] == []
    for name, p in model.named_parameters():
        if name.startswith(("one_vs_rest", "global_pooling")) and name.endswith(".weight") and ".norm." not in name:
            assert p.grad.flatten(1).abs().amax(1).min() > 0, name  # of each part


# Ablations


def test_without_one_vs_rest_each_part_stands_alone():
    model, batch = net(one_vs_rest=False).eval(), images(2)
    terms = model.loss(model(batch), LABELS[1:3])
    assert len(terms) == 15 + 12 + 9 and not [name for name in terms if name.startswith(("local/", "rest/"))]
    assert all(isinstance(layer, PartLayer) for layer in model.one_vs_rest.values())
    maps = model.backbone(batch)
    for i in range(6):
        alone = Plain(model.one_vs_rest["6"], i).eval().float()(maps[:, :, 2 * i : 2 * i + 2].amax((2, 3)))
        torch.testing.assert_close(model(batch)["features"][:, i * OUT : (i + 1) * OUT], alone)


@pytest.mark.parametrize("pooling", ["average", "max"])
def test_plain_pooling_has_one_layer_for_each_global(pooling):
    model, batch = net(pooling=pooling).eval(), images(2)
    terms = model.loss(model(batch), LABELS[1:3])
    assert len(terms) == 15 + 36 + 3
    assert [name for name in terms if "/global" in name and "triplet" not in name] == [
        f"relational/global{n}" for n in (6, 4, 2)
    ]
    maps = model.backbone(batch)
    pooled = maps.mean((2, 3)) if pooling == "average" else maps.amax((2, 3))
    for place, n in enumerate((6, 4, 2), start=12):
        expected = Plain(model.global_pooling[str(n)], 0).eval().float()(pooled)
        torch.testing.assert_close(model(batch)["features"][:, place * OUT : (place + 1) * OUT], expected)
    full = net().eval()
    assert "local/part6.1" in terms and len(full.loss(full(batch), LABELS[1:3])) == 60


@pytest.mark.parametrize("terms", [("triplet",), ("local", "rest"), ("global", "triplet"), ("relational",)])
def test_terms_pick_groups_and_leave_values_alone(terms):
    batch = images(6)
    full, some = net(), net(terms=terms)
    state = full.state_dict()
    rows = [full.classified.index(name) for name in some.classified]
    for name in ("classify.weight", "classify.bias"):
        kept = state.pop(name)[rows]
        state |= {name: kept} if rows else {}
    some.load_state_dict(state)  # strict: classifiers that are not trained are not there
    every, picked = full.loss(full(batch), LABELS), some.loss(some(batch), LABELS)
    assert set(group_terms(picked)) == set(terms)
    expected = {name: value for name, value in every.items() if set(group_terms({name: value})) <= set(terms)}
    assert set(picked) == set(expected)
    for name, value in picked.items():
        assert value.item() == pytest.approx(expected[name].item(), rel=1e-5)
    assert ("logits" in some(batch)) == (terms != ("triplet",))


def test_the_two_contrasts_give_other_globals_and_the_same_parts():
    released, paper = net().eval(), net(contrast="paper").eval()
    paper.load_state_dict(released.state_dict())
    batch = images(2)
    first, second = released(batch)["features"], paper(batch)["features"]
    assert torch.equal(first[:, : 12 * OUT], second[:, : 12 * OUT])
    assert not torch.allclose(first[:, 12 * OUT :], second[:, 12 * OUT :], atol=1e-3)


# Search


def test_embedding_is_averaged_as_it_is_and_scaled_once_as_a_whole():
    model, batch = net().eval(), images(4)
    one, other = model(batch)["features"], model(batch.flip(3))["features"]
    embedding = model.embed(batch)
    mean = (one + other) / 2
    torch.testing.assert_close(embedding, mean / mean.norm(dim=1, keepdim=True))
    assert embedding.norm(dim=1).tolist() == pytest.approx([1] * 4, abs=1e-6)
    each_part = F.normalize(F.normalize(mean.unflatten(1, (15, OUT)), dim=2).flatten(1))
    assert (embedding - each_part).abs().max() > 1e-3
    assert torch.allclose(model.embed(batch.flip(3)), embedding, atol=1e-6)
    model.flip = False
    torch.testing.assert_close(model.embed(batch), F.normalize(one))


def test_the_longer_of_two_mirror_images_counts_more():
    model, batch = net().eval(), torch.zeros(1, 3, 192, 64)
    batch[0, :2, 0, 0], batch[0, :2, 0, -1] = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 1.0])
    model.describe = lambda x: x[:, :2, 0, 0]  # (3, 4), and (0, 1) from its mirror image
    mean = torch.tensor([[1.5, 2.5]])
    torch.testing.assert_close(model.embed(batch), mean / mean.norm())  # not (0.3, 0.9), the mean of directions
    model.flip = False
    torch.testing.assert_close(model.embed(batch), torch.tensor([[0.6, 0.8]]))


def test_an_image_embeds_the_same_alone_and_in_company():
    model, batch = net().eval(), images(3)
    torch.testing.assert_close(model.embed(batch)[1:2], model.embed(batch[1:2]), rtol=1e-4, atol=1e-5)


def test_what_cannot_be_computed_is_refused():
    model = net()
    with pytest.raises(ValueError, match="batch norm needs at least two images"):
        model(images(1))


# Construction


@pytest.mark.parametrize("size, parts", [((192, 64), (6, 4, 2)), ((384, 128), (8, 3, 1)), ((128, 64), (4, 2))])
def test_sizes_and_parts(size, parts):
    model = net(num_stripes=parts, height=size[0], width=size[1]).eval()
    batch = images(1, 0, *size)
    assert model.backbone(batch).shape[2:] == (size[0] // 16, size[1] // 16)
    assert model(batch)["features"].shape == (1, (sum(parts) + len(parts)) * OUT)
    assert model(batch)["logits"].shape == (1, 3 * sum(parts) + 3 * len(parts), 3)


@torch.no_grad()
def test_resnet50_has_a_map_of_24_rows():
    model = RelationNet(num_classes=3).eval()
    seen = []
    model.backbone.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    assert model.describe(torch.zeros(1, 3, 384, 128)).shape == (1, 3840) and seen == [(1, 2048, 24, 8)]
    assert model.one_vs_rest["6"].local.weight.shape == (6, 256, 2048)
    assert model.one_vs_rest["4"].relation.weight.shape == (4, 256, 512)
    assert model.global_pooling["2"].largest.weight.shape == (1, 256, 2048)
    assert model.classify.weight.shape == (45, 3, 256) and model.classify.bias.shape == (45, 3)


def test_parts_that_do_not_divide_the_map_are_refused_at_once():
    with pytest.raises(
        ValueError, match=r"a map of 16 rows cannot be cut into 6 equal stripes; \[1, 2, 4, 8, 16\] fit"
    ):
        net(height=256)
    with pytest.raises(ValueError, match=r"a map of 12 rows cannot be cut into 5 equal .*\[1, 2, 3, 4, 6, 12\] fit"):
        net(num_stripes=(6, 5))
    for bad in (0, -2, 2.0, True):
        with pytest.raises(ValueError, match=rf"cannot be cut into {bad} equal stripes"):
            net(num_stripes=(bad,))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"contrast": "text"}, "contrast='text': expected one of released, paper"),
        ({"pooling": "mean"}, "pooling='mean': expected one of contrastive, average, max"),
        ({"terms": ("triplet", "centre")}, r"terms=\('triplet', 'centre'\): expected some of triplet, relational"),
        ({"terms": ()}, r"terms=\(\): expected some of"),
        ({"terms": ("local", "rest"), "one_vs_rest": False}, "leaves no loss; add 'triplet'"),
        ({"num_stripes": ()}, r"num_stripes=\(\): expected at least one"),
        ({"num_stripes": (4, 4)}, r"num_stripes=\(4, 4\): expected .* each of them once"),
        ({"backbone": "vgg"}, "backbone='vgg': expected one of small, resnet50"),
        ({"weights": "torchvision"}, "weights='torchvision': only backbone='resnet50'"),
        ({"height": 200}, "got 200×64 images, expected a height and a width that 16 divides"),
        ({"width": 0}, "width=0: expected a whole number of at least 1"),
        ({"out_channels": 2.5}, "out_channels=2.5: expected a whole number"),
        ({"num_classes": 0}, "num_classes=0: expected a whole number"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        net(**arguments)


def test_learns_to_tell_three_patterns():
    model, patterns = net(out_channels=16), images(3, seed=7)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    totals = []
    for step in range(6):
        batch = patterns[LABELS] + 0.5 * images(6, seed=step)
        loss = sum(model.loss(model(batch), LABELS).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        totals.append(loss.item())
    assert totals[-1] < 0.6 * totals[0]
