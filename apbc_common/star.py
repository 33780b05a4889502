"""STAR text <-> tables. Syntax only: every cell stays text, and rows can be copied untouched.

`scan` reads a file once and refuses what RELION would refuse or lose without a word; the blocks
it returns then read the columns that are asked for (pandas' C parser) or give their raw lines.
The rules are those of RELION 3.1.3, tried out with relion_star_handler: a loop ends at its first
blank line, single and double quotes both work, ``#`` starts a comment only where a cell starts.
A quote opens only where a cell starts, and closes only where white space or the line's end follows.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from . import ApbcError, files

CELL = re.compile(
    rb"""
    "(.*?)"(?=\s|$)        # a cell in quotes, which may hold more of them
    | '(.*?)'(?=\s|$)
    | (?P<comment>\#.*)
    | (?P<open>["'].*)     # a quote that nothing closes
    | (\S+)
    """,
    re.VERBOSE,
)
BARE = re.compile(r"""(?!data_|loop_)[^\s"'#_]\S*""", re.ASCII)  # a cell that needs no quotes
CONTROL = re.compile(r"[\0\n\r\v\f]")  # no STAR file can hold them
PIECE = 1 << 17  # rows of a table whose text is in memory at a time


class StarError(ApbcError):
    """A STAR file that cannot be used; the text starts with ``path:line:`` if known."""


@dataclass(frozen=True)
class Block:
    """One ``data_`` block of a STAR file: where it lies, not what it holds.

    ``labels`` are without the underscore, ``line`` is the 1-based line of the first row and
    ``offset`` its byte. A block without ``loop_`` has one "row" of label-value lines.
    ``plain`` says that no row holds a quote or a ``#``, so that white space alone splits it.
    """

    path: Path
    name: str
    labels: tuple[str, ...]
    loop: bool
    line: int
    offset: int
    rows: int
    plain: bool

    def lines(self) -> Iterator[bytes]:
        """Yield the rows of a loop as they stand in the file, without the line's end."""
        with open(self.path, "rb") as handle:
            handle.seek(self.offset)
            for _ in range(self.rows):
                yield handle.readline().rstrip(b"\n")

    def require(self, *labels):
        """Raise StarError naming every label of ``labels`` that the block lacks."""
        missing = [label for label in labels if label not in self.labels]
        if missing:
            raise StarError(
                f"{self.path}: data_{self.name} has no column {', '.join(missing)}; "
                f"it has {', '.join(self.labels) or 'none'}"
            )

    def read(self, *labels) -> pd.DataFrame:
        """Return the named columns (all of them by default), each cell as text, in file order.

        Raises
        ------
        StarError
            If a label is missing.
        """
        labels = labels or self.labels
        self.require(*labels)
        if not self.rows:
            return pd.DataFrame(columns=list(labels), dtype=object)
        return pd.concat(self.pieces(*labels), ignore_index=True)

    def pieces(self, *labels) -> Iterator[pd.DataFrame]:
        """Yield what `read` returns, PIECE rows at a time."""
        labels = labels or self.labels
        self.require(*labels)
        if self.plain and self.rows:
            yield from self._parse(labels, object)  # str would refuse names that are no UTF-8
            return
        rows = (
            (_text(cells(line)) for line in self.lines()) if self.loop else iter([self._values()])
        )
        while piece := list(itertools.islice(rows, PIECE)):
            yield pd.DataFrame(piece, columns=self.labels, dtype=object)[list(labels)]

    def _parse(self, labels, dtype):
        """Yield pieces of a plain loop that has rows, as ``dtype``."""
        with open(self.path, "rb") as handle:
            handle.seek(self.offset)
            pieces = pd.read_csv(
                handle,
                sep=r"\s+",
                header=None,
                names=self.labels,
                usecols=labels,
                nrows=self.rows,
                chunksize=PIECE,
                dtype=dtype,
                na_filter=False,
                quoting=csv.QUOTE_NONE,
                engine="c",
                encoding_errors="surrogateescape",
            )
            for piece in pieces:
                yield piece[list(labels)]

    def numbers(self, *labels) -> np.ndarray:
        """Return columns as float64, shape (rows, len(labels)).

        Raises
        ------
        StarError
            If a label is missing or a cell is not a finite number; the line is named.
        """
        self.require(*labels)
        if self.plain and self.rows:
            with contextlib.suppress(ValueError):
                values = np.concatenate([p.to_numpy() for p in self._parse(labels, float)])
                if np.isfinite(values).all():
                    return values
        text = self.read(*labels)
        values = np.empty(text.shape)
        for column, label in enumerate(labels):
            values[:, column] = pd.to_numeric(text[label], errors="coerce")
        row, column = np.nonzero(~np.isfinite(values))
        if len(row):
            found = text.iat[row[0], column[0]]
            raise StarError(
                f"{self.path}:{self.line + row[0]}: {labels[column[0]]} is {found!r}, "
                "expected a number"
            )
        return values

    def _values(self):
        with open(self.path, "rb") as handle:
            handle.seek(self.offset)
            found = [cells(line) for line in _entries(handle)]
        return _text(cell[1] if len(cell) > 1 else b"" for cell in found)


def cells(line) -> list[bytes]:
    """Split a row into its cells, without quotes and without a trailing comment.

    Raises
    ------
    StarError
        If a quote that opens a cell is not closed.

    Examples
    --------
    >>> cells(b"1.0 'a b.mrc' c#d # a remark")
    [b'1.0', b'a b.mrc', b'c#d']
    """
    found = []
    for match in CELL.finditer(line):
        if match.lastgroup == "open":
            raise StarError(f"a quote that is not closed: {_show(match[0])}")
        if match.lastgroup != "comment":
            found.append(match[match.lastindex])
    return found


def scan(path) -> dict[str, Block]:
    """Find the blocks of a STAR file and check every row of them.

    Parameters
    ----------
    path : path-like
        The file; it is read line by line, never whole.

    Returns
    -------
    dict of str to Block
        By name without ``data_``, in file order.

    Raises
    ------
    StarError
        For a file that is no STAR file, CRLF line ends, a repeated block or label, a row of
        another length than the labels, a quote that is not closed, rows after a loop's first blank
        line (RELION ignores them).
    OSError
        If the file cannot be read.
    """
    path = Path(path)
    blocks = {}
    with open(path, "rb") as handle:
        source = _Lines(path, handle)
        line = source.skip()
        if line is None:
            raise StarError(f"{path}: not a STAR file: it is empty")
        while line is not None:
            if not line.startswith(b"data_"):
                raise source.error(f"not a STAR file: {_show(line)} where data_... was expected")
            name = _decode(line.split(None, 1)[0][5:])
            if name in blocks:
                raise source.error(f"block data_{name} a second time; rename or remove one")
            line = source.skip()
            if line is not None and line.split()[0] == b"loop_":
                blocks[name], line = _scan_loop(source, name)
            else:
                blocks[name], line = _scan_simple(source, name, line)
    return blocks


class _Lines:
    """The lines of an open file, stripped, with their number and place."""

    def __init__(self, path, handle):
        self.path, self.handle = path, handle
        self.number = self.offset = self.end = 0

    def next(self):
        """Return the next line, stripped, or None at the end of the file."""
        raw = self.handle.readline()
        self.offset, self.end = self.end, self.end + len(raw)
        if not raw:
            return None
        self.number += 1
        if raw.endswith(b"\r\n"):
            raise self.error("CRLF line ends, which RELION can't read; run dos2unix on a copy")
        if b"\0" in raw or b"\r" in raw or b"\v" in raw or b"\f" in raw:
            raise self.error("not a STAR file: it holds binary data")
        return raw.strip()

    def skip(self):
        """Return the next line that is neither blank nor a comment, or None."""
        line = self.next()
        while line is not None and (not line or line.startswith(b"#")):
            line = self.next()
        return line

    def cells(self, line):
        """Return the cells of a line; an error names the line."""
        try:
            return cells(line)
        except StarError as err:
            raise self.error(err) from None

    def error(self, text):
        return StarError(f"{self.path}:{self.number}: {text}")


def _scan_loop(source, name):
    labels = []
    line = source.skip()
    while line is not None and line.startswith(b"_"):
        labels.append(_label(source, line, labels))
        line = source.skip()
    if not labels:
        raise source.error(f"loop_ of data_{name} without labels")
    first, offset, rows, plain = source.number, source.offset, 0, True
    if line is not None and line.startswith(b"data_") and len(line.split()) < len(labels):
        return Block(source.path, name, tuple(labels), True, first, offset, 0, True), line
    columns = len(labels)
    while line:
        count = len(line.split())
        if b'"' in line or b"'" in line or b"#" in line:
            plain, count = False, len(source.cells(line))
        if count != columns:
            raise source.error(f"{count} columns, expected {columns}")
        rows += 1
        line = source.next()
    block = Block(source.path, name, tuple(labels), True, first, offset, rows, plain)
    if line is not None:
        line = source.skip()
    if line is not None and not line.startswith(b"data_"):
        raise source.error(
            f"a row after the blank line that ends data_{name}, which RELION would not read; "
            "remove the blank line"
        )
    return block, line


def _scan_simple(source, name, line):
    labels, first, offset = [], source.number, source.offset
    while line is not None and line.startswith(b"_"):
        labels.append(_label(source, line, labels))
        source.cells(line)
        line = source.skip()
    rows = 1 if labels else 0
    return Block(source.path, name, tuple(labels), False, first, offset, rows, False), line


def _label(source, line, labels):
    label = _decode(line.split(None, 1)[0][1:])
    if label in labels:
        raise source.error(f"label _{label} a second time; remove one of the two columns")
    return label


def _entries(handle):
    """Yield the label-value lines of a block without loop_, up to the next block."""
    for line in handle:
        line = line.strip()
        if line.startswith(b"data_"):
            return
        if line.startswith(b"_"):
            yield line


def copy(block, target, keep, columns):
    """Copy a file, keeping only some rows of one block and setting some columns of it.

    All else (other blocks, comments, the other cells, their spacing and digits) stays as it is.

    Parameters
    ----------
    block : Block
        A loop, from `scan`.
    target : path-like
        Written whole or not at all.
    keep : ndarray of bool, shape (rows,)
        The rows to keep.
    columns : dict of str to iterable of str
        New cells of all rows by label, taken as they come, so that they need not fit into memory;
        a label that the block lacks is added after the last one.
    """
    setters = [_cell_setter(block, label) for label in columns]
    new = [label for label in columns if label not in block.labels]
    with files.atomic(target) as part, open(part, "wb") as out:
        with open(block.path, "rb") as source:
            header = source.read(block.offset)
            for number, label in enumerate(new, len(block.labels) + 1):
                header = _add_label(header, f"_{label} #{number} \n".encode())
            out.write(header)
            for kept, *values in zip(keep.tolist(), *columns.values(), strict=True):
                line = source.readline()
                if kept:
                    for setter, value in zip(setters, values, strict=True):
                        line = setter(line.rstrip(b"\n"), value.encode())
                    out.write(line)
            while piece := source.read(1 << 20):
                out.write(piece)


def _add_label(header, label):
    """Put a label line after the last one of a header."""
    at = header.index(b"\n", len(header.rstrip())) + 1  # RELION ends label lines with a space
    return header[:at] + label + header[at:]


def _cell_setter(block, label):
    """Return a function of (row, value) that gives the row with the column set, and a line end."""
    if label not in block.labels:
        return _add_cell
    column = block.labels.index(label)
    if block.plain:
        before = re.compile(rb"\s*(?:\S+\s+){%d}" % column)

        def replace(line, value):
            start = before.match(line).end()
            rest = line[start:].split(None, 1)[0]
            return line[:start] + value + line[start + len(rest) :] + b"\n"

        return replace

    def replace_quoted(line, value):
        cell = list(CELL.finditer(line))[column]
        return line[: cell.start()] + value + line[cell.end() :] + b"\n"

    return replace_quoted


def _add_cell(line, value):
    """Put a cell at the end of a row, before its comment."""
    end = len(line)
    for match in CELL.finditer(line) if b"#" in line else ():
        if match.lastgroup == "comment":
            end = match.start()
    return line[:end].rstrip() + b" " + value + b" " + line[end:] + b"\n"


def write(path, tables):
    """Write new tables, as RELION 3.1 and 4 head theirs (3.0 reads them too).

    Not through the starfile library: it fails on a space in a cell, or splits a row in two at
    U+2028, and writes quotes and ``#`` so that they come back as something else.

    Parameters
    ----------
    path : path-like
        Written whole or not at all.
    tables : dict of str to DataFrame
        By block name without ``data_``; every cell is text.

    Raises
    ------
    StarError
        For a cell that no STAR file can hold: with a line end, or both kinds of quotes before a
        space.
    """
    files.write_text(path, _tables(path, tables))


def _tables(path, tables):
    lines = []
    for name, table in tables.items():
        lines += _header(name, table.columns)
        columns = [[quoted(path, cell) for cell in table[label]] for label in table.columns]
        lines += map(" ".join, zip(*columns, strict=True))
        lines.append("")
    return "\n".join(lines) + "\n"


def write_rows(path, name, labels, rows, before=None):
    """Write a loop as its rows come, so that they need not fit into memory.

    Parameters
    ----------
    path : path-like
        Written whole or not at all.
    name : str
        Of the block, without ``data_``.
    labels : list of str
    rows : iterable of sequences of str
        The cells of each row.
    before : dict of str to DataFrame, optional
        Tables that come first in the file, as `write` takes them.

    Raises
    ------
    StarError
        As `write`.
    """
    with files.atomic(path) as part, open(part, "wb") as out:
        out.write(_encode(_tables(path, before) if before else ""))
        out.write(_encode("\n".join([*_header(name, labels), ""])))
        for row in rows:
            out.write(_encode(" ".join([quoted(path, cell) for cell in row]) + "\n"))
        out.write(b"\n")


def _header(name, labels):
    start = ["", "# version 30001", "", f"data_{name}", "", "loop_"]
    return start + [f"_{label} #{number}" for number, label in enumerate(labels, 1)]


def quoted(path, cell):
    """Return a cell as it stands in a file: in quotes where it needs them."""
    if BARE.fullmatch(cell) and "\0" not in cell:
        return cell
    for quote in sorted("\"'", key=cell.count):
        if not CONTROL.search(cell) and f"{quote} " not in cell and f"{quote}\t" not in cell:
            return f"{quote}{cell}{quote}"
    raise StarError(f"{path}: a STAR file can't hold the cell {cell!r}; rename it")


def _text(row):
    return [_decode(cell) for cell in row]


def _decode(data):
    return os.fsdecode(data)


def _encode(text):
    return text.encode("utf-8", "surrogateescape")


def _show(line):
    text = line[:40].decode("utf-8", "replace")
    return repr(text + ("..." if len(line) > 40 else ""))
