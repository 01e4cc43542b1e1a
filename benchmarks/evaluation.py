"""How long an evaluation takes beside its own matrix product and beside torchreid's evaluator, and in how much memory.

    python benchmarks/evaluation.py [--queries-for-torchreid 300] [--rounds 5]

Drawn features of 256 dimensions in Market-1501's size (3,368 queries, 19,732 gallery images) and in MSMT17's (11,659
and 82,161). Three kinds: features of a good network, of a weak one, and of one that knows nothing; the farther the
farthest right image, the more must be counted. Product, evaluation and torchreid 0.2.5's Python evaluator (`pip install
torchreid==0.2.5`; left out where it does not import) work in turn in one process. torchreid ranks the first queries
only, and its time is scaled to all, row by row the same work. Wall time is what counts, on a machine that does nothing
else; seconds of CPU are beside it for one that does. Peaks of memory are those of fresh processes, over what they held
with features and labels in place. Prints tables and writes results/evaluation.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reidlab.distances import l2_normalize
from reidlab.evaluation import ChanceLevelWarning, evaluate, evaluate_distances
from reidlab.evaluation.ranking import BUFFER_BYTES
from reidlab.files import write_json
from reidlab.results import circumstances, plain

RESULT = Path(__file__).resolve().parents[1] / "results" / "evaluation.json"
SIZES = {  # queries, gallery images, people, images of them; the rest of the gallery is of nobody in the queries
    "Market-1501": (3368, 19732, 750, 13115),
    "MSMT17": (11659, 82161, 3060, 82161),
}
NOISE = {"good": 1.4, "weak": 2.0, "random": None}  # of an image, beside the centre of its person
DIMENSIONS = 256


def draw(size: str, kind: str) -> tuple[Tensor, Tensor, dict[str, np.ndarray]]:
    """Features and labels: people are points on a sphere, images lie around them, some of them far away."""
    num_queries, num_gallery, people, with_people = SIZES[size]
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    query_pids = rng.integers(1, people + 1, num_queries)
    gallery_pids = np.concatenate([rng.integers(1, people + 1, with_people), np.zeros(num_gallery - with_people, int)])
    centres = torch.randn(people + 1, DIMENSIONS, generator=generator)
    features = []
    for pids in (query_pids, gallery_pids):
        images = torch.randn(len(pids), DIMENSIONS, generator=generator)
        if NOISE[kind] is not None:
            strength = NOISE[kind] * torch.randn(len(pids), 1, generator=generator).mul(0.6).exp()
            nobody = torch.from_numpy(pids == 0)
            images[~nobody] *= strength[~nobody]  # every distractor is somebody else, at the place of its own image
            images[~nobody] += centres[pids[~nobody]]
        features.append(images)
    cameras = {"query_camids": rng.integers(1, 7, num_queries), "gallery_camids": rng.integers(1, 7, num_gallery)}
    return *features, {"query_pids": query_pids, "gallery_pids": gallery_pids, **cameras}


def product(query: Tensor, gallery: Tensor) -> None:
    """What no evaluation can do without: all similarities, in the same chunks, looked at by nobody."""
    query, gallery = l2_normalize(query), l2_normalize(gallery)
    rows = max(1, BUFFER_BYTES // (4 * len(gallery)))
    buffer = torch.empty(min(rows, len(query)), len(gallery))
    for chunk in query.split(rows):
        torch.mm(chunk, gallery.T, out=buffer[: len(chunk)])


def seconds(work: Callable[[], object]) -> np.ndarray:
    """Wall time and time of all CPUs together."""
    start = time.perf_counter(), time.process_time()
    work()
    return np.subtract((time.perf_counter(), time.process_time()), start)


def torchreid_evaluator() -> Callable | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torchreid.reid.metrics.rank import eval_market1501
    except ImportError as error:
        print(f"torchreid is left out: {error}")
        return None
    return eval_market1501


def compare(size: str, kind: str, rounds: int, torchreid_queries: int) -> dict[str, object]:
    """Product and evaluation in turn; torchreid once."""
    query, gallery, labels = draw(size, kind)
    times = {"product": [], "evaluate": []}
    for _ in range(rounds + 1):  # the first round warms up
        times["product"].append(seconds(lambda: product(query, gallery)))
        times["evaluate"].append(seconds(lambda: evaluate(query, gallery, **labels)))
    (wall, wall_ours), (cpu, cpu_ours) = (
        [float(np.median([found[clock] for found in values[1:]])) for values in times.values()] for clock in (0, 1)
    )
    result = evaluate(query, gallery, **labels)
    row = {"size": size, "features": kind, "seconds": {"product": wall, "evaluate": wall_ours}}
    row |= {"cpu_seconds": {"product": cpu, "evaluate": cpu_ours}}
    row |= {"to_product": wall_ours / wall, "to_product_cpu": cpu_ours / cpu}
    row |= {"rank1": result.rank1, "mean_ap": result.mean_ap, "mean_inp": result.mean_inp}
    theirs = torchreid_evaluator() if torchreid_queries else None
    if theirs is not None:
        ours = np.array([wall_ours, cpu_ours])
        row["torchreid"] = beside_torchreid(theirs, query, gallery, labels, torchreid_queries, ours)
    return row


def beside_torchreid(
    theirs: Callable, query: Tensor, gallery: Tensor, labels: dict[str, np.ndarray], number: int, ours: np.ndarray
) -> dict[str, object]:
    """Rank the first queries with torchreid and with ours, from a matrix that is there already."""
    part = {name: value[:number] if name.startswith("query") else value for name, value in labels.items()}
    distmat = 1 - l2_normalize(query[:number]) @ l2_normalize(gallery).T
    found = {}
    arguments = [part[name] for name in ("query_pids", "gallery_pids", "query_camids", "gallery_camids")]
    for name, work in {
        "theirs": lambda: theirs(distmat.numpy(), *arguments, 50),
        "ours": lambda: evaluate_distances(distmat, **part),
    }.items():
        found[name] = seconds(lambda name=name, work=work: found.update({f"{name} result": work()}))
    (_, mean_ap), result = found["theirs result"], found["ours result"]
    if abs(mean_ap - result.mean_ap) > 1e-6:
        raise ValueError(f"torchreid's mAP is {mean_ap}, ours {result.mean_ap}; a time is worth nothing then")
    scaled = found["theirs"] * len(query) / number
    return {
        "queries_ranked": number,
        "seconds_scaled_to_all": scaled[0],
        "times_slower_than_evaluate": scaled[0] / ours[0],
        "times_slower_than_evaluate_cpu": scaled[1] / ours[1],
        "times_slower_than_evaluate_distances": found["theirs"][0] / found["ours"][0],
        "mean_ap_difference": abs(mean_ap - result.mean_ap),
    }


def peak(size: str) -> dict[str, object]:
    """In this process: how far memory rises above what it is with features and labels in place."""
    query, gallery, labels = draw(size, "weak")
    few = {name: value[:300] for name, value in labels.items()}
    evaluate(query[:300], gallery[:300], **few)  # loads libraries, starts threads
    before, highest, done = resident(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            highest[0] = max(highest[0], resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    took = float(seconds(lambda: evaluate(query, gallery, **labels))[0])
    done.set()
    watcher.join()
    return {
        "size": size,
        "features_bytes": 4 * (query.numel() + gallery.numel()),
        "matrix_bytes": 4 * len(query) * len(gallery),
        "resident_bytes_before": before,
        "peak_bytes_over_that": highest[0] - before,
        "seconds": took,
    }


def resident() -> int:
    """Bytes of memory that this process holds now; from Linux's /proc."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries-for-torchreid", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peak", choices=SIZES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore", ChanceLevelWarning)  # random features are wanted here
    if options.peak:
        print(json.dumps(peak(options.peak)))
        return
    print(f"{'':<12} {'features':<9} {'rank-1':>7} {'mAP':>7} {'mINP':>7}  product  evaluate  ratio  torchreid / ours")
    rows, load = [], os.getloadavg()[0]
    for size, kind in [*(("Market-1501", kind) for kind in NOISE), ("MSMT17", "weak")]:
        rounds, number = (options.rounds, options.queries_for_torchreid) if size == "Market-1501" else (2, 0)
        rows.append(row := compare(size, kind, rounds, number))
        other = row.get("torchreid")
        print(
            f"{size:<12} {kind:<9} {row['rank1']:>7.1%} {row['mean_ap']:>7.1%} {row['mean_inp']:>7.1%}  "
            f"{row['seconds']['product']:>6.2f} s  {row['seconds']['evaluate']:>6.2f} s  "
            f"{row['to_product']:>5.2f} ({row['to_product_cpu']:.2f})  "
            + (
                "{times_slower_than_evaluate:.0f} ({times_slower_than_evaluate_cpu:.0f})".format(**other)
                if other
                else ""
            )
        )
    peaks = []
    for size in SIZES:
        command = [sys.executable, __file__, "--peak", size]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(found := json.loads(done.stdout))
        mega = {name: value / 2**20 for name, value in found.items() if "_bytes" in name}
        print(
            f"{size}: {mega['peak_bytes_over_that']:.0f} MB over the features' {mega['features_bytes']:.0f} MB "
            f"(the whole matrix would be {mega['matrix_bytes']:.0f} MB), {found['seconds']:.1f} s"
        )
    targets = "evaluate at most 1.5 × the product; torchreid at least 100 × slower; memory bounded by a chunk"
    found = {"rows": rows, "peaks": peaks, "targets": targets, "load_at_start": load}
    write_json(RESULT, plain("evaluation", found | circumstances()))


if __name__ == "__main__":
    main()
