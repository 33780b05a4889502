"""Arrays in, arrays out: extraction as RELION does it, and the one conditioning of pixels.

Images are (N, H, W), row 0 first; the centre of a box of even size is index size/2, as RELION's.
"""

from __future__ import annotations

import numpy as np
from scipy import fft, ndimage

from . import peaks

CLIP = 4.0  # standard deviations that 0 and 255 stand for
CLIP_VIEW = 3.0  # the same, for people
MIDDLE = 127.5  # grey value of the mean
DEVIATION = MIDDLE / CLIP  # grey values of a standard deviation
HOT = 8.0  # standard deviations of a micrograph beyond which a pixel says nothing
EDGE = 0.9  # of an average's contrast, lost at the particle's edge
RIM = 0.05  # of it, reversed, that make a rim
HALVES = 0.1874  # a Gaussian of this deviation, of a period, halves it: sqrt(ln 2 / 2) / pi
FLAT = 0.2  # of a micrograph's median local deviation: what varies less is no ice


def even(pixels) -> int:
    """Return the even number nearest to the edge of a box.

    >>> even(63.2)
    64
    """
    return 2 * round(pixels / 2)


def condition(images, scaled, size=None) -> np.ndarray:
    """Turn boxes into what the network sees: grey windows of one size.

    Each image is brought to ``scaled`` px in Fourier space, to mean 0 and standard deviation 1,
    clipped at 4 of them and mapped to 0..255; the middle of that is kept. Training and picking both
    call this.

    Parameters
    ----------
    images : ndarray of float32, shape (N, box, box)
        Boxes of a stack; box is even.
    scaled : int
        Edge in pixels of the whole box at the windows' scale, even.
    size : int, optional
        Edge of the windows in pixels, even, at most ``scaled`` (default: ``scaled``).

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
    if images.shape[-1] != scaled:
        images = resize(images, scaled)
    images = images - images.mean(axis=(1, 2), keepdims=True)
    deviation = np.sqrt(np.einsum("nij,nij->n", images, images) / scaled**2)
    deviation = np.maximum(deviation, 1e-6)  # all of an image may lie above the new Nyquist
    if size and size != scaled:
        middle = slice((scaled - size) // 2, (scaled + size) // 2)
        images = images[:, middle, middle]
    images *= (DEVIATION / deviation)[:, None, None]
    images += MIDDLE
    return np.rint(np.clip(images, 0, 255, out=images), out=images).astype(np.uint8)


def condition_micrograph(picture, apix, wanted, region):
    """Turn a micrograph into what the network sees: grey values of one scale and contrast.

    It is brought to the scale wanted by Fourier cropping, the local mean is taken off, the result
    divided by the local deviation, both over squares of ``region``, clipped at 4 and mapped to
    0..255 as in `condition`. Training and picking both call this.

    Parameters
    ----------
    picture : ndarray of float32, shape (ny, nx)
        As in the MRC file.
    apix, wanted : float
        A a pixel of the picture and of the result.
    region : float
        Edge in A of the squares of mean and deviation: about a box.

    Returns
    -------
    grey : ndarray of uint8, shape (my, mx)
        Its first pixel lies on the picture's first.
    scale : ndarray of float64, shape (2,)
        Pixels of the picture a pixel of ``grey``, along x and y: near wanted / apix, not equal to
        it, since ``grey`` has a whole number of pixels.

    Raises
    ------
    ValueError
        If ``wanted`` is so coarse that nothing is left.
    """
    shape = [min(n, round(n * apix / wanted)) for n in picture.shape]
    if min(shape) < 3:
        raise ValueError(f"{wanted:g} A a pixel leaves {shape[1]} x {shape[0]} pixels")
    small = _flatten(_crop_spectrum(_without_hot(picture), shape), region / wanted)
    return _grey(small, CLIP), np.array(picture.shape[::-1]) / np.array(shape[::-1])


def view(picture, apix, longest, region, lowpass=None):
    """Turn a micrograph into a picture for people: on carbon and beside ice too.

    As `condition_micrograph`, at a size for the screen and with more contrast.

    Parameters
    ----------
    picture : ndarray of float32, shape (ny, nx)
        As in the MRC file.
    apix : float
        Its A a pixel.
    longest : int
        Pixels that the longer edge of the view has at most.
    region : float
        Edge in A of the squares of mean and deviation: a few particles.
    lowpass : float, optional
        A at which a Gaussian filter halves what there is.

    Returns
    -------
    grey : ndarray of uint8, shape (my, mx)
        Its first pixel lies on the picture's first.
    scale : ndarray of float64, shape (2,)
        Pixels of the picture a pixel of ``grey``, along x and y.
    """
    shrunk = max(1.0, max(picture.shape) / longest)
    shape = [max(1, round(n / shrunk)) for n in picture.shape]
    small = _crop_spectrum(_without_hot(picture), shape)
    if lowpass:
        small = ndimage.gaussian_filter(small, HALVES * lowpass / (apix * shrunk))
    small = _flatten(small, region / (apix * shrunk))
    return _grey(small, CLIP_VIEW), np.array(picture.shape[::-1]) / np.array(shape[::-1])


def _flatten(small, region):
    """Take off the mean and divide by the deviation over squares of ``region`` px, in place."""
    edge = max(3, round(region))
    small -= ndimage.uniform_filter(small, edge, mode="reflect")
    variance = ndimage.uniform_filter(small * small, edge, mode="reflect")
    deviation = np.sqrt(np.maximum(variance, 0))  # rounding leaves less where all is flat
    usual = float(np.median(deviation[:: 1 + edge // 8, :: 1 + edge // 8]))  # it varies slowly
    small /= np.maximum(deviation, max(FLAT * usual, 1e-30))
    return small


def _grey(small, clip):
    """Map deviations from -clip to clip to 0..255: uint8; ``small`` is used up."""
    small *= MIDDLE / clip
    small += MIDDLE
    return np.rint(np.clip(small, 0, 255, out=small), out=small).astype(np.uint8)


def _without_hot(picture):
    """Bring to mean 0 and a range near 1, clipped at HOT deviations: float32.

    A pixel far out inflates the deviation itself: with it clipped, the rest is looked at anew.
    What is farther than any picture reaches goes first: in float32 it would drown the rest.
    """
    low, high = np.percentile(picture.flat[:: 1 + picture.size // 100_000], (0.1, 99.9))
    reach, most = 100 * HOT * (high - low), np.finfo(np.float32).max
    limits = np.clip([low - reach, high + reach], -most, most).astype(np.float32)
    picture, far = np.clip(picture, *limits), True
    np.ldexp(picture, -np.frexp(high - low)[1], out=picture)  # squares stay in range, as above
    while far:
        # Row by row in float32, the rows in float64: a third of the time, and as exact.
        picture -= picture.mean(axis=1).mean(dtype=np.float64).astype(np.float32)
        squares = np.vecdot(picture, picture).sum(dtype=np.float64)
        hot = HOT * np.sqrt(squares / picture.size).astype(np.float32)
        far = max(picture.max(), -picture.min()) > 10 * hot
        np.clip(picture, -hot, hot, out=picture)
    return picture


def _crop_spectrum(picture, shape):
    """Sample a picture anew at fewer points, (my, mx): frequencies below their Nyquist stay."""
    (ny, _), (my, mx) = picture.shape, shape
    if picture.shape == (my, mx):
        return picture
    columns, rows = (mx + 1) // 2, (my + 1) // 2
    spectrum = fft.rfft(picture, axis=1, norm="forward")[:, :columns]
    spectrum = fft.fft(spectrum, axis=0, norm="forward", overwrite_x=True)
    out = np.zeros((my, mx // 2 + 1), spectrum.dtype)
    out[:rows, :columns] = spectrum[:rows]
    out[my - rows + 1 :, :columns] = spectrum[ny - rows + 1 :]
    return fft.irfft2(out, s=(my, mx), norm="forward", overwrite_x=True)


def reflect(start, count, length):
    """Return the indices start .. start + count - 1, reflected at both ends of 0 .. length - 1.

    >>> reflect(-2, 6, 3).tolist()
    [2, 1, 0, 1, 2, 1]
    """
    index = np.abs(np.asarray(start)[..., None] + np.arange(count))
    return length - 1 - np.abs(length - 1 - index % (2 * length - 2))


def windows(grey, xy, size) -> np.ndarray:
    """Cut windows from a conditioned micrograph; what lies outside is its reflection.

    Parameters
    ----------
    grey : ndarray of uint8, shape (my, mx)
        From `condition_micrograph`.
    xy : ndarray, shape (N, 2)
        Centres in its pixels; rounded.
    size : int
        Even.

    Returns
    -------
    ndarray of uint8, shape (N, size, size)
    """
    corner = np.rint(np.asarray(xy).reshape(-1, 2)).astype(np.int64) - size // 2
    x, y = (reflect(corner[:, axis], size, grey.shape[1 - axis]) for axis in (0, 1))
    return grey[y[:, :, None], x[:, None, :]]


def diameter(average) -> float:
    """Measure a particle on the average of its windows, in their pixels.

    Underfocus puts a rim of reversed contrast round a particle: the diameter is that of the ring
    where the mean over angles is most reversed, about what one would draw by eye. Without a rim it
    is where EDGE of the contrast is lost.

    Parameters
    ----------
    average : ndarray, shape (n, n)
        Particles light or dark; centre at index n/2.

    Returns
    -------
    float
        At most n; n if there is no contrast.
    """
    n = len(average)
    y, x = np.mgrid[:n, :n] - n // 2
    ring = np.rint(np.hypot(x, y)).astype(int)
    inner = ring <= n // 2
    profile = np.bincount(ring[inner], average[inner]) / np.bincount(ring[inner])
    few = max(2, n // 16)
    profile -= profile[-few:].mean()
    profile /= profile[:few].mean() or np.inf
    rim = int(profile.argmin())
    if profile[rim] < -RIM:
        return 2.0 * rim
    lost = np.flatnonzero(profile < 1 - EDGE)
    return 2.0 * max(int(lost[0]), 1) if len(lost) and lost[0] else float(n)


def middle(average, reach) -> np.ndarray:
    """Find the place that an average looks the same from both sides of.

    Particles lie at any angle in the plane, so that their average has no direction. If the middle
    is at c, its correlation with itself, turned by half about n/2, is highest at twice c.

    Parameters
    ----------
    average : ndarray, shape (n, n)
        n is even.
    reach : float
        The farthest that it may be, in pixels.

    Returns
    -------
    ndarray of float64, shape (2,)
        x, y in pixels from index n/2; 0, 0 if there is no such place.
    """
    n = len(average)
    spectrum = fft.fft2(average - average.mean())
    found, _ = peaks.maxima(fft.fftshift(fft.ifft2(spectrum * spectrum).real))
    away = (found - n // 2) / 2
    near = away[np.hypot(*away.T) <= reach]
    return near[0] if len(near) else np.zeros(2)


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
