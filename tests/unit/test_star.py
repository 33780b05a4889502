"""STAR text: what is read, what is refused, and that a copy changes one column only."""

import re
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from apbc_common import star

DATA = Path(__file__).resolve().parents[1] / "data"
SCORE = "rlnAutopickFigureOfMerit"
OPTICS = """
# version 30001

data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
_rlnImagePixelSize #3
"group of 'K3'" 1 1.50
two 2 2.0   # a remark


"""
HEADER = (
    "# version 30001\n\ndata_particles\n\nloop_\n"
    "_rlnImageName #1\n_rlnCoordinateX #2\n_rlnUnknownThing #3\n"
)
ROWS = ["1@a.mrcs  001.50 1.0e-07", " 2@a.mrcs\t2   001 ", "3@a.mrcs 3 x"]
TAIL = "\n\ndata_last\n\n_rlnA 007\n_rlnB 'two words' # why\n"


def put(folder, text, name="f.star"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def table(folder, *rows, end="\n"):
    """Write a file of particles with these rows, and return that block."""
    path = put(folder, OPTICS + HEADER + "\n".join(rows) + end)
    return star.scan(path)["particles"]


def error(function, *args):
    with pytest.raises(star.StarError) as caught:
        function(*args)
    return str(caught.value)


@pytest.mark.parametrize(
    "line, expected",
    [
        (b"a b", [b"a", b"b"]),
        (b"  a\tb  ", [b"a", b"b"]),
        (b"\"a b\" 'c d'", [b"a b", b"c d"]),
        (b"'a\"b' \"c'd\"", [b'a"b', b"c'd"]),
        (b"m/a'b\"c.mrc it's", [b"m/a'b\"c.mrc", b"it's"]),
        (b'"a"b c" d', [b'a"b c', b"d"]),  # a quote closes before white space only
        (b"'' \"\"", [b"", b""]),
        (b"a#b #c d", [b"a#b"]),
        (b"'#a' b # it's", [b"#a", b"b"]),
        (b"# all of it", []),
        (b"", []),
    ],
)
def test_cells(line, expected):
    assert star.cells(line) == expected


@pytest.mark.parametrize("line", [b'a "b', b"a 'b c", b'a "b"c', b'" a'])
def test_cells_refuse_an_open_quote(line):
    assert error(star.cells, line).startswith("a quote that is not closed: ")


@pytest.mark.parametrize(
    "version, blocks",
    [
        ("3.0", {"": 6}),
        ("3.1", {"optics": 2, "particles": 6}),
        ("4.0", {"optics": 2, "particles": 6}),
        ("5.0", {"general": 1, "optics": 2, "particles": 6}),
    ],
)
def test_scan_finds_the_blocks_of_every_version(version, blocks):
    found = star.scan(DATA / f"particles_{version}.star")
    assert {name: block.rows for name, block in found.items()} == blocks
    last = list(found.values())[-1]
    assert last.numbers("rlnCoordinateX")[:, 0].tolist() == [
        27.9,
        35.59,
        23.47,
        31.74,
        39.91,
        22.75,
    ]
    assert last.read("rlnImageName").iat[5, 0] == "000003@Extract/job003/Movies/mic_b.mrcs"


def test_scan_of_text_between_blocks(tmp_path):
    path = put(
        tmp_path,
        "# head\n\n  data_a # the first\nloop_ # x\n\n _u\n# between\n_v #2 # remark\n\n1 2\n3 4\n"
        "\n# between blocks\ndata_b\n_w 'a b'\n\n_x 5 # why\n",
    )
    a, b = star.scan(path).values()
    assert (a.name, a.labels, a.loop, a.rows, a.line, a.plain) == ("a", ("u", "v"), True, 2, 10, 1)
    assert (b.name, b.labels, b.loop, b.rows) == ("b", ("w", "x"), False, 1)
    assert list(a.lines()) == [b"1 2", b"3 4"]
    assert b.read().to_dict("records") == [{"w": "a b", "x": "5"}]


@pytest.mark.parametrize(
    "text, message",
    [
        ("", ": not a STAR file: it is empty"),
        ("\n# only remarks\n\n", ": not a STAR file: it is empty"),
        ("x,y\n1,2\n", ":1: not a STAR file: 'x,y' where data_... was expected"),
        ("a" * 50, f":1: not a STAR file: {'a' * 40 + '...'!r} where data_... was expected"),
        (b"\x89PNG\x00\x01", ":1: not a STAR file: it holds binary data"),
        (b"data_\nloop_\n_a\n1\x0c2\n", ":4: not a STAR file: it holds binary data"),
        (b"data_\n\xffoo\n", ":2: not a STAR file: '\ufffdoo' where data_... was expected"),
        ("data_\r\n", ":1: CRLF line ends, which RELION can't read; run dos2unix on a copy"),
        ("data_\nloop_\n_a\n_b\n1 2\n3\n", ":6: 1 columns, expected 2"),
        ("data_\nloop_\n_a\n_b\n1 2\n3 4 5\n", ":6: 3 columns, expected 2"),
        ("data_\nloop_\n_a\n_b\n1 2\n# remark\n3 4\n", ":6: 0 columns, expected 2"),
        ("data_\nloop_\n_a\n_b\n1 #2\n", ":5: 1 columns, expected 2"),
        ("data_\nloop_\n_a\n_b\n1 'two\n", ':5: a quote that is not closed: "\'two"'),
        ("data_\n_a 'two\n", ':2: a quote that is not closed: "\'two"'),
        ("data_\nloop_\n_a #1\n_a #2\n1 2\n", ":4: label _a a second time; "),
        ("data_\n_a 1\n_a 2\n", ":3: label _a a second time; remove one of the two columns"),
        ("data_x\n_a 1\ndata_x\n_a 2\n", ":3: block data_x a second time; rename or remove one"),
        ("data_x\nloop_\n1 2\n", ":3: loop_ of data_x without labels"),
        (
            "data_x\nloop_\n_a\n1\n\n2\n",
            ":6: a row after the blank line that ends data_x, which RELION would not read; "
            "remove the blank line",
        ),
        ("data_x\nloop_\n_a\n1\n  \n# r\n2\n", ":7: a row after the blank line that ends data_x"),
    ],
)
def test_scan_refuses(tmp_path, text, message):
    path = put(tmp_path, text)
    found = error(star.scan, path)
    assert found.startswith(str(path) + message)
    if message[-1] != " " and "blank" not in message:
        assert found == str(path) + message


def test_scan_of_a_missing_file_is_an_oserror(tmp_path):
    with pytest.raises(FileNotFoundError):
        star.scan(tmp_path / "none.star")


def test_an_empty_loop_has_its_columns(tmp_path):
    for tail in ("", "\n", "\n\ndata_next\n_c 1\n"):
        blocks = star.scan(put(tmp_path, "data_\nloop_\n_a\n_b" + tail))
        assert blocks[""].read().shape == (0, 2)
        assert blocks[""].numbers("b").shape == (0, 1)
        assert list(blocks) == [""] if "next" not in tail else ["", "next"]


def test_read_gives_text_in_the_order_asked_for(tmp_path):
    block = table(tmp_path, *ROWS)
    assert block.plain
    assert block.read("rlnUnknownThing", "rlnCoordinateX").to_numpy().tolist() == [
        ["1.0e-07", "001.50"],
        ["001", "2"],
        ["x", "3"],
    ]
    assert block.read().columns.tolist() == list(block.labels)
    assert block.numbers("rlnCoordinateX").tolist() == [[1.5], [2.0], [3.0]]


@pytest.mark.parametrize(
    "word", ["NA", "nan", "None", "null", "TRUE", "-", "1e5", "ä日", "a\u00a0b"]
)
def test_read_takes_no_word_for_something_else(tmp_path, word):
    block = table(tmp_path, f"1@a.mrcs 1 {word}")
    assert block.plain
    assert block.read("rlnUnknownThing").iat[0, 0] == word


def test_read_of_quoted_rows(tmp_path):
    block = table(tmp_path, "'1@a b.mrcs' 1.5 \"\"", "2@a#b.mrcs 2 3 # remark")
    assert not block.plain
    assert block.read().to_numpy().tolist() == [["1@a b.mrcs", "1.5", ""], ["2@a#b.mrcs", "2", "3"]]
    assert block.numbers("rlnCoordinateX")[:, 0].tolist() == [1.5, 2.0]


@pytest.mark.parametrize("piece", [1, 2, 3, 4])
@pytest.mark.parametrize("last", ["4@a.mrcs 4 y", "'4@a b' 4 y # end"])
@pytest.mark.parametrize("end", ["", "\n", TAIL])
def test_a_table_in_pieces_is_the_whole_table(tmp_path, monkeypatch, piece, last, end):
    block = table(tmp_path, *ROWS, last, end=end)
    whole, numbers = block.read(), block.numbers("rlnCoordinateX")
    monkeypatch.setattr(star, "PIECE", piece)
    pieces = list(block.pieces("rlnUnknownThing"))
    assert [len(part) for part in pieces] == [piece] * (4 // piece) + [4 % piece] * (4 % piece > 0)
    assert [cell for part in pieces for cell in part["rlnUnknownThing"]] == [
        "1.0e-07",
        "001",
        *"xy",
    ]
    again = block.read()
    assert again.equals(whole) and again.index.equals(whole.index)
    assert block.numbers("rlnCoordinateX").tolist() == numbers.tolist() == [[1.5], [2], [3], [4]]


def test_a_cell_that_is_no_number_is_found_in_any_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(star, "PIECE", 2)
    block = table(tmp_path, *ROWS, "4@a.mrcs 4 y", "5@a.mrcs abc z")
    message = f"{block.path}:{block.line + 4}: rlnCoordinateX is 'abc', expected a number"
    assert error(block.numbers, "rlnCoordinateX") == message


def test_read_keeps_bytes_that_are_no_utf8(tmp_path):
    block = table(tmp_path, "1@a.mrcs 1 x")
    path = put(tmp_path, block.path.read_bytes().replace(b"a.mrcs", b"\xe4.mrcs"))
    name = star.scan(path)["particles"].read("rlnImageName").iat[0, 0]
    assert name.encode("utf-8", "surrogateescape") == b"1@\xe4.mrcs"


def test_a_missing_column_is_named_with_those_there(tmp_path):
    block = table(tmp_path, *ROWS)
    expected = (
        f"{block.path}: data_particles has no column rlnCoordinateY, rlnFoo; "
        "it has rlnImageName, rlnCoordinateX, rlnUnknownThing"
    )
    for function in (block.require, block.read, block.numbers):
        assert error(function, "rlnCoordinateX", "rlnCoordinateY", "rlnFoo") == expected


@pytest.mark.parametrize("cell", ["abc", "1_0", "0x1A", "1,5", "nan", "inf", "1e999", "''", "１"])
def test_a_number_that_is_none_is_named_with_its_line(tmp_path, cell):
    block = table(tmp_path, "1@a.mrcs 1 2", f"2@a.mrcs {cell} 3")
    line = block.path.read_text().splitlines().index(f"2@a.mrcs {cell} 3") + 1
    assert error(block.numbers, "rlnUnknownThing", "rlnCoordinateX") == (
        f"{block.path}:{line}: rlnCoordinateX is {cell.strip(chr(39))!r}, expected a number"
    )


# --- copy ----------------------------------------------------------------------------------------


def copied(block, keep, label, values):
    target = block.path.with_name("copy.star")
    star.copy(block, target, np.array(keep), {label: values})
    return target.read_text()


def test_copy_replaces_one_column_and_nothing_else(tmp_path):
    block = table(tmp_path, *ROWS, end=TAIL)
    text = copied(block, [True, False, True], "rlnCoordinateX", ["7.0000", "8", "9"])
    expected = OPTICS + HEADER + "1@a.mrcs  7.0000 1.0e-07\n3@a.mrcs 9 x" + TAIL
    assert text == expected


@pytest.mark.parametrize(
    "label, first",
    [
        ("rlnImageName", "  NEW\t1.50  'a b' # it's\n"),
        ("rlnCoordinateX", "  1@a\tNEW  'a b' # it's\n"),
        ("rlnUnknownThing", "  1@a\t1.50  NEW # it's\n"),
    ],
)
def test_copy_of_quoted_rows(tmp_path, label, first):
    block = table(tmp_path, "  1@a\t1.50  'a b' # it's", '"2@x y" 2 ""', end=TAIL)
    assert copied(block, [True, False], label, ["NEW", "?"]) == OPTICS + HEADER + first + TAIL[1:]


@pytest.mark.parametrize("column", [0, 1, 2])
def test_copy_of_plain_rows_keeps_the_spacing(tmp_path, column):
    cells = ["\t1@a.mrcs ", "  001\t", " 1.0e-07  "]
    block = table(tmp_path, "".join(cells), end=TAIL)
    assert block.plain
    cells[column] = cells[column].replace(cells[column].strip(), "NEW")
    text = copied(block, [True], block.labels[column], ["NEW"])
    assert text == OPTICS + HEADER + "".join(cells) + TAIL


def test_copy_adds_a_column(tmp_path):
    block = table(tmp_path, *ROWS, "'4@b c' 4 5 # end", end=TAIL)
    text = copied(block, [True, True, False, True], SCORE, ["0.1", "0.2", "0.3", "0.4"])
    assert text == (
        OPTICS
        + HEADER
        + f"_{SCORE} #4 \n"
        + "1@a.mrcs  001.50 1.0e-07 0.1 \n 2@a.mrcs\t2   001 0.2 \n'4@b c' 4 5 0.4 # end\n"
        + TAIL[1:]
    )
    again = star.scan(block.path.with_name("copy.star"))["particles"]
    assert again.read(SCORE)[SCORE].tolist() == ["0.1", "0.2", "0.4"]


def test_copy_adds_columns_as_relion_writes_files_with_spaces_at_line_ends(tmp_path):
    block = table(tmp_path, *(f"{row} " for row in ROWS), end=TAIL)
    text = block.path.read_text().replace("_rlnUnknownThing #3\n", "_rlnUnknownThing #3 \n")
    block = star.scan(put(tmp_path, text))["particles"]
    target = tmp_path / "copy.star"
    star.copy(block, target, np.ones(3, bool), {"rlnA": "abc", "rlnB": "def"})
    added = star.scan(target)["particles"]
    assert added.labels == (*block.labels, "rlnA", "rlnB")
    assert added.read("rlnA", "rlnB").to_numpy().tolist() == [["a", "d"], ["b", "e"], ["c", "f"]]


def test_copy_adds_a_label_before_blank_lines_and_remarks(tmp_path):
    path = put(tmp_path, "data_\nloop_\n_a #1\n\n1\n2\n")
    assert copied(star.scan(path)[""], [True, True], "b", ["x", "y"]) == (
        "data_\nloop_\n_a #1\n_b #2 \n\n1 x \n2 y \n"
    )


def test_copy_of_a_file_without_a_last_line_end(tmp_path):
    block = table(tmp_path, *ROWS, end="")
    text = copied(block, [False, False, True], "rlnUnknownThing", ["", "", "1"])
    assert text == OPTICS + HEADER + "3@a.mrcs 3 1\n"


def test_copy_takes_cells_as_they_come(tmp_path):
    block = table(tmp_path, *ROWS, end=TAIL)
    cells = (f"0.{i}" for i in range(3))
    text = copied(block, [False, True, False], "rlnCoordinateX", cells)
    assert text == OPTICS + HEADER + " 2@a.mrcs\t0.1   001 \n" + TAIL[1:]


def test_copy_of_no_rows_and_of_an_empty_loop(tmp_path):
    block = table(tmp_path, *ROWS, end=TAIL)
    text = copied(block, [False] * 3, SCORE, ["0"] * 3)
    assert text == OPTICS + HEADER + f"_{SCORE} #4 \n" + TAIL[1:]
    empty = star.scan(put(tmp_path, "data_\nloop_\n_a #1\n"))[""]
    assert copied(empty, [], "b", []) == "data_\nloop_\n_a #1\n_b #2 \n"


@pytest.mark.parametrize("kind", [list, iter])
def test_copy_with_too_few_values_leaves_nothing(tmp_path, kind):
    block = table(tmp_path, *ROWS)
    with pytest.raises(ValueError, match="zip"):
        copied(block, [True] * 3, SCORE, kind(["1"]))
    assert [path.name for path in tmp_path.iterdir()] == ["f.star"]


# --- write ---------------------------------------------------------------------------------------


def test_write_heads_tables_as_relion_does(tmp_path):
    tables = {
        "optics": pd.DataFrame({"rlnOpticsGroup": ["1"], "rlnName": ["two words"]}),
        "": pd.DataFrame({"rlnX": []}, dtype=str),
    }
    star.write(tmp_path / "new" / "f.star", tables)
    assert (tmp_path / "new" / "f.star").read_text() == (
        "\n# version 30001\n\ndata_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnName #2\n"
        '1 "two words"\n\n\n# version 30001\n\ndata_\n\nloop_\n_rlnX #1\n\n'
    )


@pytest.mark.parametrize(
    "cell, written",
    [
        ("001", "001"),
        ("a#b", "a#b"),
        ("it's", "it's"),
        ("", '""'),
        ("#a", '"#a"'),
        ("'a", '"\'a"'),
        ('"a b"', "'\"a b\"'"),
        ("_a", '"_a"'),
        ("data_a", '"data_a"'),
        ("a\tb", '"a\tb"'),
        ("a\u2028b", "a\u2028b"),
        ("a\u00a0b", "a\u00a0b"),
    ],
)
def test_write_quotes_what_needs_it(tmp_path, cell, written):
    path = tmp_path / "f.star"
    star.write(path, {"": pd.DataFrame({"a": [cell], "b": ["1"]})})
    assert path.read_text().split("\n")[-3] == f"{written} 1"
    assert star.scan(path)[""].read().to_numpy().tolist() == [[cell, "1"]]


@pytest.mark.parametrize("cell", ["a\nb", "a\rb", "\0", "\f", "\v", "a\" b' c"])
def test_write_refuses_what_no_file_can_hold(tmp_path, cell):
    path = tmp_path / "f.star"
    message = f"{path}: a STAR file can't hold the cell {cell!r}; rename it"
    assert error(star.write, path, {"": pd.DataFrame({"a": [cell]})}) == message
    assert not path.exists()


def test_rows_are_written_as_they_come(tmp_path):
    rows = [["a b", "001"], ["it's", "1.0e-07"], ["", "#"]]
    one, other = tmp_path / "new" / "one.star", tmp_path / "other.star"
    star.write_rows(one, "particles", ["rlnA", "rlnB"], iter(rows))
    star.write(other, {"particles": pd.DataFrame(rows, columns=["rlnA", "rlnB"])})
    assert one.read_bytes() == other.read_bytes()
    star.write_rows(other, "", ["rlnA"], [])
    assert star.scan(other)[""].read().to_numpy().tolist() == []


def test_rows_that_cannot_all_be_written_leave_what_was_there(tmp_path):
    path = put(tmp_path, "mine")
    rows = iter([["a"], ["b\nc"]])
    message = f"{path}: a STAR file can't hold the cell 'b\\nc'; rename it"
    assert error(star.write_rows, path, "", ["rlnA"], rows) == message
    assert [found.name for found in tmp_path.iterdir()] == ["f.star"]
    assert path.read_text() == "mine"


def test_the_readme_of_the_data_names_every_file():
    text = (DATA / "README.txt").read_text()
    named = set(re.findall(r"^(\S+\.star) ", text, re.MULTILINE))
    assert named == {path.name for path in DATA.iterdir()} - {"README.txt"}


# --- held against RELION -------------------------------------------------------------------------

FULL_OPTICS = """
data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
_rlnMicrographOriginalPixelSize #3
_rlnVoltage #4
_rlnSphericalAberration #5
_rlnAmplitudeContrast #6
_rlnImagePixelSize #7
_rlnImageSize #8
_rlnImageDimensionality #9
one 1 1.0 300 2.7 0.1 6.0 64 2

"""
FULL_HEADER = (
    "data_particles\n\nloop_\n_rlnImageName\n_rlnMicrographName\n_rlnCoordinateX\n"
    "_rlnCoordinateY\n_rlnOpticsGroup\n_rlnUnknownThing\n"
)


def star_handler(folder):
    """Let relion_star_handler read f.star and write back.star; return its exit code."""
    command = "relion_star_handler --i f.star --o back.star --select rlnCoordinateX --minval 0"
    return subprocess.run(command.split(), cwd=folder, capture_output=True).returncode


@pytest.mark.relion
@pytest.mark.parametrize(
    "cell, accepted",
    [
        ("m/a.mrc", True),
        ("'a b'", True),
        ('"a \'b c"', True),
        ('"a"b c"', True),
        ("a'b", True),
        ('a"', True),
        ("''", True),
        ("a#b", True),
        ('"#b"', True),
        ("m/ä日.mrc", True),
        ("a\u00a0b", True),
        ("#b", False),
        ("'a", False),
        ('"a"b', False),
        ("a b", False),
        ("", False),
    ],
)
def test_relion_reads_and_refuses_the_same_cells(tmp_path, cell, accepted):
    rows = f"1@a.mrcs {cell} 1.5 2 1 001\n2@a.mrcs b 2 3 1 1.0e-07\n"
    path = put(tmp_path, FULL_OPTICS + FULL_HEADER + rows)
    assert (star_handler(tmp_path) == 0) == accepted
    if not accepted:
        error(star.scan, path)
        return
    if cell == '"#b"':  # RELION reads it, and writes it without the quotes: no longer a cell
        return
    ours, back = (star.scan(tmp_path / name)["particles"] for name in ("f.star", "back.star"))
    labels = ("rlnMicrographName", "rlnOpticsGroup", "rlnUnknownThing")
    assert back.read(*labels).to_numpy().tolist() == ours.read(*labels).to_numpy().tolist()


@pytest.mark.relion
@pytest.mark.parametrize("cell", ["a b", "", "#a", "'a", '"a b"', "_a", "a\tb", "it's", "\u2028"])
def test_relion_reads_what_is_written(tmp_path, cell):
    def block(text):
        labels = re.findall(r"^_(\S+)", text, re.MULTILINE)
        return pd.DataFrame([["one", *text.split("one ")[1].split()]], columns=labels)

    columns = re.findall(r"^_(\S+)", FULL_HEADER, re.MULTILINE)
    particles = pd.DataFrame([["1@a.mrcs", cell, "1.5", "2", "1", cell]], columns=columns)
    star.write(tmp_path / "f.star", {"optics": block(FULL_OPTICS), "particles": particles})
    assert star_handler(tmp_path) == 0
    if "#" not in cell and "\t" not in cell:  # which RELION itself writes as something else
        back = star.scan(tmp_path / "back.star")["particles"]
        assert back.read("rlnMicrographName", "rlnUnknownThing").iloc[0].tolist() == [cell, cell]
