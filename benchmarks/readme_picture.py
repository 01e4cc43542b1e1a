"""The README's first picture: what `Baseline.pretrained()` finds for four people of Walkers `small`.

python benchmarks/readme_picture.py [--data data/walkers-small] [--out results/first_search.png]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

from reidlab import plots
from reidlab.data import CUHK03
from reidlab.distances import cosine_distance
from reidlab.evaluation import extract_features
from reidlab.files import atomic_path
from reidlab.models import Baseline
from reidlab.walkers import World

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "walkers-small")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "first_search.png")
    options = parser.parse_args()
    matplotlib.use("Agg")
    data = CUHK03(World.preset("small").write(options.data), box="detected", protocol="new")
    model = Baseline.pretrained()
    query, gallery = (extract_features(model, records) for records in (data.query, data.gallery))
    distances = cosine_distance(query.features, gallery.features)
    rows = list(range(5, len(data.query), len(data.query) // 4))[:4]
    figure, text = plots.ranked_gallery(data.query, data.gallery, distances, rows, results=9, show_junk=False)
    with atomic_path(options.out) as temporary:
        figure.savefig(temporary, dpi=110)
    print(f"{options.out.name}: {text}")


if __name__ == "__main__":
    main()
