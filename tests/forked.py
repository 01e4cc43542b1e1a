"""Processes that begin with torch imported, which takes seconds when each does it for itself."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
if os.name == "posix":  # the server imports these once; it has no other threads, so its children may be forked
    CONTEXT.set_forkserver_preload(["torch", "reidlab.distributed", "reidlab.evaluation", "reidlab.training"])


def _run(target: Callable[..., int | None], arguments: tuple, environment: dict[str, str], errors: str) -> None:
    os.environ.clear()
    os.environ.update(environment)
    with Path(errors).open("w") as file:
        os.dup2(file.fileno(), 2)
    sys.exit(target(*arguments))


class Forked:
    """A process with an environment of its own, and what of `subprocess.Popen` the tests use."""

    def __init__(self, target: Callable[..., int | None], *arguments: object, env: Mapping[str, str]):
        descriptor, self.errors = tempfile.mkstemp()
        os.close(descriptor)
        self.process = CONTEXT.Process(target=_run, args=(target, arguments, dict(env), self.errors))
        self.process.start()
        self.kill = self.process.kill

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> None:
        self.process.join(timeout)

    def communicate(self, timeout: float = 120) -> tuple[None, str]:
        """Wait; returns None and what the process wrote to its standard error."""
        self.wait(timeout)
        if self.returncode is None:
            raise TimeoutError(f"the process has not ended after {timeout} seconds")
        return None, Path(self.errors).read_text()
