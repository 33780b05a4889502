"""What a model makes of its windows: the table and the picture."""

from __future__ import annotations

from . import files


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


def draw(path, table, logs):
    """Draw the curves of loss and accuracy, and the table of results."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure = plt.figure(figsize=(10, 6.5), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(3, 1.3))
    for column, metric in enumerate(("loss", "accuracy")):
        axes = figure.add_subplot(grid[0, column])
        for name, label, colour in (
            (metric, "training", "C0"),
            (f"val_{metric}", "validation", "C1"),
        ):
            for number, log in enumerate(logs):
                values = log[name]
                axes.plot(
                    range(1, len(values) + 1), values, colour, label=label if not number else None
                )
        axes.set(title=metric, xlabel="epoch")
        axes.legend()
    axes = figure.add_subplot(grid[1, :])
    axes.axis("off")
    drawn = axes.table(
        cellText=[list(map(cell, row.values())) for row in table.values()],
        rowLabels=list(table),
        colLabels=list(table["testing"]),
        loc="center",
    )
    drawn.scale(0.9, 1.5)
    with files.atomic(path) as part:
        figure.savefig(part, dpi=120)
    plt.close(figure)
