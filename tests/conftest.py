"""Fixtures that several test files share."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
# jsonschema checks addresses with it, which no notebook needs; importing it compiles 38 grammars, for seconds
sys.modules.setdefault("rfc3987_syntax", None)

with suppress(ImportError):  # torchreid's environment has none, and its tests need none
    import hypothesis

    hypothesis.settings.register_profile("any machine", deadline=None)  # a busy one is slow now and then
    hypothesis.settings.load_profile("any machine")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real files (protocol files, sample images); tests that need it skip where it is absent."""
    folder = Path(os.environ.get("REIDLAB_REAL_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set REIDLAB_REAL_DATA to a folder with cuhk03_protocol/ and pku_reid/")
    return folder


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded world of 16 identities on disk, drawn once for all processes of pytest; look, do not touch."""
    from filelock import FileLock  # torch needs it, so it is there

    from reidlab.walkers import World

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with FileLock(folder / "tiny.lock"):
        return World.preset("tiny").write(folder / "worlds" / "walkers-tiny", jobs=1)


@pytest.fixture(scope="module")
def half_size():
    """Images of 64×32 pixels for the small backbone: a step costs a quarter, and trains all the same."""
    from reidlab.models.backbones import SmallBackbone

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SmallBackbone, "height", 64)
        patch.setattr(SmallBackbone, "width", 32)
        yield


def describe_pictures(patch: pytest.MonkeyPatch) -> None:
    """Let the pictures of a report be made, and described, but not drawn."""
    import matplotlib.pyplot as plt

    from reidlab.training import report

    def embed(drawn, photographs=False):
        plt.close(drawn[0])
        return {"width": 1, "alt": drawn[1], "src": "data:,"}

    patch.setattr(report, "_embed", embed)


@pytest.fixture
def described(monkeypatch):
    """Pictures of a report are described, but not drawn."""
    describe_pictures(monkeypatch)


class Colours:
    """Pictures in one colour per person, with noise of their own; the second camera sees negatives."""

    def load(self, name):
        pid, number = map(int, name.split("_"))
        colour = np.random.default_rng(pid).integers(0, 255, 3)
        noise = np.random.default_rng([pid, number]).integers(-20, 20, (64, 32, 3))
        image = np.clip(colour + noise, 0, 255).astype(np.uint8)
        return 255 - image if number % 2 else image


@pytest.fixture(scope="session")
def colours():
    """Twelve people of one colour each, half of them to train on."""
    from reidlab.data.records import Record, Splits

    records = [[Record(f"{p}_{i}", p, 1 + i % 2, Colours()) for i in range(4)] for p in range(10, 22)]
    train_part, rest = records[:6], records[6:]
    return Splits(
        name="colours",
        box="as given",
        protocol="halves",
        train=[r for person in train_part for r in person],
        query=[person[0] for person in rest],
        gallery=[r for person in rest for r in person[1:]],
    )


@pytest.fixture
def close_figures():
    """Close what a test of plots has drawn."""
    import matplotlib.pyplot as plt

    yield
    plt.close("all")
