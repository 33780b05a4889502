"""What holds for every input, tried on hundreds of them."""

import re
import string
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import gen_grid
from apbc_common import images, peaks, samples, star, windows

QUICK = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
FEW = settings(QUICK, max_examples=40)
NO_FILE_HOLDS = re.compile(r"[\0\n\r\v\f]")

SPICY = st.text(alphabet="ab1 \t\"'#_@/.-", max_size=8)
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)  # no lone surrogates
CELL = st.one_of(SPICY, ANY_TEXT, st.sampled_from(["data_", "loop_", "_rlnA", "001", "1.0e-07"]))
WORD = st.text(string.ascii_letters + string.digits + "._-/@'\"#", max_size=6).map("x{}".format)


def can_be_held(cell):
    """Say whether STAR has a way to write a cell: bare, or in quotes of one kind."""
    if NO_FILE_HOLDS.search(cell):
        return False
    return any(not re.search(quote + "[ \t]", cell) for quote in "\"'")


@st.composite
def tables(draw, cell):
    """Rows of cells, all of one length of at least 1."""
    columns = draw(st.integers(1, 4))
    return draw(st.lists(st.lists(cell, min_size=columns, max_size=columns), max_size=5))


def frame(rows):
    width = len(rows[0]) if rows else 2
    return pd.DataFrame(rows, columns=[f"rln{i}" for i in range(width)], dtype=object)


@QUICK
@given(tables(CELL.filter(can_be_held)), tables(CELL.filter(can_be_held)))
def test_what_is_written_is_read_again(one, two):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "f.star"
        star.write(path, {"optics": frame(one), "particles": frame(two)})
        blocks = star.scan(path)
        assert list(blocks) == ["optics", "particles"]
        for rows, block in zip((one, two), blocks.values(), strict=True):
            assert block.read().to_numpy().tolist() == rows


@QUICK
@given(CELL, CELL, CELL, st.sampled_from(["\n", "\r", "\0", "\v", "\f", None]), st.booleans())
def test_what_cannot_be_written_is_refused(one, two, three, control, first):
    cell = f"{one}' {two}\"\t{three}" if control is None else f"{one}{control}{two}"
    assert not can_be_held(cell)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "f.star"
        row = [cell, "x"] if first else ["x", cell]
        with pytest.raises(star.StarError, match="can't hold the cell"):
            star.write(path, {"": frame([row])})
        assert not path.exists()


SPACE = st.sampled_from([" ", "  ", "\t", " \t "])
END = st.sampled_from(["", " ", "  # it's a remark", " #"])
QUOTED = st.sampled_from(["'a b'", '"a b"', "''", '"it\'s"', "'#'", "'a\"b'"])


@st.composite
def files(draw):
    """Return (labels, rows of written cells, lines) of a loop that someone else wrote."""
    width = draw(st.integers(1, 4))
    cell = draw(st.sampled_from([WORD, st.one_of(WORD, QUOTED)]))
    rows = draw(st.lists(st.lists(cell, min_size=width, max_size=width), min_size=1, max_size=6))
    lines = []
    for row in rows:
        spaces = [draw(SPACE) for _ in row[1:]] + [draw(END)]
        lead = draw(st.sampled_from(["", " ", "\t"]))
        lines.append(lead + "".join(map(str.__add__, row, spaces)))
    return [f"rln{i}" for i in range(width)], rows, lines


@QUICK
@given(files(), st.data(), st.sampled_from(["\n", "\n\n", "", "\n \n\ndata_z\n_a 'b  c' # d\n"]))
def test_a_copy_keeps_order_and_every_other_cell_and_block(written, data, tail):
    labels, rows, lines = written
    keep = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    label = data.draw(st.sampled_from([*labels, "rlnNew"]))
    values = [f"{i}.5000" for i in range(len(rows))]
    head = "# h\ndata_optics\nloop_\n_a # x\n'1  2' # y\n\ndata_p\n\nloop_\n"
    text = head + "".join(f"_{name}\n" for name in labels) + "\n".join(lines) + tail
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.star", Path(folder) / "out.star"
        source.write_text(text)
        block = star.scan(source)["p"]
        old = block.read()
        star.copy(block, target, np.array(keep), {label: values})
        assert source.read_text() == text
        copied = target.read_text()
        new = star.scan(target)["p"].read()
    assert copied.startswith(head) and copied.endswith(tail.removeprefix("\n"))
    old[label] = values
    kept = old[keep].reset_index(drop=True)
    assert new.columns.tolist() == kept.columns.tolist()
    assert new.to_numpy().tolist() == kept.to_numpy().tolist()
    start = copied.index("_rln0") + sum(len(f"_{name}\n") for name in labels)
    start += len("_rlnNew #1 \n") if label == "rlnNew" else 0
    for line, row in zip(copied[start:].splitlines(), np.flatnonzero(keep), strict=False):
        blank = re.sub(r"\S", "", lines[row]).strip(), re.sub(r"\S", "", line).strip()
        assert label == "rlnNew" or " " in str(rows[row]) or blank[0] == blank[1]  # the spacing


# --- the grid ------------------------------------------------------------------------------------


@QUICK
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 60).map(lambda half: 2 * half))
def test_the_grid_lies_inside_is_regular_and_full(width, height, box):
    xy = gen_grid.grid_coordinates(width, height, box)
    half = box // 2
    if width < box or height < box:
        assert xy.shape == (0, 2)
        return
    assert (xy >= half).all() and (xy + half <= [width, height]).all()
    for axis, length in enumerate((width, height)):
        places = np.unique(xy[:, axis])
        assert places[0] == half
        assert (np.diff(places) == half).all()
        assert places[-1] + half + half > length  # one more step, and the box would stick out
    assert len(xy) == len(np.unique(xy, axis=0)) == np.prod([len(set(c)) for c in xy.T.tolist()])
    assert xy.tolist() == sorted(xy.tolist(), key=lambda place: place[::-1])  # row by row


# --- the splits ----------------------------------------------------------------------------------


@QUICK
@given(st.integers(0, 2000), st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=2))
def test_the_split_is_complete_and_repeatable(count, seed):
    parts = windows.split(count, seed)
    assert parts.shape == (count,)
    assert (parts == "test").sum() == round(0.2 * count)
    assert (parts == "train").sum() == count - round(0.2 * count)
    assert (windows.split(count, list(seed)) == parts).all()


def test_another_seed_is_another_split():
    splits = {tuple(windows.split(100, [seed, label])) for seed in range(5) for label in (0, 1)}
    assert len(splits) == 10


@QUICK
@given(*[st.integers(0, 60)] * 4, st.integers(0, 2**32 - 1))
def test_training_and_validation_are_disjoint_and_complete(good, bad, more, less, seed):
    kind, part = [], []
    for name, each, count in (
        *(("train", "good", good), ("train", "bad", bad)),
        *(("test", "good", more), ("test", "bad", less)),
    ):
        kind += [each] * count
        part += [name] * count
    columns = np.array(kind, object), *[np.arange(len(kind))] * 4, np.array(part, object), None
    listed = samples.Samples(*columns)
    (found,) = samples.divide(listed, 1, seed)
    assert sorted(np.concatenate(list(found.values()))) == list(range(good + bad))
    for label, count in enumerate((bad, good)):
        assert (listed.label[found["validation"]] == label).sum() == round(0.2 * count)
    (again,) = samples.divide(samples.Samples(*columns), 1, seed)
    assert all((found[name] == again[name]).all() for name in found)


@QUICK
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=5, max_size=12),
    st.integers(2, 5),
    st.integers(0, 1000),
)
def test_each_member_watches_other_micrographs_and_together_they_watch_all(each, count, seed):
    kind, group = [], []
    for number, (good, bad) in enumerate(each):
        kind += ["good"] * good + ["bad"] * bad
        group += [f"m{number}"] * (good + bad)
    part = np.array(["train"] * len(kind) + ["test"], object)
    kind, group = (np.array([*column, column[0]], object) for column in (kind, group))
    listed = samples.Samples(kind, group, group, group, np.arange(len(kind)), part, None)
    found = samples.divide(listed, count, seed)
    assert len(found) == count
    watched = [set(group[one["validation"]]) for one in found]
    assert set.union(*watched) == set(group[:-1]) and sum(map(len, watched)) == len(each)
    for one, names in zip(found, watched, strict=True):
        assert names and not names & set(group[one["training"]])
        assert sorted(np.concatenate(list(one.values()))) == list(range(len(kind) - 1))


PATH = st.lists(
    st.sampled_from(["a", "A", "a__b", "ä", "Ä", "job005", "x.y", "ß", "SS"]), min_size=1
)
LONG = st.integers(150, 230).map(lambda count: "m" * count)


@QUICK
@example({"A/a.mrcs", "a/A.mrcs", "a__a.mrcs"})
@given(st.sets(st.builds("{}{}".format, st.one_of(PATH.map("/".join), LONG), st.sampled_from(
    [".mrcs", ".MRCS", ".mrc", ".2.mrcs", ".2"]
)), max_size=30))  # fmt: skip
def test_flat_names_differ_even_on_a_disk_without_case(stacks):
    flat = windows.flat_names(stacks)
    assert set(flat) == stacks
    assert len({name.lower() for name in flat.values()}) == len(stacks)
    assert not any("/" in name or len(name) > 210 for name in flat.values())
    assert windows.flat_names(stacks) == flat


# --- picks ---------------------------------------------------------------------------------------

PLACES = arrays.arrays(
    np.float64, st.tuples(st.integers(0, 40), st.just(2)), elements=st.integers(0, 50).map(float)
)


@QUICK
@given(PLACES, st.floats(0.5, 40))
def test_the_best_picks_are_kept_apart(xy, distance):
    kept = peaks.best_apart(xy, distance)
    assert kept.shape == (len(xy),)
    assert kept[:1].all()
    gaps = np.hypot(*(xy[:, None] - xy[None]).transpose(2, 0, 1))
    near = gaps < distance
    np.fill_diagonal(near, False)
    assert not near[np.ix_(kept, kept)].any()
    for i in np.flatnonzero(~kept):
        assert (near[i, :i] & kept[:i]).any()  # a better one, kept, is near


# --- extraction ----------------------------------------------------------------------------------


@FEW
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([(16, 16), (32, 16), (24, 32), (54, 16)]),
    st.lists(st.tuples(st.floats(0, 119), st.floats(0, 89)), min_size=1, max_size=4),
    st.booleans(),
)
def test_the_background_of_extracted_boxes_has_mean_0_and_deviation_1(seed, sizes, xy, invert):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:90, :120]
    picture = rng.normal(rng.uniform(-5, 5), rng.uniform(0.1, 9), (90, 120)) + 0.1 * x - 0.2 * y
    box, scale = sizes
    boxes = images.extract(picture.astype(np.float32), xy, box, scale, invert=invert).astype(float)
    k = np.arange(scale) - scale // 2
    radius = int(0.75 * scale / 2)
    outside = boxes[:, k[:, None] ** 2 + k**2 > radius**2]
    assert np.abs(outside.mean(axis=1)).max() < 1e-5
    assert outside.std(axis=1) == pytest.approx(1, abs=1e-5)
    plane = np.stack(np.meshgrid(k, k), -1)[k[:, None] ** 2 + k**2 > radius**2]
    slopes = (outside @ plane) / (plane**2).sum(axis=0)
    assert np.abs(slopes).max() < 1e-4  # and no slope is left
