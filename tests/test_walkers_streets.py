"""Strangers before random cameras: how they are drawn and written. What they wear: test_walkers_strangers.py."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections import Counter
from dataclasses import asdict

import numpy as np
import pytest
import street_workers

from reidlab.errors import DataError
from reidlab.walkers import streets
from reidlab.walkers.processes import in_order
from reidlab.walkers.render import Shot
from reidlab.walkers.scene import GROUNDS, WALLS
from reidlab.walkers.street_crops import StreetCrops
from reidlab.walkers.streets import Streets, sample_camera
from reidlab.walkers.wardrobe import ARMS

PER_SHOT = ("arms", "stride", "arm_swing")


def small(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(streets, "PEOPLE_PER_SITE", street_workers.PEOPLE_PER_SITE)
    patch.setattr(streets, "SHOTS", street_workers.SHOTS)


@pytest.fixture
def small_sites(monkeypatch):
    """Sites of two people, two shots each."""
    small(monkeypatch)


@pytest.fixture
def flat_sites(monkeypatch, small_sites):
    """Grey squares in place of pictures: for what happens around the drawing. Returns the sites asked for."""
    asked = []

    def draw(key, site):
        asked.append(site)
        return street_workers.flat_site(key, site)

    monkeypatch.setattr(streets, "_draw_site", draw)
    return asked


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Two small sites on disk: four people, four cameras, two shots."""
    with pytest.MonkeyPatch.context() as patch:
        small(patch)
        return Streets(4, seed=3).write(tmp_path_factory.mktemp("streets") / "set", jobs=1)


# --- drawing


def test_two_processes_draw_the_same_bytes_as_one(drawn, small_sites, monkeypatch, tmp_path):
    monkeypatch.setattr(streets, "_draw_site", street_workers.small_site)
    again = Streets(4, seed=3).write(tmp_path / "set", jobs=2)
    names = sorted(path.name for path in again.iterdir())
    assert names == ["crops.npy", "streets.json"]
    assert all((drawn / name).read_bytes() == (again / name).read_bytes() for name in names)


def test_one_crop_is_the_stored_crop_and_no_two_are_alike(drawn, small_sites):
    crops = np.load(drawn / "crops.npy")
    assert crops.shape == (4, 4, 2, 144, 72, 3) and crops.dtype == np.uint8
    streets._camera.cache_clear()
    for person, camera, shot in ((3, 2, 1), (0, 0, 0)):
        assert np.array_equal(Streets(4, seed=3).crop(person, camera, shot), crops[person, camera, shot])
    flat = crops.reshape(32, -1)
    assert len({row.tobytes() for row in flat}) == 32 and flat.std(axis=1).min() > 5


def test_another_seed_draws_another_town(small_sites):
    one, other = Streets(4, seed=3), Streets(4, seed=4)
    assert one.key != other.key and one.key != Streets(8, seed=3).key
    assert one.camera(0, 0) != other.camera(0, 0)
    assert one.person(0) != other.person(0)
    assert not np.array_equal(one.crop(0, 0, 0), other.crop(0, 0, 0))


def test_the_number_of_people_does_not_change_the_first(small_sites):
    assert Streets(4).person(1) == Streets(40).person(1) and Streets(4).camera(1, 2) == Streets(40).camera(1, 2)


def test_no_camera_hangs_at_two_sites():
    cameras = [Streets(80).camera(site, number) for site in (0, 1) for number in range(4)]
    assert [camera.index for camera in cameras] == list(range(8))
    for field in ("height", "distance", "pixels", "sun", "exposure", "balance", "street"):
        assert len({getattr(camera, field) for camera in cameras}) == 8, field


def test_cameras_stay_within_what_cameras_can_do():
    cameras = [sample_camera(np.random.default_rng(i), i) for i in range(300)]
    for camera in cameras:
        assert 1.6 <= camera.height <= 6.5 and 5.5 <= camera.distance <= 13
        assert camera.distance >= 1.5 * camera.height  # nobody is seen from above
        assert 90 <= camera.pixels <= 240 and 45 <= camera.jpeg < 95
        assert np.linalg.norm(camera.sun) == pytest.approx(1) and camera.sun[2] > 0.4  # a sun over the roofs
        assert min(camera.sun_color) > 0 and np.mean(camera.balance) == pytest.approx(1)
        assert 0.3 < camera.exposure < 4 and 0.4 < camera.gamma < 2 and 0 <= camera.haze < 0.15
        assert camera.street.behind >= 1.8 and camera.street.stretch > 0.2
        assert all(start < stop for start, stop, _ in camera.street.strips)
    assert {camera.street.wall for camera in cameras} == set(WALLS)
    assert {camera.street.ground for camera in cameras} == set(GROUNDS)


def test_from_shot_to_shot_only_arms_and_gait_change(monkeypatch):
    """What `street_crop` asks to be drawn, over all shots of two people; nothing is drawn."""
    asked = []

    def render(person, camera, plan, scale, boxes):
        asked.append((person, camera, plan))
        return Shot(np.zeros((170, 100, 3), np.uint8), np.zeros((170, 100), np.uint8), (20, 20, 80, 150), None, 0.0, ())

    monkeypatch.setattr(streets, "render_shot", render)
    town = Streets(40)
    for person in (5, 6):
        for camera in range(4):
            for shot in range(4):
                assert town.crop(person, camera, shot).shape == (144, 72, 3)
    for number in (5, 6):
        worn = [person for person, *_ in asked if person.pid == number + 1]
        constant = [{k: v for k, v in asdict(person).items() if k not in PER_SHOT} for person in worn]
        expected = {k: v for k, v in asdict(town.person(number)).items() if k not in PER_SHOT}
        assert len(worn) == 16 and all(look == expected for look in constant)
        assert len({person.arms for person in worn}) > 1 and len({person.stride for person in worn}) == 16
    assert {person.arms for person, *_ in asked} == set(ARMS)
    assert [camera.index for _, camera, _ in asked[:16]] == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    quarters = Counter(int(plan.pose.heading // (math.pi / 2)) for *_, plan in asked)
    assert set(quarters) == {0, 1, 2, 3} and max(quarters.values()) < 20  # seen from all sides


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Streets(0), "num_people=0, expected a multiple of 40"),
        (lambda: Streets(41), "multiple of 40"),
        (lambda: Streets(-40), "multiple of 40"),
        (lambda: Streets(40.0), "multiple of 40"),
        (lambda: Streets(40, -1), "whole number from 0 on"),
        (lambda: Streets(40, 1.5), "whole number from 0 on"),
        (lambda: Streets(40).crop(40, 0, 0), "whole number 0..39"),
        (lambda: Streets(40).crop(-1, 0, 0), "whole number 0..39"),
        (lambda: Streets(40).crop(0, 4, 0), "whole number 0..3"),
        (lambda: Streets(40).crop(0, 0, 4), "whole number 0..3"),
        (lambda: Streets(40).write("s", jobs=0), "jobs"),
        (lambda: Streets(40).write("s", jobs=65), "jobs"),
    ],
)
def test_what_cannot_be_drawn_is_refused(build, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        build()
    assert names(tmp_path) == []


# --- writing


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_finished_folder_is_returned_at_once(flat_sites, tmp_path):
    root = Streets(6).write(tmp_path / "deep" / "set", jobs=1)
    assert root == tmp_path / "deep" / "set" and flat_sites == [0, 1, 2]
    assert [int(v) for v in np.load(root / "crops.npy")[:, 0, 0, 0, 0, 0]] == [0, 0, 1, 1, 2, 2]
    about = json.loads((root / "streets.json").read_text())
    assert (about["people"], about["people_per_site"], about["seed"]) == (6, 2, 0)
    before = (root / "crops.npy").stat().st_mtime_ns
    assert Streets(6).write(root) == root
    assert flat_sites == [0, 1, 2] and (root / "crops.npy").stat().st_mtime_ns == before


@pytest.mark.parametrize("other", [{"num_people": 4, "seed": 1}, {"num_people": 6}])
def test_another_set_is_drawn_over_it(flat_sites, tmp_path, other):
    root = Streets(4).write(tmp_path / "set", jobs=1)
    Streets(**other).write(root, jobs=1)
    assert names(root) == ["crops.npy", "streets.json"]
    crops = np.load(root / "crops.npy", mmap_mode="r")
    assert flat_sites[2:] == [*range(other["num_people"] // 2)] and crops[0, 0, 0, 0, 0, 0] == 10 * other.get("seed", 0)
    assert json.loads((root / "streets.json").read_text())["key"] == Streets(**other).key


def test_a_folder_of_other_things_is_refused(flat_sites, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match=r"not a street set \(no .*streets\.json\); choose another"):
        Streets(4).write(tmp_path, jobs=1)
    with pytest.raises(DataError, match="is a file"):
        Streets(4).write(tmp_path / "thesis.txt", jobs=1)
    assert names(tmp_path) == ["thesis.txt"] and flat_sites == []


@pytest.fixture
def interrupted(flat_sites, monkeypatch):
    """Write with an interruption after the first site."""

    def write(town, root, ending=KeyboardInterrupt):
        def draw(key, site):
            if site:
                raise ending
            return street_workers.flat_site(key, site)

        with monkeypatch.context() as patch:
            patch.setattr(streets, "_draw_site", draw)
            with pytest.raises(ending):
                town.write(root, jobs=1)

    return write


def test_an_interrupted_write_leaves_nothing_and_the_next_one_finishes(interrupted, tmp_path):
    interrupted(Streets(4), tmp_path / "set")
    assert names(tmp_path / "set") == []
    with pytest.raises(DataError, match="not a finished street set"):
        StreetCrops(tmp_path / "set")
    root = Streets(4, seed=1).write(tmp_path / "set", jobs=1)
    interrupted(Streets(4), root)  # over another set
    assert StreetCrops(Streets(4).write(root, jobs=1)).train[0].load()[0, 0, 0] == 0


def half_drawn(folder, stem, minutes):
    """Leave a file under a name as `atomic_path` gives it, last changed so many minutes ago."""
    path = folder / f".{stem}-abcd{minutes:04}.partial{'.npy' if stem == 'crops' else '.json'}"
    path.write_bytes(b"half")
    os.utime(path, (time.time() - 60 * minutes,) * 2)
    return path


def test_what_another_process_is_drawing_is_left_to_it(flat_sites, tmp_path):
    """Files changed within the hour; older ones beside them, which a killed process left, are removed."""
    for stem in ("crops", "streets"):
        half_drawn(tmp_path, stem, minutes=62)
    young = [half_drawn(tmp_path, stem, minutes) for stem in ("crops", "streets") for minutes in (0, 55)]
    root = Streets(4).write(tmp_path, jobs=1)
    assert names(root) == sorted(["crops.npy", "streets.json", *(path.name for path in young)])
    assert {path.read_bytes() for path in young} == {b"half"}
    StreetCrops(root)  # which does not mind them


@pytest.mark.parametrize("damage", ["none", "cut"])
def test_crops_that_are_lost_or_cut_are_drawn_again(flat_sites, tmp_path, damage):
    root = Streets(4).write(tmp_path / "set", jobs=1)
    content = (root / "crops.npy").read_bytes()
    (root / "crops.npy").unlink()
    if damage == "cut":
        (root / "crops.npy").write_bytes(content[:5000])
    assert len(StreetCrops(Streets(4).write(root, jobs=1)).train) == 16  # one site of two, the other is held out


@pytest.mark.parametrize("text", ["{", "[]", '{"dataset": "walkers", "key": "x"}'])
def test_a_streets_json_that_is_none_is_refused(flat_sites, tmp_path, text):
    (tmp_path / "streets.json").write_text(text)
    with pytest.raises(DataError, match="choose another folder"):
        Streets(4).write(tmp_path, jobs=1)
    assert names(tmp_path) == ["streets.json"]


def test_a_full_disk_is_seen_before_drawing(flat_sites, tmp_path, monkeypatch):
    """Filling a mapped file on a full disk ends the process without a word, so it has to be seen before."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 10**5))
    with pytest.raises(OSError, match=r"1 MB are needed, 0 MB are free"):
        Streets(4).write(tmp_path / "set", jobs=1)
    assert flat_sites == []


# --- processes


def test_results_come_in_order_and_no_more_than_asked_for_are_drawn(tmp_path):
    before = dict(os.environ)
    results = in_order(range(5), 2, street_workers.first_is_slow, str(tmp_path), ahead=1)
    assert next(results) == 0
    assert {"0"} <= {*names(tmp_path)} <= {"0", "1"}  # one ahead a process: the others wait until they are asked for
    assert list(in_order([], 2, street_workers.first_is_slow, str(tmp_path))) == []
    assert list(results) == [1, 2, 3, 4] and names(tmp_path) == ["0", "1", "2", "3", "4"]
    assert dict(os.environ) == before


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_goes_wrong_in_a_process_is_told(jobs):
    with pytest.raises(KeyError, match="person 7"):
        list(in_order([7, 8], jobs, street_workers.refuse, "person"))


def test_a_process_that_dies_is_an_error():
    with pytest.raises(OSError, match=r"a drawing process died, .*try jobs=1"):
        list(in_order([7, 8, 9], 2, street_workers.die, "person"))


def test_the_streets_look_as_they_always_did():
    """Mean colours, since the last bit differs between processors; whoever changes them raises STREETS_VERSION."""
    drawn = Streets(80, seed=0)
    shots = [(0, 0, 0), (7, 1, 3), (39, 3, 2), (40, 0, 1), (79, 2, 0)]
    colours = [drawn.crop(*shot).mean((0, 1)) for shot in shots]
    expected = [[67, 76, 56], [113, 116, 128], [120, 108, 114], [58, 57, 49], [139, 148, 136]]
    assert np.abs(np.array(colours) - expected).max() <= 1
