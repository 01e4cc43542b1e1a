import dataclasses
import json
import re

import numpy as np
import pytest
import torch

from reidlab.evaluation import evaluate_model
from reidlab.models import MGN, MODELS, Baseline, RelationNet, RGANet
from reidlab.models.base import RENAMED as MODEL_RENAMED
from reidlab.models.weights import save_weights
from reidlab.training import TrainConfig, load_checkpoint, parse_settings, save_checkpoint, train
from reidlab.training.config import RENAMED
from reidlab.training.optimizing import parameter_groups

pytestmark = pytest.mark.usefixtures("half_size")
NETWORKS = {
    "rga": (RGANet, {"gate_init": "half", "channel": False}, {"cross_entropy", "triplet"}),
    "relation": (
        RelationNet,
        {"margin": 1.2, "num_stripes": (4, 2), "terms": ("triplet", "global")},
        {"triplet/part4.1"},
    ),
    "mgn": (MGN, {"margin": 1.2, "flip": True}, {"triplet/global1"}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_train_by_name_and_come_back_from_their_checkpoints(name, colours, tmp_path):
    kind, settings, terms = NETWORKS[name]
    config = TrainConfig.preset("smoke", model=name, iterations=2, log_every=1, **settings)
    result = train(config, colours)
    assert isinstance(result.model, kind) and terms <= set(result.history[0])
    assert train(config, colours).history == result.history  # same seed, same numbers
    again, content = load_checkpoint(save_checkpoint(tmp_path / "a.pt", result, colours))
    assert content["config"]["model"] == name and isinstance(again, kind)
    image = torch.rand(2, 3, again.height, again.width)
    assert torch.equal(again.embed(image), result.model.embed(image))
    assert 0 <= evaluate_model(again, colours).rank1 <= 1


def test_settings_reach_the_networks(colours):
    smoke = TrainConfig.preset("smoke", iterations=1)
    rga = train(
        smoke.replace(model="rga", backbone="small", spatial=False, gate_init="half", retrieval_feature="after_bn"),
        colours,
    )
    module = rga.model.backbone.attention["1"]
    assert module.spatial is None and rga.model.retrieval_feature == "after_bn"
    assert module.channel.score_norm.weight.abs().item() < 0.01  # began at 0
    for settings in (
        {"num_stripes": (6, 2), "contrast": "paper", "flip": True},
        {"pooling": "max", "one_vs_rest": False},
    ):
        relation = train(smoke.replace(model="relation", backbone="small", **settings), colours).model
        assert {name: relation.arguments[name] for name in settings} == settings
    none = train(smoke.replace(model="rga", backbone="small", spatial=False, channel=False), colours).model
    assert len(none.backbone.attention) == 0


def test_each_setting_of_a_network_is_read_by_some_and_refused_by_others():
    for settings, message in (
        ({"spatial": False}, "unknown setting spatial; .* the arguments of baseline are backbone, weights"),
        ({"model": "rga", "num_stripes": 2}, "unknown setting num_stripes"),
        ({"model": "relation", "label_smoothing": 0.2}, "unknown setting label_smoothing"),
        ({"model": "mgn", "one_vs_rest": False}, "unknown setting one_vs_rest"),
        (
            {"model": "rga", "spatial": False, "channel": False, "gate_init": "half"},
            "gate_init='half' is not read with",
        ),
        (
            {"model": "relation", "pooling": "max", "contrast": "paper"},
            "contrast='paper' is not read with pooling='max'",
        ),
        ({"model": "relation", "num_stripes": 6}, r"num_stripes=6: expected a tuple, such as \(6, 4, 2\)"),
        ({"model": "relation", "terms": "triplet"}, "terms='triplet': expected a tuple"),
        ({"model": "relation", "terms": ("triplets",)}, "expected some of triplet, relational"),
        ({"model_args": [1]}, "expected arguments by name"),
    ):
        with pytest.raises(ValueError, match=message):
            TrainConfig().replace(**settings)


@pytest.mark.parametrize("name", RENAMED)
def test_earlier_names_are_refused_with_the_new_one(name):
    new = re.escape(RENAMED[name])
    for make in (TrainConfig, TrainConfig().replace, lambda **old: TrainConfig(model_args=old)):
        with pytest.raises(ValueError, match=f"{name} has another name now: {new}"):
            make(**{name: 1})
    if name in MODEL_RENAMED:
        with pytest.raises(ValueError, match=new):
            RGANet(3, "small", **{name: 1})


def test_settings_are_few_and_complete():
    assert len(dataclasses.fields(TrainConfig)) <= 30
    arguments = {"backbone": "small", "weights": None, "margin": 1.2, "label_smoothing": 0.0, "flip": True}
    assert TrainConfig(model="mgn", model_args={"backbone": "small"}).model_args == arguments | {
        "height": None,
        "width": None,
    }
    for model in ("rga", "relation", "mgn"):
        assert TrainConfig.preset("laptop", model=model).model_args["backbone"] == "small"
    assert "backbone" not in TrainConfig.preset("laptop", model="relative_distance").model_args
    other = TrainConfig.preset("laptop", margin=None, iterations=7).replace(model="rga", backbone="small")
    assert other.model_args["margin"] == 0.3 and other.iterations == 7  # arguments of the other model are left behind


def test_a_model_of_ones_own_is_made_by_its_name(colours):
    class Tiny(Baseline):
        name = "tiny"

        def __init__(self, num_classes, width_of_feature=8):
            super().__init__(num_classes)
            self.width_of_feature = width_of_feature

    try:
        model = train(TrainConfig.preset("smoke", model="tiny", width_of_feature=3, iterations=1), colours).model
        assert type(model) is Tiny and model.arguments == {"num_classes": 6, "width_of_feature": 3}
    finally:
        del MODELS["tiny"]


def test_settings_of_several_values_are_read_from_a_command_line():
    assert parse_settings(["num_stripes=4,2", "terms=triplet,"]) == {"num_stripes": (4, 2), "terms": ("triplet",)}
    with pytest.raises(ValueError, match="num_stripes='4;2': expected a tuple"):
        TrainConfig(model="relation", model_args=parse_settings(["num_stripes=4;2"]))
    with pytest.raises(ValueError, match="gate_init='zero': expected one of random, half"):
        TrainConfig(model="rga", model_args={"gate_init": "zero"})


def test_biases_of_parts_are_not_decayed_though_they_have_two_dimensions():
    model = RelationNet(3, "small", num_stripes=(2,), out_channels=4)
    decayed, free = ({id(p) for p in group["params"]} for group in parameter_groups(model, TrainConfig()))
    by_name = dict(model.named_parameters())
    biases = {name for name in by_name if name.endswith("bias")}
    assert any(by_name[name].ndim == 2 for name in biases)
    assert all(id(by_name[name]) in free for name in biases)
    assert id(by_name["classify.weight"]) in decayed and len(decayed) + len(free) == len(by_name)


def test_settings_come_back_from_json_as_they_were():
    config = TrainConfig(model="relation", model_args={"num_stripes": (4, 2), "terms": ("triplet",)})
    assert TrainConfig(**json.loads(json.dumps(dataclasses.asdict(config)))) == config


def test_only_the_baseline_has_files_of_shipped_weights(tmp_path):
    with pytest.raises(ValueError, match="got a RGANet; only Baseline"):
        save_weights(RGANet(3, "small"), tmp_path / "a.safetensors", {})
    with pytest.raises(ValueError, match="no weights of RGANet come with the package"):
        RGANet.pretrained()


def test_numpy_numbers_become_python_numbers_that_a_checkpoint_holds(colours, tmp_path):
    changes = {"learning_rate": np.float64(1e-3), "iterations": np.int64(1), "margin": np.float32(0.5)}
    config = TrainConfig.preset("smoke", milestones=[np.float64(0.5)], **changes)
    values = (config.learning_rate, config.iterations, config.model_args["margin"], *config.milestones)
    assert [type(value) for value in values] == [float, int, float, float]
    train(config, colours, out=tmp_path / "run")
    assert load_checkpoint(tmp_path / "run" / "last.pt")[1]["config"]["model_args"]["margin"] == 0.5


def test_what_the_caller_says_wins_over_the_preset_and_is_said_once():
    assert TrainConfig.preset("laptop", model_args={"backbone": "resnet50"}).model_args["backbone"] == "resnet50"
    other = TrainConfig.preset("rga_sc", model="relation").model_args
    assert (other["weights"], other["margin"]) == ("torchvision", 1.2)  # the margin of the other model is left behind
    for make, message in (
        (lambda: TrainConfig.preset("laptop", margin=1.0, model_args={"margin": 2.0}), "margin is given twice"),
        (lambda: TrainConfig(margin=0.3), r"unknown setting margin; arguments of the model go into model_args"),
        (lambda: TrainConfig.preset("laptop", itertions=3), r"unknown setting itertions \(did you mean iterations\?\)"),
        (
            lambda: TrainConfig.preset("laptop", weights="torchvision"),
            "only backbone='resnet50' takes ImageNet weights",
        ),
        (lambda: TrainConfig.preset("laptop", backbone="resnet50", weights=1), "weights=1: expected a path"),
        (lambda: TrainConfig(milestones=(float("nan"),)), "expected shares of the run"),
        (lambda: TrainConfig.preset("laptop", model=["rga"]), "expected one of baseline"),
        (lambda: TrainConfig.preset(["laptop"]), "expected one of laptop"),
        (lambda: TrainConfig(model="relation", model_args={"terms": ("local", "local")}), "each of them once"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_constructors_of_own_models():
    class Rates(Baseline):
        name = "rates"

        def __init__(self, num_classes, drop=0.1, start=0):
            super().__init__(num_classes)
            self.rates = [x.item() for x in torch.linspace(0, drop, 3)]  # which no device without memory has

    class Taken(Baseline):
        name = "taken"

        def __init__(self, num_classes, momentum=0.1):
            super().__init__(num_classes)

    try:
        assert TrainConfig.preset("smoke", model="rates", start=2).model_args == {"drop": 0.1, "start": 2}
        with pytest.raises(ValueError, match="argument momentum has the name of a setting"):
            TrainConfig(model="taken")
    finally:
        del MODELS["rates"], MODELS["taken"]
