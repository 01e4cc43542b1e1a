"""From cuhk-03.mat to batches: time to the first one and images per second on one core, beside torchreid 0.2.5.

    pip install torchreid==0.2.5 opencv-python-headless gdown tensorboard imageio
    reidlab world --preset full data/walkers-full
    python benchmarks/data_path.py [--data data/walkers-full] [--torchreid-python PYTHON] [--starts 3] [--rounds 10]

Both programs make training batches of 16 people × 4 labeled images at 256 × 128 under the new protocol. Half of the
images are enlarged to 9/8 and cropped, half are mirrored, all are normalised, half have a rectangle erased. Ours:
CUHK03, PKBatchSampler, PixelStore in memory, BatchAugmentation("zoom"). torchreid's: ImageDataManager with random_flip,
random_crop and random_erase, RandomIdentitySampler, no workers. Each is a process of its own with one thread.

1. To the first batch: from the call that opens the data to a batch of floats, imports done. torchreid's first start
   unpacks the file into images; its later ones find them. Ours is always the same.
2. The first pass: 47 more batches of images that have not been read before. torchreid has no second kind of pass.
3. Later passes: all images have been read once, by both.

The programs take turns, so that whatever else the machine does hits both. The record has wall time, and processor
time for a machine that does other things too. torchreid unpacks into a temporary folder (TMPDIR), about 2 GB. Takes
about fifteen minutes. Prints a table and writes results/data_path.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

RESULT = Path(__file__).resolve().parents[1] / "results" / "data_path.json"
PEOPLE, IMAGES, HEIGHT, WIDTH = 16, 4, 256, 128
BATCH = PEOPLE * IMAGES
FIRST_PASS = 47  # batches; with the first one, an epoch of 767 people
LATER = {"reidlab": 96, "torchreid": 12}  # batches a round, about as long as each other
Batches = Iterator[int]  # images of each batch as it is made


class Reidlab:
    """Our way; reidlab is imported here alone, since torchreid may live where it is not."""

    def __init__(self) -> None:
        import torch

        from reidlab.data import CUHK03, BatchAugmentation, PixelStore, PKBatchSampler

        torch.set_num_threads(1)
        self.torch, self.tools = torch, (CUHK03, PKBatchSampler, PixelStore, BatchAugmentation)

    def batches(self, root: Path) -> Batches:
        """Open the data and make batches, without end."""
        dataset, sampler, store, augmentation = self.tools
        train = dataset(root, box="labeled").train
        pids = self.torch.tensor([record.pid for record in train])
        self.sampler = sampler(pids.tolist(), PEOPLE, IMAGES)
        self.augment = augmentation(HEIGHT, WIDTH, "zoom", generator=self.torch.Generator().manual_seed(0))
        self.store = store(train, *self.augment.stored_size)
        for epoch in range(10**9):
            self.sampler.set_epoch(epoch)
            for indices in self.sampler:
                images, labels = self.augment(self.store.images(indices)), pids[indices]
                yield len(images) if len(labels) == BATCH else 0

    def read_all(self) -> None:
        """Read every image once."""
        for start in range(0, len(self.store), BATCH):
            self.store.images(range(start, min(start + BATCH, len(self.store))))

    def parts(self) -> dict[str, float]:
        """Milliseconds that each step takes for a batch; "none" and "crop" for images of their size."""
        indices = next(iter(self.sampler))
        images = self.store.images(indices)
        small = images[:, :, :HEIGHT, :WIDTH].contiguous()
        generator = self.torch.Generator()
        shifts = {name: self.tools[3](HEIGHT, WIDTH, name, generator=generator) for name in ("none", "crop", "zoom")}
        steps = {"PixelStore.images": lambda: self.store.images(indices)}
        steps |= {f"BatchAugmentation {name}": self._with(shifts[name], small) for name in ("none", "crop")}
        steps["BatchAugmentation zoom"] = self._with(shifts["zoom"], images)
        return {name: 1000 * statistics.median(map(seconds, [step] * 25)) for name, step in steps.items()}

    def _with(self, augment: Callable, images: object) -> Callable[[], object]:
        return lambda: augment(images)


class Torchreid:
    """torchreid 0.2.5's way."""

    def __init__(self) -> None:
        import torch
        from torchreid.reid.data import ImageDataManager

        torch.set_num_threads(1)
        self.manager = ImageDataManager

    def batches(self, root: Path) -> Batches:
        """Open the data, unpack it if it is not, and make batches, without end."""
        manager = self.manager(
            root=str(root),
            sources="cuhk03",
            height=HEIGHT,
            width=WIDTH,
            transforms=["random_flip", "random_crop", "random_erase"],
            use_gpu=False,
            batch_size_train=BATCH,
            workers=0,
            num_instances=IMAGES,
            train_sampler="RandomIdentitySampler",
            cuhk03_labeled=True,
        )
        self.data = manager.train_loader.dataset
        while True:
            for batch in manager.train_loader:
                yield len(batch["img"])

    def read_all(self) -> None:
        """Have every file in the system's memory; torchreid keeps nothing itself."""
        for path, *_ in self.data.train:
            Path(path).read_bytes()


PROGRAMS = {"reidlab": Reidlab, "torchreid": Torchreid}


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def child(name: str, root: Path) -> None:
    """Do what each line of standard input says, a number of batches or the name of a method, and tell how long it took.

    The data is opened when the first batch is asked for.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # torchreid prints a lot
    start = time.perf_counter()
    program = PROGRAMS[name]()
    imports, batches = time.perf_counter() - start, program.batches(root)
    for order in iter(sys.stdin.readline, ""):
        wall, used, found = time.perf_counter(), time.process_time(), None
        if order.strip().isdigit():
            made = [next(batches) for _ in range(int(order))]
            if set(made) != {BATCH}:
                raise ValueError(f"{name} made batches of {sorted(set(made))} images, expected {BATCH}")
        else:
            found = getattr(program, order.strip())()
        times = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - used}
        answers.write(json.dumps({**times, "found": found, "imports": imports}) + "\n")


class Process:
    """A program in a process of its own, which works only while it is asked."""

    def __init__(self, python: str, name: str, root: Path) -> None:
        command = [python, "-W", "ignore", __file__, "--run", name, "--data", str(root)]
        settings = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, text=True, env=settings, **pipes)

    def ask(self, order: int | str) -> dict[str, object]:
        """Have it make so many batches, or do what a method does; returns how long it took."""
        self.process.stdin.write(f"{order}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{' '.join(self.process.args)} ended; run it alone and type {order!r} to see why")
        return json.loads(answer)

    def end(self) -> None:
        """Let it go."""
        self.process.stdin.close()
        self.process.wait()


def compare(data: Path, pythons: dict[str, str], starts: int, rounds: int) -> dict[str, object]:
    found = {name: {"first": [], "pass": [], "later": []} for name in PROGRAMS}
    with tempfile.TemporaryDirectory() as folder:
        roots = {"reidlab": data, "torchreid": Path(folder)}
        _as_torchreid_wants(data, roots["torchreid"] / "cuhk03")
        for start in range(starts):
            processes = {name: Process(pythons[name], name, roots[name]) for name in PROGRAMS}
            for kind, order in (("first", 1), ("pass", FIRST_PASS)):
                for name, process in processes.items():
                    found[name][kind].append(process.ask(order))
                    print(f"start {start + 1}, {name:<9} {kind:<5} {found[name][kind][-1]['seconds']:8.2f} s")
            if start < starts - 1:
                for process in processes.values():
                    process.end()
        for process in processes.values():
            process.ask("read_all")
        for _ in range(rounds):
            for name, process in processes.items():
                found[name]["later"].append(process.ask(LATER[name]))
        found["reidlab"]["parts"] = processes["reidlab"].ask("parts")["found"]
        for process in processes.values():
            process.end()
    return found


def _as_torchreid_wants(data: Path, folder: Path) -> None:
    (folder / "cuhk03_release").mkdir(parents=True)
    for path in (*data.glob("*.mat"), *data.glob("cuhk03_release/*.mat")):
        there = folder / "cuhk03_release" if path.name == "cuhk-03.mat" else folder
        (there / path.name).symlink_to(path.resolve())


def summary(found: dict[str, dict[str, list[dict[str, float]]]]) -> dict[str, object]:
    """Medians, by the clock on the wall and by the processor's, and what torchreid takes over what ours takes."""
    result = {"parts_milliseconds_per_batch": found["reidlab"].pop("parts")}
    for clock in ("seconds", "cpu_seconds"):
        times = {
            name: {kind: [one[clock] for one in values] for kind, values in kinds.items()}
            for name, kinds in found.items()
        }
        ours, theirs = times["reidlab"], times["torchreid"]
        first = {"reidlab": statistics.median(ours["first"]), "torchreid_unpacking": theirs["first"][0]}
        ratios = {"first_batch": first["torchreid_unpacking"] / first["reidlab"]}
        if again := theirs["first"][1:]:
            first["torchreid_again"] = statistics.median(again)
            ratios["first_batch_again"] = first["torchreid_again"] / first["reidlab"]
        speeds = {}
        for name, kinds in times.items():
            speeds[name] = {"first_pass": FIRST_PASS * BATCH / statistics.median(kinds["pass"])}
            speeds[name]["later"] = LATER[name] * BATCH / statistics.median(kinds["later"])
        ratios |= {kind: speeds["reidlab"][kind] / speeds["torchreid"][kind] for kind in ("first_pass", "later")}
        result[clock] = {"first_batch": first, "images_per_second": speeds, "torchreid_over_reidlab": ratios}
    return result | {"measured": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data/walkers-full"), help="a folder in CUHK03's format")
    parser.add_argument("--torchreid-python", default=sys.executable, help="an interpreter that has torchreid 0.2.5")
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--run", choices=PROGRAMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        child(options.run, options.data)
        return
    from reidlab.data import CUHK03
    from reidlab.files import write_json
    from reidlab.results import circumstances, plain

    data, load = CUHK03(options.data, box="labeled"), os.getloadavg()[0]
    pythons = {"reidlab": sys.executable, "torchreid": options.torchreid_python}
    result = summary(compare(options.data, pythons, options.starts, options.rounds))
    for clock, what in (("seconds", "on the wall"), ("cpu_seconds", "of the processor")):
        numbers = result[clock]
        ratios = numbers["torchreid_over_reidlab"]
        print(f"clock {what}: first batch after {numbers['first_batch']['reidlab']:.2f} s, torchreid's after")
        print(f"  {numbers['first_batch']['torchreid_unpacking']:.1f} s ({ratios['first_batch']:.0f} ×)")
        for kind in ("first_pass", "later"):
            ours, theirs = (numbers["images_per_second"][name][kind] for name in PROGRAMS)
            print(f"  {kind:<10} {ours:7.0f} images/s, torchreid {theirs:5.0f} ({ratios[kind]:.1f} ×)")
    targets = "first batch at least 20 × sooner; at least 5 × as many images per second and core"
    facts = {"dataset": data.name, "box": data.box, "protocol": data.protocol, "train_images": len(data.train)}
    facts |= {"height": HEIGHT, "width": WIDTH, "batch": [PEOPLE, IMAGES], "targets": targets, "load_at_start": load}
    write_json(RESULT, plain("data_path", facts | result | circumstances()))


if __name__ == "__main__":
    main()
