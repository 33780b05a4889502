"""What the command lines share: option types, errors and exit codes, progress.

The standard library only, so that --help and a mistyped option answer at once.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import re
import shutil
import sys
import time
from pathlib import Path

from . import ApbcError, SomeSkipped, external

COUNTS = "{n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}]"  # tqdm's fields
INPUTS = [f"--in_{name}" for name in "movies mics parts coords 3dref mask".split()]  # RELION's
NOTED = "{n_fmt}/{total_fmt}{unit} [{elapsed}<{remaining}{postfix}]"
_screens = []  # where progress is shown: on the last, or stderr


class ProjectFile(str):
    """A file as the user named it, relative to the project; `parse` makes it a path."""


class ProjectFolder(str):
    """A folder to be written or read, as the user named it, relative to the project."""


def positive_int(text) -> int:
    """Argparse type: a whole number of at least 1."""
    return number(text, int, lambda value: value >= 1, "a whole number of at least 1")


def batch(text) -> int:
    """Argparse type: a number of windows from 1 to 4096, which is what memory allows."""
    return number(text, int, lambda value: 1 <= value <= 4096, "a whole number from 1 to 4096")


def natural(text) -> int:
    """Argparse type: a whole number of at least 0, below 2^32 (a seed)."""
    return number(
        text, int, lambda value: 0 <= value < 2**32, "a whole number from 0 to 4294967295"
    )


def even(text) -> int:
    """Argparse type: an even number of pixels, at least 2."""
    return number(text, int, lambda value: value >= 2 and value % 2 == 0, "an even number from 2")


def positive(text) -> float:
    """Argparse type: a number above 0."""
    return number(text, float, lambda value: 0 < value < float("inf"), "a number above 0")


def not_negative(text) -> float:
    """Argparse type: a number of at least 0."""
    return number(text, float, lambda value: 0 <= value < float("inf"), "a number of at least 0")


def percent(text) -> float:
    """Argparse type: a number from 0 to 100."""
    return number(text, float, lambda value: 0 <= value <= 100, "a number from 0 to 100")


def jobs(text) -> int:
    """Argparse type: a number of processes."""
    return number(text, int, lambda value: 1 <= value <= 256, "a whole number from 1 to 256")


def scheduler(text) -> str:
    """Argparse type: the address of a Dask scheduler, or the file in which it tells it."""
    return text if re.fullmatch(r"(\w+://)?[^/\s]+:\d+", text) else ProjectFile(text)


def probability(text) -> float:
    """Argparse type: a number from 0 to 1."""
    return number(text, float, lambda value: 0 <= value <= 1, "a number from 0 to 1")


def share(text) -> float:
    """Argparse type: between 0 and 1, neither of them."""
    return number(text, float, lambda x: 0 < x < 1, "a number between 0 and 1")


def gpus(text):
    """Argparse type: all, none, or a number of GPUs."""
    if text in ("all", "none"):
        return text
    return number(text, int, lambda value: value >= 1, "all, none or a whole number of at least 1")


def number(text, kind, good, wanted):
    """Convert an option's text by ``kind``; say what is wanted if it is not ``good``."""
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not good(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
    return value


def parser(prog, doc, out="ClassBin") -> argparse.ArgumentParser:
    """Return a parser with what every script has; ``doc`` is the script's docstring.

    Its first line becomes the description, all after the first blank line the epilogue; ``out`` is
    where the script writes by default.
    """
    title, _, rest = doc.partition("\n\n")
    result = _Parser(
        prog=prog,
        description=title.strip(),
        epilog=rest.strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    result.kinds = {external.KIND, out}
    result.add_argument(
        "-p",
        "--projpath",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="the RELION project, which all paths are relative to (default: the working directory)",
    )
    result.add_argument(
        "--o",
        dest="out",
        type=ProjectFolder,
        metavar="DIR",
        help=f"write into DIR (default: {out})",
    )
    return result


def add_clear(result, *names):
    """Give a parser the option that clears what an earlier run wrote."""
    result.add_argument(
        "-c",
        *names,
        dest="clear",
        action="store_true",
        help="clear what an earlier run of this script wrote there, and start anew",
    )


def parse(result, argv):
    """Parse ``argv``; find the project and the files named in it, or exit with 2.

    Relative paths are the project's; one that is not there is looked for in the working directory.
    What RELION gives an External job is taken too; ``args.job`` is that job, or None.
    """
    _add_relion_s(result)
    result.argv = sys.argv[1:] if argv is None else argv
    args = result.parse_args(result.argv)
    if not os.path.isdir(args.projpath):
        result.error(f"argument -p/--projpath: {args.projpath}: no such folder")
    for action in result._actions:
        value = getattr(args, action.dest, None)
        if isinstance(value, list) and action.type is ProjectFile:  # given again and again
            found = [_existing(result, action, args.projpath, one) for one in value]
            setattr(args, action.dest, found)
        elif isinstance(value, ProjectFile):
            setattr(args, action.dest, _existing(result, action, args.projpath, value))
        elif isinstance(value, ProjectFolder):
            if not value.strip():
                result.error(f"argument {'/'.join(action.option_strings)}: no folder is named")
            setattr(args, action.dest, args.projpath / value)
    if args.out is not None:
        _check_out(result, args.out)
    args.job = external.job_of(args.projpath, args.out)
    return args


def _check_out(result, out):
    """Refuse to write into the folder of a job of another kind than those the parser is for."""
    kinds = getattr(result, "kinds", ())  # none of a parser that is not of `parser`
    if kinds and external.FOLDER.fullmatch(out.name) and out.parent.name not in kinds:
        result.error(
            f"argument --o: {out}: the folder of another job; give {external.KIND}/jobNNN/, or a "
            "folder of your own"
        )


class _Parser(argparse.ArgumentParser):
    argv = ()

    def error(self, message):
        """Refuse the line; where it was RELION's, tell it, which would wait for ever."""
        if job := _job_in(self.argv):
            job.end(external.FAILURE)
        super().error(message)


def _add_relion_s(result):
    """Let a parser take what RELION gives External jobs; fields that the script has no use for not.

    Of those it has, one of its own options has the name too. ``args.cores`` is RELION's number of
    threads.
    """
    ways = {name: {"action": _NotTaken} for name in INPUTS}
    ways |= {"--j": {"dest": "cores", "type": jobs}, "--pipeline_control": {}}
    for name in ways.keys() - result._option_string_actions.keys():
        result.add_argument(name, help=argparse.SUPPRESS, **ways[name])


class _NotTaken(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        """Refuse a field of RELION's GUI."""
        parser.error(f"argument {option_string}: {parser.prog} has no use for it; leave it empty")


def _job_in(argv):
    """Return the External job of a command line that can't be parsed, or None."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--o")
    finder.add_argument("-p", "--projpath", default=".")
    with contextlib.suppress(SystemExit), contextlib.redirect_stderr(None):
        args = finder.parse_known_args(argv)[0]
        job = external.job_of(args.projpath, args.o and os.path.join(args.projpath, args.o))
        return job if job and job.folder.is_dir() else None


def _existing(result, action, project, value):
    option = "/".join(name for name in action.option_strings if name not in INPUTS)
    for path in (project / value, Path(value)):
        if os.path.isfile(path):
            return path
    there = "a folder" if os.path.isdir(project / value) else "no such file"
    with contextlib.suppress(OSError):  # the working directory may be gone
        project = project.resolve()
    result.error(f"argument {option}: {value}: {there} in the project {project}")


def run(prog, work, *args, job=None) -> int:
    """Call ``work`` and return the exit code; what the user can mend becomes one line.

    0 done, 1 it can't be finished (ApbcError, OSError, MemoryError), 130 interrupted. Anything else
    is a bug and keeps its traceback.

    Parameters
    ----------
    prog : str
    work : callable
        Returns the nodes that RELION should know (`external.Job.write_nodes`), or None.
    *args
        Of ``work``.
    job : external.Job, optional
        Whose folder is written to: then RELION is told how it ends, progress goes to stdout
        (run.out), and work that skipped a few is a success.
    """
    sys.stdout, sys.stderr = (
        stream or open(os.devnull, "w") for stream in (sys.stdout, sys.stderr)
    )  # what was closed before we started
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # file names need not be UTF-8, nor the terminal
            stream.reconfigure(errors="backslashreplace", line_buffering=True)
    try:
        if job:
            with job, _progress_on(sys.stdout):
                _work_as_job(work, args, job)
        else:
            work(*args)
    except BrokenPipeError:  # nobody reads any longer, as after | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ApbcError, OSError, MemoryError) as err:
        print(f"{prog}: error: {explain(err)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{prog}: interrupted; run the same command again", file=sys.stderr)
        return 130
    return 0


def _work_as_job(work, args, job):
    try:
        nodes = work(*args)
    except SomeSkipped as err:
        warn(explain(err))
        nodes = err.made
    if odd := job.write_nodes(nodes or ()):
        warn(odd)


@contextlib.contextmanager
def _progress_on(stream):
    """Show progress on another stream than stderr."""
    _screens.append(stream)
    try:
        yield
    finally:
        _screens.pop()


def _screen():
    return _screens[-1] if _screens else sys.stderr


def explain(err, path=None) -> str:
    """Return one line for an error, the file first where it is one of the system; else ``path``."""
    if isinstance(err, MemoryError):
        return f"{path}: not enough memory for it" if path else f"not enough memory ({err})"
    if isinstance(err, OSError) and err.strerror:
        return f"{err.filename}: {err.strerror}" if err.filename else err.strerror
    return " ".join(str(err).split())


def warn(text):
    """Print a warning to stderr, above a line of progress."""
    tqdm = sys.modules.get("tqdm")
    with tqdm.tqdm.external_write_mode(sys.stderr) if tqdm else contextlib.nullcontext():
        print(f"warning: {text}", file=sys.stderr, flush=True)


@functools.cache
def warn_once(text):
    """Do as `warn`, but for each text only the first time."""
    warn(text)


def say(text):
    """Print a line that stays where progress is shown."""
    print(text, file=_screen(), flush=True)


def progress(items, unit, total=None, count=lambda item: 1, note=None):
    """Yield ``items`` and show on stderr how many are done, how fast, and the time left.

    On a terminal one line is rewritten; elsewhere (a log file) there is a line every tenth.

    Parameters
    ----------
    items : iterable
        What is worked on.
    unit : str
        What is counted, in the plural.
    total : int, optional
        How many there will be (default: ``len(items)``).
    count : callable, optional
        How many units an item is worth (default: 1).
    note : callable, optional
        Of the units done and the seconds spent: what to say in place of the speed.
    """
    from tqdm import tqdm

    total = len(items) if total is None else total
    done, tenths, start = 0, 0, time.monotonic()
    screen = _screen()
    terminal = screen.isatty()
    ending = COUNTS if note is None else NOTED
    look = {"unit": f" {unit}", "bar_format": f"{{percentage:3.0f}}% {ending}"}
    if terminal:
        look = {"unit": f" {unit}", "bar_format": f"{{l_bar}}{{bar}}| {ending}"}
    with tqdm(
        total=total, dynamic_ncols=True, leave=False, disable=not terminal, file=screen, **look
    ) as bar:
        for item in items:
            yield item
            done += count(item)
            spent = time.monotonic() - start
            if terminal:
                if note:
                    bar.set_postfix_str(note(done, spent), refresh=False)
                bar.update(count(item))
            elif total and 10 * done // total > tenths:
                tenths = 10 * done // total
                said = {"postfix": note(done, spent)} if note else {}
                line = tqdm.format_meter(done, total, spent, **look, **said)
                print(f"{line}\n", end="", file=screen, flush=True)  # whole, if interrupted


def status(text):
    """Print a line of progress to stderr, over the last one on a terminal; None ends it."""
    screen = _screen()
    if not screen.isatty():
        if text:
            print(text, file=screen, flush=True)
        return
    if text is None:
        print(file=screen)
        return
    width = shutil.get_terminal_size().columns - 1
    print(f"\r{text[:width]:<{width}}", end="", file=screen, flush=True)
