"""From records to features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from reidlab.data.dataset import stack_batch
from reidlab.data.records import Record, Splits
from reidlab.evaluation import Evaluation, evaluate
from reidlab.evaluation.rules import check_rule
from reidlab.progress import progress


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


class _Preprocessed(Dataset[tuple[Tensor, int, int]]):
    def __init__(self, records: Sequence[Record], preprocess) -> None:
        self.records, self.preprocess = records, preprocess

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        record = self.records[index]
        return self.preprocess(record.load()), record.pid, record.camid


def extract_features(
    model: nn.Module, records: Sequence[Record], batch_size: int = 64, device: str = "cpu", workers: int = 0
) -> Features:
    """Embed every record with the model's own preprocessing, in evaluation mode.

    Args:
        model: has `preprocess(image)` and `embed(images)`; its mode is restored afterwards.
        records: what to embed, at least one.
        batch_size: images at a time; changes nothing but speed and memory.
        device: where to compute, "cpu", "cuda" or "cuda:1".
        workers: processes that read images; 0 reads in this one.

    Returns:
        `Features` in the order of `records`.

    Raises:
        ValueError: no records.

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
    loader = DataLoader(
        _Preprocessed(records, model.preprocess), batch_size, num_workers=workers, collate_fn=stack_batch
    )
    was_training = model.training
    model.to(device).eval()
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    try:
        with torch.inference_mode():
            for images, pids, camids in progress(loader, "embedding", unit="batch"):
                images = images.to(device, memory_format=torch.channels_last)
                parts.append((model.embed(images).float().cpu(), pids, camids))
    finally:
        model.train(was_training)
    features, pids, camids = (torch.cat(column) for column in zip(*parts, strict=True))
    return Features(features.clone(), pids.numpy(), camids.numpy())


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
) -> Evaluation:
    """Embed query and gallery of a data set and score the ranking.

    Args:
        model: as for `extract_features`.
        data: a data set with `query` and `gallery`.
        metric, rule, same_camera, repeats, seed: as for `reidlab.evaluation.evaluate`.
        device, workers: as for `extract_features`.

    Raises:
        ValueError: as for `extract_features` and `reidlab.evaluation.evaluate`; an unknown rule is refused before
            anything is embedded.

    Taught in: notebooks/00_start_here.ipynb
    """
    check_rule(rule, same_camera, repeats)
    query, gallery = (extract_features(model, r, device=device, workers=workers) for r in (data.query, data.gallery))
    return evaluate(
        query.features,
        gallery.features,
        query_pids=query.pids,
        gallery_pids=gallery.pids,
        query_camids=query.camids,
        gallery_camids=gallery.camids,
        metric=metric,
        rule=rule,
        same_camera=same_camera,
        repeats=repeats,
        seed=seed,
    )
