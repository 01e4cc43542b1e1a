from functools import partial

import pytest
import torch

from reidlab.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from reidlab.data.transforms import test_transform as plain_transform
from reidlab.walkers.street_augmentation import STORED_BORDER, StreetAugmentation

OFF = {"colour": 0, "grey": 0, "geometry": 0, "blur": 0, "shade": 0, "noise": 0, "erasing": 0}
ALWAYS = {"grey": 1, "shade": 1, "erasing": 1, "noise": 0.3, "blur": 3.0}


def street(height=32, width=16, seed=0, **strengths):
    augment, generator = StreetAugmentation(height, width, **strengths), torch.Generator().manual_seed(seed)
    return partial(augment, generator=generator)


def pictures(number=6, height=32, width=16):
    """Smooth random pictures, none of them saturated."""
    coarse = torch.rand(number, 3, 5, 4, generator=torch.Generator().manual_seed(1)) * 0.6 + 0.2
    return (torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear") * 255).to(torch.uint8)


def seen(results):
    """Undo the normalisation: values in [0, 1] again."""
    return results * torch.tensor(IMAGENET_STD).view(3, 1, 1) + torch.tensor(IMAGENET_MEAN).view(3, 1, 1)


@pytest.mark.parametrize(("height", "width"), [(32, 16), (36, 18), (41, 23)])
def test_with_every_strength_0_it_is_the_test_transform(height, width):
    images = pictures(height=height, width=width)
    assert torch.equal(street(**OFF)(images), plain_transform(32, 16)(images))


@pytest.mark.parametrize("step", OFF)
def test_each_strength_alone_changes_images(step):
    images = pictures()
    assert not torch.equal(street(**{**OFF, step: ALWAYS.get(step, 1.0)})(images), plain_transform(32, 16)(images))


@pytest.mark.parametrize(("stored", "size"), [((36, 18), (32, 16)), ((41, 23), (37, 19)), ((3, 2), (3, 2))])
def test_results_are_finite_floats_of_the_size_asked_for(stored, size):
    images = pictures(5, *stored)
    before = images.clone()
    results = street(*size, **{name: ALWAYS.get(name, 2.0) for name in OFF})(images)
    assert results.shape == (5, 3, *size) and results.dtype == torch.float32
    assert torch.isfinite(results).all()
    assert torch.equal(images, before)


def test_everything_but_the_erased_rectangle_stays_within_black_and_white():
    results = seen(street(**{**OFF, "colour": 3.0, "noise": 1.0})(pictures()))
    assert results.min() >= -1e-6 and results.max() <= 1 + 1e-6
    assert results.min() < 0.01 and results.max() > 0.99


def test_grey_takes_away_every_colour_and_keeps_the_mean():
    grey, plain = seen(street(**{**OFF, "grey": 1})(pictures())), seen(plain_transform(32, 16)(pictures()))
    assert torch.allclose(grey, plain.mean(1, keepdim=True).expand_as(grey), atol=1e-6)


def test_the_seed_of_the_generator_alone_decides():
    images = pictures()
    torch.manual_seed(0)
    first = street(seed=3)(images)
    torch.manual_seed(1)
    assert torch.equal(street(seed=3)(images), first)
    assert not torch.equal(street(seed=4)(images), first)
    again = street(seed=3)
    again(images)
    assert not torch.equal(again(images), first)  # the next batch has draws of its own


@pytest.mark.parametrize("step", ["colour", "geometry", "blur", "shade", "noise", "erasing"])
def test_equal_images_of_a_batch_get_draws_of_their_own(step):
    same = pictures(1).expand(8, -1, -1, -1)
    results = street(**{**OFF, step: ALWAYS.get(step, 1.0)})(same)
    different = sum(not torch.equal(results[0], other) for other in results[1:])
    assert different >= 6  # blur may leave two of them alone


def test_geometry_cuts_the_box_out_of_its_border():
    inner = (round(128 / STORED_BORDER), round(64 / STORED_BORDER))
    top, left = (128 - inner[0]) // 2, (64 - inner[1]) // 2
    image = torch.zeros(1, 3, 128, 64, dtype=torch.uint8)
    image[..., top : top + inner[0], left : left + inner[1]] = 255
    nearly_still = seen(street(128, 64, **{**OFF, "geometry": 1e-6})(image))
    assert nearly_still[..., 1:-1, 1:-1].min() > 0.99  # nothing of the black border is left
    assert nearly_still.mean() > 0.99


@pytest.mark.parametrize("border", [1, 1.1, 1.5])
def test_of_images_that_stand_still_the_box_in_the_border_is_left(border):
    """All of the image where there is no border, up to its mirror image."""
    images = pictures(20, 132, 66)
    top, left = ((side - side / border) / 2 for side in (132, 66))
    box = images[..., round(top) : 132 - round(top), round(left) : 66 - round(left)]
    expected = seen(plain_transform(32, 16)(box))
    results = seen(street(border=border, **{**OFF, "geometry": 1e-9})(images))
    errors = torch.stack([(results - other).abs().amax((1, 2, 3)) for other in (expected, expected.flip(3))])
    assert errors.amin(0).max() < 0.04 and (errors.argmin(0) == 0).any() and (errors.argmin(0) == 1).any()


def test_half_of_the_images_are_mirrored():
    image = torch.zeros(1, 3, 36, 18, dtype=torch.uint8)
    image[..., :9] = 255  # white on the left
    results = seen(street(**{**OFF, "geometry": 0.1})(image.expand(400, -1, -1, -1)))
    on_the_left = (results[..., :8].mean((1, 2, 3)) > results[..., 8:].mean((1, 2, 3))).float().mean().item()
    assert 0.4 < on_the_left < 0.6


def test_a_shadow_only_darkens_and_erasing_fills_one_rectangle_with_one_colour():
    images = pictures(20)
    plain = plain_transform(32, 16)(images)
    assert (street(**{**OFF, "shade": 1})(images) <= plain + 1e-6).all()
    results = street(**{**OFF, "erasing": 1})(images)
    for result, before in zip(results, plain, strict=True):
        changed = (result != before).any(dim=0)
        rows, columns = changed.any(1).nonzero()[:, 0], changed.any(0).nonzero()[:, 0]
        box = result[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert torch.equal(box, box[:, :1, :1].expand_as(box))
        assert 1 <= box[0].numel() <= 0.3 * 32 * 16


@pytest.mark.parametrize(
    ("strengths", "message"),
    [
        ({"grey": 1.5}, r"grey=1\.5: expected a number from 0 to 1"),
        ({"colour": -1}, "colour=-1: expected a number ≥ 0"),
        ({"noise": float("inf")}, "noise=inf"),
        ({"blur": float("nan")}, "blur=nan"),
        ({"border": 0.99}, r"border=0\.99: expected a number from 1 to 2"),
        ({"border": float("nan")}, "border=nan"),
    ],
)
def test_strengths_out_of_range_are_refused(strengths, message):
    with pytest.raises(ValueError, match=message):
        street(**strengths)


def test_other_images_are_refused():
    for bad in (torch.zeros(2, 3, 36, 18), torch.zeros(3, 36, 18, dtype=torch.uint8)):
        with pytest.raises(ValueError, match=r"expected torch.uint8 \(B, 3, H, W\)"):
            street()(bad)
