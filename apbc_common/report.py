"""The report on a run of direct picking: one page that needs no network, server or other file."""

from __future__ import annotations

import os
import shlex
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
from scipy import special

from . import ApbcError, __version__, boxes, charts, cli, files, images, mrc, relion, star, trained
from . import tally as tallies
from .classbin import ClassBin

PAGE = Path(__file__).parent / "page"
MICROGRAPHS = 12  # shown
LONGEST = 1200  # pixels of a micrograph on the page
QUALITY = 78  # of its JPEG
BOX = 64  # pixels of a box
LOWPASS = 0.1  # of the diameter, of what is shown
REGION = 3  # diameters: squares of a view's mean and deviation
THREADS = 2
MICROMETRE = 1e4  # A


@dataclass(frozen=True)
class Shown:
    """A micrograph on the page.

    Parameters
    ----------
    micrograph : tally.Micrograph
    size : tuple of int
        Columns and rows.
    image : str
        JPEG; '' if the micrograph can't be read.
    boxes : ndarray of uint8, shape (N, BOX, BOX)
        Of each candidate.
    fault : str
        What is wrong with it; '' if nothing is.
    """

    micrograph: tallies.Micrograph
    size: tuple
    image: str
    boxes: np.ndarray
    fault: str = ""


def write(project, listed, target) -> tuple[int, int]:
    """Write the report on the run that wrote a list of picks.

    Parameters
    ----------
    project : pathlib.Path
    listed : path-like
        Its ``picks.star``.
    target : pathlib.Path

    Returns
    -------
    shown, read : int
        Micrographs that are shown, and that are counted.

    Raises
    ------
    ApbcError
        As `tally.read`, and if nothing was picked yet.
    """
    tally = tallies.read(project, listed)
    if not tally.micrographs:
        raise ApbcError(f"{listed}: no micrograph was picked yet; run gen_picks.py first")
    chosen = tallies.choose(tally.micrographs, tally.threshold, MICROGRAPHS)
    chosen = [tally.micrographs[i] for i in chosen]
    with ThreadPoolExecutor(THREADS) as threads:
        looked = threads.map(lambda one: look(project, tally, one), chosen)
        shown = list(cli.progress(looked, "micrographs", len(chosen)))
    content = {
        **head(project, tally),
        **threshold_parts(project, tally, shown),
        **box_parts(project, tally, shown),
        "charts": chart_parts(tally),
        **trained.parts(project, tally),
        "run": run_parts(project, tally),
        **every_part(tally, ClassBin(project, target.parent), target),
    }
    files.write_text(target, render(content))
    return len(shown), len(tally.micrographs)


def render(content) -> str:
    """Fill the page; what comes from outside is escaped."""
    import jinja2

    loader = jinja2.FileSystemLoader(PAGE)
    pages = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    ours = {
        name: jinja2.utils.markupsafe.Markup((PAGE / f"page.{name}").read_text(encoding="utf-8"))
        for name in ("css", "js")
    }
    return pages.get_template("page.html").render(**content, **ours)


def look(project, tally, one) -> Shown:
    """Read a micrograph; make its picture and the boxes of its candidates."""
    path, empty = project / one.name, np.full((len(one.xy), BOX, BOX), 128, np.uint8)
    try:
        picture = mrc.image(path)
    except (ApbcError, OSError, MemoryError) as err:
        fault = cli.explain(err, path)
        cli.warn(f"{fault}; a grey tile stands for it")
        reach = one.xy.max(axis=0, initial=1.0).tolist() if len(one.xy) else (1.0, 1.0)
        size = tuple(int(far + tally.diameter / one.apix) for far in reach)
        return Shown(one, size, "", empty, fault)
    rows, columns = picture.shape
    edge = box_angst(tally) / one.apix
    longest = max(BOX, round(max(rows, columns) * BOX / edge))
    region, lowpass = REGION * tally.diameter, LOWPASS * tally.diameter
    grey, scale = images.view(picture, one.apix, max(longest, LONGEST), region, lowpass)
    return Shown(
        one,
        (columns, rows),
        boxes.thumbnail(smaller(grey, LONGEST), QUALITY),
        smaller_each(boxes.cut(grey, scale, one.xy, edge)),
    )


def box_angst(tally) -> float:
    """Return the edge of a box in A."""
    return tally.taught["dataset"]["box_angst"] if tally.taught else 2 * tally.diameter


def smaller(grey, longest) -> np.ndarray:
    """Return a picture, uint8 (H, W), whose longer edge is at most ``longest``."""
    from PIL import Image

    picture = Image.fromarray(grey)
    picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return np.asarray(picture)


def smaller_each(found) -> np.ndarray:
    """Return boxes, uint8 (N, size, size), at BOX pixels."""
    from PIL import Image

    if found.shape[1] == BOX:
        return found
    resized = [Image.fromarray(box).resize((BOX, BOX), Image.Resampling.LANCZOS) for box in found]
    return np.array([np.asarray(box) for box in resized], np.uint8).reshape(-1, BOX, BOX)


def head(project, tally) -> dict:
    """Return what stands at the top, and how to apply and to teach what is found."""
    picks = [one.picks(tally.threshold) for one in tally.micrographs]
    lines, fixes = trained.teach(project, tally)
    return {
        "project": project.resolve().name,
        "total": {
            "picks": tally.record["counts"].get("picks", sum(picks)),
            "micrographs": tally.picked,
            "read": len(picks),
            "empty": picks.count(0),
        },
        "unfinished": tally.record["state"] != "finished",
        "outdated": tally.outdated,
        "teach": [shlex.join(words) for words in lines],
        "fixes": fixes,
        "written": tally.record["written"].replace("T", " ").partition("+")[0] + " UTC",
        "threshold": tally.threshold,
        "diameter": f"{tally.diameter:.0f}",
        "version": __version__,
    }


def threshold_parts(project, tally, shown) -> dict:
    """Return the micrographs with their candidates, and what each threshold gives."""
    levels = tallies.levels(tally)
    data = {
        "levels": levels,
        "read": len(tally.micrographs),
        "calibrated": tally.calibrated,
        "palette": charts.palette(),
        "command": shlex.join(tallies.command(project, tally, tally.outdated)).replace(
            "'{}'", "{}"
        ),
        "micrographs": [
            {
                "name": one.micrograph.name,
                "cell": star.quoted(tally.folder, one.micrograph.name),
                "width": one.size[0],
                "height": one.size[1],
                "diameter": round(tally.diameter / one.micrograph.apix, 2),
                "x": one.micrograph.xy[:, 0].round(2).tolist(),
                "y": one.micrograph.xy[:, 1].round(2).tolist(),
                "score": one.micrograph.score.tolist(),
            }
            for one in shown
        ],
    }
    pictures = [
        {
            "name": one.micrograph.name,
            "defocus": micrometres(one.micrograph.defocus),
            "width": one.size[0],
            "height": one.size[1],
            "image": one.image,
            "fault": one.fault,
        }
        for one in shown
    ]
    start = levels["at"].index(tally.threshold)
    return {"data": data, "levels": levels, "start": start, "shown": pictures}


def micrometres(defocus) -> str:
    """Return a defocus in A as the text of one in um; '' where there is none."""
    return "" if defocus is None else f"{defocus / MICROMETRE:.2f}"


def box_parts(project, tally, shown) -> dict:
    """Return the galleries and the boxes to look at first."""
    at, there = [m for m, one in enumerate(shown) if one.image], [one for one in shown if one.image]
    counts = [len(one.boxes) for one in there]
    score = np.concatenate([np.empty(0), *(one.micrograph.score for one in there)])
    pixels = np.concatenate([np.empty((0, BOX, BOX), np.uint8), *(one.boxes for one in there)])
    which = np.repeat(np.array(at, int), counts)
    pick = np.concatenate([np.empty(0, int), *map(np.arange, counts)])

    def box(i):
        return {"image": boxes.thumbnail(pixels[i]), "score": f"{score[i]:.3f}"}

    galleries = [
        {
            "title": title,
            "boxes": [box(i) for i in seen],
            "average": boxes.thumbnail(boxes.stretched(pixels[averaged].mean(axis=0)))
            if len(averaged)
            else "",
            "count": len(averaged),
        }
        for title, (seen, averaged) in boxes.galleries(score, tally.threshold).items()
    ]
    order = boxes.nearest(score, tally.threshold)[: boxes.ASKED]
    members = tally.taught["options"].get("members", 1) if tally.taught else 1
    logits = member_logits(project, tally, shown, which[order], pick[order]) if members > 1 else ()
    if len(logits):
        spread = boxes.disagreement(logits)
        order = order[boxes.nearest(score[order], tally.threshold, spread)]
    useful = [
        {**box(i), "micrograph": int(which[i]), "pick": int(pick[i])} for i in order[: boxes.USEFUL]
    ]
    return {"galleries": galleries, "useful": useful, "disagree": len(logits)}


def member_logits(project, tally, shown, which, pick) -> np.ndarray:
    """Return what each member of the model says of candidates, as log odds: (members, N).

    Empty, with a warning, if the model is not there any longer or is another one.
    """
    from . import direct, network

    try:
        model = network.load_model(tally.model, tally.taught)
    except ApbcError as err:
        cli.warn(f"{err}; its members are not asked where they disagree")
        return np.empty((0, len(pick)))
    dataset, options = tally.taught["dataset"], tally.record["options"]
    size = dataset["window_px"]
    windows = np.empty((len(pick), size, size), np.uint8)
    for m in np.unique(which):
        one, here = shown[m].micrograph, which == m
        grey, scale = images.condition_micrograph(
            mrc.image(project / one.name),
            one.apix,
            dataset["window_angst"] / size,
            dataset["box_angst"],
        )
        windows[here] = images.windows(grey, one.xy[pick[here]] / scale, size)
    windows = 255 - windows if options["invert"] else windows
    scores = [network.Scorer(one, max(1, len(pick)))(windows) for one in network.split(model)]
    return special.logit(np.clip(scores, direct.FLOOR, 1 - direct.FLOOR))


def chart_parts(tally) -> list[dict]:
    """Return the charts, each with what it shows in words."""
    threshold = tally.threshold
    picks = np.array([one.picks(threshold) for one in tally.micrographs])
    score = tally.scores
    away = tallies.distances(tally)
    defocus = [one.defocus for one in tally.micrographs]
    known = None not in defocus
    off = np.array(defocus) / MICROMETRE if known else np.arange(1, len(picks) + 1)
    title = "picks against defocus" if known else "picks in the order of the list"
    xlabel = "defocus (µm)" if known else "micrograph"
    apart = tally.record["options"]["min_distance"]
    found = [
        (
            "picks of a micrograph",
            charts.histogram(picks, "picks of a micrograph", "picks", "micrographs"),
            f"{picks.min()} to {picks.max()} picks, {np.median(picks):g} in the middle",
        ),
        (
            "scores of candidates",
            charts.histogram(
                score, "scores of candidates", "score", "candidates", threshold, log=True
            ),
            f"{len(score)} candidates, {(score >= threshold).sum()} from {threshold} on",
        ),
        (title, charts.scatter(off, picks, title, xlabel, "picks"), correlation(off, picks)),
        (
            "nearest neighbours",
            charts.histogram(away, "nearest neighbours", "distance (Å)", "picks", apart),
            f"half of the picks have one nearer than {np.median(away):.0f} Å; none may be nearer "
            f"than {apart:.0f} Å"
            if len(away)
            else "no two picks",
        ),
    ]
    return [
        {
            "title": title,
            "image": boxes.data_uri(svg.encode(), "image/svg+xml"),
            "text": text,
        }
        for title, svg, text in found
    ]


def correlation(x, y) -> str:
    """Say how two rows of numbers go together."""
    if len(x) < 3 or not np.ptp(x) or not np.ptp(y):
        return f"{len(x)} micrographs"
    return f"{len(x)} micrographs, correlation {np.corrcoef(x, y)[0, 1]:.2f}"


def run_parts(project, tally) -> list[dict]:
    """Return what was done with what: rows of names and values."""
    record, parts = tally.record, []
    if tally.taught:
        dataset, options = tally.taught["dataset"], tally.taught["options"]
        counts = ", ".join(
            f"{part}: {of['good']} good and {of['bad']} bad"
            for part, of in dataset["counts"].items()
        )
        lists = [(f"{kind} list", dataset[kind]) for kind in ("good", "bad") if kind in dataset]
        fixes = [("corrections", name) for name in dataset.get("corrections", ())]
        data = [
            *lists,
            *fixes,
            ("windows", f"from {dataset['source']}s, {counts}"),
            ("size", f"{dataset['window_px']} px, {dataset['window_angst']:.0f} Å"),
            ("diameter", f"{dataset['diameter_angst']:.0f} Å"),
        ]
        line = tally.taught["calibration"]
        if line:
            slips = (
                f"{line['missed']:.1%} of particles in bad, {line['false']:.1%} of others in good"
            )
            data.append(("wrong labels, as fitted", slips))
        model = [
            ("file", os.path.relpath(tally.model, project)),
            ("options", said(options)),
            ("versions", said(tally.taught.get("versions", {}))),
        ]
        parts += [{"title": "Data", "rows": data}, {"title": "Model", "rows": model}]
    picking = [
        ("micrographs", record["growing"]["list"]["path"]),
        ("options", said(record["options"])),
        ("counts", said(record["counts"])),
        ("time", f"{record['seconds']:g} s; {record['written']}"),
        ("version", record["version"]),
    ]
    return [*parts, {"title": "Picks", "rows": picking}]


def said(options) -> str:
    """Return options as a line."""
    shown = {name: value for name, value in options.items() if value is not None}
    return ", ".join(
        f"{name} {f'({said(value)})' if isinstance(value, dict) else value}"
        for name, value in shown.items()
    )


def every_part(tally, classbin, target) -> dict:
    """Return a row of each micrograph, and what was kept of earlier picks."""
    compared, of_each = read_compared(tally)
    rows = []
    for one in tally.micrographs:
        picture = classbin.picture(relion.rest(one.name), "picks")
        rows.append(
            {
                "name": one.name,
                "defocus": micrometres(one.defocus),
                "picks": one.picks(tally.threshold),
                "link": link(picture, target) if picture.exists() else "",
                "compared": of_each.get(one.name, ("", "", "")),
            }
        )
    return {"compared": compared, "every": rows}


def link(path, target) -> str:
    """Return what a page at ``target`` calls a file."""
    return quote(os.fsencode(os.path.relpath(path, target.parent)))


def read_compared(tally):
    """Return what was kept, new and dropped in all, or None, and of each micrograph."""
    from . import comparison

    path = ClassBin(None, tally.folder).compared
    against = tally.record["growing"].get("compare")
    if not against or not path.exists():
        return None, {}
    block = relion.table(path, comparison.LABELS[0], "compared")
    counts = block.numbers(*comparison.LABELS).astype(int).tolist()
    names = block.read(relion.MICROGRAPH)[relion.MICROGRAPH]
    total = np.sum(counts or [(0, 0, 0)], axis=0).tolist()
    found = dict(zip(("kept", "new", "dropped"), total, strict=True), file=against["path"])
    return found, dict(zip(names, counts, strict=True))
