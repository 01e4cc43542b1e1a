import numpy as np
import pytest
import torch

from reidlab.data.augment import SHIFTS, TRIES, BatchAugmentation
from reidlab.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from reidlab.data.transforms import test_transform as plain_transform

DRAWS = 7 + 2 * TRIES


def augmentation(height=64, width=32, shift="none", seed=0, **strengths):
    return BatchAugmentation(height, width, shift, **strengths, generator=torch.Generator().manual_seed(seed))


def pictures(number, height, width, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (number, 3, height, width), dtype=torch.uint8, generator=generator)


def by_hand(images, height, width, shift, flip, erasing, draws):
    """One image after the other, in numpy, with the padding really there."""
    mean, spread = (np.array(values).reshape(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    results = []
    for image, numbers in zip(images, draws.numpy().astype(np.float64), strict=True):
        if shift == "crop":
            padded = np.pad(image.numpy(), ((0, 0), (10, 10), (10, 10)))
            top, left = int(numbers[2] * 21), int(numbers[3] * 21)
            pixels = padded[:, top : top + height, left : left + width]
        elif shift == "zoom" and numbers[1] < 0.5:
            top = int(numbers[2] * (image.shape[1] - height + 1))
            left = int(numbers[3] * (image.shape[2] - width + 1))
            pixels = image.numpy()[:, top : top + height, left : left + width]
        else:
            pixels = plain_transform(height, width).transforms[0](image).numpy()
        pixels = pixels[:, :, ::-1] if numbers[0] < flip else pixels
        result = (pixels / 255 - mean) / spread
        if numbers[4] < erasing:
            for area, aspect in zip(numbers[7 : 7 + TRIES], numbers[7 + TRIES :], strict=True):
                area = (0.02 + area * (0.4 - 0.02)) * height * width
                aspect = 0.3 + aspect * (1 / 0.3 - 0.3)
                tall, wide = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
                if tall < height and wide < width:
                    top, left = int(numbers[5] * (height - tall + 1)), int(numbers[6] * (width - wide + 1))
                    result[:, top : top + tall, left : left + wide] = 0
                    break
        results.append(torch.from_numpy(result).float())
    return torch.stack(results)


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("size", [(64, 32), (45, 27), (8, 16)])
def test_against_a_loop_over_images(shift, size):
    augment = augmentation(*size, shift, erasing=0.7)
    images = pictures(40, *augment.stored_size)
    before = images.clone()
    draws = torch.rand(40, DRAWS, generator=torch.Generator().manual_seed(0))
    results = augment(images)
    assert results.dtype == torch.float32 and results.shape == (40, 3, *size)
    torch.testing.assert_close(results, by_hand(images, *size, shift, 0.5, 0.7, draws), atol=2e-6, rtol=0)
    assert torch.equal(images, before)


def test_with_every_strength_0_it_is_the_test_transform():
    every_value = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 3, 16, 16)
    results = augmentation(16, 16, flip=0, erasing=0)(every_value)
    torch.testing.assert_close(results, plain_transform(16, 16)(every_value), atol=1e-6, rtol=0)


def test_a_crop_by_hand():
    """Moved by 3 down and 2 to the left, as draws of 7.5 / 21 and 12.5 / 21 say: the padding is 10."""
    draws = torch.ones(1, DRAWS)
    draws[0, 2:4] = torch.tensor([7.5, 12.5]) / 21
    image = torch.arange(1, 21, dtype=torch.uint8).view(1, 1, 5, 4).expand(1, 3, 5, 4)
    expected = torch.tensor([[0] * 4, [0] * 4, [0] * 4, [3, 4, 0, 0], [7, 8, 0, 0]], dtype=torch.uint8)
    assert torch.equal(augmentation(5, 4, "crop")._place(image, draws)[0, 1], expected)
    draws[0, 0] = 0  # mirrored
    assert torch.equal(augmentation(5, 4, "crop")._place(image, draws)[0, 1], expected.flip(1))


def test_erased_rectangles_by_hand():
    """2 % of 100 × 100 at aspect 0.5 is 10 × 20; half of 100 - 10 is 45, half of 100 - 20 is 40."""
    draws = torch.full((3, DRAWS), 0.5)
    draws[:, 7 : 7 + TRIES], draws[:, 7 + TRIES :] = 0, (0.5 - 0.3) / (1 / 0.3 - 0.3)
    draws[:, 4] = torch.tensor([0.1, 0.9, 0.1])  # the second one is left alone
    draws[2, [7, 7 + TRIES]] = torch.tensor([0.99, 0.0])  # 40 % at aspect 0.3 would be 115 wide: the next is taken
    assert augmentation(100, 100)._rectangles(draws) == [[0, 45, 40, 10, 20], [2, 45, 40, 10, 20]]
    draws[:, 7 : 7 + TRIES], draws[:, 7 + TRIES :] = 0.99, 0.0  # none fits: none is erased
    assert augmentation(100, 100)._rectangles(draws) == []


@pytest.mark.parametrize("shift", SHIFTS)
def test_processes_that_share_a_batch_do_what_one_does(shift):
    whole, *parts = (augmentation(shift=shift, seed=5) for _ in range(4))
    for batch in range(2):
        images = pictures(12, *whole.stored_size, seed=batch)
        cuts = [(0, 4, 12), (4, 5, 12), (5, 12, 12)]
        shared = [augment(images[part[0] : part[1]], part) for augment, part in zip(parts, cuts, strict=True)]
        assert torch.equal(torch.cat(shared), whole(images))
    assert all(torch.equal(part.generator.get_state(), whole.generator.get_state()) for part in parts)


def test_other_settings_leave_the_draws_where_they_are():
    images = pictures(20, 64, 32)
    plain = augmentation(erasing=0)(images)
    erased = augmentation(erasing=1)(images)
    assert torch.equal(erased[erased != 0], plain[erased != 0])  # the same images are mirrored
    assert (erased == 0).any((1, 2, 3)).all()
    states = []
    for shift in SHIFTS:
        augment = augmentation(shift=shift, flip=0)
        augment(pictures(20, *augment.stored_size))
        states.append(augment.generator.get_state())
    assert torch.equal(states[0], states[1]) and torch.equal(states[0], states[2])


def test_the_seed_of_the_generator_alone_decides():
    images = pictures(8, 64, 32)
    torch.manual_seed(0)
    first = augmentation(shift="crop", seed=3)(images)
    torch.manual_seed(1)
    again = augmentation(shift="crop", seed=3)
    assert torch.equal(again(images), first)
    assert not torch.equal(again(images), first)  # the next batch has draws of its own
    assert not torch.equal(augmentation(shift="crop", seed=4)(images), first)


@pytest.mark.parametrize("shift", SHIFTS)
def test_how_the_batch_lies_in_memory_does_not_count(shift):
    augment = augmentation(shift=shift)
    images = pictures(6, *augment.stored_size)
    expected = augment(images)
    for other in (images.contiguous(memory_format=torch.channels_last), torch.stack([images, images], 4)[..., 0]):
        assert not other.is_contiguous()
        assert torch.equal(augmentation(shift=shift)(other), expected)
    assert augment(images[:0]).shape == (0, 3, 64, 32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shift": "left"}, "shift='left': expected one of none, crop, zoom"),
        ({"flip": 1.5}, r"flip=1\.5: expected a number from 0 to 1"),
        ({"erasing": float("nan")}, "erasing=nan"),
        ({"height": 0}, "height=0: expected a whole number of at least 1"),
    ],
)
def test_wrong_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        augmentation(**change)


@pytest.mark.parametrize(
    ("images", "part", "message"),
    [
        (torch.zeros(2, 3, 64, 32), None, r"got torch.float32 \(2, 3, 64, 32\), expected torch.uint8 \(B, 3, H, W\)"),
        (pictures(1, 64, 32)[0], None, r"expected torch.uint8 \(B, 3, H, W\)"),
        (pictures(2, 64, 32), None, "got 64×32, expected 72×36 with shift='zoom'; see stored_size"),
        (pictures(2, 72, 36), (0, 3, 6), r"part=\(0, 3, 6\): got 2 images, expected \(start, stop, total\)"),
        (pictures(2, 72, 36), (5, 7, 6), r"part=\(5, 7, 6\)"),
    ],
)
def test_other_images_are_refused(images, part, message):
    with pytest.raises(ValueError, match=message):
        augmentation(shift="zoom")(images, part)
