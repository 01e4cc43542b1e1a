"""Strangers before random cameras: how they are drawn, written, and read as a data set."""

from __future__ import annotations

import json
import math
import os
import pickle
from collections import Counter
from dataclasses import asdict, replace
from itertools import combinations

import numpy as np
import pytest
import street_workers

from reidlab.data.streets import CropSource, StreetCrops
from reidlab.errors import DataError
from reidlab.synth import World, streets
from reidlab.synth.body import body_solids
from reidlab.synth.processes import in_order
from reidlab.synth.render import Shot, render_shot
from reidlab.synth.scene import GROUNDS, WALLS
from reidlab.synth.solids import PARTS
from reidlab.synth.strangers import sample_stranger
from reidlab.synth.streets import Streets, sample_camera
from reidlab.synth.wardrobe import ARMS, COLORS, PATTERNS, sample_person
from reidlab.synth.world import check_changes

NUMBER = {name: number for number, name in PARTS.items()}
UNCHANGEABLE = ("pid", "pair", "identity", "shade")
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


@pytest.fixture(scope="module")
def world():
    return World.preset("tiny")


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
    streets._cameras_of.cache_clear()
    for person, camera, shot in ((3, 2, 1), (0, 0, 0)):
        assert np.array_equal(Streets(4, seed=3).crop(person, camera, shot), crops[person, camera, shot])
    flat = crops.reshape(32, -1)
    assert len({row.tobytes() for row in flat}) == 32 and flat.std(axis=1).min() > 5


def test_another_seed_draws_another_town(small_sites):
    one, other = Streets(4, seed=3), Streets(4, seed=4)
    assert one.key != other.key and one.key != Streets(8, seed=3).key
    assert one.camera(0, 0) != other.camera(0, 0)
    assert one.person(0).as_dict() != other.person(0).as_dict()
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


@pytest.mark.parametrize("number", [0, 20, 41, -40, True])
def test_a_site_has_forty_people(number):
    with pytest.raises(ValueError, match=rf"num_people={number}, expected a multiple of 40"):
        Streets(number)


@pytest.mark.parametrize("number", [40.0, "40", None])
def test_people_come_in_whole_numbers(number):
    with pytest.raises(ValueError, match="expected a multiple of 40"):
        Streets(number)


@pytest.mark.parametrize("seed", [-1, 1.5, True, "0"])
def test_bad_seed(seed):
    with pytest.raises(ValueError, match="expected a whole number from 0 on"):
        Streets(40, seed)


@pytest.mark.parametrize("which", [(40, 0, 0), (-1, 0, 0), (0, 4, 0), (0, -1, 0), (0, 0, 4), (0, 0, -1), (0.0, 0, 0)])
def test_no_such_crop(which):
    with pytest.raises(ValueError, match="expected a whole number 0"):
        Streets(40).crop(*which)


# --- strangers


@pytest.fixture(scope="module")
def strangers():
    return [sample_stranger(np.random.default_rng([1, i]), i + 1) for i in range(500)]


@pytest.fixture(scope="module")
def townspeople():
    return [sample_person(np.random.default_rng([1, i]), i + 1, 1, 1) for i in range(500)]


def test_the_wardrobe_is_wider_than_the_towns(strangers, townspeople):
    def distinct(people, name):
        return len({getattr(person, name) for person in people})

    for name in ("top_color", "bottom_color", "shoe_color", "bag_color"):
        assert distinct(townspeople, name) <= len(COLORS) and distinct(strangers, name) > 400, name
    assert {person.top_pattern for person in strangers} == set(PATTERNS)
    assert {person.print_shape for person in strangers} == set(range(9))
    assert {person.print_shape for person in townspeople} == set(range(6))
    rich = {"marl", "flowers", "patches", "tartan", "fading"}
    assert not rich & {person.top_pattern for person in townspeople}
    assert {p.top for p in strangers if p.top_print != "none"} >= {"jacket", "hoodie", "coat", "open jacket"}
    assert {p.bottom_pattern for p in strangers} - {p.bottom_pattern for p in townspeople} == {"marl"}
    assert {p.bottom for p in strangers if p.tights is not None} == {"skirt", "shorts", "long skirt"}
    assert {person.tights for person in townspeople} == {None}


def test_colours_of_strangers_are_triples_of_bytes(strangers):
    for person in strangers:
        for name, value in asdict(person).items():
            if name.endswith(("_color", "_color2")) and name != "hair_color":
                assert len(value) == 3 and all(isinstance(c, int) and 5 <= c <= 250 for c in value), name


def test_what_strangers_wear_can_be_asked_of_the_town(strangers, world):
    for person in strangers:
        check_changes({k: v for k, v in asdict(person).items() if k not in (*UNCHANGEABLE, "tights")})
    wear = {k: v for k, v in asdict(strangers[0]).items() if k not in (*UNCHANGEABLE, "tights")}
    asked = world.render(0, 1, size=(96, 48), **wear)
    drawn = render_shot(
        replace(world.people[0], **wear), world.cameras[1], world.shot_plan(0, 1), 96 / world.cameras[1].pixels,
        ("labeled",)
    )  # fmt: skip
    assert np.array_equal(asked, streets.resize(drawn.crop()[0], (96, 48)))


@pytest.mark.parametrize("tights", ["black", (30, 30, 30), None])
def test_tights_can_be_asked_of_the_town(world, tights):
    check_changes({"tights": tights})
    plan = world.shot_plan(1, 4)
    person = replace(world.people[1], bottom="skirt", top="sweater", tights=tights)
    drawn = render_shot(person, world.cameras[4], plan, 0.4)
    assert np.array_equal(world.shot(1, 4, scale=0.4, bottom="skirt", top="sweater", tights=tights).image, drawn.image)


@pytest.mark.parametrize("tights", ["mauve", (1, 2), 5, True])
def test_tights_are_a_colour(tights):
    with pytest.raises(ValueError, match="colour"):
        check_changes({"tights": tights})


def looks(world, name, values, part, **same):
    """The pixels of one part of the body, dressed in one way after another, and the mask they share."""
    shots = [world.shot(1, 4, scale=0.5, bag="none", **same, **{name: value}) for value in values]
    assert all(np.array_equal(shot.mask, shots[0].mask) for shot in shots)
    return [shot.image[shots[0].mask == NUMBER[part]].astype(int) for shot in shots]


def test_every_pattern_looks_different(world):
    same = {"top": "sweater", "top_color": "white", "top_color2": "red", "top_print": "none", "pattern_scale": 0.1}
    patterns = ("plain", "check", "marl", "flowers", "patches", "tartan", "fading")
    seen = looks(world, "top_pattern", patterns, "torso", **same)
    for (a, one), (b, other) in combinations(zip(patterns, seen, strict=True), 2):
        assert np.abs(one - other).mean() > 4, (a, b)


def test_the_larger_prints_look_different(world):
    same = {"top": "jacket", "top_color": "white", "top_pattern": "plain", "top_print": "back", "print_color": "black"}
    same["heading"] = 0.0  # seen from behind
    seen = looks(world, "print_shape", (0, 6, 7, 8), "torso", **same)
    for one, other in combinations(seen, 2):
        assert np.abs(one - other).mean() > 4
    (bare,) = looks(world, "top_print", ("none",), "torso", **{k: v for k, v in same.items() if k != "top_print"})
    assert np.abs(seen[-1] - bare).mean() > 15


def test_mottled_trousers_look_different(world):
    same = {"top": "sweater", "bottom": "trousers", "bottom_color": "grey"}
    plain, marl = looks(world, "bottom_pattern", ("plain", "marl"), "hips and legs", **same)
    change = plain - marl
    assert np.abs(change).mean() > 3 and change.std() > 4  # lighter here, darker there


def test_arms_are_held_in_five_ways(world):
    shots = [world.shot(1, 4, scale=0.5, bag="none", sleeves="long", heading=1.5, arms=arms) for arms in ARMS]
    silhouettes = {(shot.mask.shape, np.isin(shot.mask, [NUMBER["arms"], NUMBER["hands"]]).tobytes()) for shot in shots}
    assert len(silhouettes) == len(ARMS) == 5


def test_a_hand_that_carries_does_not_fold(world):
    for bag in ("trolley", "hand bag"):
        bodies = [body_solids(replace(world.people[1], bag=bag, bag_side=-1, arms=arms), 0.3) for arms in ARMS]
        bags = [solids.start[solids.part == NUMBER["bag"]] for solids in bodies]
        assert len(bags[0]) and all(np.array_equal(bags[0], other) for other in bags)
        hands = {solids.end[solids.part == NUMBER["hands"]].tobytes() for solids in bodies}
        assert len(hands) == len(ARMS)  # the free hand does as it is told


def test_tights_cover_bare_legs_and_nothing_else(world):
    plan, camera = world.shot_plan(1, 4), world.cameras[4]

    def shot(bottom, tights):
        person = replace(world.people[1], top="sweater", bottom=bottom, tights=tights, skin="light", bag="none")
        return render_shot(person, camera, plan, 0.5)

    bare, black = shot("skirt", None), shot("skirt", "black")
    assert np.array_equal(bare.mask, black.mask)
    change = bare.image.astype(int).mean(2) - black.image.mean(2)
    legs = bare.mask == NUMBER["bare legs"]
    assert change[legs].mean() > 25 and np.abs(change[np.isin(bare.mask, [NUMBER["head"], NUMBER["torso"]])]).max() < 12
    assert np.array_equal(shot("trousers", None).image, shot("trousers", "black").image)


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
    assert len(crops) == other["num_people"] and crops[0, 0, 0, 0, 0, 0] == 10 * other.get("seed", 0)
    assert json.loads((root / "streets.json").read_text())["key"] == Streets(**other).key


def test_other_code_draws_again(flat_sites, tmp_path, monkeypatch):
    root = Streets(4).write(tmp_path / "set", jobs=1)
    monkeypatch.setattr(Streets, "key", "that of other code")
    Streets(4).write(root, jobs=1)
    assert flat_sites == [0, 1, 0, 1]


def test_a_folder_of_other_things_is_refused(flat_sites, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match=r"not a street set \(no .*streets\.json\); choose another"):
        Streets(4).write(tmp_path, jobs=1)
    assert names(tmp_path) == ["thesis.txt"] and flat_sites == []


def test_an_empty_folder_is_taken(flat_sites, tmp_path):
    assert names(Streets(4).write(tmp_path, jobs=1)) == ["crops.npy", "streets.json"]


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
    StreetCrops(Streets(4).write(tmp_path / "set", jobs=1))


def test_an_interrupted_write_over_another_set_can_be_finished(interrupted, tmp_path):
    root = Streets(4, seed=1).write(tmp_path / "set", jobs=1)
    interrupted(Streets(4), root)
    assert StreetCrops(Streets(4).write(root, jobs=1)).train[0].load()[0, 0, 0] == 0


def test_what_a_killed_process_left_is_no_obstacle(flat_sites, tmp_path):
    (tmp_path / ".crops-abcd1234.partial.npy").write_bytes(b"half")  # the name that `atomic_path` gives it
    root = Streets(4).write(tmp_path, jobs=1)
    assert names(root) == ["crops.npy", "streets.json"]


@pytest.mark.parametrize("damage", ["none", "cut"])
def test_crops_that_are_lost_or_cut_are_drawn_again(flat_sites, tmp_path, damage):
    root = Streets(4).write(tmp_path / "set", jobs=1)
    content = (root / "crops.npy").read_bytes()
    (root / "crops.npy").unlink()
    if damage == "cut":
        (root / "crops.npy").write_bytes(content[:5000])
    assert len(StreetCrops(Streets(4).write(root, jobs=1)).train) == 24


@pytest.mark.parametrize("text", ["{", "[]", '{"dataset": "walkers", "key": "x"}'])
def test_a_streets_json_that_is_none_is_refused(flat_sites, tmp_path, text):
    (tmp_path / "streets.json").write_text(text)
    with pytest.raises(DataError, match="choose another folder"):
        Streets(4).write(tmp_path, jobs=1)
    assert names(tmp_path) == ["streets.json"]


def test_a_file_is_no_folder(flat_sites, tmp_path):
    (tmp_path / "set").write_text("")
    with pytest.raises(DataError, match="is a file"):
        Streets(4).write(tmp_path / "set", jobs=1)


@pytest.mark.parametrize("jobs", [0, -1, 1.5, True, 65])
def test_bad_jobs(flat_sites, tmp_path, jobs):
    with pytest.raises(ValueError, match="jobs"):
        Streets(4).write(tmp_path / "set", jobs=jobs)
    assert not (tmp_path / "set").exists()


def test_a_full_disk_is_seen_before_drawing(flat_sites, tmp_path, monkeypatch):
    """Filling a mapped file on a full disk ends the process without a word, so it has to be seen before."""
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 10**5))
    with pytest.raises(OSError, match=r"1 MB are needed, 0 MB are free"):
        Streets(4).write(tmp_path / "set", jobs=1)
    assert flat_sites == []


# --- reading


def test_parts_share_no_person_and_sites_no_camera(drawn):
    data = StreetCrops(drawn)
    people = {part: {record.pid for record in getattr(data, part)} for part in ("train", "query", "gallery")}
    assert people == {"train": {1, 2, 3}, "query": {4}, "gallery": {4}}
    assert [len(getattr(data, part)) for part in people] == [24, 4, 4] and data.people == 4
    everything = [*data.train, *data.query, *data.gallery]
    assert len({record.image for record in everything}) == 32
    seen_by = {pid: {record.camid for record in everything if record.pid == pid} for pid in range(1, 5)}
    assert seen_by == {1: {0, 1, 2, 3}, 2: {0, 1, 2, 3}, 3: {4, 5, 6, 7}, 4: {4, 5, 6, 7}}
    assert str(data).startswith("Walkers streets, drawn boxes, last 1 people held out protocol")


def test_records_load_the_stored_crop(drawn):
    crops = np.load(drawn / "crops.npy")
    for record in (StreetCrops(drawn).train[13], StreetCrops(drawn).query[2], StreetCrops(drawn).gallery[3]):
        person, camera, shot = map(int, record.image.split("/"))
        image = record.load()
        assert image.shape == (144, 72, 3) and image.dtype == np.uint8
        assert type(image) is np.ndarray and image.flags.owndata and image.flags.writeable
        assert np.array_equal(image, crops[person, camera, shot])
        assert (record.pid, record.camid) == (person + 1, person // 2 * 4 + camera)


def make(folder, number, shape=(2, 3, 4, 2, 3), dtype=np.uint8, **about):
    folder.mkdir(exist_ok=True)
    np.save(folder / "crops.npy", np.zeros((number, *shape), dtype))
    facts = {"dataset": "walkers streets", "people": number, "people_per_site": 40, "key": "x"} | about
    (folder / "streets.json").write_text(json.dumps({k: v for k, v in facts.items() if v is not None}))
    return folder


@pytest.mark.parametrize(("people", "held"), [(10, 1), (40, 2), (80, 3), (6000, 240)])
def test_a_twentyfifth_is_held_out_and_always_someone(tmp_path, people, held):
    data = StreetCrops(make(tmp_path, people))
    assert {record.pid for record in data.query} == set(range(people - held + 1, people + 1))
    assert len({record.pid for record in data.train}) == people - held
    assert (len(data.query), len(data.gallery)) == (2 * held, 4 * held)  # two cameras, three shots
    for number in (0, held - 1):
        query = data.query[2 * number]
        answers = {r.camid for r in data.gallery if r.pid == query.pid} - {query.camid}
        assert len(answers) == 1  # found by the other camera


def test_a_source_travels_without_its_pixels(drawn):
    source = CropSource(drawn)
    source.load("0/0/0")
    assert isinstance(source.crops, np.memmap)
    content = pickle.dumps(source)
    assert len(content) < 500
    again = pickle.loads(content)
    assert again == source and "crops" not in again.__dict__
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
        (lambda f: (f / "streets.json").write_text("[]"), "list indices"),
        (lambda f: (f / "streets.json").write_bytes(b"\xff\xfe"), "decode"),
        (lambda f: make(f, 4, people_per_site=None), r"streets\.json lacks 'people_per_site'"),
        (lambda f: make(f, 4, people_per_site=0), "crops.npy is uint8"),
        (lambda f: make(f, 4, people=5), "streets.json says 5 people"),
        (lambda f: make(f, 4, shape=(2, 3, 4, 3)), r"crops.npy is uint8 \(4, 2, 3, 4, 3\)"),
        (lambda f: make(f, 4, dtype=np.float32), "crops.npy is float32"),
        (lambda f: (f / "crops.npy").unlink(), r"crops\.npy"),
        (lambda f: (f / "crops.npy").write_bytes(b""), "No data left"),
        (lambda f: (f / "crops.npy").write_text("<!DOCTYPE html>"), "pickle"),
        (lambda f: (f / "crops.npy").write_bytes((f / "crops.npy").read_bytes()[:200]), "mmap"),
    ],
)
def test_a_damaged_set_is_named(tmp_path, damage, message):
    root = make(tmp_path / "set", 4)
    StreetCrops(root)
    damage(root)
    with pytest.raises(DataError, match=rf"set: not a finished street set \(.*{message}.*\); delete it and write it"):
        StreetCrops(root)


# --- processes


def test_results_come_in_order_and_no_more_than_asked_for_are_drawn(tmp_path):
    before = dict(os.environ)
    results = in_order(range(5), 2, street_workers.first_is_slow, str(tmp_path), ahead=1)
    assert next(results) == 0
    assert names(tmp_path) == ["0", "1"]  # one ahead a process: the others wait until they are asked for
    assert list(results) == [1, 2, 3, 4] and names(tmp_path) == ["0", "1", "2", "3", "4"]
    assert dict(os.environ) == before


def test_one_process_draws_when_asked(tmp_path):
    results = in_order([3, 1, 2], 1, street_workers.first_is_slow, str(tmp_path))
    assert names(tmp_path) == [] and next(results) == 3 and names(tmp_path) == ["3"]
    assert list(results) == [1, 2]


def test_nothing_to_do(tmp_path):
    assert list(in_order([], 2, street_workers.first_is_slow, str(tmp_path))) == []


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_goes_wrong_in_a_process_is_told(jobs):
    with pytest.raises(KeyError, match="person 7"):
        list(in_order([7, 8], jobs, street_workers.refuse, "person"))


def test_a_process_that_dies_is_an_error():
    with pytest.raises(OSError, match=r"a drawing process died, .*try jobs=1"):
        list(in_order([7, 8, 9], 2, street_workers.die, "person"))
