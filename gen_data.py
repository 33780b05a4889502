#!/usr/bin/env python3
"""Make the training and test windows from good and bad particles.

Reads the particles of two RELION selections of 2D classes, and splits them 80/20: at random, or by
micrograph where windows are cut from the micrographs. Writes the windows as PNG files to
ClassBin/train|test/good|bad, lists of them, train.star and test.star, and a record, dataset.json.

Example: gen_data.py -p . -g Select/job011/particles.star -b Select/job012/particles.star
"""

from __future__ import annotations

import itertools
import os
import sys

from apbc_common import ApbcError, cli
from apbc_common.classbin import KINDS, PARTS, ClassBin, Run, write_json

FEWEST = 10  # particles of a class
SMALLEST = 4  # pixels of a particle in its window: fewer show nothing
DIAMETERS = 1.5  # that windows cut from micrographs cover
TOLERANCE = 0.01  # by which boxes and pixel sizes in A may differ


def build_parser():
    """Return the parser of the command line."""
    parser = cli.parser("gen_data.py", __doc__)
    parser.add_argument(
        "-g",
        "--stargood",
        "--in_parts",
        type=cli.ProjectFile,
        metavar="STAR",
        help="particles of the good classes",
    )
    parser.add_argument(
        "-b",
        "--starbad",
        type=cli.ProjectFile,
        metavar="STAR",
        help="particles of the bad classes",
    )
    parser.add_argument(
        "--all",
        type=cli.ProjectFile,
        metavar="STAR",
        help="in place of -b: what the good ones were selected from (run_it025_data.star); the "
        "others are the bad, but for those within half a diameter of a good one",
    )
    parser.add_argument(
        "--min-score",
        type=cli.probability,
        metavar="S",
        help="in place of -g, with --all SELECT/rank_data.star: the good ones are those of classes "
        "that RELION's class ranker gives at least S",
    )
    parser.add_argument(
        "--max-score",
        type=cli.probability,
        metavar="S",
        help="the bad ones are those of classes below S (default: --min-score)",
    )
    parser.add_argument(
        "-m",
        "--micrographs",
        "--in_mics",
        type=cli.ProjectFile,
        metavar="STAR",
        help="the micrographs, to cut from, or to check coordinates and contrast (default: those "
        "of the Extract job)",
    )
    parser.add_argument(
        "--allow-missing",
        action="store_true",
        help="with --from-micrographs: leave out particles and corrections of micrographs that the "
        "list of micrographs does not have",
    )
    parser.add_argument(
        "--from-micrographs",
        action="store_true",
        help="cut the windows from the micrographs, and add negatives: for direct picking",
    )
    parser.add_argument(
        "--corrections",
        type=cli.ProjectFile,
        action="append",
        default=[],
        metavar="STAR",
        help="with --from-micrographs: places that the report says are good or bad, over what the "
        "lists say; may be given again, then later ones rule",
    )
    parser.add_argument(
        "--window",
        type=cli.positive,
        metavar="A",
        help="how much the windows cover (default: the box; of micrographs, 1.5 diameters)",
    )
    parser.add_argument(
        "--diameter",
        type=cli.positive,
        metavar="A",
        help="of the particle (default: measured on the average of the good)",
    )
    parser.add_argument(
        "--size",
        type=window_size,
        default=64,
        metavar="PX",
        help="edge of the windows, a multiple of 16 from 48 to 512 (default: 64)",
    )
    parser.add_argument(
        "--no-png",
        action="store_true",
        help="copy no pixels: write the lists alone, the training reads stacks or micrographs",
    )
    parser.add_argument(
        "--seed",
        type=cli.natural,
        default=0,
        metavar="N",
        help="of the split, and of the negatives that are added (default: 0)",
    )
    cli.add_clear(parser, "--cleardata")
    return parser


def window_size(text) -> int:
    """Argparse type: a multiple of 16 from 48 to 512."""
    return cli.number(
        text, int, lambda px: 48 <= px <= 512 and px % 16 == 0, "a multiple of 16 from 48 to 512"
    )


def generate(project, starred, micrographs_star, fixes, options, out, clear):
    """Check the lists, then write the windows that are missing.

    ``starred``: the lists that were given, 'good', 'bad' and 'all', or None; ``fixes``: those of
    corrections.
    """
    from apbc_common import corrections, files, relion, samples, windows

    classbin = ClassBin(project, out)
    model = ranker_s_model(starred["all"]) if options["min_score"] is not None else None
    run = Run(
        classbin.record("gen_data"),
        project,
        {
            **starred,
            "ranker": model,
            "micrographs": micrographs_star,
            **{f"corrections {number}": path for number, path in enumerate(fixes, 1)},
        },
        options,
        clear,
    )
    lists, listed = read_lists(project, starred, model, micrographs_star, options)
    check_lists(lists)
    corrected = [(path, corrections.read(path, listed, options["allow_missing"])) for path in fixes]
    box = describe(lists)
    source = window_source(project, lists, listed, box, options)
    sign = check_contrast(project, lists, micrographs_star, options["from_micrographs"])
    if options["from_micrographs"]:
        centre(source)
    diameter, how = measure(source, options)
    if fixes:
        correct(source, corrections.settle(corrected, listed, diameter), diameter)
    work, counts, added = plan(source)
    picture = None if options["no_png"] else picture_of
    outputs = [*map(classbin.samples, PARTS), classbin.dataset]
    if picture:
        outputs += [classbin.folder / picture(one) for found in work.values() for one in found]
    if run.finished(outputs):
        print(f"finished before: nothing to do. {summary(classbin, counts, added)}")
        return
    norm = relion.extract_norm(project, lists["good"].stacks[0], box.box)
    record = {
        **scale_record(source, box, options, diameter, how),
        "contrast": 1 if options["from_micrographs"] else sign,
        "extraction": {**norm, "invert": sign == -1 if sign else None},
        **source.record(),
        "sha256": {kind: files.digest(one.block.path) for kind, one in lists.items()},
        **{kind: os.path.relpath(one.block.path, project) for kind, one in lists.items()},
        "test_share": windows.TEST_SHARE,
        "seed": options["seed"],
        "counts": counts,
        **added,
        "corrections": {os.path.relpath(path, project): files.digest(path) for path in fixes},
        "files": {name: samples.stamp(project / name) for name in work} if not picture else {},
    }
    folders = [classbin.windows(part, kind) for part in PARTS for kind in KINDS]
    with run.writing(outputs, folders):
        if picture:
            write_windows(classbin.folder, folders, work, source.cut)
        for part in PARTS:
            found = (one for listed in work.values() for one in listed if one.part == part)
            stacked = not options["from_micrographs"]
            samples.write(classbin.samples(part), found, stacked, picture)
        write_json(classbin.dataset, record)
        run.finish(counts)
    print(summary(classbin, counts, added))


def read_lists(project, starred, model, micrographs_star, options):
    """Return good and bad particles by kind, and the micrographs' list, None where none is needed.

    Particles have their micrographs' names as that list has them.
    """
    from apbc_common import relion

    lists = {kind: relion.read_particles(project, path) for kind, path in starred.items() if path}
    listed, whole = None, lists.get("all")
    if options["from_micrographs"] or micrographs_star or whole:
        listed = list_of_micrographs(project, whole or lists["good"], micrographs_star, options)
    if listed:
        lists = on_micrographs(lists, listed, options)
    if whole:
        lists = good_and_bad(project, lists["all"], lists.get("good"), listed, model, options)
    return lists, listed


def list_of_micrographs(project, particles, star, options):
    """Read the list of micrographs that was given, or that of the Extract job; None if unknown."""
    from apbc_common import relion

    star = star or relion.extract_micrographs(project, particles.stacks[0])
    if star is None and options["from_micrographs"]:
        raise ApbcError(
            f"{particles.block.path}: no Extract job names its micrographs; give their list with -m"
        )
    return star and relion.read_micrographs(star)


def on_micrographs(lists, listed, options):
    """Return the particles with the listed names of their micrographs; they must have one."""
    from apbc_common import names

    missing = options["allow_missing"] if options["from_micrographs"] else None
    return {
        kind: one if one.micrograph is None else names.place(one, listed, missing)
        for kind, one in lists.items()
    }


def good_and_bad(project, every, good, listed, model, options):
    """Return the particles by kind: the good, as selected or by their classes' scores, and others.

    Bad ones that lie on a good one are left out.
    """
    import numpy as np

    from apbc_common import relion, selection

    if good is not None:
        is_good = selection.chosen(good, every)
        is_bad = ~is_good
    else:
        scores = selection.scores(every, model)
        is_good, is_bad = scores >= options["min_score"], scores < options["max_score"]
        good = every.some(is_good)
    near = np.zeros(len(every), bool)
    if listed is None or every.xy is None or every.micrograph is None:
        cli.warn(
            f"{every.block.path}: no micrographs' pixel size, or no coordinates: bad particles "
            "that lie on good ones can't be told; give -m MICROGRAPHS.star"
        )
    elif len(good):
        apix = listed.apix_of(every.micrographs)
        origins = relion.origins(every)
        xy = every.xy if origins is None else every.moved(-origins, apix)
        reach = diameter_of(project, good, options) / 2 / apix
        near = selection.beside(every, xy, is_good, is_bad, reach)
    print(
        f"{every.block.path}: {len(every)} particles, {is_good.sum()} good, {is_bad.sum()} bad, "
        f"{near.sum()} of these left out, within half a diameter of a good one"
    )
    return {"good": good, "bad": every.some(is_bad & ~near)}


def diameter_of(project, good, options):
    """Return the particle's diameter in A: as given, or as the good images' average has it."""
    from apbc_common import images, windows

    if options["diameter"]:
        return options["diameter"]
    box = good.optics[good.group[0]].box_angst
    geometry = windows.Geometry(options["size"], box, box)
    source = windows.Stacks(project, {"good": good}, geometry, options["seed"])
    return images.diameter(source.average()) * geometry.apix


def ranker_s_model(data):
    """Return the model that has the class scores of the ranker's list; raise ApbcError for none."""
    path = data.with_name(data.name.replace("_data", "_model"))
    if path == data or not path.is_file():
        raise ApbcError(
            f"{data}: no rank_model.star beside it, which has the scores of the classes; "
            "--min-score takes the rank_data.star of a Select job of RELION 4 or 5"
        )
    return path


def window_source(project, lists, listed, box, options):
    """Return where windows are cut from: `windows.Stacks` or `windows.Micrographs`."""
    from apbc_common import relion, windows

    geometry = windows.Geometry(options["size"], box.box_angst, box.box_angst)
    if options["window"] and options["window"] > geometry.box * (1 + TOLERANCE):
        raise ApbcError(
            f"--window {options['window']:g}: larger than the box of {geometry.box:.1f} A; "
            "give less, or extract with a larger box"
        )
    if not options["from_micrographs"]:
        return windows.Stacks(project, lists, geometry, options["seed"])
    source = windows.Micrographs(project, lists, geometry, options["seed"], listed)
    if source.outside:
        cli.warn(f"{source.outside} particles lie outside their micrographs; left out")
    if not source.centred:
        cli.warn(
            f"{lists['good'].block.path}: no columns {', '.join(relion.ORIGIN_ANGST)}; particles "
            "are taken as centred. The list of a 2D classification has them"
        )
    return source


def centre(source):
    """Take away what all good particles are off by, and say so."""
    source.centre()
    x, y = source.off
    print(
        f"good: the middle of their average is {x:.1f}, {y:.1f} A off, give or take "
        f"{source.spread:.1f}" + ("; all are moved there" if source.moved else "")
    )


def measure(source, options):
    """Return the particle's diameter in A, and how it is known."""
    from apbc_common import images

    if options["diameter"]:
        return options["diameter"], "as given"
    return images.diameter(source.average()) * source.geometry.apix, "measured"


def correct(source, corrected, diameter):
    """Put corrections in the place of what the lists have there, and say so.

    Raises
    ------
    ApbcError
        If all of them lie outside their micrographs.
    """
    from apbc_common import labels

    outside, ruled = source.correct(corrected, labels.RADIUS * diameter)
    count = dict.fromkeys((*KINDS, "train", "validation", "test"), 0)
    for name, kinds in source.places.items():
        for kind, (rows, _) in kinds.items():
            for which in (kind, source.parts[name]):
                count[which] += int((rows < 0).sum())
    lost = f"{outside} corrections lie outside their micrographs"
    if not count["good"] + count["bad"]:
        raise ApbcError(f"--corrections: all {lost}; coordinates are pixels of the micrographs")
    if outside:
        cli.warn(f"{lost}; left out")
    print(
        f"corrections: {count['good']} good, {count['bad']} bad, in place of {ruled} listed "
        f"particles; {count['train']} teach, {count['validation']} lie on micrographs of the "
        f"validation, {count['test']} on those of the test"
    )


def scale_record(source, optics, options, diameter, how):
    """Set the windows' width; return it, the diameter and more.

    Raises
    ------
    ApbcError
        If the windows cover less than half the diameter, or would enlarge the micrographs.
    """
    box, window = source.geometry.box, options["window"]
    least = source.coarsest * options["size"]  # else the micrographs would be enlarged
    if window is None:
        window = max(min(DIAMETERS * diameter, box), least) if options["from_micrographs"] else box
    if abs(window / box - 1) <= TOLERANCE:
        window = box  # as classic windows: the same numbers
    if least > box * (1 + TOLERANCE):
        raise ApbcError(
            f"--size {options['size']}: at the micrographs' {source.coarsest:g} A a pixel the "
            f"windows cover {least:.0f} A, the boxes only {box:.0f} A; give a smaller one"
        )
    if window < least or window > box:
        raise ApbcError(
            f"windows of {options['size']} px and {window:.0f} A: the micrographs have pixels of "
            f"{source.coarsest:g} A, the boxes {box:.0f} A; give a --window of {least:.0f} to "
            f"{box:.0f} A"
        )
    if window < diameter / 2:
        raise ApbcError(
            f"windows of {window:.0f} A: less than half the particle's diameter of {diameter:g} A; "
            "give a larger --window, or the right --diameter"
        )
    if diameter < SMALLEST * window / options["size"]:
        raise ApbcError(
            f"a diameter of {diameter:g} A ({how}): less than {SMALLEST} pixels of windows of "
            f"{window:.0f} A; give the particle's --diameter, in A"
        )
    source.narrow(window)
    geometry = source.geometry
    print(f"diameter {diameter:.0f} A ({how}), windows of {geometry.window:.0f} A")
    return {
        "window_px": geometry.size,
        "window_angst": geometry.window,
        "box_angst": box,
        "diameter_angst": round(diameter, 1),
        "apix": geometry.apix,
        "image_px": optics.box,
    }


def plan(source):
    """Return what is to be written, and counts.

    Returns
    -------
    work : dict of str to windows.Packed
        Of each stack or micrograph.
    counts : dict
        Windows by part and kind.
    added : dict of str to dict
        By part, those 'derived' and those 'corrected'.
    """
    from apbc_common import windows

    work = {}
    counts = {part: dict.fromkeys(KINDS, 0) for part in PARTS}
    added = {name: dict.fromkeys(PARTS, 0) for name in ("derived", "corrected")}
    for file, of_file in itertools.groupby(source.windows(), lambda window: window.source):
        work[file] = windows.Packed(of_file)
        for window in work[file]:
            counts[window.part][window.kind] += 1
            for name, found in added.items():
                found[window.part] += bool(getattr(window, name))
    return work, counts, added


def picture_of(one):
    """Return the path below ClassBin of a window's picture."""
    how = one.derived or ("corrected" if one.corrected else "")
    return ClassBin.picture_name(one.part, one.kind, one.stem, one.number, how)


def check_lists(lists):
    """Raise ApbcError for too few particles of a kind, or particles in both lists."""
    import numpy as np

    from apbc_common import relion

    for kind, particles in lists.items():
        if len(particles) < FEWEST:
            raise ApbcError(
                f"{particles.block.path}: {len(particles)} {kind} particles, "
                f"expected at least {FEWEST}; select more classes"
            )
    good, bad = lists["good"], lists["bad"]
    both = np.flatnonzero(relion.shared(bad, good))
    if len(both):
        raise ApbcError(
            f"{bad.block.path}: {len(both)} of {len(bad)} particles are in "
            f"{good.block.path} too: {relion.first(map(bad.name, both))}; a particle is good or bad"
        )


def describe(lists):
    """Print the kinds of images of both lists; raise ApbcError if they differ.

    Returns the optics of the first good particle.
    """
    used = {
        kind: [particles.optics[group] for group in sorted(set(particles.group.tolist()))]
        for kind, particles in lists.items()
    }
    for kind in reversed(KINDS):
        images = ", ".join(sorted({_image(optics) for optics in used[kind]}))
        groups = len(used[kind])
        print(f"{kind}: {len(lists[kind])} particles, {groups} optics group(s), {images}")
    first = used["good"][0]
    for kind, group in ((name, group) for name in KINDS for group in used[name]):
        if abs(group.box_angst / first.box_angst - 1) > TOLERANCE:
            raise ApbcError(
                f"{lists[kind].block.path}: {_image(group)}; {lists['good'].block.path} has "
                f"{_image(first)}: extract both lists with one box"
            )
    for kind, other in (KINDS, KINDS[::-1]):
        for group in used[kind]:
            if not any(abs(group.apix / twin.apix - 1) <= TOLERANCE for twin in used[other]):
                raise ApbcError(
                    f"{lists[kind].block.path}: {_image(group)}; {lists[other].block.path} has "
                    f"{_image(used[other][0])}: extract both lists with one pixel size"
                )
    return first


def _image(optics):
    return f"box {optics.box_angst:.1f} A ({optics.box} px of {optics.apix:.4g} A)"


def write_windows(base, folders, work, cut):
    """Write each picture that is not there; each stack or micrograph is opened once."""
    from apbc_common import files, png

    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    total = sum(map(len, work.values()))
    for name, found in cli.progress(work.items(), "windows", total, lambda item: len(item[1])):
        targets = [(one.where, f"{base}{os.sep}{picture_of(one)}") for one in found]
        missing = [(where, target) for where, target in targets if not os.path.exists(target)]
        if missing:
            made = cut(name, [where for where, _ in missing])
            for (_, target), window in zip(missing, made, strict=True):
                files.write_bytes(target, png.encode(window))


def check_contrast(project, lists, micrographs_star, from_micrographs):
    """Print how each list's contrast compares with the micrographs; return it.

    1 as in the micrographs, -1 inverted, None unknown.

    Raises
    ------
    ApbcError
        If one list is inverted and the other not: the network would learn that. If windows are to
        be cut from micrographs and those of the lists can't be found there.
    """
    from apbc_common import contrast

    found = {kind: contrast.measure(project, lists[kind], micrographs_star) for kind in lists}
    for kind, evidence in found.items():
        print(f"{kind}: contrast {evidence}")
        if from_micrographs and evidence.sign is None:
            raise ApbcError(
                f"{lists[kind].block.path}: contrast {evidence}; windows can't be cut from these "
                "micrographs"
            )
    if from_micrographs:
        return found["good"].sign
    signs = {evidence.sign for evidence in found.values()} - {None}
    if len(signs) > 1:
        raise ApbcError(
            f"{lists['bad'].block.path}: contrast {found['bad']}; {lists['good'].block.path}: "
            f"{found['good']}: extract both lists alike"
        )
    if not signs:
        cli.warn("the contrast is unknown; make sure that both lists were extracted alike")
    return signs.pop() if signs else None


def summary(classbin, counts, added):
    """Return the last line: what came out, and where."""

    def some(part):
        derived, corrected = (added[name][part] for name in ("derived", "corrected"))
        return (f", {derived} of them derived" if derived else "") + (
            f"; {corrected} of them corrections" if corrected else ""
        )

    parts = ", ".join(
        f"{sum(counts[part].values())} {part} windows ({counts[part]['good']} good, "
        f"{counts[part]['bad']} bad{some(part)})"
        for part in PARTS
    )
    return f"{parts}, 0 skipped -> {classbin.folder}"


def main(argv=None) -> int:
    """Run the command line; return the exit code."""
    parser = build_parser()
    args = cli.parse(parser, argv)
    ranked = args.min_score is not None
    if bool(args.starbad) == bool(args.all):
        parser.error("one of -b/--starbad and --all is required, and not both")
    if bool(args.stargood) == ranked:
        parser.error("one of -g/--stargood and --min-score is required, and not both")
    if ranked and not args.all:
        parser.error("argument --min-score: with --all SELECT/rank_data.star")
    least = args.max_score if args.max_score is not None else args.min_score
    if least is not None and not (ranked and least <= args.min_score):
        parser.error("argument --max-score: with --all and a --min-score that is not below it")
    if args.corrections and not args.from_micrographs:
        parser.error("argument --corrections: with --from-micrographs, where places can be cut")
    return cli.run(
        parser.prog,
        generate,
        args.projpath,
        {"good": args.stargood, "bad": args.starbad, "all": args.all},
        args.micrographs,
        args.corrections,
        {
            "from_micrographs": args.from_micrographs,
            "allow_missing": args.allow_missing,
            "size": args.size,
            "window": args.window,
            "diameter": args.diameter,
            "min_score": args.min_score,
            "max_score": least,
            "no_png": args.no_png,
            "seed": args.seed,
        },
        args.out,
        args.clear,
        job=args.job,
    )


if __name__ == "__main__":
    sys.exit(main())
