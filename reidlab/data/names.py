"""How CUHK03's images are named and numbered: everything counts from 1."""

from __future__ import annotations

import re

from reidlab.errors import DataError

PAIR_SIZES = (843, 440, 77, 58, 49)
"""Identities behind each of CUHK03's five camera pairs: 1467 in all."""
BOXES = ("labeled", "detected")
IMAGES_PER_IDENTITY = 10
IMAGES_PER_VIEW = 5

_NAME = re.compile(r"([1-9])_(\d{3,5})_([12])_(\d{2})\.(?:png|jpg)", re.ASCII)


def image_name(pair: int, identity: int, view: int, image: int) -> str:
    """Name an image as every public code base does.

    Args:
        pair: camera pair, from 1.
        identity: identity within that pair, from 1.
        view: 1 or 2, the camera of the pair.
        image: 1 to 10, counted over both views: 1 to 5 are view 1, 6 to 10 are view 2.

    Raises:
        ValueError: a number is out of its range, or the view does not fit the image.

    Example:
        >>> image_name(1, 1, 1, 2)
        '1_001_1_02.png'

    Taught in: notebooks/01_cuhk03_preparation.ipynb
    """
    if not (1 <= pair <= 9 and identity >= 1 and 1 <= image <= IMAGES_PER_IDENTITY):
        raise ValueError(
            f"got pair {pair}, identity {identity}, image {image}; expected a pair from 1 to 9, "
            f"an identity from 1, an image from 1 to {IMAGES_PER_IDENTITY}: all are counted from 1"
        )
    if view != (1 if image <= IMAGES_PER_VIEW else 2):
        raise ValueError(f"got view {view} with image {image}; images 1 to 5 are view 1, images 6 to 10 are view 2")
    return f"{pair}_{identity:03d}_{view}_{image:02d}.png"


def parse_image_name(name: str) -> tuple[int, int, int, int]:
    """Split an image name, with or without folders in front, into (pair, identity, view, image), all from 1.

    Raises:
        DataError: the name is of another form, or its view does not fit its image number.

    Example:
        >>> parse_image_name("1_001_1_02.png")
        (1, 1, 1, 2)

    Taught in: notebooks/01_cuhk03_preparation.ipynb
    """
    match = _NAME.fullmatch(name.rpartition("/")[2])
    if match is not None:
        pair, identity, view, image = map(int, match.groups())
        fits = 1 <= image <= IMAGES_PER_IDENTITY and view == (1 if image <= IMAGES_PER_VIEW else 2)
        if identity >= 1 and fits:
            return pair, identity, view, image
    raise DataError(
        f"{name!r} is not a CUHK03 image name: expected pair_identity_view_image.png such as 1_001_1_02.png, "
        "where images 01 to 05 are view 1 and images 06 to 10 are view 2"
    )


def name_of_cell(pair: int, identity: int, index: int) -> str:
    """Name the image in a cell; pair and identity count from 1, the index in the cell array from 0.

    Example:
        >>> name_of_cell(1, 1, 5)
        '1_001_2_06.png'
    """
    return image_name(pair, identity, 1 if index < IMAGES_PER_VIEW else 2, index + 1)
