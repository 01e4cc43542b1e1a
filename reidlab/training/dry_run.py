"""The dry run: checks of what would end a run hours later, and a few real steps on weights that are thrown away."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import gc
import itertools
import os
import re
import shutil
import statistics
import textwrap
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reidlab.data.folders import JUNK
from reidlab.data.records import Splits
from reidlab.distributed import Processes
from reidlab.errors import DataError
from reidlab.progress import duration_text, progress, size_text
from reidlab.training.config import TrainConfig, without_weights
from reidlab.training.loop import Training
from reidlab.training.optimizing import warmup_iterations
from reidlab.training.precision import settle_precision
from reidlab.training.randomness import random_state, restore_random
from reidlab.training.step import memory_mb

OPENED = 64
"""Images of each part of the data that are opened, besides the first and the last of each camera."""
STEPS = 3
"""That are taken; the second is the first with the optimizer's moments in memory."""
_SHORTAGE = re.compile(
    "out of memory|not enough memory|can(no|')t allocate memory|bad_alloc|could not create a (primitive|memory)", re.I
)
"""What torch, C++ and oneDNN say where memory is short."""


@dataclass(frozen=True)
class DryRun:
    """What a run needs, as a few steps showed; printed, a table of a few lines.

    Args:
        step_seconds: median time of a step, images read and augmentation included.
        seconds: expected for the run, without evaluations, checkpoints and the scores at the end.
        peak_bytes: most memory so far: what torch took of a GPU, or this process of main memory; None where the
            system does not tell.
        last_bytes, best_bytes: sizes of last.pt and best.pt, which is 0 if none is written.
        store_bytes: size of all images as they are kept; 0 if they are not.
        table: the lines by their names.
    """

    step_seconds: float
    seconds: float
    peak_bytes: float | None
    last_bytes: int
    best_bytes: int
    store_bytes: int
    table: dict[str, str]

    def __str__(self) -> str:
        lines = (f"{name:<14} {text}" for name, text in self.table.items())
        return "\n".join(textwrap.fill(line, 120, subsequent_indent=" " * 15) for line in lines)


def dry_run(
    config: TrainConfig,
    data: Splits,
    device: str = "cpu",
    workers: int = 0,
    out: str | os.PathLike[str] | None = None,
    processes: Processes = Processes(),
    cache: str | os.PathLike[str] | None = None,
) -> DryRun:
    """Measure what `train` needs with the same arguments, and refuse what would fail hours later.

    Nothing is written, ImageNet weights are not fetched, and random generators are as they were afterwards. Images
    are read into memory even with `cache`.

    Args:
        config, data, device, workers, processes, cache: as for `train`. Each process of `processes` calls this.
        out: the folder that the run will be written to; it need not exist. None if nothing will be written.

    Returns:
        A `DryRun`.

    Raises:
        DataError: images that cannot be read; the message counts them and names the first.
        ValueError: no query has a match in the gallery, or what `train` would refuse at its beginning.
        FileNotFoundError: no file of weights where the settings say.
        OSError: too little free space or memory; the message says what to do.
        FloatingPointError: NaN or infinity in a step.

    Taught in: notebooks/06_training.ipynb
    """
    weights = config.model_args.get("weights")
    if weights not in (None, "torchvision") and not Path(weights).is_file():
        raise FileNotFoundError(f"{weights}: no such weights file; give the path of one, or weights=None")
    checked = _check_data(data)
    config = settle_precision(config, device, processes)
    with _undisturbed(device):
        # images are in memory here, which workers cannot share on every system, while they can share a cache
        readers = workers if cache is None else 0
        training = Training(without_weights(config), data, device, readers, processes=processes)
        before = memory_mb(device)
        times, reading, terms = _take_steps(training, STEPS)
        step = statistics.median(times[1:])  # the first includes what is prepared once
        seconds = _run_seconds(training, step, reading, workers)
        peak = memory_mb(device)
        state = _bytes(training.model.state_dict().values())
        moments = _bytes(value for own in training.optimizer.state.values() for value in own.values())
        last = moments + state * (2 if config.ema_decay else 1)
        best = state if config.evaluate_every and config.held_out else 0
        store = training.inputs.dataset.store.nbytes if training.inputs.dataset.store else 0
        table = _settings_table(training)
        del training  # what it took is free again before the run begins

    duration = f"{duration_text(seconds)} for {config.iterations:,} steps of {duration_text(step)}"
    if reading:
        duration += f", and {1e3 * reading:.1f} ms to read an image for the first time"
    memory = "not known on this system"
    if peak is not None and device.startswith("cuda"):
        memory = f"{size_text(1e6 * peak)}, the most that torch took of {device}"
    elif peak is not None:
        earlier = size_text(1e6 * before)
        memory = f"{size_text(1e6 * peak)}, the most that this process took so far (before the steps {earlier})"
    files = f"last.pt {size_text(last)}, "
    files += f"best.pt {size_text(best)}" if best else "no best.pt, since no identities are held out"
    table |= {
        "images": f"{size_text(store)} in {cache or 'memory'}, once all are read" if store else "read each time",
        "checked": checked,
        "steps": f"{STEPS} on weights that were thrown away, loss {sum(terms.values()):.3f} ({len(terms)} terms)",
        "time": f"{duration}; without evaluations, writing last.pt and the scores at the end",
        "memory": memory,
        "disk": files + _check_disk(last, best, store, out, cache),
    }
    return DryRun(step, seconds, None if peak is None else 1e6 * peak, last, best, store, table)


def forecast(config: TrainConfig, data: Splits, device: str = "cpu", workers: int = 0) -> float:
    """Estimate the seconds that `train` takes here from a few steps with a quarter of a batch, or 16 images.

    Evaluations on held-out identities are not included. Random generators are as they were afterwards.

    Args:
        config, data, device, workers: as for `train`.

    Raises:
        ValueError: what `train` would refuse at its beginning.

    Taught in: notebooks/00_start_here.ipynb
    """
    people = max(2, min(config.identities_per_batch, 16 // config.images_per_identity))
    small = without_weights(dataclasses.replace(config, identities_per_batch=people, microbatch_size=0))
    with _undisturbed(device):
        training = Training(small, data, device, workers)
        times, reading, _ = _take_steps(training, 5)
        # the quickest step counts: other work on the machine lengthens it least
        step = min(times[1:]) * config.identities_per_batch / people
        return _run_seconds(training, step, reading, workers)


def _run_seconds(training: Training, step: float, reading: float, workers: int) -> float:
    iterations = training.config.iterations
    read_once = min(len(training.records), iterations * _rows(training))
    return iterations * step + read_once * reading / max(1, workers)


def _rows(training: Training) -> int:
    """Images of a batch that one process trains on."""
    return training.config.identities_per_batch * training.config.images_per_identity // training.processes.size


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@contextlib.contextmanager
def _undisturbed(device: str) -> Iterator[None]:
    """Bring back the random generators, and free what was taken."""
    before = random_state()
    try:
        yield
    finally:
        restore_random(before)
        gc.collect()
        if device.startswith("cuda") and torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)


def _take_steps(training: Training, steps: int) -> tuple[list[float], float, dict[str, float]]:
    """Take real steps; return the seconds of each, those to read one image for the first time, and the last loss."""
    device = training.device
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
    inputs, reading = training.inputs, 0.0
    if inputs.dataset.store is not None:  # most steps of a run find their images there
        inputs.own.start(0, 0)
        indices = sorted({index for batch in itertools.islice(inputs.own, steps) for index in batch})
        start = time.perf_counter()
        inputs.dataset.store.images(indices)
        reading = (time.perf_counter() - start) / len(indices)
    batches, times = inputs.after(0), []
    try:
        with _bounded_memory(device):
            for number in range(steps):
                start = _now(device)
                terms, *_ = training.step(*next(batches), number + 1, training.generator)
                if training.average:
                    training.average.update(training.model)
                training.schedule.step()
                times.append(_now(device) - start)
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and not _SHORTAGE.search(str(error)):
            raise
        rows = _rows(training)
        images = min(training.config.microbatch_size or rows, rows)
        smaller = [size for size in range(4, images // 2 + 1) if rows % size == 0]
        remedy = f"set microbatch_size={smaller[-1]}, or" if smaller else "a smaller one would not help:"
        reason = str(error).split("\n")[0].split(". ")[0]
        raise OSError(
            errno.ENOMEM,
            f"the memory of {device} is not enough for a step with {images} images at a time ({reason}); {remedy} take "
            "smaller batches or another network, or share the batch among processes",
        ) from None
    return times, reading, {name: float(value) for name, value in terms.items()}


@contextlib.contextmanager
def _bounded_memory(device: str) -> Iterator[None]:
    """Let an allocation fail that is larger than what is free: Linux would end the process without a message."""
    free, taken = _proc_bytes("/proc/meminfo", "MemAvailable:"), _proc_bytes("/proc/self/status", "VmData:")
    if device != "cpu" or free is None or taken is None:
        yield
        return
    import resource  # Windows has no such module

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = free + taken if soft == resource.RLIM_INFINITY else min(free + taken, soft)
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _proc_bytes(file: str, name: str) -> int | None:
    """Read a number of bytes that Linux tells; None on other systems."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path(file).read_text(encoding="ascii").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])
    return None


def _now(device: str) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _settings_table(training: Training) -> dict[str, str]:
    """Say what the settings mean for these data."""
    config, model, size, rows = training.config, training.model, training.processes.size, _rows(training)
    people, shots = training.inputs.sampler.indices, config.images_per_identity
    held_out = len({record.pid for record in training.data.train}) - len(people)
    data = f"{training.data.title}: {len(training.records):,} images of {len(people):,} identities to train on, "
    data += f"{held_out or 'no'} identities held out"
    if few := sum(len(images) < shots for images in people.values()):
        data += f"; {few:,} have fewer than {shots} images, which repeat in a batch"

    parameters = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    network = f"{config.model}, {model.height}×{model.width} pixels, {parameters:,} parameters, {trained:,} trained"

    batch = f"{config.identities_per_batch} identities × {shots} images = {rows * size}"
    if size > 1:
        batch += f", {rows} in each of {size} processes"
    if 0 < config.microbatch_size < rows:
        batch += f", {config.microbatch_size} at a time through the network"

    rate, warmup = f"{config.learning_rate:g}", warmup_iterations(config)
    if config.backbone_lr_mult != 1:
        rate += f" for new layers, {config.learning_rate * config.backbone_lr_mult:g} for the backbone"
    rate += f"; warm-up of {warmup:,} iteration{'s' * (warmup > 1)}, then " if warmup else "; no warm-up, "
    if config.milestones:
        drops = ", ".join(f"{round(share * config.iterations):,}" for share in config.milestones)
        rate += f"× {config.gamma:g} after iterations {drops}"
    else:
        rate += "half a cosine down to 0"

    evaluations = "none during the run"
    if training.validation:
        images = len(training.validation.data.query) + len(training.validation.data.gallery)
        number = 1 + -(-config.iterations // config.evaluate_every)
        evaluations = f"{number:,} during the run, of {images:,} images each"
    batches = len(training.inputs.sampler)
    epochs = f"{config.iterations:,} = {training.epochs:,.1f} epochs of {batches:,} batch{'es' * (batches > 1)}"
    return {
        "data": data,
        "network": network,
        "batch": batch,
        "iterations": f"{epochs} = {training.passes:,.1f} passes over the images",
        "learning rate": rate,
        "evaluations": evaluations,
    }


def _check_data(data: Splits) -> str:
    """Open images evenly spread over each part, and count queries with a match, as evaluation does."""
    chosen = []
    for records in (data.train, data.query, data.gallery):
        places = set(np.linspace(0, len(records) - 1, min(len(records), OPENED)).round().astype(int).tolist())
        for order in (range(len(records)), reversed(range(len(records)))):
            places |= set({records[place].camid: place for place in order}.values())
        chosen += [records[place] for place in sorted(places)]
    wrong = []
    for record in progress(chosen, "opening images", unit="image"):
        try:
            record.load()
        except (DataError, OSError) as error:
            wrong.append(str(error))
    if wrong:
        raise DataError(f"{len(wrong)} of {len(chosen)} images that were opened cannot be used; the first: {wrong[0]}")
    cameras: dict[int, set[int]] = {}
    for record in data.gallery:
        cameras.setdefault(record.pid, set()).add(record.camid)
    valid = sum(r.pid != JUNK and bool(cameras.get(r.pid, set()) - {r.camid}) for r in data.query)
    if not valid:
        raise ValueError(
            f"none of {len(data.query)} queries has an image of the same person from another camera among the "
            f"{len(data.gallery)} gallery images, so the run could not be scored; check query and gallery"
        )
    images = len(data.train) + len(data.query) + len(data.gallery)
    matched = f"{valid:,} of {len(data.query):,} queries have a match from another camera"
    return f"{len(chosen):,} of {images:,} images opened; {matched}"


def _check_disk(
    last: int, best: int, store: int, out: str | os.PathLike[str] | None, cache: str | os.PathLike[str] | None
) -> str:
    """Compare what the run will write with what is free."""
    if out is None:
        return ""
    there = sum(file.stat().st_size for file in (Path(out, "last.pt"), Path(out, "best.pt")) if file.exists())
    temporary = max(last, best)  # a file is written whole before it takes the old one's place
    need, place = max(temporary, last + best + temporary - there), _existing(out)
    if cache is not None and not Path(cache).exists() and _existing(cache).stat().st_dev == place.stat().st_dev:
        need += store  # on a disk of its own, the store is refused when it is made
    free = shutil.disk_usage(place).free
    if free < need:
        text = f"{out}: the run needs {size_text(need)} of disk space, free are {size_text(free)}"
        raise OSError(errno.ENOSPC, f"{text}; free space or choose another folder")
    return f"; {size_text(need)} needed, {size_text(free)} free"


def _existing(path: str | os.PathLike[str]) -> Path:
    return next(place for place in (Path(path).absolute(), *Path(path).absolute().parents) if place.exists())
