"""What a model makes of its windows and of the peaks of its micrographs: table and picture."""

from __future__ import annotations

import numpy as np

from . import files

DRAWN = 200  # sets of micrographs, with replacement, for an interval
FEWEST = 3  # micrographs that tell how much they differ
BINS = 10  # of scores, equally full, whose calibration is judged


def tabulate(results):
    """Return the rows of the table: {part: {name: value}}."""
    return {part: figures(result) for part, result in results.items()}


def print_table(results):
    """Print samples, accuracy and so on of each part."""
    table = tabulate(results)
    print(" " * 10, *(f"{name:>6}" for name in table["testing"]))
    for part, row in table.items():
        cells = (f"{cell(value):>{max(6, len(name))}}" for name, value in row.items())
        print(f"{part:>10}", *cells)


def cell(value):
    """Return a figure as text; '-' for one that nothing was there to tell."""
    if isinstance(value, float):
        return "-" if value != value else f"{value:.4f}"
    return str(value)


def figures(result, threshold=0.5):
    """Return samples, accuracy, TP, TN, FP, FN, precision and recall (nan: none) at a threshold."""
    good, picked = result["label"] == 1, result["probability"] >= threshold
    tp, tn = int((good & picked).sum()), int((~good & ~picked).sum())
    fp, fn = int((~good & picked).sum()), int((good & ~picked).sum())
    return {
        "samples": len(good),
        "accuracy": (tp + tn) / max(len(good), 1),
        "TP": tp,
        "TN": tn,
        "FP": fp,
        "FN": fn,
        "precision": tp / (tp + fp) if tp + fp and good.any() else float("nan"),
        "recall": tp / (tp + fn) if good.any() else float("nan"),
    }


def intervals(result, group):
    """Return figures with 95 % intervals, by bootstrap over micrographs.

    Parameters
    ----------
    result : dict
        'label', 'probability': ndarrays (N,).
    group : ndarray of str, shape (N,)
        The micrograph, or stack, of each.

    Returns
    -------
    dict of str to (float, float, float)
        Accuracy at 0.5, area under the ROC curve, average precision: value, low, high. nan where
        there is one kind alone; low and high also with fewer than FEWEST micrographs.
    """
    from sklearn import metrics

    label, score = result["label"], result["probability"]
    names, number = np.unique(group, return_inverse=True)
    measures = {
        "accuracy": lambda w: metrics.accuracy_score(label, score >= 0.5, sample_weight=w),
        "ROC area": lambda w: metrics.roc_auc_score(label, score, sample_weight=w),
        "average precision": lambda w: metrics.average_precision_score(
            label, score, sample_weight=w
        ),
    }
    rng, nan = np.random.default_rng(0), float("nan")
    if len(set(label.tolist())) < 2:
        return {name: (nan, nan, nan) for name in measures}
    draws = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), DRAWN)
    weights = [draw[number] for draw in draws]
    weights = [w for w in weights if w[label == 1].any() and w[label == 0].any()]
    found = {}
    for name, measure in measures.items():
        low, high = nan, nan
        if len(names) >= FEWEST:
            low, high = np.percentile([measure(w) for w in weights], (2.5, 97.5)).tolist()
        found[name] = (float(measure(np.ones(len(label)))), low, high)
    return found


def say(found):
    """Return figures of `intervals` as a line."""
    return ", ".join(
        f"{name} {value:.3f}" + (f" ({low:.3f} to {high:.3f})" if low == low else "")
        for name, (value, low, high) in found.items()
    )


def reliability(result, slips=(0.0, 0.0)):
    """Hold chances against labels.

    Parameters
    ----------
    result : dict
        'label', 'probability': ndarrays (N,).
    slips : tuple of float
        Shares of particles labelled bad, and of all else labelled good: with them in mind a chance
        c expects a good label in slips[1] + (1 - sum(slips)) c of all cases.

    Returns
    -------
    chance, good : ndarray
        Mean chance and share of good labels of BINS equally full groups, by chance.
    error : float
        The expected calibration error: how far both are apart, on average.
    """
    order = np.argsort(result["probability"], kind="stable")
    parts = [part for part in np.array_split(order, BINS) if len(part)]
    chance = np.array([result["probability"][part].mean() for part in parts])
    good = np.array([result["label"][part].mean() for part in parts])
    expected = slips[1] + (1 - sum(slips)) * chance
    share = np.array([len(part) for part in parts]) / max(len(order), 1)
    return chance, good, float((share * np.abs(good - expected)).sum())


def draw(path, scores, logs, judged, slips):
    """Draw how it learnt, what it makes of the test windows, how far chances hold, and the table.

    Parameters
    ----------
    path : path-like
    scores : dict
        'label' and 'probability' of each part.
    logs : list of dict
        Metrics of each epoch, of each network.
    judged : str
        The part that calibration is judged by.
    slips : tuple of float
        Of its labels; as for `reliability`.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure = plt.figure(figsize=(10, 13), layout="constrained")
    grid = figure.add_gridspec(4, 2, height_ratios=(3, 3, 3, 0.4 + 0.22 * len(scores)))
    cells = [figure.add_subplot(grid[row, column]) for row in range(3) for column in (0, 1)]
    for axes, metric in zip(cells, ("loss", "accuracy"), strict=False):
        _draw_log(axes, metric, logs)
    _draw_curves(*cells[2:4], scores)
    _draw_scores(cells[4], scores["testing"])
    _draw_reliability(cells[5], scores[judged], judged, slips)
    _draw_table(figure.add_subplot(grid[3, :]), tabulate(scores))
    with files.atomic(path) as part:
        figure.savefig(part, dpi=120)
    plt.close(figure)


def _draw_log(axes, metric, logs):
    """Draw a metric of each epoch."""
    parts = ((metric, "training", "C0"), (f"val_{metric}", "validation", "C1"))
    for name, label, colour in parts:
        for number, log in enumerate(logs):
            epochs = range(1, len(log[name]) + 1)
            axes.plot(epochs, log[name], colour, label=None if number else label)
    axes.set(title=metric, xlabel="epoch")
    axes.legend(loc="center right")


def _draw_curves(left, right, scores):
    """Draw ROC and precision-recall curves of the test windows, pale those of single members."""
    from sklearn import metrics

    for part, result in scores.items():
        if part != "testing" and not part.startswith("member"):
            continue
        if len(set(result["label"].tolist())) < 2:
            continue
        style = {"color": "C0"} if part == "testing" else {"color": "0.75", "zorder": 1}
        false, true, _ = metrics.roc_curve(result["label"], result["probability"])
        left.plot(false, true, **style)
        precision, recall, _ = metrics.precision_recall_curve(
            result["label"], result["probability"]
        )
        right.plot(recall, precision, **style)
    for axes in (left, right):
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axes.grid(alpha=0.3)
    left.set(title="ROC, test windows", xlabel="bad ones taken for good", ylabel="good ones found")
    right.set(title="precision and recall, test windows", xlabel="recall", ylabel="precision")


def _draw_scores(axes, result):
    """Draw the histograms of both kinds of windows."""
    edges = np.linspace(0, 1, 41)
    for label, name, colour in ((1, "good", "C2"), (0, "bad", "C3")):
        found = result["probability"][result["label"] == label]
        axes.hist(found, edges, color=colour, alpha=0.6, label=f"{name}, {len(found)}")
    axes.set(title="scores, test windows", xlabel="probability", ylabel="windows", yscale="log")
    axes.set_ylim(bottom=0.5)
    axes.legend(loc="upper center")


def _draw_reliability(axes, result, judged, slips):
    """Draw the share of good labels against the chance."""
    chance, good, error = reliability(result, slips)
    axes.plot([0, 1], [slips[1], 1 - slips[0]], "0.6", linestyle="--", label="expected")
    axes.plot(chance, good, "C0o-", label=f"{len(result['label'])} {judged}")
    axes.set(
        title=f"calibration, off by {error:.3f}",
        xlabel="chance of a particle",
        ylabel="labelled good",
    )
    axes.legend(loc="upper left")


def _draw_table(axes, table):
    """Draw the table of results."""
    axes.axis("off")
    drawn = axes.table(
        cellText=[list(map(cell, row.values())) for row in table.values()],
        rowLabels=list(table),
        colLabels=list(table["testing"]),
        loc="center",
    )
    drawn.scale(0.9, 1.5)


def draw_search(path, tried, names, best):
    """Draw what settings brought: the score over each, pale where a trial was stopped.

    Parameters
    ----------
    path : path-like
    tried : list of dict
        Settings by name, 'mean' and 'state'.
    names : list of str
        Of the settings.
    best : dict
        The best of those in whose 'state' it is.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib import ticker

    figure, cells = plt.subplots(
        1, len(names), figsize=(12, 3.5), sharey=True, layout="constrained"
    )
    for axes, name in zip(cells, names, strict=True):
        for state in sorted({row["state"] for row in tried}):
            rows = [row for row in tried if row["state"] == state]
            values = [[row[key] for row in rows] for key in (name, "mean")]
            axes.scatter(*values, color="C0" if state == best["state"] else "0.7", label=state)
        axes.scatter(best[name], best["mean"], s=150, facecolors="none", edgecolors="C3")
        axes.set(xlabel=name)
        axes.grid(alpha=0.3)
        if name == "rate":
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.minorticks_off()
    cells[0].set_ylabel("average precision")
    cells[0].legend(loc="lower right")
    figure.suptitle("settings tried; a circle round the best")
    with files.atomic(path) as part:
        figure.savefig(part, dpi=120)
    plt.close(figure)
