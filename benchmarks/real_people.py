"""How a model does on real people it has never seen: one camera's images search the other camera's.

    python benchmarks/real_people.py FOLDER [CHECKPOINT ...]

FOLDER holds images in Market-1501 naming from two cameras or more; all images of one camera are queries and all of
another the gallery, cosine distance, no image used twice. Raw pixels and the shipped weights are always measured
beside the checkpoints. Prints a table; writes nothing, since a score on a folder of yours belongs beside it.
"""

from __future__ import annotations

import argparse
from itertools import permutations
from pathlib import Path

import torch

from reidlab.data import Market1501
from reidlab.evaluation import Evaluation, Features, evaluate, extract_features
from reidlab.models import Baseline
from reidlab.models.pixels import RawPixels
from reidlab.training import load_checkpoint


def between_cameras(found: Features, query: int, gallery: int) -> Evaluation:
    """Score all images of camera `query` against all of camera `gallery`."""
    searched = (found.camids == query) & (found.pids > 0)  # 0: Market-1501's distractors, nobody to search for
    rows = {"query": torch.from_numpy(searched), "gallery": torch.from_numpy(found.camids == gallery)}
    return evaluate(
        *(found.features[mask] for mask in rows.values()),
        **{f"{name}_pids": found.pids[mask.numpy()] for name, mask in rows.items()},
        **{f"{name}_camids": found.camids[mask.numpy()] for name, mask in rows.items()},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("checkpoints", type=Path, nargs="*")
    options = parser.parse_args()
    data = Market1501(options.folder)
    records = [*data.query, *data.gallery]
    cameras = sorted({record.camid for record in records})
    print(f"{data.name}: {len(records)} images of {len({r.pid for r in records})} people, cameras {cameras}")
    print("market rule, cosine distance, AP by the step formula")
    models = {"raw pixels": RawPixels(), "shipped weights": Baseline.pretrained()}
    models |= {str(path): load_checkpoint(path)[0] for path in options.checkpoints}
    for name, model in models.items():
        found = extract_features(model, records)
        for query, gallery in permutations(cameras, 2):
            result = between_cameras(found, query, gallery)
            print(f"{name:<28} camera {query} → {gallery}: rank-1 {result.rank1:.3f}, mAP {result.mean_ap:.3f}")


if __name__ == "__main__":
    main()
