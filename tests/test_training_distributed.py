"""Two processes that train together, as torchrun starts them, against one process with the same batches."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from reidlab.data.dataset import class_labels
from reidlab.distributed import Processes
from reidlab.training import TrainConfig, Training
from reidlab.training.batches import Inputs, new_sampler
from reidlab.training.dry_run import dry_run

sys.path.insert(0, str(Path(__file__).parent))
from train_workers import CONFIGS, one, people

pytestmark = pytest.mark.usefixtures("half_size")


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """What the two processes found, and the folder of their runs."""
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}"]
    worker = Path(__file__).parent / "train_workers.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, worker, folder], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[:3000]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)], folder


def far(one, other):
    """The largest difference between two sets of weights."""
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


@pytest.mark.parametrize("name", CONFIGS)
def test_two_processes_are_one_that_takes_its_batches_in_halves(name, together, tmp_path):
    """Batch norm sees half a batch in both; sums are added in another order, and differ in their last digits."""
    (first, second), _ = together
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the two processes; other numbers add in yet another order
    try:
        alone = one(name, tmp_path / "alone", Processes(), microbatch_size=CONFIGS[name].microbatch_size or 4)
    finally:
        torch.set_num_threads(before)
    assert far(first[name]["weights"], second[name]["weights"]) == 0
    # Adam moves by the rate, 1e-4, in a direction that the last digits decide where a gradient is nearly 0
    assert far(first[name]["weights"], alone["weights"]) < 3e-4
    for row, other in zip(first[name]["history"], alone["history"], strict=True):
        assert row == pytest.approx(other, rel=1e-4, abs=1e-5)
    for row, other in zip(first[name]["evaluations"], alone["evaluations"], strict=True):
        assert row == pytest.approx(other, abs=1e-6)
    untrained = Training(CONFIGS[name], people()).model.state_dict()
    assert far(first[name]["weights"], untrained) > 1e-3  # there was something to differ in


def test_a_compiled_network_trains_to_the_same_weights(together):
    for found in together[0]:
        for row, other in zip(found["compiled"]["history"], found["parts"]["history"], strict=True):
            assert row == pytest.approx(other, rel=1e-5)
        assert far(found["compiled"]["weights"], found["parts"]["weights"]) < 1e-5


def test_an_interruption_of_one_ends_both_and_they_go_on_with_the_same_numbers(together):
    (first, second), _ = together
    for found in (first, second):
        assert found["interrupted"]["stopped"]
        assert found["interrupted"]["history"] == found["crop"]["history"]
        assert far(found["interrupted"]["weights"], found["crop"]["weights"]) == 0


def test_only_the_first_process_writes(together):
    _, folder = together
    rows = [json.loads(line) for line in (folder / "crop" / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows if row["kind"] == "train"] == [3, 6]
    assert [row["iteration"] for row in rows if row["kind"] == "evaluation"] == [0, 3, 6]
    assert json.loads((folder / "crop" / "config.json").read_text())["processes"] == 2


def test_people_are_dealt_out_whole(colours):
    config, labels = TrainConfig(identities_per_batch=6, images_per_identity=2), class_labels(colours.train)

    def inputs(config: TrainConfig, *place: int) -> Inputs:
        return Inputs(config, colours.train, labels, (64, 32), processes=Processes(*place))

    whole = list(new_sampler(config, colours.train))
    for batch, *parts in zip(whole, *(inputs(config, rank, 3).own for rank in range(3)), strict=True):
        assert [index for part in parts for index in part] == batch
        pids = [{colours.train[index].pid for index in part} for part in parts]
        assert all(len(own) == 2 for own in pids) and len(set.union(*pids)) == 6
    uneven = TrainConfig(identities_per_batch=4, images_per_identity=2, microbatch_size=3)
    with pytest.raises(ValueError, match="microbatch_size=3 leaves one image of 4 by itself"):
        inputs(uneven, 0, 2)
    with pytest.raises(ValueError, match=r"identities_per_batch=6 cannot be shared by 4 processes .* set it to 4"):
        inputs(config, 0, 4)


def test_a_dry_run_takes_its_steps_together(together, half_size):
    (first, second), _ = together
    assert first["dry run"] == second["dry run"] == dry_run(CONFIGS["parts"], people()).table["steps"]


def test_processes_do_not_draw_the_same_for_their_images(together):
    (first, second), _ = together
    assert len(first["drawn"]) == 3
    for augmentation, images in first["drawn"].items():
        assert not torch.equal(images, second["drawn"][augmentation]), augmentation


def test_a_run_of_two_processes_is_gone_on_with_by_two(together):
    from reidlab.training import RunFolder, train

    _, folder = together
    with pytest.raises(ValueError, match="was begun by 2 processes, got 1; start as many"):
        train(CONFIGS["crop"], people(), run=RunFolder(folder / "crop", resume=True))
