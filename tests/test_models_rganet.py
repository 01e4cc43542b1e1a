import numpy as np
import pytest
import torch

from reidlab.models import Baseline, RGANet


@pytest.fixture(scope="module")
def images():
    return torch.rand(4, 3, 128, 64, generator=torch.Generator().manual_seed(0))


def small(seed: int = 0, **arguments) -> RGANet:
    torch.manual_seed(seed)
    return RGANet(5, "small", **arguments)


def test_without_attention_it_is_the_baseline(images):
    torch.manual_seed(0)
    baseline = Baseline(5).eval()
    plain = small(spatial=False, channel=False, retrieval_feature="after_bn").eval()
    assert len(plain.backbone.attention) == 0 and plain.attention_maps(images) == {}
    assert torch.equal(plain.embed(images), baseline.embed(images))
    for name, tensor in plain(images).items():
        assert torch.equal(tensor, baseline(images)[name])


def test_the_feature_to_search_with_is_before_or_after_the_neck(images):
    model = small().train()
    model(images)  # moves the statistics of the neck away from those it starts with
    outputs = model.eval()(images)
    assert torch.equal(model.embed(images), outputs["features"])
    model.retrieval_feature = "after_bn"
    assert torch.equal(model.embed(images), outputs["embedding"])
    assert not torch.allclose(outputs["features"], outputs["embedding"], atol=1e-3)
    with pytest.raises(ValueError, match="retrieval_feature='both': expected one of before_bn, after_bn"):
        small(retrieval_feature="both")


def test_mirror_images_are_averaged_at_length_1(images):
    model = small(flip=True).eval()
    one, other = (torch.nn.functional.normalize(model(x)["features"]) for x in (images, images.flip(3)))
    torch.testing.assert_close(model.embed(images), (one + other) / 2)


def test_modules_follow_the_stages_asked_for(images):
    model = small(stages=(1, 3), channel=False).eval()
    assert list(model.backbone.attention) == ["1", "3"]
    found = model.attention_maps(images)
    assert {stage: tuple(maps.spatial.shape) for stage, maps in found.items()} == {1: (4, 32, 16), 3: (4, 8, 4)}
    assert all(maps.channel is None for maps in found.values())
    x = model.backbone.base.first(images)
    for number, stage in enumerate(model.backbone.base.stage_list(), start=1):
        x = stage(x)
        if number in found:
            x = x * found[number].spatial[:, None]
    torch.testing.assert_close(model(images)["features"], x.mean(dim=(2, 3)))
    with pytest.raises(ValueError, match=r"stages=\(3, 4\): the small backbone has stages 1, 2, 3"):
        small(stages=(3, 4))


def test_resnet50_has_a_module_after_each_of_its_four_stages():
    model = RGANet(3, stages=(3, 4)).eval()
    sizes = {name: (m.channels, m.height, m.width) for name, m in model.backbone.attention.items()}
    assert sizes == {"3": (1024, 16, 8), "4": (2048, 16, 8)}
    assert model.embed(torch.rand(1, 3, 256, 128)).shape == (1, 2048)


def test_a_network_is_made_for_one_size_of_images(images):
    tall = RGANet(5, "small", height=192, width=64).eval()
    assert tall.embed(torch.rand(1, 3, 192, 64)).shape == (1, 256)
    assert tall.preprocess(np.zeros((50, 20, 3), np.uint8)).shape == (3, 192, 64)
    for call in (tall.embed, tall.attention_maps, tall):
        with pytest.raises(ValueError, match=r"got shape \(4, 3, 128, 64\), expected \(B, 3, 192, 64\)"):
            call(images)
    with pytest.raises(ValueError, match="images of 100×64: expected multiples of 16"):
        RGANet(5, "small", height=100, width=64)


def test_gates_are_refused_in_training_mode(images):
    with pytest.raises(ValueError, match=r"training mode: call model.eval\(\) before attention_maps"):
        small().attention_maps(images)


def test_images_do_not_influence_each_other_in_evaluation_mode(images):
    model = small().eval()
    torch.testing.assert_close(model.embed(images)[1:2], model.embed(images[1:2]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "num_classes=0: expected a whole number"),
        ({"num_classes": 3, "height": "128"}, "height='128': expected a whole number"),
        ({"num_classes": 3, "stages": (2, 2)}, r"stages=\(2, 2\)"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RGANet(backbone="small", **arguments)
