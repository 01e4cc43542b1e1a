"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real files (protocol files, sample images); tests that need it skip where it is absent."""
    folder = Path(os.environ.get("REIDLAB_REAL_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set REIDLAB_REAL_DATA to a folder with cuhk03_protocol/ and pku_reid/")
    return folder


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded world of 16 identities on disk, written once per session; look, do not touch."""
    from reidlab.synth import World

    return World.preset("tiny").write(tmp_path_factory.mktemp("worlds") / "tiny", jobs=1)
