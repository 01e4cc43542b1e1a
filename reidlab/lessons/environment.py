"""Does this computer have what the lessons need?"""

from __future__ import annotations

import os
import platform
import re
import sys
from importlib import metadata

from reidlab.progress import say

MINIMUM = {
    "torch": "2.6",
    "torchvision": "0.21",
    "numpy": "1.26",
    "scipy": "1.11",
    "h5py": "3.10",
    "matplotlib": "3.8",
    "pillow": "10",
    "pandas": "2.2",
}


def environment() -> None:
    """Print one line for each package the lessons need: there and new enough, or what to do.

    The lines name the versions needed, not the ones installed, so they are the same on every computer that is
    in order; `versions` prints the installed ones.

    Example:
        >>> environment()  # doctest: +ELLIPSIS
        ✓ python 3.10 or newer
        ✓ torch 2.6 or newer...

    Taught in: notebooks/00_start_here.ipynb
    """
    lines = [_line("python", platform.python_version(), "3.10")]
    lines += [_line(package, installed(package), minimum) for package, minimum in MINIMUM.items()]
    say("\n".join(lines))


def versions() -> None:
    """Print the installed versions and what this computer has; for cells whose output is not compared.

    Example:
        >>> versions()  # doctest: +ELLIPSIS
        python 3...

    Taught in: notebooks/00_start_here.ipynb
    """
    found = [f"{package} {installed(package) or 'not installed'}" for package in MINIMUM]
    say(", ".join([f"python {platform.python_version()}", *found]))
    say(hardware())


def installed(package: str) -> str | None:
    """Return the installed version of a package without importing it, or None where it is absent.

    Example:
        >>> installed("numpy") is not None, installed("no-such-package")
        (True, None)
    """
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def check_runnable() -> None:
    """Refuse a Python that cannot run notebooks.

    Raises:
        FileNotFoundError: a package that runs them is not installed.
    """
    missing = [package for package in ("ipykernel", "papermill", "nbconvert") if installed(package) is None]
    if missing:
        raise FileNotFoundError(
            f"{sys.executable}: {', '.join(missing)} missing in this Python, which runs the lessons: "
            "pip install -e '.[lessons]'"
        )


def hardware() -> str:
    """Describe this computer in a few words: processor cores, and the GPU if torch is loaded and sees one.

    Example:
        >>> "core" in hardware()
        True
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    text = f"{platform.machine()}, {cores} processor core{'s' if cores != 1 else ''}"
    torch = sys.modules.get("torch")  # loading torch takes seconds; whoever has results to write has loaded it
    if torch is not None and torch.cuda.is_available():
        text += f", {torch.cuda.get_device_name(0)}"
    return text


def _line(package: str, found: str | None, minimum: str) -> str:
    if found is None:
        return f"✗ {package} is not installed; {minimum} or newer is needed: pip install -e '.[lessons]'"
    if _numbers(found) < _numbers(minimum):
        return f"✗ {package} {found} is installed; {minimum} or newer is needed: pip install -e '.[lessons]'"
    return f"✓ {package} {minimum} or newer"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
