"""From records to features, and from the features of a data set to its scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from reidlab.data.records import Record, Splits
from reidlab.data.workers import named_errors, worker_lost
from reidlab.distributed import Processes
from reidlab.evaluation.ranking import evaluate
from reidlab.evaluation.rules import check_rule
from reidlab.evaluation.scores import Evaluation
from reidlab.progress import progress
from reidlab.signals import begin_worker


@dataclass(frozen=True)
class Features:
    """Features of a list of records, in the same order.

    Args:
        features: (N, D) float32 on the CPU.
        pids: (N,) identities.
        camids: (N,) cameras.
    """

    features: Tensor
    pids: np.ndarray
    camids: np.ndarray


class _Preprocessed(Dataset[Tensor]):
    def __init__(self, records: Sequence[Record], preprocess) -> None:
        self.records, self.preprocess = records, preprocess

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Tensor:
        return self.preprocess(self.records[index].load())


def extract_features(
    model: nn.Module,
    records: Sequence[Record],
    batch_size: int = 64,
    device: str = "cpu",
    workers: int = 0,
    processes: Processes = Processes(),
) -> Features:
    """Embed every record with the model's own preprocessing, in evaluation mode.

    Args:
        model: has `preprocess(image)` and `embed(images)`; its mode is restored afterwards.
        records: what to embed, at least one.
        batch_size: images at a time; changes nothing but speed and memory.
        device: where to compute, "cpu", "cuda" or "cuda:1".
        workers: processes that read images; 0 reads in this one.
        processes: those that share the work, each with the same model and records. Process r of n embeds records
            r, r + n, r + 2n …

    Returns:
        `Features` in the order of `records`; the same in every process.

    Raises:
        ValueError: no records.
        DataError: an image cannot be read; the message names it, also if a worker read it.
        WorkerError: a worker was lost.
        ProcessError: another process was lost.

    Example:
        >>> from reidlab.models import Baseline
        >>> class Black:
        ...     def load(self, name):
        ...         return np.zeros((160, 60, 3), np.uint8)
        >>> extract_features(Baseline(2), [Record("a", 5, 1, Black())]).features.shape
        torch.Size([1, 256])

    Taught in: notebooks/00_start_here.ipynb
    """
    if not len(records):
        raise ValueError("records is empty: there is nothing to embed")
    own = [records[i] for i in range(processes.rank, len(records), processes.size)]
    own = own or [records[0]]  # a process without a share embeds one, to know how wide features are, and drops it
    loader = DataLoader(
        _Preprocessed(own, model.preprocess), batch_size, num_workers=workers, worker_init_fn=begin_worker
    )
    batches = named_errors(progress(loader, "embedding", unit="batch") if processes.is_first else loader)
    was_training = model.training
    model.to(device).eval()
    parts: list[Tensor] = []
    try:
        with torch.inference_mode():
            for images in batches:
                images = images.to(device, memory_format=torch.channels_last)
                parts.append(model.embed(images).float().cpu())
    except RuntimeError as error:
        raise worker_lost(error) or error from None
    finally:
        model.train(was_training)
    features = _in_order(torch.cat(parts), len(records), processes)
    pids, camids = (np.array([getattr(r, name) for r in records], dtype=np.int64) for name in ("pid", "camid"))
    return Features(features, pids, camids)


def _in_order(own: Tensor, count: int, processes: Processes) -> Tensor:
    """Gather what each process made of its share of `count` records, and put it in the order of the records."""
    shares = [range(rank, count, processes.size) for rank in range(processes.size)]
    found = processes.gather(own[: len(shares[processes.rank])])
    return found[torch.argsort(torch.tensor([index for share in shares for index in share]))]


def evaluate_model(
    model: nn.Module,
    data: Splits,
    metric: str = "cosine",
    rule: str = "market",
    device: str = "cpu",
    workers: int = 0,
    same_camera: str = "exclude",
    repeats: int = 10,
    seed: int = 0,
    processes: Processes = Processes(),
) -> Evaluation:
    """Embed query and gallery of a data set and score the ranking.

    Args:
        model: as for `extract_features`.
        data: a data set with `query` and `gallery`.
        metric, rule, same_camera, repeats, seed: as for `reidlab.evaluation.evaluate`.
        device, workers, processes: as for `extract_features`. Every process gets the scores.

    Raises:
        ValueError: as for `extract_features` and `reidlab.evaluation.evaluate`; an unknown rule is refused before
            anything is embedded.
        DataError, WorkerError: as for `extract_features`.
        ProcessError: another process was lost.

    Taught in: notebooks/00_start_here.ipynb
    """
    check_rule(rule, same_camera, repeats)
    parts = (data.query, data.gallery)
    query, gallery = (
        extract_features(model, part, device=device, workers=workers, processes=processes) for part in parts
    )
    return evaluate_features(
        query, gallery, metric=metric, rule=rule, same_camera=same_camera, repeats=repeats, seed=seed
    )


def evaluate_features(query: Features, gallery: Features, **how: Any) -> Evaluation:
    """Score the ranking that features of query and gallery give.

    Args:
        query, gallery: of `extract_features`.
        how: metric, rule and more, as for `reidlab.evaluation.evaluate`.

    Raises:
        ValueError: as for `reidlab.evaluation.evaluate`.

    Example:
        >>> two = Features(torch.eye(2), np.array([1, 2]), np.array([1, 1]))
        >>> evaluate_features(two, Features(two.features, two.pids, np.array([2, 2]))).rank1
        1.0
    """
    return evaluate(
        query.features,
        gallery.features,
        query_pids=query.pids,
        gallery_pids=gallery.pids,
        query_camids=query.camids,
        gallery_camids=gallery.camids,
        **how,
    )
