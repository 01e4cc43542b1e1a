"""Batches for training: which images, read from where, changed how."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from reidlab.data.augment import BatchAugmentation
from reidlab.data.records import Record
from reidlab.data.samplers import PKBatchSampler
from reidlab.data.store import PixelStore
from reidlab.data.transforms import to_image_tensor, train_transform
from reidlab.data.workers import named_errors
from reidlab.distributed import Processes
from reidlab.models import ReIDModel
from reidlab.signals import begin_worker
from reidlab.training.config import TrainConfig, check_microbatch

Augment = Callable[[Tensor, torch.Generator], Tensor]
RANK_STRIDE = 1_000_003
"""Between the seeds of two processes, where each draws for its own images."""
SHIFTS = {"mirror": "none", "crop": "crop", "zoom": "zoom"}
"""What `BatchAugmentation` calls the shifts of these augmentations."""


class Inputs:
    """The batches of a run, from any iteration on.

    Images are read once and kept as bytes at the size they are needed in. What is random is done in this process,
    batch by batch and on the device, so that neither the number of workers nor an interruption changes anything.

    Args:
        config: the settings.
        records: of the identities to train on.
        labels: class number of each identity.
        size: (height, width) of the network's images, in pixels.
        device: where the batches go.
        workers: processes that read images.
        processes: the processes that share each batch.
        cache: file to keep the images in, in place of memory; it outlives the run.
        augment: what changes whole batches, in place of what the settings say.
        model: whose `mean` and `std` images are normalised with; ImageNet's if not given.

    Raises:
        ValueError: fewer identities than P, P that the processes cannot share evenly, or an `augment` beside
            settings of another augmentation.
    """

    def __init__(
        self,
        config: TrainConfig,
        records: Sequence[Record],
        labels: dict[int, int],
        size: tuple[int, int],
        device: str = "cpu",
        workers: int = 0,
        processes: Processes = Processes(),
        cache: str | os.PathLike[str] | None = None,
        augment: Augment | None = None,
        model: ReIDModel | None = None,
    ):
        if augment is not None and not callable(augment):
            raise ValueError(f"augment: got {type(augment).__name__}, expected a function of images and a generator")
        for name in ("augmentation", "erasing", "jitter") if augment else ():
            if getattr(config, name) != getattr(TrainConfig, name):
                raise ValueError(
                    f"{name}={getattr(config, name)!r} beside an augment of your own, which takes its place; "
                    "leave one of them out"
                )
        self.device, self.processes, self.size = device, processes, size
        self.sampler = new_sampler(config, records, processes)
        stride = RANK_STRIDE * processes.rank if augment else 0
        self.generator = torch.Generator().manual_seed(config.seed + stride)
        self.augment = augment or _augmentation(config, size, self.generator, model)
        kept = getattr(self.augment, "stored_size", size)
        stored = getattr(records[0].source, "mapped", False) and records[0].load().shape[:2] == kept
        self.dataset = Pixels(records, labels, None if stored else PixelStore(records, *kept, file=cache))
        self.own = _Share(self.sampler, processes)
        self.loader = DataLoader(
            self.dataset,
            batch_sampler=self.own,
            num_workers=workers,
            collate_fn=_as_is,
            pin_memory=device.startswith("cuda"),
            multiprocessing_context=_start_method(workers, self.dataset.store, cache),
            worker_init_fn=begin_worker,
        )

    def after(self, iterations: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Return the batches that follow on so many, without end.

        The order of batches depends on the settings alone. Whoever goes on in the middle of an epoch restores
        the random generators after this call: its iterator over the epoch draws from them, as it did before.

        Returns:
            Pairs of images (B/n, 3, height, width), float32 on the device, and labels (B/n,), for one of n processes.
        """
        epoch, done = divmod(iterations, len(self.sampler))
        self.own.start(epoch, done)
        begun = iter(self.loader) if done else None
        return self._go_on(epoch, begun)

    def _go_on(self, epoch: int, begun: Iterator | None) -> Iterator[tuple[Tensor, Tensor]]:
        for now in itertools.count(epoch):
            if now > epoch or begun is None:
                self.own.start(now, 0)
                begun = iter(self.loader)
            for images, labels in named_errors(begun):
                images = self._changed(images.to(self.device, non_blocking=True))
                yield images.to(memory_format=torch.channels_last), labels.to(self.device, non_blocking=True)

    def _changed(self, images: Tensor) -> Tensor:
        if isinstance(self.augment, BatchAugmentation):
            start = self.processes.rank * len(images)
            return self.augment(images, (start, start + len(images), self.processes.size * len(images)))
        changed = self.augment(images, self.generator)
        expected = (len(images), 3, *self.size)
        if not isinstance(changed, Tensor) or changed.dtype != torch.float32 or changed.shape != expected:
            got = f"{changed.dtype} {tuple(changed.shape)}" if isinstance(changed, Tensor) else type(changed).__name__
            raise ValueError(f"augment returned {got}, expected torch.float32 {expected}")
        return changed


class Pixels(Dataset[tuple[Tensor, Tensor]]):
    """Images and labels of records, as bytes, a batch at a time.

    Args:
        records: what to serve, by their place.
        labels: class number of each identity.
        store: keeps the images; None reads them each time, as they are.
    """

    def __init__(self, records: Sequence[Record], labels: dict[int, int], store: PixelStore | None):
        self.records, self.store = records, store
        self.labels = torch.tensor([labels[record.pid] for record in records])

    def __len__(self) -> int:
        return len(self.records)

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Return uint8 images (B, 3, H, W) and labels (B,)."""
        if self.store is not None:
            return self.store.images(indices), self.labels[indices]
        return torch.stack([to_image_tensor(self.records[i].load()) for i in indices]), self.labels[indices]


class _Share(Sampler[list[int]]):
    """The rows of each batch that are this process's, from some batch of the epoch on."""

    def __init__(self, sampler: PKBatchSampler, processes: Processes):
        self.sampler, self.processes, self.first = sampler, processes, 0

    def start(self, epoch: int, batch: int) -> None:
        self.sampler.set_epoch(epoch)
        self.first = batch

    def __len__(self) -> int:
        return len(self.sampler) - self.first

    def __iter__(self) -> Iterator[list[int]]:
        for batch in itertools.islice(self.sampler, self.first, None):
            rows = len(batch) // self.processes.size
            yield batch[self.processes.rank * rows : (self.processes.rank + 1) * rows]


def new_sampler(config: TrainConfig, records: Sequence[Record], processes: Processes = Processes()) -> PKBatchSampler:
    """Return the sampler of whole batches, which every process runs alike.

    Raises:
        ValueError: fewer identities than P, or P that the processes cannot share evenly.
    """
    pids, wanted = [record.pid for record in records], config.identities_per_batch
    there = len(set(pids))
    if there < wanted:
        raise ValueError(
            f"identities_per_batch={wanted}, but the training set has {there} identities; "
            f"set identities_per_batch to {max(2, there)} or less"
        )
    if wanted % processes.size:
        raise ValueError(
            f"identities_per_batch={wanted} cannot be shared by {processes.size} processes without cutting one in two; "
            f"set it to {max(1, wanted // processes.size) * processes.size}"
        )
    check_microbatch(config.microbatch_size, wanted // processes.size * config.images_per_identity)
    cameras = [record.camid for record in records] if config.distinct_cameras else None
    return PKBatchSampler(pids, wanted, config.images_per_identity, config.seed, cameras)


def _augmentation(
    config: TrainConfig, size: tuple[int, int], generator: torch.Generator, model: ReIDModel | None
) -> Augment | BatchAugmentation:
    """Return what changes whole batches, by the settings."""
    values = {"mean": model.mean, "std": model.std} if model is not None else {}
    if config.augmentation == "light":
        one = train_transform(*size, config.erasing, config.jitter, **values)  # draws from torch's global generator
        return lambda images, _: torch.stack([one(image) for image in images])
    shift = SHIFTS[config.augmentation]
    return BatchAugmentation(*size, shift=shift, erasing=config.erasing, **values, generator=generator)


def _start_method(workers: int, store: PixelStore | None, cache: str | os.PathLike[str] | None) -> str | None:
    """Choose how workers are started: by fork, they fill one store in memory.

    Raises:
        ValueError: a system without fork, where each worker would keep a store of its own.
    """
    if not workers or (sys.platform != "darwin" and "fork" in multiprocessing.get_all_start_methods()):
        return "fork" if workers else None
    if store is not None and cache is None:
        raise ValueError(
            f"workers={workers}: on this system workers cannot share images in memory; give a cache file, or workers=0"
        )
    return None


def _as_is(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return batch
