import dataclasses
import json

import pytest
import torch

from reidlab.evaluation import evaluate_model
from reidlab.models import MGN, RelationNet, RGANet
from reidlab.models.weights import save_weights
from reidlab.training import TrainConfig, load_checkpoint, parse_settings, save_checkpoint, train
from reidlab.training.config import READS
from reidlab.training.optimizing import parameter_groups

pytestmark = pytest.mark.usefixtures("half_size")
NETWORKS = {
    "rga": (RGANet, {"start": "half", "attention": "spatial"}, {"cross_entropy", "triplet"}),
    "relation": (RelationNet, {"margin": 1.2, "parts": (4, 2), "terms": ("triplet", "global")}, {"triplet/part4.1"}),
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
    rga = train(dataclasses.replace(smoke, model="rga", attention="channel", start="half", search="embedding"), colours)
    module = rga.model.backbone.attention["1"]
    assert module.spatial is None and rga.model.search == "embedding"
    assert module.channel.score_norm.weight.abs().item() < 0.01  # began at 0
    for settings in ({"parts": (6, 2), "contrast": "paper", "flip": True}, {"pooling": "max", "one_vs_rest": False}):
        relation = train(dataclasses.replace(smoke, model="relation", **settings), colours).model
        assert {name: relation.arguments[name] for name in settings} == settings
    none = train(dataclasses.replace(smoke, model="rga", attention="none"), colours).model
    assert len(none.backbone.attention) == 0


def test_each_setting_of_a_network_is_read_by_some_and_refused_by_others():
    for settings, message in (
        ({"attention": "none"}, "model='baseline' .* does not read attention"),
        ({"model": "rga", "stripes": 2, "parts": (2,)}, "model='rga' .* does not read stripes, parts"),
        ({"model": "relation", "label_smoothing": 0.2}, "does not read label_smoothing"),
        ({"model": "mgn", "one_vs_rest": False}, "does not read one_vs_rest"),
        ({"model": "mgn", "metric_loss": "none", "cross_entropy": False}, "leaves nothing to learn from"),
        ({"model": "rga", "attention": "none", "start": "half"}, "does not read start"),
        ({"model": "relation", "pooling": "max", "contrast": "paper"}, "does not read contrast"),
        ({"model": "relation", "parts": 6}, r"parts=6: expected a tuple of ints, such as \(6, 4, 2\)"),
        ({"model": "relation", "terms": "triplet"}, "terms='triplet': expected a tuple of strs"),
        ({"model": "relation", "terms": ("triplets",)}, "'triplets' is none of triplet, relational"),
    ):
        with pytest.raises(ValueError, match=message):
            TrainConfig(**settings)
    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    assert {name for names in READS.values() for name in names} <= fields


def test_settings_of_several_values_are_read_from_a_command_line():
    assert parse_settings(["parts=4,2", "terms=triplet,global"]) == {"parts": (4, 2), "terms": ("triplet", "global")}
    with pytest.raises(ValueError, match="parts=4;2: expected commas between ints, such as 6,4,2"):
        parse_settings(["parts=4;2"])
    with pytest.raises(ValueError, match="start='zero': expected one of random, half"):
        TrainConfig(model="rga", start="zero")


def test_biases_of_parts_are_not_decayed_though_they_have_two_dimensions():
    model = RelationNet(3, "small", parts=(2,), out_channels=4)
    decayed, free = ({id(p) for p in group["params"]} for group in parameter_groups(model, TrainConfig()))
    by_name = dict(model.named_parameters())
    biases = {name for name in by_name if name.endswith("bias")}
    assert any(by_name[name].ndim == 2 for name in biases)
    assert all(id(by_name[name]) in free for name in biases)
    assert id(by_name["classify.weight"]) in decayed and len(decayed) + len(free) == len(by_name)


def test_settings_come_back_from_json_as_they_were():
    config = TrainConfig(model="relation", parts=(4, 2), terms=("triplet",))
    assert TrainConfig(**json.loads(json.dumps(dataclasses.asdict(config)))) == config


def test_only_the_baseline_has_files_of_shipped_weights(tmp_path):
    with pytest.raises(ValueError, match="got a RGANet; only Baseline"):
        save_weights(RGANet(3, "small"), tmp_path / "a.safetensors", {})
    with pytest.raises(ValueError, match="no weights of RGANet come with the package"):
        RGANet.pretrained()
