"""What strangers wear, and how it looks: a wardrobe wider than that of the towns."""

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import combinations

import numpy as np
import pytest

from reidlab.walkers import World
from reidlab.walkers.body import PART_NUMBERS as NUMBER
from reidlab.walkers.body import body_solids
from reidlab.walkers.render import render_shot
from reidlab.walkers.wardrobe import ARMS, COLORS, PATTERNS, sample_person, sample_stranger
from reidlab.walkers.world import check_changes

UNCHANGEABLE = ("pid", "pair", "identity", "shade")


@pytest.fixture(scope="module")
def world():
    return World.preset("tiny")


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
    for person in strangers:
        for name, value in asdict(person).items():
            if name.endswith(("_color", "_color2")) and name != "hair_color":
                assert len(value) == 3 and all(isinstance(c, int) and 5 <= c <= 250 for c in value), name


def test_what_strangers_wear_can_be_rendered_in_the_town(strangers, world):
    for person in strangers:
        check_changes({k: v for k, v in asdict(person).items() if k not in UNCHANGEABLE})
    wear = {k: v for k, v in asdict(strangers[0]).items() if k not in UNCHANGEABLE}
    drawn = render_shot(replace(world.people[0], **wear), world.cameras[1], world.shot_plan(0, 1), 0.4)
    assert np.array_equal(world.shot(0, 1, scale=0.4, **wear).image, drawn.image)


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
    same = {"top": "sweater", "bottom": "trousers", "bottom_color": "grey"}
    plain, marl = looks(world, "bottom_pattern", ("plain", "marl"), "hips and legs", **same)
    assert np.abs(plain - marl).mean() > 3 and (plain - marl).std() > 4  # lighter here, darker there


def test_the_larger_prints_look_different(world):
    same = {"top": "jacket", "top_color": "white", "top_pattern": "plain", "top_print": "back", "print_color": "black"}
    same["heading"] = 0.0  # seen from behind
    seen = looks(world, "print_shape", (0, 6, 7, 8), "torso", **same)
    for one, other in combinations(seen, 2):
        assert np.abs(one - other).mean() > 4
    (bare,) = looks(world, "top_print", ("none",), "torso", **{k: v for k, v in same.items() if k != "top_print"})
    assert np.abs(seen[-1] - bare).mean() > 15


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
