"""A micrograph with circles on it: arrays in, a picture out."""

from __future__ import annotations

import io
import math
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import files, images

LONGEST = 1600  # pixels of a picture's longer edge, at most
DPI = 100
CAPTION = 40  # pixels above the micrograph, for the title
ROW = 28  # more for each list, where there are several
BAR = 160  # pixels of the caption that show which colour is which score
PLAIN = "#35e04a"  # of circles without a score
# Of several lists: those of Okabe and Ito that stand out from grey, told apart by the colour-blind.
COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#f0e442", "#d55e00")
INWARD = 8  # pixels by which the circles of the next list are smaller: else they hide those below
MOST_OF_WIDTH = 0.2  # that the scale bar takes


class Circles(NamedTuple):
    """What to draw of one list.

    ``xy`` (N, 2) are centres and ``box`` is the diameter, in pixels of the micrograph. ``name`` is
    the list's and ``counted`` says how many. ``scores`` (N,) are shown as colours if they are
    probabilities, all from 0 to 1, of the only list; ``below`` (N,) says which circles to dash.
    """

    xy: np.ndarray
    box: float
    name: str
    counted: str
    scores: np.ndarray | None = None
    below: np.ndarray | None = None

    @property
    def label(self):
        """Text for a title or legend."""
        return f"{self.name}: {self.counted}"


def scale_bar(width, apix):
    """Return the length of a scale bar in A, 1, 2 or 5 times a power of ten, and its label.

    ``width`` is the micrograph's in pixels; the bar takes a tenth to a fifth of it, or nearly so.

    >>> scale_bar(4096, 1.77)
    (1000.0, '100 nm')
    """
    most = MOST_OF_WIDTH * width * apix
    power = 10.0 ** math.floor(math.log10(most))
    length = next(n * power for n in (5, 2, 1) if n * power <= most or n == 1)
    return length, f"{length / 10:g} nm" if length >= 100 else f"{length:g} Å"


def draw(target, picture, layers, title, region, apix=None, lowpass=None, remark=""):
    """Write a picture of a micrograph with circles: PNG, SVG or PDF by the name's extension.

    In SVG and PDF circles are paths, a group (``list_1``) for each list, and text is text.

    Parameters
    ----------
    target : path-like
        Written whole or not at all.
    picture : ndarray of float32, shape (ny, nx)
    layers : list of Circles
        One is coloured by score; several have a colour each and a legend.
    title : str
    region, apix, lowpass
        As `images.view` takes them; without ``apix``, in pixels and without a scale bar.
    remark : str
        Kept in a PNG, for `has_remark`.
    """
    import matplotlib
    from matplotlib.figure import Figure

    grey, scale = images.view(picture, apix or 1, LONGEST, region, lowpass)
    (my, mx), rows = grey.shape, len(layers) if len(layers) > 1 else 0
    height = my + CAPTION + ROW * rows
    with matplotlib.rc_context({"svg.fonttype": "none", "pdf.fonttype": 42}):
        figure = Figure(figsize=(mx / DPI, height / DPI), dpi=DPI, facecolor="white")
        axes = figure.add_axes((0, 0, 1, my / height))
        # The centre of the first pixel is 0,0 in both.
        edges = np.array((-0.5, mx - 0.5, my - 0.5, -0.5)) * np.repeat(scale, 2)
        axes.imshow(grey, cmap="gray", vmin=0, vmax=255, extent=edges, interpolation="none")
        axes.set(xlim=edges[:2], ylim=edges[2:], aspect="auto")
        axes.axis("off")
        shades = None if rows else shades_of(layers[0].scores)
        for number, layer in enumerate(layers):
            colours = COLOURS[number] if rows else shades(layer.scores) if shades else PLAIN
            box = max(layer.box - INWARD * number * scale.max(), layer.box / 2)
            add_circles(axes, layer, box, colours, f"list_{number + 1}")
        if apix:
            add_scale_bar(axes, scale, apix)
        add_caption(figure, title, shades)
        add_legend(figure, [layer.label for layer in layers[:rows]])
        kind, out = Path(target).suffix.lower()[1:], io.BytesIO()
        said = {"Description": plain(remark)} if kind == "png" else None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")  # a name may have some that the font has not
            figure.savefig(out, format=kind, metadata=said)
    with files.atomic(target) as part:  # not by matplotlib, whom a full disk confuses
        part.write_bytes(out.getvalue())


def has_remark(path, remark):
    """Say whether a file is a PNG that `draw` wrote with this remark."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return picture.info.get("Description") == plain(remark)
    except OSError:
        return False


def plain(text):
    """Return text without what neither a font nor XML can have, as parts of file names may be."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def shades_of(scores):
    """Return the colours of probabilities, or None if the scores are none."""
    from matplotlib import colors

    if scores is None or not len(scores) or not 0 <= scores.min() <= scores.max() <= 1:
        return None
    return colors.ListedColormap(shades(256))


def shades(count):
    """Return colours of probabilities from 0 to 1 in so many steps: RGBA, (count, 4)."""
    from matplotlib import colormaps

    # Lightness grows with the score, for those who tell no hues; the darkest is left out.
    return colormaps["plasma"](np.linspace(0.3, 1, count))


def add_circles(axes, layer, box, colours, name):
    """Draw circles, the first on top; those below the threshold dashed and thinner."""
    from matplotlib.collections import EllipseCollection

    count = len(layer.xy)
    below = np.zeros(count, bool) if layer.below is None else layer.below
    sizes = np.full(count, box)
    circles = EllipseCollection(
        sizes,
        sizes,
        np.zeros(count),
        units="xy",
        offsets=layer.xy[::-1],
        offset_transform=axes.transData,
        facecolors="none",
        edgecolors=colours if isinstance(colours, str) else colours[::-1],
        linestyles=np.where(below, "--", "-")[::-1].tolist() or "-",
        linewidths=np.where(below, 1.4, 2)[::-1],
        path_effects=rim(3),
        gid=name,
    )
    axes.add_collection(circles)


def rim(width):
    """Return what puts a dark rim round a line: no colour stands out from every grey."""
    from matplotlib import patheffects

    return [patheffects.withStroke(linewidth=width, foreground="black")]


def add_scale_bar(axes, scale, apix):
    """Draw a white bar with a dark rim at the lower left, its length above it."""
    from matplotlib.patches import Rectangle

    mx, my = np.abs([np.diff(axes.get_xlim()), np.diff(axes.get_ylim())])[:, 0] / scale
    length, label = scale_bar(mx * scale[0], apix)
    thick = max(2, round(max(mx, my) / 200))  # pixels of the picture, as all but the length
    corner, size = np.array((4 * thick, my - 4 * thick)), (length / apix / scale[0], thick)
    for colour, more in (("black", max(1, thick // 4)), ("white", 0)):
        start, (width, height) = (corner - more - 0.5) * scale, (np.array(size) + 2 * more) * scale
        axes.add_patch(Rectangle(start, width, height, color=colour, linewidth=0, zorder=3))
    axes.text(
        *(corner - (0, 1.5 * thick)) * scale,
        label,
        va="bottom",
        color="white",
        fontsize=min(16, max(mx, my) / 40),
        bbox={"facecolor": "black", "edgecolor": "none", "alpha": 0.6, "pad": 2},
        zorder=3,
    )


def add_caption(figure, title, shades):
    """Write the title above the picture, and beside it what the colours mean, if any do."""
    width, height = figure.get_size_inches() * DPI
    bar = BAR if shades else 0
    middle = write(figure, title, 5, CAPTION / 2, width - bar)
    if shades:
        left, across = 1 - 0.85 * BAR / width, 0.7 * BAR / width
        axes = figure.add_axes((left, middle - 8 / height, across, 16 / height))
        axes.imshow(np.linspace(0, 1, 256)[None], cmap=shades, aspect="auto")
        axes.axis("off")
        for x, text, side in ((left, "0 ", "right"), (left + across, " 1", "left")):
            figure.text(x, middle, text, va="center", ha=side, fontsize=12)


def add_legend(figure, labels):
    """Write a row for each list below the title, behind a circle of its colour."""
    from matplotlib.lines import Line2D

    width, _ = figure.get_size_inches() * DPI
    for number, (label, colour) in enumerate(zip(labels, COLOURS, strict=False)):
        middle = write(figure, label, ROW, CAPTION + ROW * (number + 0.4), width - ROW)
        mark = Line2D([ROW / 2 / width], [middle], marker="o", markersize=11, path_effects=rim(4))
        mark.set(markerfacecolor="none", markeredgecolor=colour, markeredgewidth=2)
        figure.add_artist(mark)


def write(figure, text, left, down, room):
    """Write a line so that it fits; return the height of its middle as a part of the figure's.

    ``left``, ``down`` (from the top, to its middle) and ``room`` are pixels.
    """
    width, height = figure.get_size_inches() * DPI
    points = min(16, room / len(text) / (0.62 * DPI / 72))
    middle = 1 - down / height
    figure.text(left / width, middle, plain(text), va="center", fontsize=points, parse_math=False)
    return middle
