"""What a run will do and take, said before it begins. Nothing is changed by asking."""

from __future__ import annotations

import dataclasses
import datetime
import gc
import os
import textwrap
from dataclasses import dataclass

import torch

from reidlab.data.records import Splits
from reidlab.progress import duration_text, size_text
from reidlab.ranks import Ranks
from reidlab.training.config import TrainConfig
from reidlab.training.loop import Training
from reidlab.training.optimizing import warmup_iterations
from reidlab.training.randomness import random_state, restore_random
from reidlab.training.trial import StepMemory, Trial, count_bytes, step_memory, try_steps


@dataclass(frozen=True)
class Plan:
    """What a run will do, and what it will take; printed, a few lines of text.

    Args:
        config: the settings.
        title: data set, boxes, protocol.
        images, identities: to train on.
        short: identities among them with fewer than K images, of which some come twice into a batch.
        held_out: identities that are not trained on.
        parameters, trained: numbers of the network, and those of them that change.
        size: (height, width) of the network's images, in pixels.
        batches: of one epoch, which visits each identity once.
        passes: how often each image is drawn in the whole run, on average.
        warmup: iterations before the peak of the learning rate.
        drops: iterations after which the rate is multiplied by `config.decay`.
        processes: that share each batch.
        workers: processes that read images for each of them.
        evaluations: during the run.
        watched: images that each of these embeds.
        stored: bytes of all images as they are kept, 0 if they are not.
        cache: file to keep them in; None for memory.
        last, best: bytes of last.pt and best.pt, estimated; best.pt is 0 if it is not written.
        memory: of one step.
        device: where it was tried.
        trial: None if nothing was tried.
        made: when.
    """

    config: TrainConfig
    title: str
    images: int
    identities: int
    short: int
    held_out: int
    parameters: int
    trained: int
    size: tuple[int, int]
    batches: int
    passes: float
    warmup: int
    drops: tuple[int, ...]
    processes: int
    workers: int
    evaluations: int
    watched: int
    stored: int
    cache: str | None
    last: int
    best: int
    memory: StepMemory
    device: str
    trial: Trial | None
    made: datetime.datetime

    @property
    def epochs(self) -> float:
        """Passes over the identities in the whole run."""
        return self.config.iterations / self.batches

    @property
    def rows(self) -> int:
        """Images of a batch that one process trains on."""
        return self.config.identities_per_batch * self.config.images_per_identity // self.processes

    @property
    def seconds(self) -> float | None:
        """Expected time of the run without evaluations and checkpoints; None if nothing was tried."""
        if self.trial is None:
            return None
        first = min(self.images, self.config.iterations * self.rows) * self.trial.reading / max(1, self.workers)
        return self.config.iterations * self.trial.seconds + first

    @property
    def writes(self) -> int:
        """How often last.pt is written."""
        return -(-self.config.iterations // self.config.save_every)

    def __str__(self) -> str:
        people, config = f"{self.images:,} images of {self.identities:,} identities", self.config
        held_out = f"{self.held_out:,} identities held out" if self.held_out else "nobody held out"
        short = f"; {self.short:,} have fewer than {config.images_per_identity} images, which repeat in a batch"
        network = f"{config.model}, {self.size[0]}×{self.size[1]} pixels, {self.parameters:,} parameters"
        time = f"{config.iterations:,} iterations = {self.epochs:,.1f} epochs of {self.batches:,} batches"
        looks = f"{self.evaluations:,} during the run, of {self.watched:,} images each"
        best = f"best.pt {size_text(self.best)}" if self.best else "no best.pt, since nobody is held out"
        lines = {
            "data": f"{self.title}: {people} to train on, {held_out}" + (short if self.short else ""),
            "network": f"{network}, {self.trained:,} of them trained",
            "run": f"{time} = {self.passes:,.1f} passes over the images",
            "learning rate": self._rate(),
            "batch": self._batch(),
            "evaluations": looks if self.evaluations else "none during the run",
            "files": f"last.pt {size_text(self.last)}, {best}",
            "images": f"{size_text(self.stored)} in {self.cache or 'memory'}, once all are read"
            if self.stored
            else "read each time",
            "memory": self._memory(),
            "time": self._time(),
        }
        indent = " " * 15
        folded = (textwrap.fill(line, 120, initial_indent=indent, subsequent_indent=indent) for line in lines.values())
        return "\n".join(f"{name:<14} {line[15:]}" for name, line in zip(lines, folded, strict=True))

    def _rate(self) -> str:
        config = self.config
        text = f"{config.learning_rate:g}"
        if config.backbone_rate != 1:
            text += f" for new layers, {config.learning_rate * config.backbone_rate:g} for the backbone"
        rise = f"; warm-up of {self.warmup:,} iteration{'s' * (self.warmup > 1)}, then "
        text += rise if self.warmup else "; no warm-up, "
        if config.schedule == "cosine":
            return text + "half a cosine down to 0"
        return text + f"× {config.decay:g} after iterations {', '.join(f'{place:,}' for place in self.drops)}"

    def _batch(self) -> str:
        people, shots = self.config.identities_per_batch, self.config.images_per_identity
        text = f"{people} identities × {shots} images = {people * shots}"
        if self.processes > 1:
            text += f", {self.rows} in each of {self.processes} processes"
        return text + (f", {self.memory.images} at a time through the network" * (self.memory.images < self.rows))

    def _memory(self) -> str:
        each = " of each process" if self.processes > 1 else ""
        if self.trial and self.trial.peak is not None:
            return f"{size_text(self.trial.peak)} for a step{each}, measured: the most that torch took of {self.device}"
        return f"{size_text(self.memory.total)} or more for a step{each}: {self.memory}"

    def _time(self) -> str:
        if self.trial is None:
            return "not measured"
        end = self.made + datetime.timedelta(seconds=self.seconds)
        pieces = f"{duration_text(self.trial.seconds)} a step (median of {self.trial.steps})"
        if self.trial.reading:
            pieces += f" and {1e3 * self.trial.reading:.1f} ms to read an image for the first time"
        looks = f"{self.evaluations:,} evaluations, " if self.evaluations else ""
        return (
            f"{duration_text(self.seconds)}, from {pieces}; begun now, it ends on {end:%Y-%m-%d at %H:%M}. Left out: "
            f"{looks}writing last.pt (× {self.writes:,}), the scores at the end"
        )


def plan(
    config: TrainConfig,
    data: Splits,
    device: str = "cpu",
    workers: int = 0,
    ranks: Ranks = Ranks(),
    cache: str | os.PathLike[str] | None = None,
    steps: int = 3,
) -> Plan:
    """Say what `train` would do with the same arguments, and try it for a few steps.

    Weights are made for this and thrown away; nothing is written, ImageNet weights are not fetched, and random
    generators are as they were afterwards. Images are read into memory even with `cache`.

    Args:
        config, data, device, workers, ranks: as for `train`. Each process of `ranks` calls this.
        cache: as for `train`; it is not touched.
        steps: to time, after one that is not timed; 0 tries nothing.

    Returns:
        A `Plan`.

    Raises:
        ValueError: what `train` would refuse at its beginning, or fewer than 0 steps.
        OSError: a step does not fit into memory; the message proposes a `chunk`.
        FloatingPointError: NaN or infinity in a trial step.

    Taught in: notebooks/06_training.ipynb
    """
    if steps < 0:
        raise ValueError(f"steps={steps}: expected 0 or more")
    before = random_state()
    try:
        # its images are in memory, which workers cannot share on every system, while they can share the cache
        readers = workers if cache is None else 0
        training = Training(dataclasses.replace(config, weights=None), data, device, readers, ranks=ranks)
        memory = step_memory(training)
        trial = try_steps(training, memory, steps) if steps else None
        config = dataclasses.replace(training.config, weights=config.weights)
        return _collect(config, training, memory, trial, cache, workers)
    finally:
        restore_random(before)
        training = None  # what it took is free again before the run begins
        gc.collect()
        if device.startswith("cuda") and torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)


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
    small = dataclasses.replace(config, identities_per_batch=people, chunk=0)
    planned = plan(small, data, device, workers, steps=4)
    share = config.identities_per_batch / people
    trial = dataclasses.replace(planned.trial, seconds=planned.trial.fastest * share)
    return dataclasses.replace(planned, trial=trial).seconds


def _collect(
    config: TrainConfig,
    training: Training,
    memory: StepMemory,
    trial: Trial | None,
    cache: str | os.PathLike[str] | None,
    workers: int,
) -> Plan:
    total, shots = config.iterations, config.images_per_identity
    of_people = training.inputs.sampler.indices
    watched = training.lookout.watched if training.lookout else None
    store, every = training.inputs.dataset.store, config.evaluate_every
    state = count_bytes(training.model.state_dict().values())
    return Plan(
        config=config,
        title=training.data.title,
        images=len(training.records),
        identities=len(of_people),
        short=sum(len(images) < shots for images in of_people.values()),
        held_out=len({record.pid for record in training.data.train}) - len(of_people),
        parameters=sum(p.numel() for p in training.model.parameters()),
        trained=sum(p.numel() for p in training.model.parameters() if p.requires_grad),
        size=(training.model.height, training.model.width),
        batches=len(training.inputs.sampler),
        passes=training.passes,
        warmup=warmup_iterations(config),
        drops=tuple(round(share * total) for share in config.steps) if config.schedule == "steps" else (),
        processes=training.ranks.size,
        workers=workers,
        evaluations=1 + -(-total // every) if every else 0,
        watched=len(watched.query) + len(watched.gallery) if watched else 0,
        stored=store.nbytes if store else 0,
        cache=None if cache is None else os.fspath(cache),
        last=memory.optimizer + state * (2 if config.average else 1),
        best=state if every and config.held_out else 0,
        memory=memory,
        device=training.device,
        trial=trial,
        made=datetime.datetime.now().astimezone(),
    )
