import numpy as np
import pytest
import torch
from torchvision.models import resnet50

from reidlab.errors import DataError
from reidlab.models import Baseline
from reidlab.models.backbones import RESNET50_TENSORS, InstanceBatchNorm, ResNet50Backbone, load_resnet50_weights


def test_outputs_losses_and_gradients_of_the_small_baseline():
    model = Baseline(num_classes=3)
    outputs = model(torch.randn(6, 3, 128, 64))
    terms = model.loss(outputs, torch.tensor([0, 0, 1, 1, 2, 2]))
    assert terms["cross_entropy"].item() == pytest.approx(np.log(3), abs=0.05)  # an untrained classifier guesses
    sum(terms.values()).backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert without == []


def test_the_neck_has_no_bias_and_the_classifier_none_either():
    model = Baseline(num_classes=3)
    assert not model.neck.bias.requires_grad and not model.neck.bias.any()
    assert model.classifier.bias is None


def test_embedding_is_the_feature_after_the_neck_and_refuses_training_mode():
    model = Baseline(num_classes=3)
    images = torch.randn(2, 3, 128, 64)
    with pytest.raises(ValueError, match=r"call model.eval\(\)"):
        model.embed(images)
    model.eval()
    assert torch.equal(model.embed(images), model(images)["embedding"])


def test_an_image_embeds_the_same_alone_and_in_company():
    model = Baseline(num_classes=3).eval()
    images = torch.randn(5, 3, 128, 64)
    assert torch.allclose(model.embed(images)[2:3], model.embed(images[2:3]), atol=1e-5)


def test_preprocess_is_rgb_and_refuses_what_is_no_image():
    model = Baseline(num_classes=2)
    red = np.zeros((40, 20, 3), np.uint8)
    red[..., 0] = 255
    tensor = model.preprocess(red)
    assert tensor.shape == (3, 128, 64)
    assert tensor[:, 0, 0].tolist() == pytest.approx([(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225], abs=1e-4)
    for bad in (red.astype(np.float32), red[..., 0], "path.png"):
        with pytest.raises(ValueError, match=r"expected a uint8 array \(H, W, 3\)"):
            model.preprocess(bad)


def test_resnet50_keeps_its_last_resolution_and_its_265_tensors():
    backbone = ResNet50Backbone()
    assert backbone(torch.zeros(1, 3, 64, 32)).shape == (1, 2048, 4, 2)
    assert sum(not name.endswith("num_batches_tracked") for name in backbone.state_dict()) == RESNET50_TENSORS == 265


def test_imagenet_weights_load_whole_or_not_at_all(tmp_path):
    state = resnet50(weights=None).state_dict()
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "good.pth")
    backbone = ResNet50Backbone(tmp_path / "good.pth")
    assert backbone.num_loaded == 265
    assert torch.equal(backbone.layer4[2].conv3.weight, state["layer4.2.conv3.weight"])

    old = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}  # files of torch before 0.4.1
    torch.save(old, tmp_path / "old.pth")
    assert load_resnet50_weights(ResNet50Backbone(), tmp_path / "old.pth") == 265

    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    del state["layer3.0.conv1.weight"]
    torch.save(state, tmp_path / "partial.pth")
    with pytest.raises(DataError, match=r"1 tensors missing.*nothing was loaded"):
        load_resnet50_weights(backbone, tmp_path / "partial.pth")
    assert all(torch.equal(before[k], v) for k, v in backbone.state_dict().items())


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html>", b"\x80\x04junk"])
def test_a_damaged_weights_file_is_named(tmp_path, content):
    file = tmp_path / "weights.pth"
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"weights\.pth: cannot be read"):
        ResNet50Backbone(file)
    with pytest.raises(FileNotFoundError, match="no such weights file"):
        ResNet50Backbone(tmp_path / "absent.pth")


def test_a_pickle_of_code_is_not_executed(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pth")
    with pytest.raises(DataError, match=r"save model.state_dict\(\)"):
        ResNet50Backbone(tmp_path / "model.pth")


def test_bad_choices_are_refused():
    with pytest.raises(ValueError, match="expected one of small, resnet50"):
        Baseline(2, backbone="resnet18")
    with pytest.raises(ValueError, match="only backbone='resnet50'"):
        Baseline(2, weights="torchvision")
    with pytest.raises(ValueError, match="channels=3: expected an even number"):
        InstanceBatchNorm(3)


def test_instance_norm_removes_a_cast_of_the_whole_picture_and_batch_norm_does_not():
    norm = InstanceBatchNorm(4).eval()
    x = torch.randn(1, 4, 8, 8)
    moved = (norm(1.5 * x + 0.7) - norm(x)).abs().amax(dim=(0, 2, 3))
    assert moved[:2].max() < 1e-4 and moved[2:].min() > 0.1
