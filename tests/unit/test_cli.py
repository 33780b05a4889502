"""Option types, the project's files, exit codes, one-line errors, progress."""

import argparse
import errno
import io
import re
import sys

import pytest

from apbc_common import ApbcError, cli
from apbc_common.star import StarError


@pytest.mark.parametrize(
    "kind, good, bad, wanted",
    [
        (cli.positive_int, {"1": 1, "0128": 128}, "0 -1 1.5 x nan", "a whole number of at least 1"),
        (
            cli.natural,
            {"0": 0, "4294967295": 2**32 - 1},
            "-1 4294967296 .5",
            "a whole number from 0 to 4294967295",
        ),
        (cli.even, {"2": 2, "216": 216}, "0 -2 3 2.0", "an even number from 2"),
        (cli.positive, {"1e-3": 0.001, "2": 2.0}, "0 -1 inf nan x", "a number above 0"),
        (cli.not_negative, {"0": 0.0, "2": 2.0}, "-1 inf nan x", "a number of at least 0"),
        (cli.percent, {"0": 0.0, "100": 100.0}, "-1 100.1 nan x", "a number from 0 to 100"),
        (cli.jobs, {"1": 1, "256": 256}, "0 257 1.5 x", "a whole number from 1 to 256"),
        (
            cli.probability,
            {"0": 0.0, "0.5": 0.5, "1": 1.0},
            "-.1 1.1 nan x",
            "a number from 0 to 1",
        ),
    ],
)
def test_option_types(kind, good, bad, wanted):
    for text, value in good.items():
        assert kind(text) == value and type(kind(text)) is type(value)
    for text in [*bad.split(), ""]:
        with pytest.raises(argparse.ArgumentTypeError) as caught:
            kind(text)
        assert str(caught.value) == f"{text!r} is not {wanted}"


# --- the command line ----------------------------------------------------------------------------


@pytest.fixture
def parser():
    result = cli.parser("x.py", "What it does.\n\nMore of it.\n\nExample: x.py -i a.star\n")
    result.add_argument("-i", "--imagestar", type=cli.ProjectFile, required=True)
    result.add_argument("-n", "--number", type=cli.positive_int, default=3)
    cli.add_clear(result, "--clear")
    return result


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A project with a/b.star, and the working directory with here.star beside it."""
    (tmp_path / "project" / "a").mkdir(parents=True)
    (tmp_path / "project" / "a" / "b.star").touch()
    (tmp_path / "here.star").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(parser, capsys, *argv):
    with pytest.raises(SystemExit) as caught:
        cli.parse(parser, argv)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    return err.splitlines()[-1]


def test_paths_are_relative_to_the_project(parser, folder):
    args = cli.parse(parser, ["-p", "project", "-i", "a/b.star", "--o", "out/dir"])
    assert args.imagestar.samefile(folder / "project/a/b.star")
    assert str(args.out) == "project/out/dir"
    assert (args.number, args.clear) == (3, False)


def test_a_file_of_the_working_directory_is_found_too(parser, folder):
    args = cli.parse(parser, ["-p", "project", "-i", "here.star", "-c"])
    assert args.imagestar.samefile(folder / "here.star") and args.clear
    (folder / "project" / "here.star").touch()  # the project's comes first
    args = cli.parse(parser, ["-p", "project", "-i", "here.star"])
    assert args.imagestar.samefile(folder / "project/here.star")


def test_absolute_paths(parser, folder):
    args = cli.parse(
        parser, ["-p", "project", "-i", str(folder / "here.star"), "--o", str(folder / "out")]
    )
    assert (args.imagestar, args.out) == (folder / "here.star", folder / "out")


def test_the_project_is_the_working_directory_by_default(parser, folder, monkeypatch):
    monkeypatch.chdir(folder / "project")
    args = cli.parse(parser, ["-i", "a/b.star", "--clear", "-n", "7"])
    assert args.imagestar.samefile(folder / "project/a/b.star")
    assert (args.out, args.clear, args.number) == (None, True, 7)


@pytest.mark.parametrize(
    "argv, message",
    [
        ("-i a/b.star -p none", "argument -p/--projpath: none: no such folder"),
        (
            "-p project -i none.star",
            "argument -i/--imagestar: none.star: no such file in the project {project}",
        ),
        ("-p project -i a", "argument -i/--imagestar: a: a folder in the project {project}"),
        ("-p project -i a/b.star -n 0", "argument -n/--number: '0' is not a whole number of at "),
        ("-p project", "the following arguments are required: -i/--imagestar"),
        ("-p project -i a/b.star --num 1", "unrecognized arguments: --num 1"),
        ("-p project -i a/b.star --cl", "unrecognized arguments: --cl"),
    ],
)
def test_a_wrong_command_line_is_exit_code_2(parser, folder, capsys, argv, message):
    found = refused(parser, capsys, *argv.split())
    assert found.startswith("x.py: error: " + message.format(project=folder / "project"))


def test_help_says_what_the_docstring_says(parser, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.parse(parser, ["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "\nWhat it does.\n" in text
    assert text.endswith("More of it.\n\nExample: x.py -i a.star\n")


# --- run -----------------------------------------------------------------------------------------


def raises(error):
    raise error


@pytest.mark.parametrize(
    "error, line",
    [
        (ApbcError("a.star: what\n  and  why"), "a.star: what and why"),
        (StarError("a.star:3: 2 columns"), "a.star:3: 2 columns"),
        (OSError(errno.ENOENT, "No such file or directory", "a b.mrc"), "a b.mrc: No such file or d"
         "irectory"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (OSError("cannot read"), "cannot read"),
    ],
)  # fmt: skip
def test_what_the_user_can_mend_is_one_line_and_exit_code_1(capsys, error, line):
    assert cli.run("x.py", raises, error) == 1
    assert capsys.readouterr() == ("", f"x.py: error: {line}\n")


def test_run_passes_arguments_and_returns_0(capsys):
    seen = []
    assert cli.run("x.py", lambda *args: seen.append(args), 1, 2) == 0
    assert seen == [(1, 2)]
    assert capsys.readouterr() == ("", "")


def test_an_interrupt_is_exit_code_130(capsys):
    assert cli.run("x.py", raises, KeyboardInterrupt()) == 130
    expected = "x.py: interrupted; run the same command again\n"
    assert capsys.readouterr() == ("", expected)


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ValueError, match="a bug"):
        cli.run("x.py", raises, ValueError("a bug"))


def test_a_missing_file_as_the_system_says_it(tmp_path, capsys):
    path = tmp_path / "none"
    assert cli.run("x.py", open, path) == 1
    assert capsys.readouterr().err == f"x.py: error: {path}: No such file or directory\n"


def test_warn(capsys):
    cli.warn("mind this")
    assert capsys.readouterr() == ("", "warning: mind this\n")


# --- progress ------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


@pytest.mark.parametrize("count, lines", [(0, 0), (1, 1), (3, 3), (10, 10), (25, 10), (1000, 10)])
def test_progress_in_a_log_file_is_a_line_every_tenth(capsys, count, lines):
    assert list(cli.progress(range(count), "windows")) == list(range(count))
    out, err = capsys.readouterr()
    assert out == "" and "\r" not in err
    assert len(err.splitlines()) == lines
    if lines:
        assert re.match(rf"100%.* {count}/{count} \[.* windows/s\]$", err.splitlines()[-1])
    if lines == 10:
        shown = [int(line.split("%")[0]) for line in err.splitlines()]
        assert shown == [pytest.approx(p, abs=2) for p in range(10, 101, 10)]


def test_progress_counts_what_items_are_worth(capsys):
    items = ["a" * 30, "b" * 50, "c" * 20]
    assert list(cli.progress(iter(items), "letters", 100, len)) == items
    shown = [
        line.split("|")[0].split("%")[0].strip() for line in capsys.readouterr().err.splitlines()
    ]
    assert shown == ["30", "80", "100"]


def test_progress_with_a_note_says_it_instead_of_the_speed(monkeypatch, capsys):
    seen = []

    def note(done, spent):
        seen.append((done, spent >= 0))
        return f"{7 * done} picks"

    assert list(cli.progress(range(4), "micrographs", note=note)) == [0, 1, 2, 3]
    lines = capsys.readouterr().err.splitlines()
    assert [re.sub(r"\d\d:\d\d", "T", line) for line in lines] == [
        " 25% 1/4 micrographs [T<T, 7 picks]",
        " 50% 2/4 micrographs [T<T, 14 picks]",
        " 75% 3/4 micrographs [T<T, 21 picks]",
        "100% 4/4 micrographs [T<T, 28 picks]",
    ]
    assert seen == [(1, True), (2, True), (3, True), (4, True)]
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    list(cli.progress(range(4), "micrographs", note=note))
    assert "| 0/4 micrographs [" in terminal.getvalue() and "\n" not in terminal.getvalue()


def test_progress_on_a_terminal_rewrites_one_line(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(cli.progress(range(20), "windows")) == list(range(20))
    text = terminal.getvalue()
    assert "\r" in text and "\n" not in text
    assert "0/20" in text and "windows/s" in text
    assert text.rstrip("\r").rsplit("\r", 1)[-1].strip() == ""  # nothing of it stays


def test_progress_on_a_terminal_stops_with_the_loop(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    for item in cli.progress(range(20), "windows"):
        if item == 3:
            break
    assert "\n" not in terminal.getvalue()


def test_status(monkeypatch, capsys):
    cli.status("epoch 1")
    cli.status(None)
    assert capsys.readouterr() == ("", "epoch 1\n")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "20")
    cli.status("epoch 1")
    cli.status("x" * 100)
    cli.status(None)
    assert terminal.getvalue() == "\repoch 1" + " " * 12 + "\r" + "x" * 19 + "\n"
