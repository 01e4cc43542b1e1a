"""How long the shipped network takes for one image on one core, beside a ResNet-50.

    python benchmarks/pretrained_speed.py

Both look at the same number of images in turn, one thread; the shipped one embeds each image and its mirror image.
Prints a table and writes results/pretrained_speed.json.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch

from reidlab.files import write_json
from reidlab.models import Baseline
from reidlab.results import circumstances

RESULTS = Path(__file__).resolve().parents[1] / "results"
ROUNDS = 9


def milliseconds(model: Baseline, batch: int) -> float:
    """Of one image, `embed` alone."""
    images = torch.zeros(batch, 3, model.height, model.width).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        start = time.perf_counter()
        for _ in range(max(1, 16 // batch)):
            model.embed(images)
    return 1000 * (time.perf_counter() - start) / (batch * max(1, 16 // batch))


def main() -> None:
    torch.set_num_threads(1)
    models = {"shipped, 128×64, flip": Baseline.pretrained(), "ResNet-50, 256×128": Baseline(1, "resnet50").eval()}
    rows = []
    for batch in (1, 16):
        times = {name: [] for name in models}
        for _ in range(ROUNDS + 1):  # in turn, so that a busy moment hits both; the first round warms up
            for name, model in models.items():
                times[name].append(milliseconds(model.to(memory_format=torch.channels_last), batch))
        medians = {name: float(np.median(values[1:])) for name, values in times.items()}
        ratio = medians["shipped, 128×64, flip"] / medians["ResNet-50, 256×128"]
        print(f"batch {batch:>2}: " + ", ".join(f"{n} {v:.1f} ms" for n, v in medians.items()) + f", ratio {ratio:.3f}")
        rows.append({"batch": batch, "milliseconds_per_image": medians, "ratio": ratio})
    write_json(RESULTS / "pretrained_speed.json", {"threads_used": 1, "rows": rows} | circumstances())


if __name__ == "__main__":
    main()
