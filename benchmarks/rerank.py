"""k-reciprocal re-ranking beside torchreid 0.2.5's, at CUHK03's size, and alone at MSMT17's.

    pip install -e ".[bench]"
    python benchmarks/rerank.py

Features are drawn at random: people as clusters in 256 dimensions, as many images of each as in the data set, seen by
cameras that shift them. Each run is a process of its own, the two programs in turn, once with one thread and once with
a thread for each core, or as --threads says; a small run warms up before. The fastest of five rounds counts, since
what else runs on the machine only adds. Both get the features: torchreid's time includes its three
distance matrices. Memory is the peak resident size less that before the run (Linux). Takes about five minutes on two
free cores. Prints a table and writes results/rerank.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reidlab.distances import l2_normalize
from reidlab.evaluation import evaluate, evaluate_distances, k_reciprocal_blocks, k_reciprocal_distances
from reidlab.files import write_json
from reidlab.results import circumstances

RESULTS = Path(__file__).resolve().parents[1] / "results"
ROUNDS = 5
SIZES = {  # queries, gallery images, people, cameras
    "CUHK03": (1400, 5328, 700, 2),
    "MSMT17": (11_659, 82_161, 3060, 15),
    "warm-up": (20, 100, 10, 2),
}


def people(size: str) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Unit-norm features of queries and gallery, and labels: dimensions matter less and less, as in trained ones."""
    num_queries, num_gallery, identities, cameras = SIZES[size]
    generator = torch.Generator().manual_seed(0)
    strength = (1 + torch.arange(256) / 8) ** -0.5
    centres, shifts = (torch.randn(count, 256, generator=generator) for count in (identities, cameras))
    total = num_queries + num_gallery
    pids = torch.arange(total) % identities
    camids = torch.randint(cameras, (total,), generator=generator)
    noise = torch.randn(total, 256, generator=generator)
    features = l2_normalize((centres[pids] + 0.5 * shifts[camids] + 1.2 * noise) * strength)
    labels = {"query_pids": pids[:num_queries], "gallery_pids": pids[num_queries:]}
    labels |= {"query_camids": camids[:num_queries], "gallery_camids": camids[num_queries:]}
    return features[:num_queries], features[num_queries:], labels


def ours(query: Tensor, gallery: Tensor) -> np.ndarray:
    return k_reciprocal_distances(query, gallery, report=None).numpy()


def torchreids(query: Tensor, gallery: Tensor) -> np.ndarray:
    from torchreid.reid.metrics.distance import compute_distance_matrix
    from torchreid.reid.utils.rerank import re_ranking

    pairs = (query, gallery), (query, query), (gallery, gallery)
    return re_ranking(*(compute_distance_matrix(x, y).clamp_(min=0).sqrt_().numpy() for x, y in pairs))


def kilobytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


def measured(work: Callable[[], object]) -> tuple[object, dict[str, float]]:
    before, start, used = kilobytes("VmRSS"), time.perf_counter(), time.process_time()
    result = work()
    seconds, used = time.perf_counter() - start, time.process_time() - used
    return result, {"seconds": seconds, "cpu_seconds": used, "mebibytes": (kilobytes("VmHWM") - before) / 1024}


def at_cuhk03s_size(program: Callable[[Tensor, Tensor], np.ndarray], path: str) -> dict[str, float]:
    program(*people("warm-up")[:2])
    query, gallery, _ = people("CUHK03")
    distances, numbers = measured(lambda: program(query, gallery))
    np.save(path, distances)
    return numbers


def at_msmt17s_size() -> dict[str, float]:
    """Blocks go straight into the evaluation; the plain evaluation comes afterwards, for its scores."""
    query, gallery, labels = people("MSMT17")
    ours(*people("warm-up")[:2])
    result, numbers = measured(lambda: evaluate_distances(k_reciprocal_blocks(query, gallery, report=None), **labels))
    plain = evaluate(query, gallery, **labels)
    scores = {"mean_ap": result.mean_ap, "rank1": result.rank1}
    return numbers | scores | {"plain_mean_ap": plain.mean_ap, "plain_rank1": plain.rank1}


def child(threads: int, *arguments: str) -> dict[str, float]:
    command = [sys.executable, "-W", "ignore", __file__, "--run", *arguments]  # torchreid warns about what it lacks
    settings = os.environ | {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=settings)
    return json.loads(done.stdout.splitlines()[-1])


def compare(threads: int) -> dict[str, object]:
    runs = {"reidlab": [], "torchreid": []}
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: str(Path(folder) / f"{name}.npy") for name in runs}
        for _ in range(ROUNDS):  # in turn, so that a busy moment hits both
            for name in runs:
                runs[name].append(child(threads, name, paths[name]))
        difference = float(np.abs(np.load(paths["reidlab"]) - np.load(paths["torchreid"])).max())
    best = {name: {key: min(run[key] for run in values) for key in values[0]} for name, values in runs.items()}
    best["reidlab"]["mebibytes"] = max(run["mebibytes"] for run in runs["reidlab"])  # not in our favour
    ratios = {key: best["torchreid"][key] / best["reidlab"][key] for key in best["reidlab"]}
    return {
        "threads_used": threads,
        "largest_difference": difference,
        "fastest": best,
        "torchreid_over_reidlab": ratios,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", nargs="+", metavar=("PROGRAM", "PATH"), help="one run, in this process")
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, os.cpu_count() or 1}))
    arguments = parser.parse_args()
    if run := arguments.run:
        programs = {"reidlab": ours, "torchreid": torchreids}
        numbers = at_msmt17s_size() if run[0] == "MSMT17" else at_cuhk03s_size(programs[run[0]], run[1])
        print(json.dumps(numbers))
        return
    comparisons = [compare(threads) for threads in arguments.threads]
    for comparison in comparisons:
        for name, values in comparison["fastest"].items():
            print(
                f"CUHK03's size, threads: {comparison['threads_used']}, {name:<9}: {values['seconds']:6.2f} s, "
                f"{values['cpu_seconds']:6.2f} s of processor time, {values['mebibytes']:5.0f} MiB"
            )
        ratios = comparison["torchreid_over_reidlab"]
        print(
            f"{ratios['seconds']:.1f} × faster, 1/{ratios['mebibytes']:.1f} of the memory; "
            f"distances differ by {comparison['largest_difference']:.1e} at most"
        )
    msmt17 = child(arguments.threads[-1], "MSMT17")
    print(
        f"MSMT17's size, evaluated: {msmt17['seconds']:.0f} s, {msmt17['mebibytes']:.0f} MiB, mAP "
        f"{msmt17['plain_mean_ap']:.3f} without and {msmt17['mean_ap']:.3f} with re-ranking (drawn features)"
    )
    content = {"sizes": SIZES, "rounds": ROUNDS, "CUHK03": comparisons, "MSMT17": msmt17}
    write_json(RESULTS / "rerank.json", content | circumstances())


if __name__ == "__main__":
    main()
