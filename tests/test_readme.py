"""The code in README.md and CONTRIBUTING.md runs as it stands there, on smaller data and with fewer iterations."""

import re

import numpy as np
import pytest
from conftest import REPOSITORY
from PIL import Image

import reidlab
from reidlab.models import MODELS
from reidlab.training import PRESETS


@pytest.fixture
def small(tmp_path, tiny_world, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "walkers-small").symlink_to(tiny_world)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PRESETS, "laptop", PRESETS["smoke"] | {"iterations": 2})


def first_block(file, heading):
    section = (REPOSITORY / file).read_text(encoding="utf-8").split(heading)[1]
    return re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]


def test_the_five_jobs_of_the_readme(small, tmp_path, capsys):
    code = first_block("README.md", "## As a package")
    assert [int(number) for number in re.findall(r"^# (\d) ", code, re.MULTILINE)] == [1, 2, 3, 4, 5]
    for person in range(1, 4):
        (tmp_path / "pictures" / str(person)).mkdir(parents=True)
        for camera in (1, 2):
            pixels = np.random.default_rng(person).integers(0, 255, (128, 64, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / str(person) / f"{camera}_0001.jpg")
    Image.fromarray(pixels).save(tmp_path / "somebody.jpg")
    exec(compile(code.replace("k=5", "k=2"), "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert printed.count("rank-1") == 3 and "1.000 pictures/3/" in printed
    assert (tmp_path / "runs" / "first" / "last.pt").is_file()


def test_the_example_of_a_model_of_ones_own(small):
    code, names = first_block("CONTRIBUTING.md", "### A model or a loss of your own"), {"__name__": "example"}
    try:
        exec(compile(code, "CONTRIBUTING.md", "exec"), names)
    finally:
        MODELS.pop("two_layers", None)
    assert type(names["model"]) is names["TwoLayers"]


def test_everything_in_the_public_list_is_there():
    assert all(hasattr(reidlab, name) for name in reidlab.__all__)
    assert set(reidlab.__all__) <= set(dir(reidlab))
