"""The training loop."""

from __future__ import annotations

import copy
import itertools
import os
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reidlab.data.dataset import class_labels
from reidlab.data.records import Splits, fingerprint
from reidlab.data.workers import worker_lost
from reidlab.distributed import Processes
from reidlab.errors import CollapseError, DataError, WorkerError
from reidlab.models import Model
from reidlab.progress import progress
from reidlab.signals import StopRequest, finish_first
from reidlab.training.batches import RANK_STRIDE, Augment, Inputs
from reidlab.training.checkpoint import TrainResult, as_saved, checkpoint_of
from reidlab.training.config import TrainConfig, new_model, without_weights
from reidlab.training.monitors import CollapseMonitor, ValidationMonitor, hold_out
from reidlab.training.optimizing import new_optimizer, new_schedule, placed, unwrapped
from reidlab.training.own_parts import check_own_parts, check_rebuild, describe
from reidlab.training.precision import settle_precision
from reidlab.training.randomness import random_state, restore_random, seed_everything
from reidlab.training.run_folder import RunFolder
from reidlab.training.step import Loss, Step, check_finite, memory_mb

Report = Callable[[dict[str, Any]], None]


def train(
    config: TrainConfig | str,
    data: Splits,
    device: str = "cpu",
    workers: int = 0,
    report: Report | None = None,
    augment: Augment | None = None,
    model: Model | None = None,
    loss: Loss | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    run: RunFolder | None = None,
    processes: Processes = Processes(),
    cache: str | os.PathLike[str] | None = None,
) -> TrainResult:
    """Train a model on the training identities of a data set.

    Args:
        config: the settings, or the name of a preset.
        data: only `data.train` is read.
        device: "cpu", "cuda" or "cuda:1".
        workers: processes that read images. Images are kept as bytes at the size they are needed in: with
            augmentation "zoom" at 9/8 of the network's, to have a border that shifted crops are cut from.
        report: called with each row of the history and of the evaluations as it is made, for printing or plotting.
        augment: augmentation of one's own, in place of `config.augmentation`: called with uint8 images (B, 3, H, W)
            on the device and a generator on the CPU, returns float32 (B, 3, height, width). H and W are the network's,
            or those of its attribute `stored_size`. What it draws from the generator is the same in a resumed run.
        model: what to go on from, in place of a new network; it is changed. Of one that torch.compile or DataParallel
            has wrapped, the network inside; set `compile` in the settings.
        loss: in place of the model's own: called with the outputs of the model, whose `features` are (B, D), and
            pids (B,), numbered from 0; returns a scalar, or scalars by name, which are added up. With several
            processes both are those of the whole batch.
        out: the folder that the run is written to; without it nothing is written.
        resume: continue the run in `out` if there is one, to the same numbers as without the interruption. Models,
            losses and augmentations of one's own are given again.
        run: a `RunFolder` in place of `out` and `resume`.
        processes: the processes that share each batch, inside `reidlab.distributed.process_group`.
        cache: file to keep the images in, in place of memory; the next run finds them there.

    Returns:
        A `TrainResult`. On the CPU the same seed and number of threads give the same numbers, interrupted or not.

    Raises:
        ValueError: fewer identities than P, or an `augment` beside settings of another one; settings or data
            that differ from those of the resumed run.
        CollapseError: the features of all images have become one point, or scores stay at chance level.
        FloatingPointError: the loss became NaN or infinite; the message names iteration and term.
        KeyboardInterrupt: Ctrl-C, or SIGTERM; with `run`, after the iteration was finished and last.pt written.

    Taught in: notebooks/00_start_here.ipynb
    """
    preset = config if isinstance(config, str) else None
    config = TrainConfig.preset(config) if isinstance(config, str) else config
    if (out is not None and run is not None) or (resume and out is None):
        raise ValueError("got resume without out, or both out and run; expected out, the folder of the run")
    if out is not None:
        begun = resume and (Path(out) / "config.json").exists()
        run = RunFolder(out, begun, preset, writes=processes.is_first)
    config = settle_precision(config, device, processes, run)
    goes_on = run is not None and run.resume and run.last.exists()
    training = Training(config, data, device, workers, augment, model, processes, cache, goes_on, loss)
    with finish_first() if run else nullcontext() as stop:
        try:
            return training.run(report, run, stop)
        except (RuntimeError, FloatingPointError) as error:
            named = worker_lost(error) or error  # torch reports a lost worker wherever the step is just then
            if isinstance(named, WorkerError) and stop and stop.requested:  # workers were asked as well, and have ended
                raise KeyboardInterrupt from None
            if run is None or not isinstance(named, (CollapseError, FloatingPointError, WorkerError)):
                raise named from None
            there = f"{run.last} is from iteration {training.saved}" if training.saved else "nothing was saved before"
            raise type(named)(f"{named} ({there})") from None
        finally:
            if run:
                run.close()


class Training:
    """A run in memory: the network, its optimizer, its batches, and how far it is.

    Args: as for `train`; `goes_on` if the weights come from last.pt.
    """

    def __init__(
        self,
        config: TrainConfig,
        data: Splits,
        device: str = "cpu",
        workers: int = 0,
        augment: Augment | None = None,
        model: Model | None = None,
        processes: Processes = Processes(),
        cache: str | os.PathLike[str] | None = None,
        goes_on: bool = False,
        loss: Loss | None = None,
    ):
        config = settle_precision(config, device)
        seed_everything(config.seed)
        self.config, self.data, self.device, self.processes = config, data, device, processes
        self.records, validation = hold_out(data, config)
        labels = class_labels(self.records)
        model = unwrapped(model)
        check_own_parts(config, model, loss, len(labels))
        given = model is not None
        if model is None:  # last.pt fills the network of a run that goes on: nothing is fetched for it
            filled = without_weights(config) if goes_on else config
            model = new_model(filled.model, filled.model_args, len(labels))
        self.model = placed(model, config, device, processes)
        self.average = _Average(self.model, config.ema_decay) if config.ema_decay else None
        if augment is None and config.augmentation == "light" and processes.rank:
            torch.manual_seed(config.seed + RANK_STRIDE * processes.rank)  # else all processes would draw the same
        size = (self.model.height, self.model.width)
        self.inputs = Inputs(config, self.records, labels, size, device, workers, processes, cache, augment, self.model)
        own_model = self.model if given else None
        self.own = {"augment": describe(augment), "loss": describe(loss), "own_model": describe(own_model)}
        self.optimizer = new_optimizer(self.model, config)
        self.schedule = new_schedule(self.optimizer, config)
        self.step = Step(self.model, self.optimizer, config, processes, loss)
        self.generator = torch.Generator().manual_seed(config.seed)  # for triplets sampled at random
        self.collapse = None if loss else CollapseMonitor(self.model)
        self.validation = ValidationMonitor(config, validation, device, workers, processes) if validation else None
        self.history: list[dict[str, float]] = []
        self.evaluations: list[dict[str, Any]] = []
        self.running: list[dict[str, float]] = []
        self.iteration, self.saved, self.best, self.seconds = 0, 0, -1.0, 0.0
        self._clock, self._seen = time.perf_counter(), 0

    @property
    def epochs(self) -> float:
        """Passes over the identities in the whole run."""
        return self.config.iterations / len(self.inputs.sampler)

    @property
    def passes(self) -> float:
        """How often each image is drawn in the whole run, on average."""
        drawn = self.config.iterations * self.config.identities_per_batch * self.config.images_per_identity
        return drawn / len(self.records)

    def run(
        self, report: Report | None = None, folder: RunFolder | None = None, stop: StopRequest | None = None
    ) -> TrainResult:
        """Train to the end, or from where a run was left to the end; as `train`."""
        random = self._begin(folder) if folder else None
        batches = self.inputs.after(self.iteration)
        if random:
            restore_random(random, self.inputs.generator, self.generator)
        self.report, self.folder = report, folder if folder and folder.writes else None
        self._clock, self._seen = time.perf_counter(), 0
        left = self.config.iterations - self.iteration
        if self.validation and not self.evaluations:
            self._validate()
        batches = itertools.islice(batches, left)
        for images, labels in progress(batches, "training", left) if self.processes.is_first else batches:
            self._advance(images, labels)
            end = self._must_end(stop)
            if folder and (self._due(self.config.save_every) or end):
                self._save()
            if end:
                raise KeyboardInterrupt
        model = self.average.model if self.average else self.model
        check_finite(dict(model.named_parameters()), self.config.iterations)
        seconds = self._elapsed()
        return TrainResult(model.eval(), self.config, self.history, seconds, self.epochs, self.evaluations)

    def _advance(self, images: Tensor, labels: Tensor) -> None:
        """One iteration, with the rows that are due after it."""
        self.iteration += 1
        terms, features, labels = self.step(images, labels, self.iteration, self.generator)
        values = torch.stack(list(terms.values())).tolist()
        self.running.append(dict(zip(terms, values, strict=True)))
        self._seen += len(labels)
        if self.average:
            self.average.update(self.model)
        if self._due(self.config.log_every):
            means = {name: float(np.mean([row[name] for row in self.running])) for name in self.running[0]}
            row = {"iteration": self.iteration, "learning_rate": self.schedule.get_last_lr()[-1]}
            measured = self.collapse.row(features, labels) if self.collapse else {}
            self.history.append({**row, **means, **measured})
            self.running = []
            self._tell("train", self.history[-1])
            if self.collapse:
                self.collapse.check(self.history[-1])
        with warnings.catch_warnings():  # a step that float16 skipped is no mistake in the order of calls
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            self.schedule.step()
        if self.validation and self._due(self.config.evaluate_every):
            self._validate()

    def _due(self, every: int) -> bool:
        return self.iteration % every == 0 or self.iteration == self.config.iterations

    def _validate(self) -> None:
        """Evaluate on people of the training set; keep the best by those who were held out."""
        model = self.average.model if self.average else self.model
        row = self.validation.validate(model, self.iteration)
        self.evaluations.append(row)
        self._tell("evaluation", row)
        if row["people"] == "held-out" and row["mean_ap"] > self.best:
            self.best = row["mean_ap"]
            if self.folder:
                content = checkpoint_of(model, self.config, self.data)
                self.folder.save(self.folder.best, content | {"iteration": self.iteration, "held_out": row})

    def _tell(self, kind: str, row: dict[str, Any]) -> None:
        speed = {"images_per_second": self._seen / max(time.perf_counter() - self._clock, 1e-9)} if self._seen else {}
        elapsed = self._elapsed()
        self._seen = 0
        circumstances = {**speed, "seconds": elapsed, "memory_mb": memory_mb(self.device)}
        if self.folder:
            self.folder.add({"kind": kind, **row, **circumstances})
        if self.report and self.processes.is_first:
            self.report({**row, **circumstances})

    def _elapsed(self) -> float:
        """Add the time since the clock was last read to that of the run."""
        now = time.perf_counter()
        self.seconds, self._clock = self.seconds + now - self._clock, now
        return self.seconds

    def _must_end(self, stop: StopRequest | None) -> bool:
        """Whether this process or another one was asked to end: all end after the same iteration."""
        return stop is not None and any(self.processes.gather_objects(stop.requested))

    def _begin(self, folder: RunFolder) -> dict[str, Any] | None:
        """Begin the folder of a run, or bring back how far it was; return the state of the random generators."""
        data = {"dataset": self.data.name, "box": self.data.box, "protocol": self.data.protocol}
        data |= {"title": self.data.title, "train_images": len(self.data.train)}
        data |= {"train_identities": len({r.pid for r in self.data.train}), "fingerprint": fingerprint(self.data.train)}
        facts = {"data": data, "processes": self.processes.size, "device": self.device, "epochs": self.epochs}
        facts |= self.own
        facts |= {"parameters": sum(p.numel() for p in self.model.parameters()), "passes": self.passes}
        if self.own["own_model"]:
            check_rebuild(self.model, as_saved)
        folder.begin(self.config, self.data, facts)
        state = folder.progress() if folder.resume else None
        random = None
        if state:
            try:
                random = self.restore(state)
            except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
                reason = " ".join(str(error).split())[:160]
                raise DataError(f"{folder.last}: cannot be resumed ({reason}); begin a new run") from None
        found = self.processes.gather_objects(self.iteration)
        if len(set(found)) > 1:
            raise ValueError(
                f"{folder.path}: the processes found iterations {found} in it; all of them must see one folder"
            )
        if folder.resume and folder.writes:
            folder.cut(self.iteration if state else -1)
        return random

    def _save(self) -> None:
        """Write last.pt: the model to use, and all that is needed to go on; never one that is lost already."""
        check_finite(dict(self.model.named_parameters()), self.iteration)
        state = self.state()
        self.saved = self.iteration
        if self.folder:
            own = {"state_dict": state.pop("state_dict"), "iteration": self.iteration, "progress": state}
            if self.average:  # the file's model is the one to use; the one that is trained goes along
                state["trained"] = own["state_dict"]
                own["state_dict"] = self.average.model.state_dict()
            self.folder.save(self.folder.last, checkpoint_of(self.model, self.config, self.data) | own)

    def state(self) -> dict[str, Any]:
        """Return everything that the rest of the run depends on, as tensors and plain values."""
        return {
            "iteration": self.iteration,
            "state_dict": {name: value.cpu().contiguous() for name, value in self.model.state_dict().items()},
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.step.scaler.state_dict(),
            "averaged": self.average.batches if self.average else 0,
            "random": self.processes.gather_objects(random_state(self.inputs.generator, self.generator)),
            "history": self.history,
            "evaluations": self.evaluations,
            "running": self.running,
            "alarms": [self.collapse.rows if self.collapse else 0, self.validation.at_chance if self.validation else 0],
            "best": self.best,
            "seconds": self._elapsed(),
        }

    def restore(self, state: dict[str, Any]) -> dict[str, Any]:
        """Bring back what `state` returned; returns the state of this process's random generators."""
        self.model.load_state_dict(state.get("trained", state["state_dict"]))
        if self.average:
            self.average.model.load_state_dict(state["state_dict"])
            self.average.batches = state["averaged"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.step.scaler.load_state_dict(state["scaler"])
        self.history, self.evaluations = state["history"], state["evaluations"]
        self.running, self.best, self.seconds = state["running"], state["best"], state["seconds"]
        self.iteration = self.saved = state["iteration"]
        if self.collapse:
            self.collapse.rows = state["alarms"][0]
        if self.validation:
            self.validation.at_chance = state["alarms"][1]
        return state["random"][self.processes.rank]


class _Average:
    """A moving average of a model's weights and buffers; over the first batches it forgets more quickly."""

    def __init__(self, model: Model, decay: float):
        self.model, self.decay, self.batches = copy.deepcopy(model), decay, 0

    @torch.no_grad()
    def update(self, model: Model) -> None:
        decay = min(self.decay, (1 + self.batches) / (10 + self.batches))
        self.batches += 1
        done = set()  # tied weights have several names
        for mean, value in zip(self.model.state_dict().values(), model.state_dict().values(), strict=True):
            if mean.data_ptr() in done:
                continue
            done.add(mean.data_ptr())
            if mean.is_floating_point():
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)  # batch norm's counters
