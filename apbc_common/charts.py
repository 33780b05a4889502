"""Small charts of picks: numbers in, SVG out. No files."""

from __future__ import annotations

import io

import numpy as np

from . import overlay

SIZE = 3.6, 2.4  # inches
SALT = "apbc"  # the same chart has the same text
BINS = 40


def palette(count=32) -> list[str]:
    """Return colours of scores from 0 to 1 in so many steps, as CSS has them."""
    from matplotlib import colors

    return [colors.to_hex(shade) for shade in overlay.shades(count)]


def histogram(values, title, xlabel, ylabel, line=None, log=False) -> str:
    """Draw how often values are how large.

    Parameters
    ----------
    values : ndarray, shape (N,)
    title, xlabel, ylabel : str
    line : float, optional
        A value to mark.
    log : bool
        Whether frequencies have a logarithmic axis.

    Returns
    -------
    str
        SVG.
    """
    with _Chart(title, xlabel, ylabel) as chart:
        if len(values):
            low, high = min(values.min(), line or np.inf), max(values.max(), line or -np.inf)
            edges = np.linspace(low, high, BINS + 1) if high > low else BINS
            chart.axes.hist(values, edges, color="#3b6fb6", log=log)
        if line is not None:
            chart.axes.axvline(line, color="#b3261e", linestyle="--")
    return chart.svg


def scatter(x, y, title, xlabel, ylabel) -> str:
    """Draw values (N,) against others (N,), as `histogram` does."""
    with _Chart(title, xlabel, ylabel) as chart:
        chart.axes.plot(x, y, "o", color="#3b6fb6", markersize=3.5, alpha=0.7)
        chart.axes.set_ylim(0, 1.1 * max(y, default=0) or 1)
    return chart.svg


class _Chart:
    """Axes to draw on, and after that what was drawn."""

    def __init__(self, title, xlabel, ylabel):
        self._labels = {"title": title, "xlabel": xlabel, "ylabel": ylabel}

    def __enter__(self):
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib.figure import Figure

        self._figure = Figure(figsize=SIZE, layout="constrained")
        self.axes = self._figure.add_subplot()
        return self

    def __exit__(self, kind, error, trace):
        import matplotlib

        if kind is None:
            self.axes.set(**self._labels)
            self.axes.grid(alpha=0.3)
            out = io.StringIO()
            with matplotlib.rc_context({"svg.hashsalt": SALT}):
                self._figure.savefig(out, format="svg", metadata={"Date": None})
            self.svg = out.getvalue()
