"""How quickly Walkers are drawn and worlds are written.

    python benchmarks/world_speed.py [--sizes tiny small full] [--jobs 2]

Prints a table and writes results/world_speed.json. Images per second are measured on one core, at 128x64
pixels (drawn at that resolution) and at native size, as process time and as wall time, best of five rounds.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

from reidlab.files import write_json  # noqa: E402
from reidlab.results import circumstances  # noqa: E402
from reidlab.walkers import World  # noqa: E402

RESULT = Path(__file__).resolve().parents[1] / "results" / "world_speed.json"
ROUND = 100


def images_per_second(world: World, size: tuple[int, int] | None) -> dict[str, float]:
    """Best of five rounds of 100 pictures, each round over all cameras."""
    best = {"process_time": 0.0, "wall_time": 0.0}
    for number in range(6):
        wall, process = time.perf_counter(), time.process_time()
        for i in range(ROUND):
            world.render((ROUND * number + i) % world.num_identities, i % 10, i % 5, size=size)
        took = {"process_time": time.process_time() - process, "wall_time": time.perf_counter() - wall}
        if number:  # the first round draws the streets
            best = {clock: max(best[clock], ROUND / seconds) for clock, seconds in took.items()}
    return {clock: round(value, 1) for clock, value in best.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="*", default=["tiny", "small"], choices=["tiny", "small", "full"])
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    world = World.preset("small")
    world.people  # noqa: B018  drawn before the clock starts
    speed = {}
    print("one core                images/s (process time)  images/s (wall time)")
    for name, size in (("128x64", (128, 64)), ("native", None)):
        speed[name] = images_per_second(world, size)
        print(f"{name:<22}  {speed[name]['process_time']:>22}  {speed[name]['wall_time']:>20}")
    sizes = {}
    for name in options.sizes:
        jobs = 1 if name == "tiny" else options.jobs
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            root = World.preset(name).write(Path(folder) / name, jobs=jobs)
            seconds = round(time.perf_counter() - start, 1)
            megabytes = round(sum(f.stat().st_size for f in root.rglob("*") if f.is_file()) / 1e6, 1)
        sizes[name] = {"seconds": seconds, "jobs": jobs, "megabytes": megabytes}
        print(f"{name:<6} written in {seconds:>6} s by {jobs} process(es), {megabytes:>7} MB")
    record = {"images_per_second": speed, "writing": sizes, "bound": "128x64: at least 150 images/s on one core"}
    write_json(RESULT, record | {"load_average": os.getloadavg()[0]} | circumstances())
    print(f"written to results/{RESULT.name}")


if __name__ == "__main__":
    main()
