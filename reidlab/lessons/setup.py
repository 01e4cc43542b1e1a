"""The second cell of every lesson: from the parameters to a data set and a device.

Taught in: notebooks/00_start_here.ipynb
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reidlab.lessons.contents import PROFILES, notebooks_folder

if TYPE_CHECKING:
    import torch

    from reidlab.data.records import Splits
    from reidlab.training import TrainConfig

DATASETS = ("walkers", "cuhk03")


def world_size(profile: str) -> str:
    """Return the size of the embedded world that a profile works on: "tiny" for "smoke", "small" otherwise.

    Raises:
        ValueError: `profile` is none of "smoke", "laptop" and "gpu".

    Example:
        >>> world_size("smoke"), world_size("laptop")
        ('tiny', 'small')
    """
    if profile not in PROFILES:
        raise ValueError(f"PROFILE is {profile!r}, expected one of {', '.join(map(repr, PROFILES))}")
    return "tiny" if profile == "smoke" else "small"


def from_notebooks(folder: str | os.PathLike[str]) -> Path:
    """Resolve a folder as the lessons mean it: a relative one starts at `notebooks/`, wherever the kernel runs.

    Plain papermill runs a notebook in the folder of its caller; `../data` must not become another place by that.
    The result is relative to the current folder where that is possible.

    Example:
        >>> from_notebooks("../data").resolve().name
        'data'
    """
    folder = Path(folder).expanduser()
    if folder.is_absolute():
        return folder
    try:
        folder = notebooks_folder() / folder
    except FileNotFoundError:  # installed without the lessons: there is only the current folder
        return folder
    try:
        return Path(os.path.relpath(folder))
    except ValueError:  # another drive, on Windows
        return folder


def data_folder(dataset: str, data_dir: str | os.PathLike[str], profile: str) -> Path:
    """Return the folder that holds the files of a data set; the embedded world is written there if it is absent.

    Args:
        dataset, data_dir, profile: as in `open_dataset`.

    Raises:
        ValueError: unknown data set or profile.
    """
    if dataset not in DATASETS:
        raise ValueError(f"DATASET is {dataset!r}, expected one of {', '.join(map(repr, DATASETS))}")
    size, folder = world_size(profile), from_notebooks(data_dir)
    if dataset == "cuhk03":
        return folder
    from reidlab.walkers import World

    folder = folder / f"walkers-{size}"
    World.preset(size).write(folder)  # returns at once where the same world is there already
    return folder


def open_dataset(
    dataset: str, data_dir: str | os.PathLike[str], box: str, profile: str, protocol: str = "new", split: int = 0
) -> Any:
    """Open the data set that a lesson's parameters name.

    Args:
        dataset: "walkers" (the embedded world, made on the spot) or "cuhk03" (your own copy of the real data).
        data_dir: for "walkers" the folder that worlds are kept in; for "cuhk03" the folder that holds
            `cuhk03_release/` and the protocol files.
        box: "labeled" or "detected".
        profile: "smoke", "laptop" or "gpu"; chooses the size of the embedded world.
        protocol: "new" or "classic".
        split: number of the classic test split, 0 to 19; not used by the new protocol.

    Returns:
        A `reidlab.data.CUHK03`: both are files of the same formats, read by the same code.

    Raises:
        ValueError: unknown data set or profile.
        FileNotFoundError, DataError: the real files are absent or damaged.

    Example:
        >>> open_dataset("mars", "../data", box="labeled", profile="smoke")
        Traceback (most recent call last):
        ValueError: DATASET is 'mars', expected one of 'walkers', 'cuhk03'
    """
    from reidlab.data import CUHK03

    classic = {"split": split} if protocol == "classic" else {}
    return CUHK03(data_folder(dataset, data_dir, profile), box=box, protocol=protocol, **classic)


def device(name: str = "auto") -> torch.device:
    """Return the device to compute on.

    Args:
        name: "auto" for the first GPU where there is one and the processor otherwise, or a name that torch
            knows, such as "cpu" or "cuda:1".

    Raises:
        ValueError: torch does not know the name, or this computer has no such device.

    Example:
        >>> device("cpu")
        device(type='cpu')
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(name)
        torch.empty(0, device=found).cpu()  # "meta" has no numbers to bring back
    except (RuntimeError, AssertionError) as error:  # torch raises either for a GPU that is not there
        reason = str(error).splitlines()[0]
        raise ValueError(f'DEVICE is {name!r}, which cannot be used here ({reason}); "auto" always works') from None
    return found


def say_duration(config: TrainConfig, data: Splits, device: str = "cpu", workers: int = 0) -> TrainConfig:
    """Print about how long a training takes on this computer, from a measurement of a second or two.

    Args:
        config, data, device, workers: as for `reidlab.training.train`.

    Returns:
        The settings with the precision that precision="auto" stands for here.
    """
    import torch

    from reidlab.progress import duration_text
    from reidlab.training.dry_run import forecast
    from reidlab.training.precision import settle_precision

    config = settle_precision(config, device)
    images = config.identities_per_batch * config.images_per_identity
    count = torch.get_num_threads()
    threads = f", {count} thread{'s' if count > 1 else ''}" if device == "cpu" else ""
    print(
        f"training: about {duration_text(forecast(config, data, device, workers))} here "
        f"({config.iterations:,} batches of {images} images, {config.precision}, {device}{threads})"
    )
    return config
