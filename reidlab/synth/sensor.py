"""What the camera does to light: blur, white balance, tone, noise, JPEG; and cutting pictures."""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image

from reidlab.synth.camera import Camera


def resample(picture: np.ndarray, x0: float, y0: float, step: float, shape: tuple[int, int]) -> np.ndarray:
    """Read a window of a picture, bilinear, edges repeated.

    Args:
        picture: (H, W, C) float32.
        x0, y0: left and top of the window, in pixels of the picture.
        step: pixels of the picture per pixel of the window.
        shape: (h, w) of the window.

    Returns:
        (h, w, C) float32.

    Example:
        >>> ramp = np.arange(4, dtype=np.float32)[None, :, None].repeat(2, 0)
        >>> resample(ramp, 1.0, 0.0, 1.0, (1, 2))[..., 0]
        array([[1., 2.]], dtype=float32)
    """
    rows, fy = _grid(y0, step, shape[0], picture.shape[0])
    columns, fx = _grid(x0, step, shape[1], picture.shape[1])
    top, low = int(rows.min()), int(rows.max()) + 2
    strip = picture[top:low]
    rows = rows - top
    out = strip[:, columns] * (1 - fx)[None, :, None] + strip[:, columns + 1] * fx[None, :, None]
    return out[rows] * (1 - fy)[:, None, None] + out[rows + 1] * fy[:, None, None]


def _grid(start: float, step: float, count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    at = np.clip(start + (np.arange(count) + 0.5) * step - 0.5, 0, size - 1.001)
    low = np.minimum(at.astype(np.int64), size - 2)
    return low, (at - low).astype(np.float32)


def blur(picture: np.ndarray, sigma: float, axis: int) -> np.ndarray:
    """Gaussian blur along one axis, edges repeated."""
    if sigma < 0.2:
        return picture
    reach = max(1, math.ceil(2 * sigma))
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    pad = [(0, 0)] * picture.ndim
    pad[axis] = (reach, reach)
    wide = np.pad(picture, pad, mode="edge")
    size = picture.shape[axis]
    out = None
    for k, weight in enumerate(weights):
        part = wide[k : k + size] if axis == 0 else wide[:, k : k + size]
        out = part * weight if out is None else out + part * weight
    return out


def develop(
    light: np.ndarray, camera: Camera, rng: np.random.Generator, scale: float, motion: float = 1.0
) -> np.ndarray:
    """Turn linear light into the camera's 8-bit picture.

    Args:
        light: (H, W, 3) linear.
        camera: the sensor.
        rng: source of the noise.
        scale: pixels per native pixel; blur shrinks with it.
        motion: strength of the motion blur in this shot, 1.0 = usual.

    Returns:
        uint8 (H, W, 3).
    """
    still = blur(light, camera.defocus * scale, 0)
    still = blur(still, math.hypot(camera.defocus, camera.motion * motion * 1.6) * scale, 1)
    x = still * (np.array(camera.balance, np.float32) * np.float32(camera.exposure))
    x = x / (1 + np.float32(0.22) * x)
    x = x * np.float32(1 - camera.haze) + np.float32(camera.haze * 0.6)
    x = np.maximum(x, 0) ** np.float32(1 / (2.2 * camera.gamma))
    luma = x[..., :1] * 0.3 + x[..., 1:2] * 0.59 + x[..., 2:] * 0.11
    x = luma + (x - luma) * np.float32(camera.saturation)
    grain = rng.standard_normal(x.shape, dtype=np.float32)
    grain += rng.standard_normal((*x.shape[:2], 1), dtype=np.float32)
    x += grain * np.float32(camera.noise * 0.7 * math.sqrt(scale))
    pixels = (np.clip(x, 0, 1) * 255 + 0.5).astype(np.uint8)
    return _jpeg(pixels, camera.jpeg)


def _jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    memory = io.BytesIO()
    Image.fromarray(pixels).save(memory, "JPEG", quality=quality)
    memory.seek(0)
    return np.asarray(Image.open(memory).convert("RGB"))


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize uint8 (H, W, 3) to `size` = (height, width), bilinear with anti-aliasing."""
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))
