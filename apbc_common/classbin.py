"""The layout of ClassBin, and the records beside what was written. Every path is spelt here."""

from __future__ import annotations

import datetime
import json
import time
from pathlib import Path

from . import ApbcError, __version__, files

KINDS = ("bad", "good")  # the label of a window is the index of its kind
PARTS = ("train", "test")


class ClassBin:
    """The paths below the folder that a script writes to or reads from.

    Parameters
    ----------
    project : path-like
        The RELION project.
    out : path-like, optional
        The folder given by ``--o`` or ``--data``: used instead of ``PROJECT/ClassBin``, and then
        files for RELION lie straight in it, as those of a RELION job do.
    """

    def __init__(self, project, out=None):
        self.folder = Path(out) if out else Path(project) / "ClassBin"
        self.grid_dir = self.folder if out else self.folder / "grid"

    def windows(self, part, kind) -> Path:
        """Return the folder of the PNG windows of a part ('train', 'test') and kind."""
        return self.folder / part / kind

    @property
    def dataset(self) -> Path:
        """What gen_data says of its windows."""
        return self.folder / "dataset.json"

    @property
    def model(self) -> Path:
        """The trained network; its record lies beside it, see `model_record`."""
        return self.folder / "model.h5"

    @property
    def training_log(self) -> Path:
        """Each metric of each epoch."""
        return self.folder / "training_log.txt"

    @property
    def testing_results(self) -> Path:
        """Label and prediction of each test window."""
        return self.folder / "testing_results.txt"

    @property
    def training_picture(self) -> Path:
        """Curves and the table of results."""
        return self.folder / "train_and_test_results.png"

    def grid_file(self, rest) -> Path:
        """Return where a micrograph's grid goes; ``rest`` is from `relion.rest`."""
        return self.grid_dir / f"{rest}_grid.star"

    @property
    def grid_list(self) -> Path:
        """Return the list of grid files that RELION 4 and 5 take."""
        return self.grid_dir / "grid.star"

    @property
    def grid_suffix(self) -> Path:
        """Return the one-line file that RELION 3.1 takes for a set of coordinate files."""
        return self.grid_dir / "coords_suffix_grid.star"

    def particles(self, which) -> Path:
        """Return the list of 'true', 'false' or 'unique' particles."""
        return self.folder / f"particles_{which}.star"

    @property
    def scores(self) -> Path:
        """Return where the scores of an unfinished run are kept."""
        return self.folder / ".part-scores.f32"

    def picture(self, rest, what) -> Path:
        """Return where the overlay of a micrograph's picks goes."""
        return self.folder / "pngs" / f"{rest}_{what}.png"

    def record(self, script) -> Path:
        """Return where the record of a script's run lies."""
        return self.folder / f"run_{script}.json"


def model_record(model) -> Path:
    """Return where the record of a model lies: beside it."""
    return Path(model).with_suffix(".json")


def read_json(path, made_by):
    """Read a JSON record.

    Raises
    ------
    ApbcError
        If it is missing (``made_by`` names the script that makes it) or damaged.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ApbcError(f"{path}: not there; run {made_by} first") from None
    except (ValueError, UnicodeDecodeError):
        raise ApbcError(f"{path}: damaged; remove it and run {made_by} again") from None


def write_json(path, content):
    """Write a JSON record, whole or not at all."""
    text = json.dumps(content, indent=1, ensure_ascii=False)
    files.write_text(path, text + "\n")


class Run:
    """One run of a script, and the one rule for running again.

    With the inputs and options of the earlier run, what is missing is done and what is there is
    kept; with others the run is refused and the difference named. ``clear`` removes what the
    earlier run wrote, by its record, and nothing else.

    Parameters
    ----------
    record : pathlib.Path
        From `ClassBin.record`.
    inputs : dict of str to path or None
        Compared by content.
    options : dict
        Whatever else decides the result; JSON values.
    clear : bool
        Whether to clear an earlier run.

    Raises
    ------
    ApbcError
        If the earlier run had other inputs or options, or its record is damaged.
    """

    def __init__(self, record, inputs, options, clear=False):
        self.record = record
        self._start = time.time()
        self._wanted = {
            "inputs": {
                name: {"path": str(path), "sha256": files.digest(path)}
                for name, path in inputs.items()
                if path is not None
            },
            "options": options,
        }
        earlier = read_json(record, "the script") if record.exists() else None
        if earlier and clear:
            self._clear(earlier)
            earlier = None
        if earlier and (difference := _difference(earlier, self._wanted)):
            raise ApbcError(
                f"{record}: an earlier run had {difference}; "
                "-c clears what it wrote and starts anew, --o DIR writes elsewhere"
            )
        self._earlier = earlier

    def finished(self, outputs) -> bool:
        """Say whether the earlier run was this one, came to its end, and all of it is there."""
        return bool(
            self._earlier
            and self._earlier["state"] == "finished"
            and all(path.exists() for path in outputs)
        )

    def begin(self, outputs):
        """Write the record as unfinished.

        Parameters
        ----------
        outputs : list of pathlib.Path
            All that will be written, below the record's folder.

        Raises
        ------
        ApbcError
            If one of them is there and no record says who wrote it.
        """
        known = self._earlier["outputs"] if self._earlier else []
        names = [str(path.relative_to(self.record.parent)) for path in outputs]
        self._outputs = list(dict.fromkeys([*known, *names]))  # a list may grow between runs
        known = set(known)
        for path, name in zip(outputs, names, strict=True):
            if name not in known and path.exists():
                raise ApbcError(
                    f"{path}: already there, and not written by the run in {self.record.name}; "
                    "move it away, or use --o DIR to write elsewhere"
                )
        self._write("unfinished", {})

    def finish(self, counts):
        """Write the record as finished; ``counts`` says what went in, came out, was skipped."""
        self._write("finished", counts)

    def undo(self):
        """Remove what this run and those it continued wrote, and the record."""
        self._clear({"outputs": self._outputs})

    def _write(self, state, counts):
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        write_json(
            self.record,
            {
                "script": self.record.stem.removeprefix("run_"),
                "version": __version__,
                "state": state,
                "written": now,
                "seconds": round(time.time() - self._start, 1),
                "counts": counts,
                **self._wanted,
                "outputs": self._outputs,
            },
        )

    def _clear(self, earlier):
        folder = self.record.parent
        emptied = set()
        for name in earlier["outputs"]:
            (folder / name).unlink(missing_ok=True)
            emptied.update(parent for parent in Path(name).parents if parent != Path())
        for parent in sorted(emptied, key=lambda path: len(path.parts), reverse=True):
            if (folder / parent).is_dir() and not any((folder / parent).iterdir()):
                (folder / parent).rmdir()
        self.record.unlink(missing_ok=True)


def _difference(earlier, wanted):
    """Name the first difference between an earlier run's inputs and options and this one's."""
    was, now = earlier["inputs"], wanted["inputs"]
    for name in sorted(was.keys() | now.keys()):
        old, new = was.get(name), now.get(name)
        if (old or {}).get("sha256") != (new or {}).get("sha256"):
            if old and new and old["path"] == new["path"]:
                return f"another content of {new['path']}"
            return f"{name} {old['path'] if old else 'none'}, this one has {_path(new)}"
    old, new = earlier["options"], json.loads(json.dumps(wanted["options"]))
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            return f"{name} {old.get(name)}, this one has {new.get(name)}"
    return None


def _path(entry):
    return entry["path"] if entry else "none"
