"""Street crops as a data set: who is held out, what is read, and how training takes it."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from conftest import REPOSITORY

from reidlab.errors import DataError
from reidlab.training import Training
from reidlab.walkers import StreetAugmentation
from reidlab.walkers.pretraining import street_config
from reidlab.walkers.street_crops import CropSource, StreetCrops


def make(folder, number, shape=(2, 3, 4, 2, 3), dtype=np.uint8, crops=None, **about):
    """Write a set by hand: sites of forty people, two cameras, three shots of 4x2 pixels, unless told otherwise."""
    folder.mkdir(exist_ok=True)
    np.save(folder / "crops.npy", np.zeros((number, *shape), dtype) if crops is None else crops)
    facts = {"dataset": "walkers streets", "people": number, "people_per_site": 40, "key": "x"} | about
    (folder / "streets.json").write_text(json.dumps({k: v for k, v in facts.items() if v is not None}))
    return folder


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Three sites of two people, four cameras, two shots of noise in the usual size."""
    crops = np.random.default_rng(0).integers(0, 255, (6, 4, 2, 144, 72, 3), np.uint8)
    return make(tmp_path_factory.mktemp("streets") / "set", 6, crops=crops, people_per_site=2)


def test_a_whole_site_is_held_out(drawn):
    data = StreetCrops(drawn)
    people = {part: {record.pid for record in getattr(data, part)} for part in ("train", "query", "gallery")}
    assert people == {"train": {1, 2, 3, 4}, "query": {5, 6}, "gallery": {5, 6}}
    assert [len(getattr(data, part)) for part in people] == [32, 8, 8] and data.people == 6
    everything = [*data.train, *data.query, *data.gallery]
    assert len({record.image for record in everything}) == 48
    seen_by = {pid: {record.camid for record in everything if record.pid == pid} for pid in range(1, 7)}
    sites = [{0, 1, 2, 3}, {4, 5, 6, 7}, {8, 9, 10, 11}]
    assert seen_by == {1: sites[0], 2: sites[0], 3: sites[1], 4: sites[1], 5: sites[2], 6: sites[2]}
    assert str(data).startswith("Walkers streets, drawn boxes, last 2 people held out protocol")


@pytest.mark.parametrize(("people", "held"), [(80, 40), (1440, 40), (1520, 80), (6000, 240)])
def test_a_twentyfifth_of_the_sites_is_held_out_and_always_one(tmp_path, people, held):
    data = StreetCrops(make(tmp_path, people))
    assert {record.pid for record in data.query} == set(range(people - held + 1, people + 1))
    assert len({record.pid for record in data.train}) == people - held
    assert (len(data.query), len(data.gallery)) == (2 * held, 4 * held)  # two cameras, three shots
    cameras = {part: {record.camid for record in getattr(data, part)} for part in ("train", "query", "gallery")}
    assert cameras["train"] == set(range(2 * (people - held) // 40))
    assert cameras["query"] == cameras["gallery"] == set(range(2 * (people - held) // 40, 2 * people // 40))
    for number in (0, held - 1):
        query = data.query[2 * number]
        answers = {r.camid for r in data.gallery if r.pid == query.pid} - {query.camid}
        assert len(answers) == 1  # found by the other camera


@pytest.mark.parametrize("number", [40, 20])
def test_one_site_is_not_enough(tmp_path, number):
    with pytest.raises(DataError, match=rf"set: holds one site of {number} people; one to train on and one to measure"):
        StreetCrops(make(tmp_path / "set", number))


def test_training_gets_the_border_and_measuring_the_box(drawn):
    crops, data = np.load(drawn / "crops.npy"), StreetCrops(drawn)
    boxes = [data.query[0], data.query[7], data.gallery[3]]
    for record in (data.train[0], data.train[13], data.train[-1], *boxes):
        person, camera, shot = map(int, record.image.split("/"))
        image, stored = record.load(), crops[person, camera, shot]
        assert image.dtype == np.uint8 and type(image) is np.ndarray and image.flags.owndata and image.flags.writeable
        if record in boxes:  # 144 / 1.1 by 72 / 1.1, rounded to an even border and centred
            stored = stored[7:-7, 3:-3]
            assert image.shape == (130, 66, 3)
        assert np.array_equal(image, stored)
        assert (record.pid, record.camid) == (person + 1, person // 2 * 4 + camera)


def test_crops_are_trained_on_with_their_border_and_are_not_kept_in_memory(drawn):
    """Without the border people would be a tenth smaller in training than in search."""
    data, augment = StreetCrops(drawn), StreetAugmentation(128, 64)
    assert augment.border == 1.1
    config = street_config(identities_per_batch=4, images_per_identity=2)
    inputs = Training(config, data, augment=augment).inputs
    assert inputs.dataset.__getitems__([5])[0].shape == (1, 3, 144, 72)
    assert inputs.dataset.store is None


def test_a_fresh_interpreter_imports_what_needs_torch_first():
    code = "from reidlab.walkers import StreetAugmentation, StreetCrops, Streets; from reidlab.data import CUHK03"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.parametrize("box", [False, True])
def test_a_source_travels_without_its_pixels(drawn, box):
    source = CropSource(drawn, box)
    source.load("0/0/0")
    assert isinstance(source.crops, np.memmap)
    content = pickle.dumps(source)
    assert len(content) < 500
    again = pickle.loads(content)
    assert again == source and again.box is box and "crops" not in again.__dict__
    assert np.array_equal(again.load("3/1/1"), source.load("3/1/1"))
    assert len(pickle.dumps(StreetCrops(drawn))) < 5000


def test_no_such_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent: no such folder; make it with .*Streets\.write"):
        StreetCrops(tmp_path / "absent")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "streets.json").unlink(), r"streets\.json"),
        (lambda f: (f / "streets.json").write_text("{"), "property name"),
        (lambda f: (f / "streets.json").write_bytes(b"\xff\xfe"), "UTF-16"),
        (lambda f: make(f, 80, people_per_site=None), r"streets\.json lacks 'people_per_site'"),
        (lambda f: make(f, 80, people_per_site=0), "crops.npy is uint8"),
        (lambda f: make(f, 80, people=81), "streets.json says 81 people"),
        (lambda f: make(f, 80, shape=(2, 3, 4, 3)), r"crops.npy is uint8 \(80, 2, 3, 4, 3\)"),
        (lambda f: (f / "crops.npy").unlink(), r"crops\.npy"),
        (lambda f: (f / "crops.npy").write_bytes(b""), "No data left"),
        (lambda f: (f / "crops.npy").write_text("<!DOCTYPE html>"), "pickle"),
        (lambda f: (f / "crops.npy").write_bytes((f / "crops.npy").read_bytes()[:200]), "mmap"),
    ],
)
def test_a_damaged_set_is_named(tmp_path, damage, message):
    root = make(tmp_path / "set", 80)
    StreetCrops(root)
    damage(root)
    with pytest.raises(DataError, match=rf"set: not a finished street set \(.*{message}.*\); delete it and write it"):
        StreetCrops(root)
