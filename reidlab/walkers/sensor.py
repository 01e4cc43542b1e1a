"""What the camera does to light: blur, white balance, tone, noise, JPEG; and cutting pictures."""

from __future__ import annotations

import io
import math
from functools import lru_cache

import numpy as np
from PIL import Image

from reidlab.walkers.camera import Camera


def resample(picture: np.ndarray, x0: float, y0: float, step: float, shape: tuple[int, int]) -> np.ndarray:
    """Read a window of a picture, bilinear, edges repeated.

    Args:
        picture: (C, H, W) float32.
        x0, y0: left and top of the window, in pixels of the picture.
        step: pixels of the picture per pixel of the window.
        shape: (h, w) of the window.

    Returns:
        (C, h, w) float32.

    Example:
        >>> ramp = np.arange(4, dtype=np.float32)[None, None].repeat(2, 1)
        >>> resample(ramp, 1.0, 0.0, 1.0, (1, 2))
        array([[[1., 2.]]], dtype=float32)
    """
    rows, fy = _grid(y0, step, shape[0], picture.shape[1])
    columns, fx = _grid(x0, step, shape[1], picture.shape[2])
    top, left = int(rows.min()), int(columns.min())
    part = picture[:, top : int(rows.max()) + 2, left : int(columns.max()) + 2]
    rows, columns, fy = rows - top, columns - left, fy[:, None]
    tall = part[:, rows] * (1 - fy) + part[:, rows + 1] * fy
    return tall[:, :, columns] * (1 - fx) + tall[:, :, columns + 1] * fx


def _grid(start: float, step: float, count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    at = np.clip(start + (np.arange(count) + 0.5) * step - 0.5, 0, size - 1.001)
    low = np.minimum(at.astype(np.int64), size - 2)
    return low, (at - low).astype(np.float32)


def blur(picture: np.ndarray, sigma: float, axis: int) -> np.ndarray:
    """Gaussian blur of (C, H, W) along axis 1 or 2, edges repeated."""
    if sigma < 0.2:
        return picture
    reach = max(1, math.ceil(2 * sigma))
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    pad = [(0, 0)] * 3
    pad[axis] = (reach, reach)
    wide = np.pad(picture, pad, mode="edge")
    size = picture.shape[axis]
    out = None
    for k, weight in enumerate(weights):
        part = wide[:, k : k + size] if axis == 1 else wide[:, :, k : k + size]
        out = part * weight if out is None else out + part * weight
    return out


@lru_cache(maxsize=20)
def _tone_curve(gamma: float, haze: float) -> np.ndarray:
    """From linear light, 0..4 in steps of 1/2048, to the picture's 0..1: soft shoulder, haze, gamma."""
    x = np.arange(4 * 2048 + 1) / 2048
    x = x / (1 + 0.22 * x) * (1 - haze) + haze * 0.6
    return (x ** (1 / (2.2 * gamma))).astype(np.float32)


@lru_cache(maxsize=1)
def _grain() -> np.ndarray:
    """Sensor noise to cut windows from, (4, 640, 640): one field per colour and one for all."""
    return np.random.default_rng(60611).standard_normal((4, 640, 640), dtype=np.float32)


def develop(
    light: np.ndarray,
    camera: Camera,
    rng: np.random.Generator,
    scale: float,
    motion: float = 1.0,
    tone: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> np.ndarray:
    """Turn linear light (3, H, W) into the camera's picture, uint8 (H, W, 3).

    Args:
        light, camera, rng: the light, the sensor, the source of the noise.
        scale: pixels per native pixel; blur shrinks with it.
        motion: strength of the motion blur in this shot, 1.0 = usual.
        tone: gains (r, g, b) on top of the camera's own.
    """
    still = blur(light, camera.defocus * scale, 1)
    still = blur(still, math.hypot(camera.defocus, camera.motion * motion * 1.6) * scale, 2)
    gain = (np.array(camera.balance) * tone * (camera.exposure * 2048)).astype(np.float32)
    steps = np.minimum(still * gain[:, None, None], np.float32(4 * 2048)).astype(np.int32)
    x = np.take(_tone_curve(camera.gamma, camera.haze), steps)
    luma = x[0] * np.float32(0.3) + x[1] * np.float32(0.59) + x[2] * np.float32(0.11)
    luma *= np.float32(1 - camera.saturation)
    x *= np.float32(camera.saturation)
    noise = _noise(x.shape[1:], rng)
    luma += noise[3] * np.float32(camera.noise * 0.7 * math.sqrt(scale))
    x += luma
    x += noise[:3] * np.float32(camera.noise * 0.7 * math.sqrt(scale))
    x *= 255
    x += 0.5
    pixels = np.clip(x, 0, 255, out=x).astype(np.uint8)
    return _jpeg(np.ascontiguousarray(pixels.transpose(1, 2, 0)), camera.jpeg)


def _noise(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    field = _grain()
    if max(shape) > 600:
        return rng.standard_normal((4, *shape), dtype=np.float32)
    y, x = (int(rng.integers(field.shape[k + 1] - shape[k])) for k in (0, 1))
    return field[:, y : y + shape[0], x : x + shape[1]]


def _jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    memory = io.BytesIO()
    Image.fromarray(pixels).save(memory, "JPEG", quality=quality)
    memory.seek(0)
    return np.asarray(Image.open(memory).convert("RGB"))


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize uint8 (H, W, 3) to `size` = (height, width), bilinear with anti-aliasing."""
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))
