import dataclasses
import errno
from pathlib import Path

import numpy as np
import pytest
import torch

from reidlab.data.records import Record, Splits
from reidlab.errors import DataError
from reidlab.evaluation import evaluate_model, extract_features
from reidlab.models import Baseline
from reidlab.results import score_record
from reidlab.training import TrainConfig, Training, load_checkpoint, parse_settings, save_checkpoint, train
from reidlab.training.batches import new_sampler
from reidlab.training.config import flat_settings
from reidlab.training.loop import _Average
from reidlab.walkers import StreetAugmentation
from reidlab.walkers.pretraining import SETTINGS, street_config

pytestmark = pytest.mark.usefixtures("half_size")
SMOKE = TrainConfig.preset("smoke", iterations=6, log_every=3)
STREET = street_config(
    iterations=4, log_every=2, identities_per_batch=4, images_per_identity=2, warmup=0.5, precision="float32"
)


@pytest.fixture(scope="module")
def trained(colours):
    return train(SMOKE, colours)


def test_same_seed_same_weights_and_history(colours, trained):
    again = train(SMOKE, colours)
    assert again.history == trained.history
    for (name, a), b in zip(again.model.state_dict().items(), trained.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    other = train(TrainConfig.preset("smoke", iterations=6, log_every=3, seed=1), colours)
    assert other.history != trained.history


def test_history_and_epochs(trained):
    assert [row["iteration"] for row in trained.history] == [3, 6]
    terms = {"cross_entropy", "triplet"}
    assert set(trained.history[0]) == {"iteration", "learning_rate", *terms, "active_anchors", "mean_distance"}
    assert trained.epochs == 3  # 6 iterations of P=4 over 6 identities: 2 batches an epoch
    assert not trained.model.training


def test_training_lowers_the_loss_and_joins_what_two_cameras_see(colours):
    seen = Splits("colours", "as given", "seen", colours.train, colours.train[::4], colours.train)
    config = TrainConfig.preset("smoke", iterations=30, log_every=5, jitter=0.0, erasing=0.0, learning_rate=1e-3)
    result = train(config, colours)
    assert result.history[-1]["cross_entropy"] < 0.8 * result.history[0]["cross_entropy"]
    torch.manual_seed(0)
    untrained = evaluate_model(Baseline(6).eval(), seen)
    assert evaluate_model(result.model, seen).mean_ap > untrained.mean_ap + 0.3


def test_images_read_in_a_worker_train_as_well(colours):
    assert train(SMOKE, colours, workers=1).history[-1]["iteration"] == 6


def same_weights(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("config", [STREET, SMOKE])
def test_half_precision_trains_float32_weights_and_repeats_itself(colours, config):
    config = config.replace(iterations=2, log_every=1, precision="bfloat16")
    first, again = train(config, colours), train(config, colours)
    assert first.history == again.history and same_weights(first.model, again.model)
    assert all(np.isfinite(list(row.values())).all() for row in first.history)
    assert {p.dtype for p in first.model.parameters()} == {torch.float32}
    full = train(config.replace(precision="float32"), colours)
    assert full.history != first.history
    assert full.history[0]["cross_entropy"] == pytest.approx(first.history[0]["cross_entropy"], abs=0.2)


def test_only_the_backbone_computes_in_half_precision():
    model = Baseline(3)
    seen = {}
    model.backbone.register_forward_hook(lambda module, inputs, output: seen.update(maps=output.dtype))
    outputs = model(torch.rand(4, 3, 32, 16), torch.bfloat16)
    assert seen == {"maps": torch.bfloat16}
    assert {tensor.dtype for tensor in outputs.values()} == {torch.float32}


def test_batches_of_the_street_are_the_same_with_a_worker(colours):
    street = StreetAugmentation(64, 32)
    one, other = train(STREET, colours, augment=street), train(STREET, colours, workers=1, augment=street)
    assert one.history == other.history and same_weights(one.model, other.model)


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("stored", [(72, 36), (32, 16)])
def test_images_on_disk_at_the_size_that_is_needed_are_not_kept_in_memory_as_well(colours, stored, mapped):
    class Noise:
        def load(self, name):
            return np.random.default_rng(int(name)).integers(0, 255, (*stored, 3), np.uint8)

    Noise.mapped = mapped
    kept = not mapped or stored != (72, 36)
    train_part = [Record(str(i), i // 2, 1, Noise()) for i in range(8)]
    data = dataclasses.replace(colours, train=train_part)
    inputs = Training(STREET, data, augment=StreetAugmentation(64, 32)).inputs
    images = inputs.dataset.__getitems__([3])[0]
    assert images.dtype == torch.uint8 and images.shape == (1, 3, 72, 36)
    if stored == (72, 36):
        assert np.array_equal(images[0].permute(1, 2, 0).numpy(), Noise().load("3"))
    batch = next(inputs.after(0))[0]
    assert batch.dtype == torch.float32 and batch.shape == (8, 3, 64, 32)
    store = inputs.dataset.store
    assert (store.filled if store else 0) == 8 * kept


def test_an_augmentation_of_ones_own_takes_the_place_of_the_usual(colours):
    shapes = []

    def plain(images, generator):
        shapes.append((images.dtype, tuple(images.shape)))
        return images.float() / 255

    result = train(STREET, colours, augment=plain)
    assert shapes == [(torch.uint8, (8, 3, 64, 32))] * 4
    assert result.history != train(STREET, colours).history


@pytest.mark.parametrize("change", [{"augmentation": "crop"}, {"erasing": 0.0}, {"jitter": 0.2}])
def test_settings_of_another_augmentation_are_refused_beside_ones_own(colours, change):
    (name, _), config = *change.items(), STREET.replace(**change)
    with pytest.raises(ValueError, match=f"{name}=.* beside an augment of your own"):
        train(config, colours, augment=lambda images, generator: images)


@pytest.mark.parametrize(
    ("wrong", "got"),
    [
        (lambda images, generator: images, r"torch\.uint8 \(8, 3, 64, 32\)"),
        (lambda images, generator: images[..., 1:].float(), r"torch\.float32 \(8, 3, 64, 31\)"),
        (lambda images, generator: None, "NoneType"),
    ],
)
def test_what_an_augmentation_returns_is_checked(colours, wrong, got):
    with pytest.raises(ValueError, match=rf"augment returned {got}, expected torch\.float32 \(8, 3, 64, 32\)"):
        train(STREET, colours, augment=wrong)


def test_the_street_is_no_setting_any_more():
    with pytest.raises(ValueError, match=r"give train\(\) augment=StreetAugmentation"):
        TrainConfig(augmentation="street")


def test_the_average_is_that_of_a_naive_loop():
    torch.manual_seed(0)
    model = Baseline(2)
    average, decay = _Average(model, 0.5), 0.5
    name = "backbone.stem.0.weight"
    expected = model.state_dict()[name].clone()
    for i in range(12):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
            model(torch.rand(2, 3, 32, 16))
        now = min(decay, (1 + i) / (10 + i))
        expected = now * expected + (1 - now) * model.state_dict()[name]
        average.update(model)
    assert torch.allclose(average.model.state_dict()[name], expected, atol=1e-5)
    assert average.model.neck.num_batches_tracked == 12
    assert not torch.equal(average.model.neck.running_mean, model.neck.running_mean)


def test_an_average_is_returned_and_does_not_disturb_the_training(colours, trained):
    averaged = train(SMOKE.replace(ema_decay=0.9), colours)
    assert averaged.history == trained.history
    assert not same_weights(averaged.model, trained.model)
    assert not averaged.model.training


def test_long_gradients_are_shortened(colours, trained):
    assert train(SMOKE.replace(max_grad_norm=1e6), colours).history == trained.history
    assert train(SMOKE.replace(max_grad_norm=1e-6), colours).history != trained.history


def test_checkpoint_brings_back_the_same_features(tmp_path, colours, trained):
    path = save_checkpoint(tmp_path / "deep" / "last.pt", trained, colours)
    model, meta = load_checkpoint(path)
    before, after = (extract_features(m, colours.query).features for m in (trained.model, model))
    assert torch.equal(before, after)
    assert meta["data"] == {"dataset": "colours", "box": "as given", "protocol": "halves"}
    assert meta["config"]["iterations"] == 6


def test_checkpoints_from_before_the_mirror_image_still_load(tmp_path, colours, trained):
    path = save_checkpoint(tmp_path / "last.pt", trained, colours)
    content = torch.load(path, weights_only=True)
    del content["model"]["flip"]
    torch.save(content, path)
    model, _ = load_checkpoint(path)
    assert model.flip is False
    assert same_weights(model, trained.model)


@pytest.mark.parametrize("damage", ["cut", "text", "foreign", "mark only", "a tensor less", "other arguments"])
def test_damaged_checkpoints_give_one_clear_error(tmp_path, colours, trained, damage):
    path = save_checkpoint(tmp_path / "last.pt", trained, colours)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "text":
        path.write_text("not a checkpoint")
    elif damage == "foreign":
        torch.save({"weights": torch.zeros(1)}, path)
    else:
        content = torch.load(path, weights_only=True)
        if damage == "mark only":
            content = {"format": content["format"]}
        elif damage == "a tensor less":
            del content["state_dict"]["neck.weight"]
        else:
            content["model"]["layers"] = 3
        torch.save(content, path)
    with pytest.raises(DataError, match=r"last\.pt"):
        load_checkpoint(path)
    with pytest.raises(FileNotFoundError, match=r"absent\.pt: no such checkpoint"):
        load_checkpoint(tmp_path / "absent.pt")


class Harmful:
    def __reduce__(self):
        return (Path.touch, (Path("harm"),))


def test_a_checkpoint_that_carries_code_is_refused_and_does_nothing(tmp_path, colours, trained, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = save_checkpoint(tmp_path / "last.pt", trained, colours)
    torch.save(torch.load(path, weights_only=True) | {"version": Harmful()}, path)
    with pytest.raises(DataError, match=r"last\.pt: cannot be read as a file of tensors"):
        load_checkpoint(path)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"format": "reidlab checkpoint 2"},
            r"written by a newer reidlab \(reidlab checkpoint 2, this one reads 1\); update",
        ),
        ({"kind": "transformer"}, "holds a model called 'transformer', expected one of baseline"),
        ({"format": "reidlab weights 1"}, "not a checkpoint of reidlab train"),
    ],
)
def test_checkpoints_of_other_versions_are_named(tmp_path, colours, trained, change, message):
    path = save_checkpoint(tmp_path / "last.pt", trained, colours)
    torch.save(torch.load(path, weights_only=True) | change, path)
    with pytest.raises(DataError, match=r"last\.pt: " + message):
        load_checkpoint(path)


@pytest.mark.parametrize("settings", [{}, SETTINGS])
def test_an_exploding_loss_stops_the_run(colours, settings):
    small = {"identities_per_batch": 4, "images_per_identity": 2, "iterations": 30}
    config = TrainConfig().replace(**settings | small | {"learning_rate": 1e6, "warmup": 0.0, "weight_decay": 1e6})
    with pytest.raises(FloatingPointError, match=r"iteration \d+: .*lower learning_rate"):
        train(config, colours)


def test_a_full_disk_is_named_and_leaves_no_checkpoint(tmp_path, colours, trained, monkeypatch):
    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"last\.pt: cannot be written, the disk is full|last\.pt: not written"):
        save_checkpoint(tmp_path / "last.pt", trained, colours)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"iterations": 2.5}, r"iterations=2\.5: expected a whole number"),
        ({"iterations": None}, "iterations=None: expected a whole number"),
        ({"margin": float("nan")}, "margin=nan: expected a number"),
        ({"margin": -3}, "margin=-3"),
        ({"learning_rate": float("inf")}, "learning_rate=inf"),
        ({"images_per_identity": 1}, "images_per_identity=1: expected a whole number from 2"),
        ({"backbone": "foo"}, "expected one of small, resnet50"),
        ({"erasing": "much"}, "erasing='much'"),
        ({"augmentation": "strong"}, "augmentation='strong': expected one of light, mirror, crop, zoom"),
        ({"precision": "half"}, "precision='half': expected one of auto, float32, bfloat16, float16"),
        ({"ema_decay": 1.0}, r"ema_decay=1\.0: expected a number from 0 to 0\.99999"),
        ({"max_grad_norm": -1}, "max_grad_norm=-1: expected a number from 0"),
        ({"num_stripes": -1}, r"num_stripes=-1: the map has 4 rows; expected one of \[0, 1, 2, 4\]"),
        ({"num_stripes": 4.0}, r"num_stripes=4\.0: .* expected one of"),
        ({"num_stripes": True}, "num_stripes=True: .* expected one of"),
        ({"margin": -0.1}, "margin=-0.1: expected a number from 0"),
        ({"flip": "yes"}, "flip='yes': expected True or False"),
        ({"flip": 1}, "flip=1: expected True or False"),
        ({"distinct_cameras": None}, "distinct_cameras=None: expected True or False"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig().replace(**settings)


def test_more_people_than_there_are_cannot_be_in_a_batch(colours):
    with pytest.raises(ValueError, match="identities_per_batch=16, but the training set has 6 identities"):
        train(TrainConfig(), colours)


def test_a_network_for_other_people_is_refused(colours):
    with pytest.raises(ValueError, match="the model distinguishes 5 identities, the data has 6 to train on"):
        train(SMOKE, colours, model=Baseline(5))


def test_training_goes_on_from_a_network(colours, trained):
    """The rate of the first step is nearly 0, and so is the change."""
    torch.manual_seed(0)
    begun = Baseline(6)
    before = {name: value.clone() for name, value in begun.named_parameters()}
    config = SMOKE.replace(iterations=1, learning_rate=1e-9)
    result = train(config, colours, model=begun)
    assert result.model is begun
    assert all(torch.allclose(value, before[name], atol=1e-6) for name, value in begun.named_parameters())


def test_settings_are_checked():
    with pytest.raises(ValueError, match="unknown setting lr; the settings are model, model_args"):
        TrainConfig.preset("laptop", lr=1)
    with pytest.raises(ValueError, match="expected one of laptop"):
        TrainConfig.preset("desktop")
    with pytest.raises(ValueError, match=r"erasing=1.5: expected a number from 0 to 1"):
        TrainConfig(erasing=1.5)
    with pytest.raises(ValueError, match="iterations='many': expected a whole number"):
        TrainConfig(**parse_settings(["iterations=many"]))
    with pytest.raises(ValueError, match="expected NAME=VALUE"):
        parse_settings(["iterations"])


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        (["flip=true", "distinct_cameras=false"], {"flip": True, "distinct_cameras": False}),
        (["milestones="], {"milestones": ()}),
        (["flip=False", "distinct_cameras=TRUE"], {"flip": False, "distinct_cameras": True}),
        (["num_stripes=4", "num_stripes=2"], {"num_stripes": 2}),
        (["precision=bfloat16", "ema_decay=0"], {"precision": "bfloat16", "ema_decay": 0}),
    ],
)
def test_settings_are_read_from_texts(texts, values):
    parsed = parse_settings(texts)
    assert parsed == values and [type(v) for v in parsed.values()] == [type(v) for v in values.values()]
    settings = flat_settings(dataclasses.asdict(street_config(**parsed)))
    assert all(settings[name] == value for name, value in values.items())


@pytest.mark.parametrize("text", ["flip=yes", "flip=1", "flip=", "flip=none", "distinct_cameras=on"])
def test_a_switch_is_true_or_false(text):
    with pytest.raises(ValueError, match=f"^{text.split('=')[0]}=.*: expected True or False$"):
        TrainConfig().replace(**parse_settings([text]))


def test_settings_reach_the_model_and_the_batches(colours):
    config = STREET.replace(num_stripes=2, flip=False, distinct_cameras=True, iterations=1)
    model = train(config, colours).model
    assert (model.arguments["num_stripes"], model.arguments["flip"]) == (2, False)
    cameras = [record.camid for record in colours.train]
    for spread in (True, False):
        sampler = new_sampler(config.replace(distinct_cameras=spread), colours.train)
        pairs = [{cameras[a], cameras[b]} for batch in sampler for a, b in zip(batch[::2], batch[1::2], strict=True)]
        assert all(len(pair) == 2 for pair in pairs) is spread


def test_printing_the_settings_shows_every_one():
    text = str(TrainConfig.preset("laptop"))
    assert all(name in text for name in ("margin", "label_smoothing", "seed", "learning_rate"))


def test_features_keep_the_order_and_the_mode(colours):
    model = Baseline(2).train()
    found = extract_features(model, colours.gallery, batch_size=5)
    assert found.pids.tolist() == [r.pid for r in colours.gallery]
    assert found.features.shape == (len(colours.gallery), 256)
    assert model.training
    with pytest.raises(ValueError, match="records is empty"):
        extract_features(model, [])


def test_a_record_of_scores_says_what_they_mean(colours, trained):
    record = score_record(evaluate_model(trained.model, colours), colours, seeds=[0], seconds=1.5)
    for key in ("dataset", "box", "protocol", "rule", "metric", "ap_formula", "rank1", "mean_ap", "seeds",
                "seconds", "hardware", "versions", "command", "date"):  # fmt: skip
        assert key in record
