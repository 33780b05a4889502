"""Arrays in, arrays out: extraction as RELION does it, and the one conditioning of pixels.

Images are (N, H, W), row 0 first; the centre of a box of even size is index size/2, as RELION's.
"""

from __future__ import annotations

import numpy as np
from scipy import fft

CLIP = 4.0  # standard deviations that 0 and 255 stand for


def condition(images, size) -> np.ndarray:
    """Turn boxes into what the network sees: grey windows of one size.

    Each image is brought to ``size`` px in Fourier space, to mean 0 and standard deviation 1,
    clipped at 4 of them and mapped to 0..255. Training and picking both call this.

    Parameters
    ----------
    images : ndarray of float32, shape (N, box, box)
        Boxes of a stack; box is even.
    size : int
        Edge of the windows in pixels, even.

    Returns
    -------
    ndarray of uint8, shape (N, size, size)

    Raises
    ------
    ValueError
        If an image is constant or holds NaN; find them with `faults` first.
    """
    if any(faults(images)):
        raise ValueError("an image is constant or not finite")
    low, high = (edge(images, axis=(1, 2), keepdims=True) for edge in (np.min, np.max))
    # By a power of two, which changes no digit: squares then stay in the range of float32.
    images = np.ldexp(images, -np.frexp(high - low)[1])
    if images.shape[-1] != size:
        images = resize(images, size)
    images = images - images.mean(axis=(1, 2), keepdims=True)
    deviation = np.sqrt(np.einsum("nij,nij->n", images, images) / size**2)
    deviation = np.maximum(deviation, 1e-6)  # all of an image may lie above the new Nyquist
    images *= (127.5 / CLIP / deviation)[:, None, None]
    images += 127.5
    return np.rint(np.clip(images, 0, 255, out=images), out=images).astype(np.uint8)


def faults(images) -> list[str]:
    """Say of each image what keeps it from being used: '' if nothing.

    ``images`` is (N, H, W); the reasons are 'constant' and 'not finite'.
    """
    low, high = images.min(axis=(1, 2)), images.max(axis=(1, 2))
    with np.errstate(invalid="ignore"):  # inf - inf
        span = high - low
    return [
        "" if 0 < width < np.inf else "constant" if width == 0 else "not finite" for width in span
    ]


def resize(images, size) -> np.ndarray:
    """Fourier crop or pad square images as relion_preprocess --scale does; means are kept.

    Frequencies up to the smaller Nyquist stay, its row taken at the positive side
    (windowFourierTransform of RELION 3.1.3: a square when cropping, a circle when padding).

    Parameters
    ----------
    images : ndarray, shape (N, n, n)
        n is even.
    size : int
        Even.

    Returns
    -------
    ndarray, shape (N, size, size)
        Of the precision of ``images``.
    """
    count, n = images.shape[0], images.shape[-1]
    if n == size:
        return images
    spectrum = fft.rfft2(images, norm="forward")
    half = min(n, size) // 2
    out = np.zeros((count, size, size // 2 + 1), dtype=spectrum.dtype)
    if size < n:
        out[:, : half + 1] = spectrum[:, : half + 1, : half + 1]
        out[:, half + 1 :] = spectrum[:, n - half + 1 :, : half + 1]
    else:
        k = fft.fftfreq(n, 1 / n)
        outside = k[:, None] ** 2 + np.arange(half + 1) ** 2 > half**2
        kept = np.where(outside, 0, spectrum)
        out[:, : half + 1, : half + 1] = kept[:, : half + 1]
        out[:, size - half + 1 :, : half + 1] = kept[:, half + 1 :]
    return fft.irfft2(out, s=(size, size), norm="forward")


def extract(micrograph, xy, box, scale=None, bg_radius=None, norm=True, invert=True):
    """Cut boxes from a micrograph, pixel for pixel as ``relion_preprocess --extract``.

    The order is RELION's (3.1.3; 4 and 5 share the code): coordinates cut to whole pixels, edge
    pixels repeated outside, Fourier scaling, a plane fitted to the background and its mean and
    deviation taken off, inversion.

    Parameters
    ----------
    micrograph : ndarray, shape (ny, nx)
        As in the MRC file.
    xy : ndarray, shape (N, 2)
        Centres in pixels of the micrograph, first pixel 0,0.
    box, scale : int
        Edge in pixels of the micrograph, and after scaling (default: ``box``); both even.
    bg_radius : int, optional
        Radius in scaled pixels outside which the background lies; by default three quarters of
        half the box, as RELION's GUI has it.
    norm, invert : bool
        Whether to normalise, and to change the sign then.

    Returns
    -------
    ndarray of float32, shape (N, scale, scale)

    Raises
    ------
    ValueError
        If ``box`` or ``scale`` is odd.
    """
    scale = scale or box
    if box % 2 or scale % 2:
        raise ValueError(f"box {box} and scale {scale} must be even")
    boxes = resize(_crop(micrograph, xy, box), scale)
    if norm:
        if bg_radius is None:
            bg_radius = int(0.75 * box / 2 * scale / box)
        boxes = _normalise(boxes, bg_radius)
    return (-boxes if invert else boxes).astype(np.float32)


def _crop(micrograph, xy, box):
    """Boxes as float64, (N, box, box); what lies outside repeats the nearest edge pixel."""
    corners = np.asarray(xy).reshape(-1, 2).astype(np.int64) - box // 2  # RELION truncates
    steps = np.arange(box)
    x = np.clip(corners[:, :1] + steps, 0, micrograph.shape[1] - 1)
    y = np.clip(corners[:, 1:] + steps, 0, micrograph.shape[0] - 1)
    return micrograph[y[:, :, None], x[:, None, :]].astype(np.float64)


def _normalise(boxes, bg_radius):
    """Take off a plane fitted to the background, then its mean; divide by its deviation."""
    size = boxes.shape[-1]
    k = np.arange(size) - size // 2
    background = (k[:, None] ** 2 + k**2 > bg_radius**2).ravel()
    j, i = np.meshgrid(k, k)
    plane = np.stack([j.ravel(), i.ravel(), np.ones(size * size)], axis=1)
    flat = boxes.reshape(len(boxes), -1)
    fit = np.linalg.lstsq(plane[background], flat[:, background].T, rcond=None)[0]
    flat = flat - (plane @ fit).T
    mean = flat[:, background].mean(axis=1, keepdims=True)
    deviation = flat[:, background].std(axis=1, keepdims=True)
    flat = (flat - mean) / np.where(deviation < 1e-10, 1, deviation)
    return flat.reshape(boxes.shape)
