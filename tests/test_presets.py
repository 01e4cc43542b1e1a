"""The papers' presets against their sources, and the table of what they should give."""

import dataclasses
import importlib
import json
import random
from itertools import pairwise

import pytest
import torch
from conftest import REPOSITORY

from reidlab.models import MODELS
from reidlab.training.config import TrainConfig, complete_arguments, flat_settings
from reidlab.training.optimizing import new_optimizer, new_schedule
from reidlab.training.presets import PRESETS, RECIPE_EPOCHS, SOURCES
from reidlab.walkers.pretraining import SETTINGS

PAPERS = ("bnneck", "rga_sc", "relation", "mgn")
IMAGES_OF_A_PERSON = {5: 1, 6: 14, 7: 26, 8: 43, 9: 77, 10: 606}
"""How many of CUHK03's training people have how many labeled images, new protocol."""
PER_PERSON = [images for images, people in IMAGES_OF_A_PERSON.items() for _ in range(people)]
BATCH = 64


# --- the dicts -----------------------------------------------------------------------------------------------------


def test_the_numbers_of_images_are_those_of_the_protocol():
    assert len(PER_PERSON) == 767 and sum(PER_PERSON) == 7368


def test_the_presets_that_are_no_papers_are_as_they_were():
    """Records in results/ and the shipped weights were made with these."""
    assert {name: PRESETS[name] for name in PRESETS if name not in PAPERS} == {
        "laptop": {"backbone": "small"},
        "smoke": {
            "backbone": "small",
            "iterations": 8,
            "identities_per_batch": 4,
            "images_per_identity": 2,
            "log_every": 4,
        },
        "relative_distance": {
            "model": "relative_distance",
            **{"iterations": 300, "identities_per_batch": 8, "learning_rate": 1e-3, "max_grad_norm": 5.0},
        },
    }
    assert SETTINGS == {
        **{
            "num_stripes": 4,
            "flip": True,
            "distinct_cameras": True,
            "iterations": 6000,
            "warmup": 0.05,
            "weight_decay": 1e-2,
        },
        **{"margin": None, "ema_decay": 0.999, "max_grad_norm": 20.0, "log_every": 100},
    }


@pytest.mark.parametrize("name", PAPERS)
def test_every_setting_of_a_paper_has_its_source_and_nothing_else_has(name):
    assert SOURCES.keys() == RECIPE_EPOCHS.keys() == set(PAPERS)
    assert SOURCES[name].keys() == PRESETS[name].keys()
    for setting, source in SOURCES[name].items():
        assert 3 < len(source) < 400 and source.strip() == source, setting


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_settings_that_can_be_run(name):
    config = TrainConfig.preset(name)
    settings = flat_settings(dataclasses.asdict(config))
    assert {key: settings[key] for key in PRESETS[name]} == PRESETS[name]
    assert json.loads(json.dumps(dataclasses.asdict(config)))["model"] == config.model


@pytest.mark.parametrize("name", PAPERS)
def test_what_the_papers_have_in_common(name):
    settings = PRESETS[name]
    assert settings["weights"] == "torchvision" and settings["backbone"] == "resnet50"
    assert settings["identities_per_batch"] * settings["images_per_identity"] == BATCH
    assert all(a < b for a, b in pairwise((settings["warmup"], *settings["milestones"], 1)))
    assert settings["decay_norm_bias"] and settings["weight_decay"] == 5e-4 and settings["precision"] == "float32"
    assert settings["held_out"] == 0 and settings["iterations"] % settings["evaluate_every"] == 0
    wholes = [share * RECIPE_EPOCHS[name][0] for share in (settings["warmup"], *settings["milestones"])]
    assert wholes == pytest.approx([round(whole) for whole in wholes])  # whole epochs of the paper's
    spoken_of = {"weights", "flip", "margin"} | ({"label_smoothing"} if name != "relation" else set())
    assert spoken_of <= settings.keys() & complete_arguments(settings["model"], {}).keys()


def test_losses_and_pictures_as_read_in_the_sources():
    """Margin, label smoothing, mirror image in the search, change of the picture, probability of erasing."""
    read = ("margin", "label_smoothing", "flip", "augmentation", "erasing")
    assert {name: tuple(PRESETS[name].get(key) for key in read) for name in PAPERS} == {
        "bnneck": (0.3, 0.1, False, "crop", 0.5),
        "rga_sc": (0.3, 0.1, False, "zoom", 0.5),
        "relation": (1.2, None, True, "mirror", 0.5),  # it has no label smoothing to set
        "mgn": (1.2, 0.0, True, "mirror", 0.0),
    }
    assert PRESETS["rga_sc"]["retrieval_feature"] == "before_bn" and PRESETS["relation"]["contrast"] == "released"


# --- epochs, iterations, passes ------------------------------------------------------------------------------------


def passes(name):
    return PRESETS[name]["iterations"] * BATCH / sum(PER_PERSON)


def test_600_epochs_are_28200_iterations_are_245_passes():
    """RGA's sampler: four images of each person; the loader drops what does not fill a batch."""
    assert RECIPE_EPOCHS["rga_sc"] == (600, 767 * 4 // BATCH) == (600, 47)
    assert PRESETS["rga_sc"]["iterations"] == 600 * 47 == 28_200
    assert round(passes("rga_sc")) == 245


def test_an_epoch_of_the_relation_network_is_four_passes():
    """Its sampler replaces each image by four of the same person; the last batch is not full."""
    assert RECIPE_EPOCHS["relation"] == (80, -(-sum(PER_PERSON) * 4 // BATCH))
    assert PRESETS["relation"]["iterations"] == 80 * 461 == 36_880 and round(passes("relation")) == 320


def test_an_epoch_of_mgn_is_taken_as_a_pass():
    assert RECIPE_EPOCHS["mgn"] == (80, sum(PER_PERSON) // BATCH)
    assert PRESETS["mgn"]["iterations"] == 9_200 and round(passes("mgn")) == 80


@pytest.mark.parametrize("seed", range(3))
def test_an_epoch_of_bnneck_is_what_its_sampler_deals_out(seed):
    """Each person's images in fours, the rest left; sixteen people a batch, until fewer have fours left."""
    rng = random.Random(seed)
    fours = {person: max(images, 4) // 4 for person, images in enumerate(PER_PERSON)}
    batches = 0
    while len(fours) >= 16:
        for person in rng.sample(sorted(fours), 16):
            fours[person] -= 1
            if not fours[person]:
                del fours[person]
        batches += 1
    assert RECIPE_EPOCHS["bnneck"] == (120, batches)
    assert PRESETS["bnneck"]["iterations"] == 120 * batches == 11_160 and round(passes("bnneck")) == 97


# --- rates ---------------------------------------------------------------------------------------------------------


def rga_rate(epoch):
    if epoch < 20:
        return 8e-6 + (8e-4 - 8e-6) * epoch / 20
    return 8e-4 * 0.5 ** sum(step <= epoch for step in (80, 120, 160, 200, 240, 280, 320, 360))


def bnneck_rate(epoch):
    if epoch < 10:
        return 3.5e-5 + (3.5e-4 - 3.5e-5) * epoch / 10
    return 3.5e-4 if epoch < 40 else 3.5e-5 if epoch < 70 else 3.5e-6


def thirds(epoch):
    return 1e-2 if epoch < 40 else 1e-3 if epoch < 60 else 1e-4


@pytest.mark.parametrize(
    ("name", "published", "warm"),
    [("bnneck", bnneck_rate, 10), ("rga_sc", rga_rate, 20), ("relation", thirds, 0), ("mgn", thirds, 0)],
)
def test_rates_are_those_of_the_papers(name, published, warm):
    """With four iterations an epoch: after the warm-up the same, in it between the epoch's own rate and the next."""
    epochs = RECIPE_EPOCHS[name][0]
    config = TrainConfig.preset(name, iterations=4 * epochs, evaluate_every=0)
    weights = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=config.learning_rate)
    schedule = new_schedule(weights, config)
    for iteration in range(4 * epochs):
        rate, epoch = schedule.get_last_lr()[0], iteration // 4
        if epoch < warm:
            assert published(epoch) < rate <= published(epoch + 1)
        elif iteration >= max(1, 4 * warm):  # without a warm-up the very first iteration may be slower
            assert rate == pytest.approx(published(epoch), rel=1e-6), epoch
        weights.step()
        schedule.step()


@pytest.mark.parametrize("name", PAPERS)
def test_all_weights_decay_and_the_backbone_has_its_rate(name):
    settings = PRESETS[name]
    config = TrainConfig.preset(name, backbone="small", weights=None)
    model = MODELS[config.model](6, backbone="small")
    groups = new_optimizer(model, config).param_groups
    assert type(new_optimizer(model, config)).__name__.lower() == settings["optimizer"]
    assert {group["weight_decay"] for group in groups} == {5e-4}
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    assert {id(p) for group in groups for p in group["params"]} == trained
    rate_of = {id(p): group["lr"] for group in groups for p in group["params"]}
    of_names = {part: rate_of[id(p)] for part, p in model.named_parameters() if id(p) in rate_of}
    backbone = {
        rate for part, rate in of_names.items() if part.startswith(("backbone.base", "backbone.stem", "shared"))
    }
    new = {rate for part, rate in of_names.items() if part.startswith(("classif", "reduce", "backbone.attention"))}
    peak = settings["learning_rate"]
    assert new == {peak} and backbone == {1e-3 if name == "relation" else peak}
    if settings["optimizer"] == "sgd":
        assert {group["momentum"] for group in groups} == {0.9}


# --- the table of reproductions --------------------------------------------------------------------------------------


@pytest.fixture
def reproduction(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    return importlib.import_module("reproduction")


@pytest.fixture
def record():
    return json.loads((REPOSITORY / "results" / "reproduction.json").read_text(encoding="utf-8"))


def test_the_page_is_that_of_the_record_and_says_that_nobody_has_run_it(reproduction, record):
    page = (REPOSITORY / "results" / "reproduction.md").read_text(encoding="utf-8")
    assert page == reproduction.markdown(record)
    assert "Nobody here has run these presets on real CUHK03" in page and "estimates, never run" in page


@pytest.mark.parametrize("name", PAPERS)
def test_the_record_quotes_sources_and_agrees_with_the_presets(reproduction, record, name):
    one = record["presets"][name]
    assert one["recipe"] == reproduction.recipe(name)
    assert one["recipe"]["passes"] == pytest.approx(passes(name))
    for quoted in one["claims"] + one["others"]:
        assert quoted["status"] in ("checked", "recalled") and quoted["source"]
        assert all(number is None or 1 < number < 100 for number in (quoted["rank1"], quoted["mean_ap"]))
    assert one["judged"].keys() == {"protocol", "rule", "metric", "ap_formula"}
    for box, cell in one["ours"].items():
        assert f"--box {box} --preset {name} --out runs/{name}_{box}" in cell["command"]
        assert (cell["rank1"] is None) == (cell["mean_ap"] is None) == (not cell["runs"])


def test_what_was_counted_is_what_the_other_benchmark_counted(record):
    """results/rga_step.json has the same two networks, counted for eight images."""
    networks = json.loads((REPOSITORY / "results" / "rga_step.json").read_text(encoding="utf-8"))["networks"]
    work = {network["name"]: network["multiply_adds"] / 8 for network in networks}
    for name, other in (("bnneck", "plain"), ("rga_sc", "reidlab")):
        assert record["presets"][name]["estimate"]["counted"]["multiply_adds"] == pytest.approx(work[other], rel=1e-6)


def test_an_estimate_by_hand(reproduction):
    """A network as heavy as ImageNet's ResNet-50: 714,240 images at 2,470 and at 347 a second; 64 images of 10 MB."""
    counted = {"multiply_adds": reproduction.IMAGENET_STEP, "pass_bytes": 1.0, "parameters": 25_000_000}
    counted |= {"kept_half": 5e6, "kept_float32": 1e7, "kept_once_half": 0, "kept_once_float32": 0}
    guess = reproduction.estimate("bnneck", counted, counted)
    assert guess["hours"]["A100, half"] == pytest.approx([714_240 / 2470 / 3600, 714_240 / (1_560_000 / 4500) / 3600])
    assert guess["memory_bytes"]["float32"] == pytest.approx(1.3 * (64e7 + 16 * 25e6) + 1e9)
    heavier = reproduction.estimate("bnneck", counted | {"pass_bytes": 3.0}, counted)
    assert heavier["hours"]["V100, half"][1] == pytest.approx(3 * guess["hours"]["V100, half"][1])


@pytest.fixture
def run(tmp_path):
    """Write a run folder as a training on CUHK03 leaves it."""

    def write(seed=0, rank1=0.75, settings=None, **other):
        folder = tmp_path / f"run{seed}"
        folder.mkdir(exist_ok=True)
        config = dataclasses.asdict(TrainConfig.preset("rga_sc", seed=seed, **(settings or {})))
        (folder / "config.json").write_text(json.dumps({"preset": "rga_sc", "config": config}))
        scores = {"dataset": "CUHK03", "box": "labeled", "protocol": "new", "rule": "market", "metric": "cosine"}
        scores |= {"ap_formula": "step", "rank1": rank1, "mean_ap": rank1 - 0.02, "mean_ap_trapezoid": rank1 - 0.04}
        (folder / "scores.json").write_text(json.dumps({"last": scores | other}))
        return folder

    return write


def test_runs_fill_our_cell_and_are_averaged(reproduction, run):
    ours = reproduction.empty("rga_sc")
    assert reproduction.ours_text(ours["labeled"]) == "empty"
    for seed, rank1 in ((1, 0.75), (0, 0.77), (1, 0.79)):  # the second run of seed 1 takes the place of the first
        preset, box, scores = reproduction.run_of(run(seed, rank1, {"precision": "bfloat16"}))
        assert (preset, box) == ("rga_sc", "labeled") and scores["changed"]["precision"] == "bfloat16"
        reproduction.fill(ours, box, scores)
    assert [one["seed"] for one in ours["labeled"]["runs"]] == [0, 1] and not ours["detected"]["runs"]
    assert ours["labeled"]["rank1"] == pytest.approx(0.78)
    assert reproduction.ours_text(ours["labeled"]) == "78.0 ± 1.4 / 76.0 ± 1.4 (2 runs)"


def test_other_data_rules_and_recipes_do_not_fill_it(reproduction, run):
    for other, message in (
        ({"dataset": "Walkers small"}, "dataset 'Walkers small', expected 'CUHK03'"),
        ({"protocol": "classic (split 0)"}, "protocol .*expected 'new'"),
        ({"rule": "cuhk03"}, "rule 'cuhk03', expected 'market'"),
        ({"settings": {"learning_rate": 1e-3}}, "differs from preset 'rga_sc' in learning_rate"),
    ):
        with pytest.raises(ValueError, match=message):
            reproduction.run_of(run(**other))
