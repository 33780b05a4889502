"""The layout of ClassBin, and the records beside what was written. Every path is spelt here."""

from __future__ import annotations

import contextlib
import copy
import datetime
import fcntl
import json
import math
import os
import shutil
import time
from pathlib import Path

from . import ApbcError, __version__, files

# Of a data set's record.
SIZES = ("window_px", "image_px", "window_angst", "box_angst", "diameter_angst")
EXTRACTION = {"norm", "bg_radius", "known", "invert"}  # what it says of the particles
EVENING = {"usual", "part"}  # what a calibration says of micrographs unlike others
KINDS = ("bad", "good")  # the label of a window is the index of its kind
PARTS = ("train", "test")
PICKED = "_autopick.star"  # how the picks of a micrograph end
CANDIDATES = ".candidates"
CUT = ("threshold", "max_picks")  # options that decide which candidates are picks, and no more


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
        self.picks_dir = self.folder if out else self.folder / "picks"

    def absolute(self):
        """Return the same for a process that may work in another folder."""
        found = copy.copy(self)
        for name, path in vars(self).items():
            setattr(found, name, Path(os.path.abspath(path)))
        return found

    def windows(self, part, kind) -> Path:
        """Return the folder of the PNG windows of a part ('train', 'test') and kind."""
        return self.folder / part / kind

    @staticmethod
    def picture_name(part, kind, stem, number, derived="") -> str:
        """Return a window's PNG file below ClassBin: where it is from, its number there, its kind.

        >>> ClassBin.picture_name("train", "bad", "Movies__a", 12, "empty")
        'train/bad/Movies__a_000012_bad_empty.png'
        """
        return f"{part}/{kind}/{stem}_{number:06d}_{kind}{derived and '_' + derived}.png"

    def samples(self, part) -> Path:
        """Return the list of the windows of a part."""
        return self.folder / f"{part}.star"

    @property
    def dataset(self) -> Path:
        """What gen_data says of its windows."""
        return self.folder / "dataset.json"

    @property
    def model(self) -> Path:
        """The trained network; its record lies beside it, see `model_record`."""
        return self.folder / "model.h5"

    def network(self, number, member) -> Path:
        """Return where a training keeps one of its networks, after a round, until it ends."""
        return self.folder / f"network_{number}_{member}.npz"

    @property
    def continued(self) -> Path:
        """Where a training keeps the model that it goes on from, and its record, until it ends."""
        return self.folder / "model_before.h5"

    @property
    def search_table(self) -> Path:
        """What each of the settings tried has brought."""
        return self.folder / "search.csv"

    @property
    def search_picture(self) -> Path:
        """The same, drawn."""
        return self.folder / "search.png"

    @property
    def settings(self) -> Path:
        """The best settings so far."""
        return self.folder / "settings.json"

    @property
    def training_log(self) -> Path:
        """Each metric of each epoch."""
        return self.folder / "training_log.txt"

    @property
    def testing_results(self) -> Path:
        """Label and prediction of each listed test particle."""
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

    def picks_file(self, rest) -> Path:
        """Return where a micrograph's picks go; ``rest`` is from `relion.rest`."""
        return self.picks_dir / f"{rest}{PICKED}"

    def candidates_file(self, rest) -> Path:
        """Return where a micrograph's candidates are kept, for the list of all of them."""
        return self.picks_dir / CANDIDATES / f"{rest}.star"

    @property
    def picks_list(self) -> Path:
        """Return the list of pick files that RELION 4 and 5 take."""
        return self.picks_dir / "autopick.star"

    @property
    def picks_suffix(self) -> Path:
        """Return the one-line file that RELION 3.1 takes for a set of pick files."""
        return self.picks_dir / "coords_suffix_autopick.star"

    def all_picks(self, which) -> Path:
        """Return the list of all 'picks', or of all 'candidates'."""
        return self.picks_dir / f"{which}.star"

    def picks_box(self, rest) -> Path:
        """Return where a micrograph's EMAN boxes go; ``rest`` is from `relion.rest`."""
        return self.picks_dir / f"{rest}.box"

    @property
    def picks_upside_down(self) -> Path:
        """Return the list of all picks with y from the other end."""
        return self.picks_dir / "picks_inverted_y.star"

    @property
    def picks_cs(self) -> Path:
        """Return the list of all picks in cryoSPARC's own form."""
        return self.picks_dir / "picks.cs"

    def picks_stack(self, rest) -> Path:
        """Return where the images of a micrograph's picks go; ``rest`` is from `relion.rest`."""
        return self.picks_dir / f"{rest}.mrcs"

    @property
    def picks_particles(self) -> Path:
        """Return the list of the images of all picks."""
        return self.picks_dir / "particles.star"

    @property
    def new_particles(self) -> Path:
        """Return the list of those that an earlier list of picks did not have."""
        return self.picks_dir / "particles_new.star"

    def is_cut(self, name) -> bool:
        """Say whether a file of the record of direct picking goes with the picks when cut anew.

        Candidates stay, and so do lists that are whole without it, with the stacks they name.
        """
        path = self.picks_dir / name
        stay = (self.picks_particles, self.new_particles, self.picks_upside_down, self.picks_cs)
        return not (path in stay or path.suffix == ".mrcs" or name.startswith(f"{CANDIDATES}/"))

    @property
    def compared(self) -> Path:
        """Return the table of what was kept, new and dropped, by micrograph."""
        return self.picks_dir / "compared.star"

    @property
    def picks_record(self) -> Path:
        """Return where the record of a run of direct picking lies."""
        return self.picks_dir / "run_gen_picks.json"

    def particles(self, which) -> Path:
        """Return the list of 'true', 'false', 'unique' or 'rescued' particles."""
        return self.folder / f"particles_{which}.star"

    @property
    def suspects(self) -> Path:
        """Return the list of training particles whose label the networks contradict."""
        return self.folder / "suspects.star"

    @property
    def scores(self) -> Path:
        """Return where the scores of an unfinished run are kept."""
        return self.folder / ".part-scores.f32"

    @property
    def pictures(self) -> Path:
        """Where the overlays of picks go."""
        return self.folder / "pngs"

    def picture(self, rest, what) -> Path:
        """Return where the overlay of a micrograph's picks goes."""
        return self.pictures / f"{rest}_{what}.png"

    @property
    def report(self) -> Path:
        """Return where the page on a run of direct picking goes."""
        return self.folder / "report.html"

    def record(self, script) -> Path:
        """Return where the record of a script's run lies."""
        return self.folder / f"run_{script}.json"


def tries(record) -> Path:
    """Return where processes say what they are at, while the run of a record goes on."""
    return Path(record).with_name(".tries")


def model_record(model) -> Path:
    """Return where the record of a model lies: beside it."""
    return Path(model).with_suffix(".json")


def read_json(path, made_by, *keys, cure=None):
    """Read a JSON record, which must hold ``keys``.

    Raises
    ------
    ApbcError
        If it is missing (``made_by`` names the script that makes it) or damaged (``cure`` says what
        to do, if not to make it again).
    """
    try:
        text = Path(path).read_text(encoding="utf-8", errors="surrogateescape")
        record = json.loads(text)
    except FileNotFoundError:
        raise ApbcError(f"{path}: not there; run {made_by} first") from None
    except (ValueError, UnicodeDecodeError):
        record = None
    if not isinstance(record, dict) or not record.keys() >= set(keys):
        raise ApbcError(f"{path}: damaged; {cure or f'remove it and run {made_by} again'}")
    return record


def read_dataset_record(path):
    """Read dataset.json; raise ApbcError if there is none, or it is damaged."""
    record = read_json(path, "gen_data.py")
    if not _is_dataset(record):
        raise ApbcError(f"{path}: damaged; remove it and run gen_data.py again")
    return record


def read_model_record(model):
    """Read the record beside a model; raise ApbcError if there is none, or it is damaged."""
    path = model_record(model)
    keys = ("dataset", "options", "threshold", "calibration", "sha256")
    record = read_json(path, "gen_model.py", *keys)
    seed = record["options"].get("seed") if isinstance(record["options"], dict) else None
    threshold = record["threshold"]
    if (
        not _is_dataset(record["dataset"])
        or not (isinstance(seed, int) and seed >= 0)
        or not (isinstance(threshold, int | float) and 0 <= threshold <= 1)
        or not isinstance(record["sha256"], str)
        or not (record["calibration"] is None or _is_calibration(record["calibration"]))
    ):
        raise ApbcError(f"{path}: damaged; run gen_model.py again")
    return record


def what_models_need(record):
    """Return a model's record without its long lists: what a process needs that works with it."""
    taught = record["dataset"]
    dataset = {name: taught[name] for name in (*SIZES, "source", "contrast")}
    calibration = record["calibration"] and {**record["calibration"], "expected": None}
    return {"dataset": dataset, "calibration": calibration, "sha256": record["sha256"]}


def read_picking(path):
    """Return the record of the run of direct picking that wrote a file, or None.

    Raises
    ------
    ApbcError
        If the record in the folder of the file, or above it, is damaged.
    """
    path = Path(os.path.abspath(path))
    for folder in path.parents:
        found = ClassBin(None, folder).picks_record
        if found.exists():
            record = _read_record(found)
            ours = "list" in record.get("growing", {}) and "model" in record["inputs"]
            wrote = os.fspath(path.relative_to(folder)) in record["outputs"]
            return record if ours and wrote else None
    return None


def picked_by(record) -> set[str]:
    """Return the ``<rest>`` of each micrograph that a run of direct picking has, by its record."""
    return {name.removesuffix(PICKED) for name in record["outputs"] if name.endswith(PICKED)}


def _is_calibration(calibration):
    """Say whether what a calibration should hold is there and makes sense."""
    if not isinstance(calibration, dict):
        return False
    expected = calibration.get("expected")
    evening = calibration.get("evening", dict.fromkeys(EVENING, 0))
    return (
        isinstance(evening, dict)
        and evening.keys() == EVENING
        and all(isinstance(n, int | float) and math.isfinite(n) for n in evening.values())
        and isinstance(expected, dict)
        and list(expected) == ["from", "picks", "false"]
        and all(isinstance(column, list) for column in expected.values())
        and len({len(column) for column in expected.values()}) == 1
        and all(isinstance(n, int | float) for column in expected.values() for n in column)
    )


def _is_dataset(record):
    """Say whether what dataset.json should hold is there and makes sense."""
    if not isinstance(record, dict) or not isinstance(record.get("window_px"), int):
        return False
    sizes = [record.get(name) for name in SIZES]
    counts, extraction = record.get("counts"), record.get("extraction", dict.fromkeys(EXTRACTION))
    return (
        all(isinstance(size, int | float) and 0 < size < math.inf for size in sizes)
        and record.get("source") in ("stack", "micrograph")
        and record.get("contrast", 0) in (1, -1, None)
        and isinstance(extraction, dict)
        and extraction.keys() == EXTRACTION
        and isinstance(counts, dict)
        and counts.keys() == set(PARTS)
        and all(isinstance(part, dict) and part.keys() == set(KINDS) for part in counts.values())
        and isinstance(record.get("files"), dict)
        and (record["source"] == "stack" or isinstance(record.get("micrographs"), dict))
    )


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
    project : path-like
        Paths in the record are relative to it.
    inputs : dict of str to path or None
        Compared by content.
    growing : dict of str to path
        Lists that may have another content the next time: then the run is not finished, but goes
        on.
    options : dict
        Whatever else decides the result; JSON values.
    clear : bool
        Whether to clear an earlier run, once `writing` begins.
    recut : bool, optional
        Of a script that can do so: whether to cut anew what is there, if no more than the options
        of CUT differ.
    follows : bool
        Whether this one goes on from what an earlier run left, whatever that had.

    Attributes
    ----------
    was : dict
        The earlier run's options; empty if there was none.

    Raises
    ------
    ApbcError
        If the earlier run had other inputs or options, or its record is damaged.
    """

    def __init__(
        self,
        record,
        project,
        inputs,
        options,
        clear=False,
        growing=None,
        recut=None,
        follows=False,
    ):
        self.record = record
        self._start = time.time()
        growing = growing or {}
        described = {
            name: {"path": os.path.relpath(path, project), "sha256": files.digest(path)}
            for name, path in {**inputs, **growing}.items()
            if path is not None
        }
        self._wanted = {
            "inputs": {name: entry for name, entry in described.items() if name in inputs},
            "growing": {name: entry for name, entry in described.items() if name in growing},
            "options": options,
        }
        read = [*inputs.values(), *growing.values()]
        self._inputs = {os.path.realpath(path) for path in read if path is not None}
        self._clear = clear
        self._earlier = _read_record(record) if record.exists() else None
        self.was = self._earlier["options"] if self._earlier else {}
        self._cut_anew = False
        if self._earlier and not clear and not follows:
            difference = _difference(self._earlier, self._wanted)
            beyond = _difference(self._earlier, self._wanted, CUT)
            if difference and (beyond or not recut):
                can = "" if beyond or recut is None else "--recut cuts its picks anew, "
                raise ApbcError(
                    f"{record}: an earlier run had {beyond if recut else difference}; "
                    f"{can}-c clears what it wrote and starts anew, --o DIR writes elsewhere"
                )
            self._cut_anew = bool(difference)

    @property
    def unfinished(self) -> bool:
        """Whether an earlier run did not come to its end."""
        return bool(self._earlier and self._earlier["state"] != "finished")

    def finished(self, outputs) -> bool:
        """Say whether the earlier run was this one, came to its end, and all of it is there."""
        return bool(
            self._earlier
            and not self._clear
            and self._earlier["state"] == "finished"
            and self._earlier.get("growing", {}) == self._wanted["growing"]
            and not _difference(self._earlier, self._wanted)
            and all(map(os.path.exists, outputs))
        )

    @contextlib.contextmanager
    def writing(self, outputs, folders=(), keep=False, is_cut=None):
        """Write the record as unfinished, and take back what the block wrote if it fails.

        It fails with ApbcError (the user's data) or OSError (a full disk). An interrupted or
        killed run leaves what it has, and the next one goes on.

        Parameters
        ----------
        outputs : list of path-like
            All that will be written, below the record's folder.
        folders : iterable of pathlib.Path
            Folders that may hold nothing else.
        keep : bool
            Whether a failed run too leaves what it has, and the next one goes on.
        is_cut : callable, optional
            Of a file's name in the record: whether it is taken away first, to be cut anew.

        Raises
        ------
        ApbcError
            If something is there, and no record says who wrote it.
        """
        known = self._earlier["outputs"] if self._earlier else []
        names = [self._name(path) for path in outputs]
        self._check_inputs(known + names)
        there = self._there(names)
        self._check_foreign(names, there, set(known), folders)
        self._outputs = list(dict.fromkeys([*known, *names]))  # a list may grow between runs
        fresh = [name for name in names if self._clear or name not in there]
        made = [folder for folder in self.record.parents if not folder.exists()]
        try:
            with self._locked():
                shutil.rmtree(tries(self.record), ignore_errors=True)  # of a killed run
                gone = [n for n in known if self._clear or (self._cut_anew and is_cut(n))]
                if gone:  # until all are, the record is that of the run which wrote them
                    write_json(self.record, {**self._earlier, "state": "unfinished"})
                    self._remove(gone)
                if self._clear:
                    self._outputs, self._earlier = names, None
                self._write("unfinished", {})
                try:
                    yield
                except (ApbcError, OSError):
                    if keep:
                        raise
                    self._remove([*fresh, self.record.name])
                    if self._earlier:
                        write_json(self.record, self._earlier)
                    raise
        finally:
            for folder in made:  # left empty by a failure
                with contextlib.suppress(OSError):
                    folder.rmdir()

    @contextlib.contextmanager
    def _locked(self):
        """Keep other runs of the script out of the folder; a dead process keeps no lock."""
        path = self.record.with_name(f".lock-{self.record.stem}")
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as err:  # or a file system without locks: then as if alone
                if isinstance(err, BlockingIOError):
                    where = self.record.parent
                    raise ApbcError(f"{where}: another run is writing there") from None
            try:
                if (_read_record(self.record) if self.record.exists() else None) != self._earlier:
                    raise ApbcError(f"{self.record}: another run has just written it; start again")
                yield
            finally:
                path.unlink(missing_ok=True)

    def finish(self, counts):
        """Write the record as finished; ``counts`` says what went in, came out, was skipped."""
        there = self._there(self._outputs)
        self._outputs = [name for name in self._outputs if name in there]
        self._write("finished", counts)

    # Names are text relative to the record's folder, since there may be 10^5 of them.
    def _name(self, path):
        return os.fspath(path).removeprefix(f"{self.record.parent}{os.sep}")

    def _there(self, names):
        """Return those of ``names`` that exist."""
        folder = f"{self.record.parent}{os.sep}"
        return {name for name in names if os.path.exists(folder + name)}

    def _check_inputs(self, names):
        folder = os.path.realpath(self.record.parent)
        for name in names:
            if os.path.join(folder, name) in self._inputs:
                raise ApbcError(
                    f"{self.record.parent / name}: it would be overwritten, and is read; "
                    "use --o DIR"
                )

    def _check_foreign(self, names, there, known, folders):
        foreign, ours = there - known, known.union(names)
        for only in folders:
            foreign |= {self._name(path) for path in only.glob("[!.]*")} - ours
        if foreign:
            path = self.record.parent / min(foreign)
            raise ApbcError(
                f"{path}: already there, and not written by the run in "
                f"{self.record.name}; move it away, or use --o DIR to write elsewhere"
            )

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

    def _remove(self, names):
        """Remove files, as far as that can be done, and folders that this leaves empty."""
        folder = self.record.parent
        for name in names:
            with contextlib.suppress(OSError):
                (folder / name).unlink()
        emptied = {parent for name in names for parent in Path(name).parents} - {Path()}
        for parent in sorted(emptied, key=lambda path: len(path.parts), reverse=True):
            with contextlib.suppress(OSError):
                (folder / parent).rmdir()


def _read_record(path):
    """Return the record of an earlier run; raise ApbcError if it is none."""
    kinds = {"inputs": dict, "options": dict, "outputs": list, "state": str}
    cure = "move it away with what the run wrote, or use --o DIR"
    record = read_json(path, "the script", *kinds, cure=cure)
    if any(not isinstance(record[name], kind) for name, kind in kinds.items()) or any(
        os.path.isabs(name) or os.pardir in name.split(os.sep) for name in record["outputs"]
    ):  # such files are not ours to clear
        raise ApbcError(f"{path}: not the record of a run; {cure}")
    return record


def _difference(earlier, wanted, but=()):
    """Name what differs between an earlier run and this one, ``but`` for some options."""
    found = []
    was, now = earlier["inputs"], wanted["inputs"]
    for name in sorted(was.keys() | now.keys()):
        old, new = was.get(name), now.get(name)
        if (old or {}).get("sha256") != (new or {}).get("sha256"):
            if old and new and old["path"] == new["path"]:
                found.append(f"another content of {new['path']}")
            else:
                found.append(f"{name} {_path(old)}, this one has {_path(new)}")
    old, new = earlier["options"], json.loads(json.dumps(wanted["options"]))
    for name in sorted((old.keys() | new.keys()).difference(but)):
        added = name not in old and not new[name]  # by a later version; not in use
        if old.get(name) != new.get(name) and not added:
            found.append(f"{name} {_given(old.get(name))}, this one has {_given(new.get(name))}")
    return "; ".join(found)


def _given(value):
    return "none given" if value is None else value


def _path(entry):
    return entry["path"] if entry else "none"
