"""Several processes, which are started for real: collectives, steps of training, and a process that is lost."""

from __future__ import annotations

import os
import pickle
import re
import signal
import socket
import time
from pathlib import Path

import distributed_workers
import numpy as np
import pytest
import torch
from forked import Forked

from reidlab.distributed import Processes, local_device, process_group
from reidlab.errors import ProcessError

PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
posix = pytest.mark.skipif(os.name != "posix", reason="kills a process as POSIX systems do")


def free_port() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return str(taken.getsockname()[1])


def environment(**place: object) -> dict[str, str]:
    outside = {name: value for name, value in os.environ.items() if name not in PLACE}
    return {**outside, "OMP_NUM_THREADS": "1", **{name: str(value) for name, value in place.items()}}


def start(job: str, folder: Path, size: int, timeout: float = 60, started: int | None = None) -> list[Forked]:
    """Start `started` of `size` processes as torchrun would."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": size}
    return [
        Forked(
            distributed_workers.main,
            job,
            str(folder),
            str(timeout),
            env=environment(RANK=rank, LOCAL_RANK=rank, **address),
        )
        for rank in range(size if started is None else started)
    ]


def ends(processes: list[Forked]) -> list[tuple[int, str]]:
    """Wait for the processes; exit code and own lines of each. Those that hang are ended, and fail the test."""
    try:
        said = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    own = [re.findall("^(?:error|.*Error): .*$", text, re.MULTILINE) for text in said]  # also what was not foreseen
    return [(process.returncode, "".join(lines)) for process, lines in zip(processes, own, strict=True)]


@pytest.fixture(scope="module")
def met(tmp_path_factory) -> list[dict]:
    """What two processes found; those of test_training_distributed.py are started by torchrun itself."""
    folder = tmp_path_factory.mktemp("met")
    assert ends(start("meet", folder, 2)) == [(0, "")] * 2
    return [torch.load(folder / f"meet{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module")
def stepped(tmp_path_factory) -> list[dict]:
    """Steps of two processes, with whole batches and with parts of them."""
    folder = tmp_path_factory.mktemp("steps")
    assert ends(start("steps", folder, 2)) == [(0, "")] * 2
    return [torch.load(folder / f"steps{rank}.pt") for rank in range(2)]


def test_each_process_knows_its_place(met):
    assert [found["processes"] for found in met] == [(0, 2, True), (1, 2, False)]


def test_rows_come_in_order_of_rank(met):
    block = distributed_workers.block
    for found in met:
        assert torch.equal(found["uneven"], torch.cat([block(0, 1, 3), block(1, 3, 3)]))
        assert torch.equal(found["none in the first"], block(1, 1, 2, 2))
        assert found["labels"].tolist() == [0, 0, 1] and found["labels"].dtype == torch.int64
        assert found["learned"].tolist() == [[2], [2]] and not found["learned"].requires_grad
        assert found["of the first"] == "thing 0"
        assert found["objects"] == [{"rank": 0, "name": ""}, {"rank": 1, "name": "n"}]


def test_each_process_has_the_gradient_of_its_own_rows_times_their_number(met):
    both = [distributed_workers.block(rank, 2, 3).t() for rank in range(2)]
    for rows, found in zip(both, met, strict=True):
        assert torch.equal(found["batch"].detach(), torch.cat(both))
        assert torch.allclose(found["gradient"], 2 * 3 * rows**2)


def test_means_keep_shape_and_dtype(met):
    first, second = distributed_workers.buffers(0), distributed_workers.buffers(1)
    for found in met:
        for ours, a, b in zip(found["mean"], first, second, strict=True):
            assert ours.dtype == a.dtype and torch.allclose(ours, (a + b) / 2)


def test_a_second_process_group_is_refused(met):
    assert all("in a process group already" in found["twice"] for found in met)


@pytest.mark.parametrize("count", distributed_workers.SIZES)
def test_evaluation_by_two_processes_is_that_of_one(met, count):
    alone = distributed_workers.plain(*distributed_workers.scores(Processes(), count))
    assert len(alone["features"]) == count
    for found in met:
        together = found[f"scores {count}"]
        assert torch.equal(together["features"], met[0][f"scores {count}"]["features"])
        np.testing.assert_allclose(together["features"], alone["features"], rtol=1e-5, atol=1e-6)
        for name in ("pids", "camids", "rank1", "mean_ap"):
            assert together[name] == alone[name], name


@pytest.mark.parametrize("chunk", [0, 2, 3])
def test_steps_of_two_processes_are_those_of_one(stepped, chunk):
    """Also for weights that the loss uses directly, from some step on, or never; and each process has the same."""
    first, second = stepped
    alone = distributed_workers.steps(Processes(), [chunk])
    for number in range(3):
        one, other, expected = (found[f"{chunk}, {number}"] for found in (first, second, alone))
        assert one["terms"] == other["terms"] == pytest.approx(expected["terms"], rel=1e-12)
        gradients = expected["gradients"]
        assert gradients["margin"] is not None and (gradients["classifier.weight"] is None) == (number == 0)
        for name, value in gradients.items():
            if value is None:
                assert one["gradients"][name] is other["gradients"][name] is None, name
            else:
                assert torch.equal(one["gradients"][name], other["gradients"][name]), name
                assert torch.allclose(one["gradients"][name], value, rtol=1e-9, atol=1e-12), name
    for name, value in alone[f"{chunk}"].items():
        assert torch.equal(first[f"{chunk}"][name], second[f"{chunk}"][name]), name
        assert torch.allclose(first[f"{chunk}"][name], value, rtol=1e-7, atol=1e-9), name


@posix
@pytest.mark.parametrize(("job", "what"), [("lost", "gathering values"), ("lost_in_training", "averaging gradients")])
def test_a_killed_process_leaves_the_other_one_line(tmp_path, job, what):
    begin = time.monotonic()
    (first, line), (killed, _) = ends(start(job, tmp_path, 2, timeout=600))
    assert killed == -signal.SIGKILL
    assert first == 1
    assert re.fullmatch(
        rf"error: process 0 of 2 \(counted from 0\) lost another one while {what} \(.*by peer.*\); .* "
        r"The last checkpoint is usable: start all processes again and resume",
        line,
    ), line
    assert time.monotonic() - begin < 60


def test_a_process_that_fails_says_why_and_the_other_that_it_is_gone(tmp_path):
    (first, line), (second, cause) = ends(start("broken", tmp_path, 2, timeout=600))
    assert (first, second) == (1, 1)
    assert cause == "error: picture 7 is broken"
    assert "process 0 of 2" in line and "gathering values" in line


@pytest.mark.parametrize("job", ["stuck", "stuck_in_training"])
def test_a_process_that_does_not_answer_is_given_up(tmp_path, job):
    processes = start(job, tmp_path, 2, timeout=2)
    _, said = processes[0].communicate(timeout=60)
    processes[1].kill()
    processes[1].communicate()
    assert processes[0].returncode == 1
    assert "error: process 0 of 2" in said and "Timed out waiting 2000ms" in said


def test_a_process_that_was_not_started_is_not_waited_for_without_end(tmp_path):
    ((code, line),) = ends(start("meet", tmp_path, 2, timeout=2, started=1))
    assert code == 1
    assert re.match(r"error: process 0 of 2 .* did not find the others at 127\.0\.0\.1:\d+ \(.+\); check the add", line)


@pytest.fixture
def place(monkeypatch):
    """Set the environment as torchrun would, and nothing else."""
    for name in PLACE:
        monkeypatch.delenv(name, raising=False)

    def put(**values: object) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))

    return put


def test_without_torchrun_a_process_is_alone(place):
    place(MASTER_ADDR="somewhere")  # some clusters set it for every job
    with process_group() as processes:
        assert processes == Processes(0, 1) and processes.is_first
        assert not torch.distributed.is_initialized()


def test_one_process_of_torchrun_is_alone_too(place):
    place(RANK=0, WORLD_SIZE=1, LOCAL_RANK=0, MASTER_ADDR="nowhere.invalid", MASTER_PORT=1)
    with process_group("cuda", timeout_seconds=0.1) as processes:
        assert processes == Processes()
        assert not torch.distributed.is_initialized()
    assert local_device("cuda:3") == "cuda:3"


def test_alone_nothing_is_changed_or_copied():
    tensor, grid = torch.arange(3.0), torch.ones(2, requires_grad=True)
    processes = Processes()
    assert processes.gather(tensor) is tensor
    assert processes.gather_objects("a") == ["a"]
    assert processes.gather_batch(grid) is grid
    assert processes.broadcast("a") == "a"
    processes.average_([tensor, grid])
    assert tensor.tolist() == [0, 1, 2]
    assert pickle.loads(pickle.dumps(processes)) == processes


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"RANK": 1}, r"^WORLD_SIZE is not set in the environment, but RANK=1: .*torchrun --nproc-per-node=N"),
        ({"WORLD_SIZE": 2}, r"^RANK is not set in the environment, but WORLD_SIZE=2: .*unset RANK and WORLD_SIZE"),
        ({"RANK": 1, "WORLD_SIZE": 2}, "^MASTER_ADDR is not set in the environment, but RANK=1 and WORLD_SIZE=2"),
        ({"RANK": 1, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1"}, "^MASTER_PORT is not set"),
        ({"RANK": 1, "WORLD_SIZE": 2, "MASTER_ADDR": "", "MASTER_PORT": 1}, "^MASTER_ADDR is not set"),
        ({"RANK": 2, "WORLD_SIZE": 2}, "^RANK=2 and WORLD_SIZE=2 in the environment: expected 0 <= RANK < WORLD_SIZE"),
        ({"RANK": 0, "WORLD_SIZE": 0}, "^RANK=0 and WORLD_SIZE=0"),
        ({"RANK": "first", "WORLD_SIZE": 2}, "^RANK=first in the environment: expected a whole number"),
        ({"RANK": -1, "WORLD_SIZE": 2}, "^RANK=-1 in the environment: expected a whole number, 0 or more"),
    ],
)
def test_a_broken_environment_is_named(place, values, message):
    place(**values)
    with pytest.raises(ValueError, match=message) as caught, process_group(timeout_seconds=1):
        pass
    assert "\n" not in str(caught.value)


TWO = {"RANK": 1, "WORLD_SIZE": 2, "LOCAL_RANK": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 1}


def test_each_process_has_a_gpu_of_its_own(place, monkeypatch):
    place(**TWO)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert local_device("cuda") == local_device("cuda:1") == "cuda:1"
    assert local_device("cpu") == "cpu"
    with pytest.raises(ValueError, match="device=cuda:0: several processes would share it"):
        local_device("cuda:0")


@pytest.mark.parametrize(
    ("gpus", "advice"), [(1, "shows 1 GPUs; start at most --nproc-per-node=1"), (0, "0 GPUs; use device cpu")]
)
def test_more_processes_than_gpus_are_refused(place, monkeypatch, gpus, advice):
    place(**TWO)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(ValueError, match=advice), process_group("cuda"):
        pass


def test_what_several_processes_cannot_use_is_refused_before_they_meet(place):
    place(**TWO)
    with pytest.raises(ValueError, match="device=meta: several processes can use cpu or cuda"), process_group("meta"):
        pass
    with pytest.raises(ValueError, match="timeout_seconds=0: expected more than 0"), process_group(timeout_seconds=0):
        pass


def test_a_place_that_is_not_there():
    for rank, size in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match=f"got rank {rank} of {size} processes"):
            Processes(rank, size)
    with pytest.raises(ValueError, match="2 processes have not joined a process group: use Processes inside"):
        Processes(0, 2).gather(torch.ones(1))


def test_a_lost_process_is_not_bad_input():
    assert issubclass(ProcessError, RuntimeError) and not issubclass(ProcessError, ValueError)
