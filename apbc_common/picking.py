"""The direct way of picking: many micrographs, their files and lists, and what is made of them."""

from __future__ import annotations

import functools
import os
import pickle
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import (
    ApbcError,
    SomeSkipped,
    cli,
    cluster,
    comparison,
    decision,
    devices,
    direct,
    exports,
    external,
    extraction,
    images,
    mrc,
    network,
    parallel,
    relion,
    star,
)
from .classbin import CANDIDATES, ClassBin, Run, read_picking, what_models_need

TOLERANCE = 0.01  # by which a micrograph's pixel may be larger than the model's
MAX_BAD = 5.0  # per cent of the micrographs
MOST_SHRUNK = 40  # times: beyond that a pixel size is wrong
LISTS = ("picks", "candidates")
NEW_EXTRACT = (
    "RELION needs a new Extract job for these picks: one that is continued keeps its old particles"
)


class Picked(NamedTuple):
    """What came of a micrograph: numbers of picks and candidates, or what is wrong with it."""

    name: str
    picks: int = 0
    candidates: int = 0
    fault: str = ""
    note: str = ""


class Work(NamedTuple):
    """What a process needs to pick micrographs."""

    project: Path
    classbin: ClassBin
    model_file: Path
    record: dict
    settings: dict


class Plan(NamedTuple):
    """What a run picks, and what becomes of that."""

    work: Work
    listed: relion.Micrographs
    chosen: list  # those to pick
    picks: dict  # file by micrograph, of all that are listed
    candidates: dict  # likewise
    cutting: extraction.Extraction | None
    earlier: comparison.Earlier | None
    exposures: exports.Exposures | None
    boxes: dict  # file by micrograph, of those to pick; empty if there are to be none
    upside_down: bool

    def lists(self):
        """Return the files that are of all micrographs."""
        classbin, new = self.work.classbin, self.cutting and self.earlier
        return [
            *(classbin.picks_list, classbin.picks_suffix, *map(classbin.all_picks, LISTS)),
            *(path for path, option, asked in self.others() if asked),
            *([classbin.compared] if self.earlier else []),
            *([classbin.new_particles] if new else []),
        ]

    def others(self):
        """Return the other lists made from all picks, by which option, and if that is given."""
        classbin = self.work.classbin
        return [
            (classbin.picks_particles, "--extract", self.cutting),
            (classbin.picks_upside_down, "--invert-y", self.upside_down),
            (classbin.picks_cs, "--cs", self.exposures),
        ]

    def nodes(self):
        """Return what RELION should know."""
        classbin = self.work.classbin
        found = [(external.COORDINATES, classbin.picks_suffix, classbin.picks_list)]
        particles = {classbin.picks_particles, classbin.new_particles}
        return found + [(external.PARTICLES, one) for one in self.lists() if one in particles]

    def outputs(self):
        """Return all files but the stacks."""
        of_each = [files[name] for files in (self.picks, self.candidates) for name in self.chosen]
        return [*of_each, *self.boxes.values(), *self.lists()]

    def done(self):
        """Return the micrographs that have been picked, with their files."""
        there = [n for n in self.picks if self.picks[n].exists() and self.candidates[n].exists()]
        return {name: self.picks[name] for name in there}


def pick(project, classbin, star, model_file, record, options, clear):
    """Pick the micrographs that have no picks yet, write the lists of all, and extract them.

    Parameters
    ----------
    project : pathlib.Path
    classbin : classbin.ClassBin
        Where to write.
    star, model_file : path-like
        The list of micrographs, and the model.
    record : dict
        The model's.
    options : dict
        Those of gen_picks.py by name; None where not given. 'left' are names of micrographs that
        are not to be picked now.
    clear : bool
        Whether to clear what an earlier run wrote.

    Returns
    -------
    list
        Nodes, as `external.Job.write_nodes` takes them.

    Raises
    ------
    ApbcError, OSError
        For whatever the run can't be begun with, and if too many micrographs can't be used.
    SomeSkipped
        If a few could not; all else is done then.
    """
    recut = bool(options["recut"])
    plan = make_plan(project, classbin, star, model_file, record, options)
    growing = {"list": star, "compare": options["compare"], "cs": options["cs"]}
    run = Run(
        classbin.picks_record,
        project,
        {"model": model_file},
        plan.work.settings,
        clear,
        growing={name: path for name, path in growing.items() if path},
        recut=recut,
    )
    if recut:
        check_floor(classbin, run.was["threshold"], plan.work.settings["threshold"])
        check_candidates(plan)
    count = len(plan.chosen)
    if run.finished(plan.outputs()) and (not plan.cutting or is_extracted(classbin)):
        print(f"finished before: nothing to do, {count} micrographs -> {classbin.picks_dir}")
        return plan.nodes()
    if options["sample"] and count < len(plan.picks):
        spread = "over defocus" if plan.listed.defocus else "over the list, which has no defocus"
        print(f"{count} of {len(plan.picks)} micrographs, spread {spread}:", *plan.chosen)
    stacks = [classbin.picks_stack(relion.rest(name)) for name in plan.picks]
    outputs = [*plan.outputs(), *(stacks if plan.cutting else [])]
    with run.writing(outputs, keep=True, is_cut=classbin.is_cut):
        counts, bad, lines = carry_out(plan, options)
        run.finish(counts)
    if recut and count < len(plan.picks):
        lines.append(
            f"{len(plan.picks) - count} micrographs are not picked yet; that line without --recut "
            "picks them"
        )
    print("\n".join([*lines, NEW_EXTRACT] if recut else lines))
    for path, option, asked in plan.others():
        if (
            not asked
            and path.exists()
            and not all(newer(path, one) for one in plan.done().values())
        ):
            cli.warn(f"{path}: not of these picks; {option} brings it up to date")
    if bad:
        said = f"{star}: {len(bad)} micrographs were skipped: {relion.first(bad)}"
        raise SomeSkipped(said, plan.nodes())
    return plan.nodes()


def as_before(project, classbin, model_file, options):
    """Return model file and options; where not given, those of the run whose picks are cut anew.

    Raises
    ------
    ApbcError
        If there was none, or its record is damaged.
    """
    record = read_picking(classbin.picks_list)
    if not record:
        raise ApbcError(
            f"{classbin.picks_dir}: no picks of an earlier run, which --recut cuts anew; run "
            "without it first"
        )
    was = dict(record["options"])
    if options["fdr"] is not None:
        was.pop("threshold")
    options = {**options, **{name: was[name] for name in was if options[name] is None}}
    return model_file or project / record["inputs"]["model"]["path"], options


def check_floor(classbin, earlier, threshold):
    """Raise ApbcError if candidates of a run with an earlier threshold don't reach to this one."""
    floor = min(direct.FLOOR, earlier)
    if threshold < floor:
        raise ApbcError(
            f"{classbin.picks_record}: threshold {threshold:g}, but candidates are kept from "
            f"{floor:g} on; give at least that, or -c in place of --recut, which scores again"
        )


def check_candidates(plan):
    """Raise ApbcError if picks can't be cut anew, before the old ones go.

    Those that were made must have candidates, whole ones; of the list, there must be some.
    """
    folder = plan.work.classbin.picks_dir
    gone = [
        n for n, path in plan.picks.items() if path.exists() and not plan.candidates[n].exists()
    ]
    if gone:
        raise ApbcError(
            f"{folder}: the candidates of {len(gone)} micrographs that were picked are gone "
            f"({relion.first(gone)}; they lie in {CANDIDATES}); -c in place of --recut picks anew"
        )
    if not plan.chosen:
        raise ApbcError(
            f"{plan.listed.path}: none of its micrographs was picked by the run in {folder}; give "
            "the list that was"
        )
    for name in plan.chosen:
        try:
            relion.table(plan.candidates[name], relion.X, "coordinate").numbers(relion.SCORE)
        except ApbcError as err:
            raise ApbcError(f"{err}; -c in place of --recut picks anew") from err


def make_plan(project, classbin, star, model_file, record, options):
    """Read and check what is given; nothing is written."""
    network.check_model(model_file, record)
    listed = relion.read_micrographs(star)
    if not any((project / name).is_file() for name in listed.names):
        raise ApbcError(
            f"{star}: none of its {len(listed.names)} micrographs ({relion.first(listed.names)}) "
            f"is in {Path(project).resolve()}; give the list of this project, or its folder with -p"
        )
    settings = settings_of(model_file, record, options)
    check_scale(listed, model_file, record["dataset"])
    earlier = exposures = None
    if before := options["compare"]:
        earlier = comparison.Earlier(project, before, listed, options["allow_missing"])
    if known := options["cs"]:
        exposures = exports.Exposures(known, project, listed, options["allow_missing"])
    candidates = {name: classbin.candidates_file(relion.rest(name)) for name in listed.names}
    chosen = listed.spread(listed.names, options["sample"] or len(listed.names))
    if options["recut"]:
        chosen = [name for name in listed.names if candidates[name].exists()]
    chosen = [name for name in chosen if name not in options.get("left", ())]
    boxed = chosen if options["box_files"] else []
    return Plan(
        Work(project, classbin, model_file, record, settings),
        listed,
        chosen,
        {name: classbin.picks_file(relion.rest(name)) for name in listed.names},
        candidates,
        extraction_of(star, model_file, record["dataset"], settings["invert"], options),
        earlier,
        exposures,
        {name: classbin.picks_box(relion.rest(name)) for name in boxed},
        bool(options["invert_y"]),
    )


def carry_out(plan, options):
    """Pick, list, extract, compare; return counts, what is wrong with some, lines for people."""
    work, listed, cutting = plan.work, plan.listed, plan.cutting
    classbin, apix = work.classbin, listed.apix_by_name()
    before = plan.done()
    todo = [name for name in plan.chosen if name not in before]
    new = [(name, apix[name]) for name in todo if not plan.candidates[name].exists()]
    scored = [name for name in todo if plan.candidates[name].exists()]
    for name in cli.progress(scored, "micrographs cut"):
        cut(plan.candidates[name], plan.picks[name], work.settings)
    bad = pick_all(work, new, len(plan.chosen), options)
    done = plan.done()
    picks = write_lists(work.project, classbin, listed, done)
    empty = sum(not count for count in picks.values())
    counts = {"micrographs": len(done), "picks": sum(picks.values()), "without picks": empty}
    lines = []
    if cutting:
        counts["particles"] = extract(work, cutting, listed, picks, bad, options)
        lines.append(f"{counts['particles']} particles ({cutting}) -> {classbin.picks_particles}")
    if plan.earlier:
        lines += hold_against(plan.earlier, classbin, work.settings, apix, done, cutting)
    lines += export(plan, apix, done)
    counts |= {"kept": len(plan.chosen) - len(todo), "skipped": len(bad)}
    lines.insert(
        0,
        f"{len(done)} micrographs, {counts['picks']} picks (from {work.settings['threshold']:g}), "
        f"{empty} micrographs without; {len(bad)} skipped -> {classbin.picks_dir}",
    )
    return counts, bad, lines


def settings_of(model_file, record, options):
    """Return what decides the picks: the options, and the model's values for those not given.

    Raises
    ------
    ApbcError
        If the model's contrast is unknown, and --invert or --no-invert does not say it.
    """
    taught = record["dataset"]
    if taught["source"] != "micrograph":
        cli.warn(
            f"{model_file}: trained with RELION's stacks; gen_data.py --from-micrographs teaches "
            "what a micrograph looks like, and picks better"
        )
    invert = options["invert"]
    if invert is None and taught["contrast"] is None:
        raise ApbcError(
            f"{model_file}: its record does not say whether its windows' contrast is inverted from "
            "the micrographs'; say it with --invert (particles white, as RELION's) or --no-invert"
        )
    threshold = record["threshold"]
    if options["fdr"] is not None:
        threshold = threshold_of_share(model_file, record, options["fdr"])
    defaults = {"threshold": threshold, **direct.defaults(taught)}
    return {
        **{
            name: options[name] if options[name] is not None else defaults[name]
            for name in defaults
        },
        "max_picks": options["max_picks"],
        "invert": taught["contrast"] == -1 if invert is None else invert,
    }


def threshold_of_share(model_file, record, share):
    """Return the threshold at which a share of the picks is expected to be false.

    Raises
    ------
    ApbcError
        If the model was not calibrated, or its surest picks are more often false.
    """
    if not record["calibration"]:
        raise ApbcError(
            f"--fdr {share:g}: {model_file} was taught with RELION's stacks and knows nothing of "
            "peaks; train with gen_data.py --from-micrographs, or give a --threshold"
        )
    found = decision.level(record["calibration"]["expected"], share)
    if found is None:
        raise ApbcError(
            f"--fdr {share:g}: {model_file} expects a larger share of even its best picks to be "
            "false; give a larger share, or a --threshold"
        )
    return found["from"]


def check_scale(listed, model_file, taught):
    """Raise ApbcError if a micrograph has no pixel size, or one that the model can't work at."""
    apix = taught["window_angst"] / taught["window_px"]
    listed.apix_of(listed.names)
    for size in sorted(set(listed.apix)):
        if not apix / MOST_SHRUNK <= size <= apix * (1 + TOLERANCE):
            raise ApbcError(
                f"{listed.path}: micrographs of {size:g} A a pixel; {model_file} works at "
                f"{apix:.3g} A and takes {apix / MOST_SHRUNK:.2g} to {apix:.3g}; check the pixel "
                "size, or train a model for these"
            )


def pick_all(work, todo, total, options):
    """Pick micrographs of (name, A a pixel); return what is wrong with some.

    Raises
    ------
    ApbcError
        If too many can't be used.
    """
    picks, bad, notes = 0, [], []

    def said(done, spent):
        return f"{picks} picks, {60 * done / max(spent, 1e-9):.0f} micrographs a minute"

    results = pick_each(work, todo, cluster.Where.of(options)) if todo else ()
    for result in cli.progress(results, "micrographs", len(todo), note=said):
        picks += result.picks
        if result.note:
            notes.append(result.note)
            if len(notes) == 1:
                cli.warn(result.note)
        if result.fault:
            skip(result.fault, bad, total, options)
    if len(notes) > 1:
        cli.warn(f"{len(notes)} micrographs in all have headers with another pixel size")
    return bad


def skip(fault, bad, total, options):
    """Warn of what is wrong with a micrograph and add it to ``bad``.

    Raises
    ------
    ApbcError
        If too many are.
    """
    bad.append(fault)
    cli.warn(f"{fault}; skipped")
    allowed = MAX_BAD if options["max_bad"] is None else options["max_bad"]
    if len(bad) == total:
        raise ApbcError(f"none of {total} micrographs can be used: {bad[0]}")
    if len(bad) > max(1, int(total * allowed / 100)):
        raise ApbcError(
            f"{len(bad)} of {total} micrographs can't be used, more than --max-bad "
            f"{allowed:g} % allows; what this run picked stays, and the same command without -c "
            "goes on"
        )


def pick_each(work, todo, where):
    """Yield a `Picked` of each micrograph, from processes elsewhere or from this one."""
    if not where:
        picker = picker_of(work)
        cli.say(devices.said())
        for name, *prepared in parallel.ahead(prepare(work, picker, *entry) for entry in todo):
            yield finish(work, picker, name, *prepared)
        return
    job = functools.partial(pick_one, shipped(work))
    for (name, _), result in cluster.spread(job, todo, where, work.classbin.picks_record):
        if isinstance(result, cluster.Killer):
            path = work.project / name
            result = Picked(name, fault=f"{path}: {cluster.TRIES} processes ended at work on it")
        yield result


def shipped(work):
    """Return work for a process that may be elsewhere, as `cluster.kept` takes it."""
    project, model_file = (Path(os.path.abspath(p)) for p in (work.project, work.model_file))
    record, classbin = what_models_need(work.record), work.classbin.absolute()
    return pickle.dumps(Work(project, classbin, model_file, record, work.settings))


_scoring = threading.Lock()


def pick_one(shipped, entry):
    """Pick a micrograph of (name, A a pixel) on a worker, which keeps the model for the next.

    While one is scored another may be made ready.
    """
    work, picker = cluster.kept(_received, shipped)
    prepared = prepare(work, picker, *entry)
    with _scoring:
        return finish(work, picker, *prepared)


def _received(work):
    return work, picker_of(work)


def picker_of(work):
    """Load the model; return what picks with it."""
    settings, floor = work.settings, direct.FLOOR
    if settings["threshold"] < floor:
        floor = settings["threshold"] - 5e-5  # files have four decimals, rounded
    cluster.settle()
    return direct.Picker(
        network.load_model(work.model_file, work.record),
        work.record["dataset"],
        settings["min_distance"],
        settings["border"],
        floor,
        settings["stride"],
        settings["invert"],
        decision.Evening.of(work.record),
    )


def prepare(work, picker, name, apix):
    """Return (name, prepared or None, what is wrong, what is odd) of a micrograph."""
    try:
        prepared, note = picker.prepare(work.project / name, apix)
        return name, prepared, "", note
    except (ApbcError, OSError, MemoryError) as err:
        return name, None, cli.explain(err, work.project / name), ""


def finish(work, picker, name, prepared, fault, note):
    """Find the particles of a micrograph, and write them; return its `Picked`."""
    if fault:
        return Picked(name, fault=fault)
    xy, scores = picker.find(prepared)
    kept = are_picks(scores, work.settings)
    rest = relion.rest(name)
    relion.write_coordinates(work.classbin.candidates_file(rest), xy, scores)
    # Last: where this file is, the micrograph is done.
    relion.write_coordinates(work.classbin.picks_file(rest), xy[kept], scores[kept])
    return Picked(name, int(kept.sum()), len(xy), note=note)


def are_picks(scores, settings):
    """Return which candidates, best first, are picks: bool, (N,), of their scores (N,)."""
    most = settings["max_picks"] or np.inf
    return (scores >= settings["threshold"]) & (np.arange(len(scores)) < most)


def cut(candidates, picks, settings):
    """Copy a micrograph's picks out of the file of its candidates."""
    block = relion.table(candidates, relion.X, "coordinate")
    star.copy(block, picks, are_picks(block.numbers(relion.SCORE)[:, 0], settings), {})


def write_lists(project, classbin, listed, done):
    """Write the lists of all picks and candidates; return the number of picks by micrograph."""
    candidates = ((name, classbin.candidates_file(relion.rest(name))) for name in done)
    relion.gather_coordinates(classbin.all_picks("candidates"), candidates)
    picks = relion.gather_coordinates(classbin.all_picks("picks"), done.items())
    relion.write_coordinate_lists(
        project,
        listed.path,
        {name: done[name] for name, count in picks.items() if count},
        classbin.picks_list,
        classbin.picks_suffix,
    )
    return picks


def hold_against(earlier, classbin, settings, apix, done, cutting):
    """Write what is new of the picks, and return lines on it."""
    distance = settings["min_distance"]
    reach = {name: distance / apix[name] for name in done}
    if odd := earlier.outside(done):
        cli.warn(odd)
    new, said = comparison.compare(earlier, done, reach, classbin.compared)
    if cutting:
        count = comparison.copy_new(classbin.picks_particles, classbin.new_particles, new)
        said.append(f"{count} new particles -> {classbin.new_particles}")
    return said


def export(plan, apix, done):
    """Write picks in the forms of other programs, as asked for; return lines on them."""
    work, classbin, lines = plan.work, plan.work.classbin, []
    boxed = [name for name in plan.boxes if name in done]
    for name in boxed:
        box = images.even(work.record["dataset"]["box_angst"] / apix[name])
        exports.write_box(plan.boxes[name], relion.read_coordinates(done[name])[0], box)
    if plan.boxes:
        lines.append(f"box files of {len(boxed)} micrographs -> {classbin.picks_dir}")
    if plan.upside_down:
        exports.write_upside_down(classbin.picks_upside_down, work.project, done)
        lines.append(f"picks with y from the other end -> {classbin.picks_upside_down}")
    if plan.exposures:
        count = plan.exposures.write(classbin.picks_cs, done)
        lines.append(f"{count} picks as cryoSPARC's particles -> {classbin.picks_cs}")
    return lines


def extraction_of(star, model_file, taught, invert, options):
    """Return how the picks are to be extracted, or None if they are not.

    Raises
    ------
    ApbcError
        If the model's record does not say, or the list gives particles no optics.
    """
    if not options["extract"]:
        return None
    if "extraction" not in taught:
        raise ApbcError(
            f"{model_file}: its record does not say how its particles were extracted; run "
            "gen_data.py and gen_model.py again"
        )
    extraction.check(star)
    how = taught["extraction"]
    if taught["source"] == "micrograph":  # else the windows' contrast is the particles'
        invert = how["invert"]
    if not how["known"]:
        cli.warn(f"{model_file}: no Extract job said how it normalised; taken as RELION's default")
    norm, radius = how["norm"], how["bg_radius"]
    return extraction.Extraction(taught["box_angst"], taught["image_px"], norm, radius, invert)


def is_extracted(classbin):
    """Say whether the particle list and every stack are there, and no older than the picks."""
    picked = relion.coordinate_files("", classbin.picks_list)
    return newer(classbin.picks_particles, classbin.all_picks("picks")) and all(
        newer(classbin.picks_stack(rest), classbin.picks_file(rest))
        for rest in map(relion.rest, picked)
    )


def newer(made, source):
    """Say whether a file is there and no older than what it was made from."""
    return made.exists() and made.stat().st_mtime_ns >= source.stat().st_mtime_ns


def extract(work, cutting, listed, counts, bad, options):
    """Cut the picks of each micrograph into its stack, then list them all.

    Parameters
    ----------
    work : Work
    cutting : extraction.Extraction
    listed : relion.Micrographs
    counts : dict of str to int
        The number of picks by micrograph.
    bad : list of str
        What is wrong with micrographs that can't be read is added.
    options : dict

    Returns
    -------
    int
        The number of particles.
    """
    apix, classbin, done = listed.apix_by_name(), work.classbin, []
    total = len(counts) + len(bad)
    for name in cli.progress([name for name in counts if counts[name]], "stacks"):
        rest = relion.rest(name)
        picks, stack = classbin.picks_file(rest), classbin.picks_stack(rest)
        if not newer(stack, picks):
            xy, _ = relion.read_coordinates(picks)
            try:
                particles = cutting.cut(work.project / name, apix[name], xy)
            except (ApbcError, OSError, MemoryError) as err:
                skip(cli.explain(err, work.project / name), bad, total, options)
                continue
            if stack.exists():  # the lists that there are name other particles
                for path in (classbin.picks_particles, classbin.new_particles):
                    path.unlink(missing_ok=True)
            mrc.write(stack, particles, cutting.particle_apix(apix[name]))
            if not newer(stack, picks):  # the clock of who picked is ahead of ours
                os.utime(stack, ns=(picks.stat().st_mtime_ns,) * 2)
        done.append((name, picks, stack))
    cutting.write_particles(classbin.picks_particles, work.project, listed.path, done)
    return sum(counts[name] for name, _, _ in done)
