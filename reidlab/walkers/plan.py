"""Which pictures a world holds: identities by camera pair, missing pictures, train and test, queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reidlab.data.names import BOXES, PAIR_SIZES, image_name

MIN_IDENTITIES, MAX_IDENTITIES = 10, 9999
# What CUHK03's published protocol files count: images per pair, training images, training identities.
_IMAGES = {"labeled": (8177, 4337, 649, 510, 423), "detected": (8177, 4337, 650, 510, 423)}
_TRAIN_IMAGES = {"labeled": 7368, "detected": 7365}
_TRAIN_IDENTITIES, _IDENTITIES = 767, sum(PAIR_SIZES)


def split_whole(total: int, weights: Sequence[float], least: int = 0) -> list[int]:
    """Divide `total` in proportion to `weights` into whole numbers, by largest remainder.

    Args:
        total: what to divide, at least `least` times the number of weights.
        weights: positive shares.
        least: smallest part allowed.

    Example:
        >>> split_whole(16, PAIR_SIZES, least=2)
        [5, 5, 2, 2, 2]
        >>> split_whole(1467, PAIR_SIZES, least=2) == list(PAIR_SIZES)
        True
    """
    share = np.asarray(weights, dtype=np.float64)
    exact = total * share / share.sum() if share.sum() > 0 else share
    parts = np.floor(exact).astype(int)
    for i in np.argsort(-(exact - parts), kind="stable")[: total - parts.sum()]:
        parts[i] += 1
    while parts.min() < least:
        parts[int(parts.argmin())] += 1
        parts[int(parts.argmax())] -= 1
    return [int(p) for p in parts]


@dataclass(frozen=True)
class Plan:
    """What is there.

    Args:
        identities_per_pair: five numbers.
        pair, identity: (N,) of every person, in label order.
        train: (N,) bool, training identities of the new protocol.
        present: box -> (N, 10) bool, which pictures exist; columns 0-4 are view 1.
        query: box -> (N, 2) column of the query picture of each view; -1 for training identities.
        testsets: 20 arrays (n, 2) of pair and identity: the classic protocol's test identities.
    """

    identities_per_pair: tuple[int, ...]
    pair: np.ndarray
    identity: np.ndarray
    train: np.ndarray
    present: dict[str, np.ndarray]
    query: dict[str, np.ndarray]
    testsets: tuple[np.ndarray, ...]

    def protocol(self, box: str) -> dict[str, list]:
        """The new protocol's variables for one box, indices from 1, as `write_new_protocol` takes them."""
        out: dict[str, list] = {k: [] for k in ("names", "labels", "camids", "train_idx", "query_idx", "gallery_idx")}
        for person, column in np.argwhere(self.present[box]):
            view = 1 if column < 5 else 2
            out["names"].append(image_name(int(self.pair[person]), int(self.identity[person]), view, int(column) + 1))
            out["labels"].append(int(person) + 1)
            out["camids"].append(view)
            role = "train" if self.train[person] else "gallery"
            if self.query[box][person, view - 1] == column:
                role = "query"
            out[f"{role}_idx"].append(len(out["names"]))
        return out


def make_plan(num_identities: int, seed: int) -> Plan:
    """Decide what a world of 10..9999 identities holds; 1467 give CUHK03's own counts.

    Raises:
        ValueError: too few or too many identities.

    Example:
        >>> plan = make_plan(1467, seed=0)
        >>> int(plan.present["labeled"].sum()), int(plan.present["detected"].sum()), int(plan.train.sum())
        (14096, 14097, 767)
    """
    if not MIN_IDENTITIES <= num_identities <= MAX_IDENTITIES:
        raise ValueError(f"got num_identities={num_identities}, expected {MIN_IDENTITIES}..{MAX_IDENTITIES}")
    rng = np.random.default_rng(np.random.SeedSequence([seed, 1]))
    sizes = split_whole(num_identities, PAIR_SIZES, least=2)
    pair = np.repeat(np.arange(1, 6), sizes)
    identity = np.concatenate([np.arange(1, n + 1) for n in sizes])
    num_train = round(num_identities * _TRAIN_IDENTITIES / _IDENTITIES)
    train_sizes = split_whole(num_train, [n * 1.0 for n in sizes], least=1)
    train = np.zeros(num_identities, bool)
    for p, count in enumerate(train_sizes, start=1):
        train[rng.choice(np.flatnonzero(pair == p), count, replace=False)] = True
    present = {box: _presence(box, pair, train, rng) for box in BOXES}
    query = {box: _queries(present[box], train, rng) for box in BOXES}
    places = np.stack([pair, identity], 1)
    size = min(100, num_identities // 5)
    testsets = tuple(places[np.sort(rng.choice(num_identities, size, replace=False))] for _ in range(20))
    return Plan(tuple(sizes), pair, identity, train, present, query, testsets)


def _presence(box: str, pair: np.ndarray, train: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Which pictures exist, (N, 10) bool: as many missing per pair, in train and in test, as in CUHK03."""
    share = len(pair) / _IDENTITIES
    missing = [10 * n - images for n, images in zip(PAIR_SIZES, _IMAGES[box], strict=True)]
    total = round(sum(missing) * share)
    in_train = round((10 * _TRAIN_IDENTITIES - _TRAIN_IMAGES[box]) * share)
    by_pair = split_whole(total, missing)
    train_by_pair = split_whole(in_train, by_pair)
    present = np.ones((len(pair), 10), bool)
    one_view = -1
    if box == "labeled" and train_by_pair[0] >= 5:
        one_view = int(rng.choice(np.flatnonzero((pair == 1) & train)))
        present[one_view, 5:] = False
        train_by_pair[0] -= 5
        by_pair[0] -= 5
    for p in range(1, 6):
        for wanted, kind in ((train_by_pair[p - 1], train), (by_pair[p - 1] - train_by_pair[p - 1], ~train)):
            members = np.flatnonzero((pair == p) & kind & (np.arange(len(pair)) != one_view))
            _drop(present, members, wanted, rng)
    return present


def _drop(present: np.ndarray, members: np.ndarray, wanted: int, rng: np.random.Generator) -> None:
    """Take away `wanted` pictures at random, leaving each person at least two of each view and six in all."""
    wanted = min(wanted, 4 * len(members))
    while wanted:
        person, column = int(rng.choice(members)), int(rng.integers(10))
        view = slice(0, 5) if column < 5 else slice(5, 10)
        if present[person, column] and present[person].sum() > 6 and present[person, view].sum() > 2:
            present[person, column] = False
            wanted -= 1


def _queries(present: np.ndarray, train: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    query = np.full((len(train), 2), -1)
    for person in np.flatnonzero(~train):
        for view in (0, 1):
            query[person, view] = rng.choice(np.flatnonzero(present[person, 5 * view : 5 * view + 5])) + 5 * view
    return query
