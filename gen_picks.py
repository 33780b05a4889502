#!/usr/bin/env python3
"""Pick micrographs with the CNN of gen_model.py, or classify particles: the list's table decides.

Of micrographs, writes their picks to ClassBin/picks: coordinate files for RELION's Extract, and
picks.star with all of them. Of particles, writes particles_true.star and particles_false.star to
ClassBin: the rows of the list as they are. The probability of a true particle is
rlnAutopickFigureOfMerit.

Example: gen_picks.py -p . -i CtfFind/job003/micrographs_ctf.star
"""

from __future__ import annotations

import argparse
import sys

from apbc_common import ApbcError, cli, external
from apbc_common.classbin import ClassBin, Run, read_model_record

WINDOWS_FROM = 0.5  # the probability from which a particle is true
BATCH = 256
OF_MICROGRAPHS = (
    "fdr",
    "stride",
    "border",
    "max_picks",
    "sample",
    "max_bad",
    "invert",
    "extract",
    "compare",
    "box_files",
    "invert_y",
    "cs",
    "allow_missing",
    "recut",
    "watch",
    "until",
)
OF_PARTICLES = ("micrographs", "batch")


def build_parser():
    """Return the parser of the command line."""
    parser = cli.parser("gen_picks.py", __doc__)
    add = parser.add_argument
    add(
        "-i",
        "--imagestar",
        "--in_mics",
        type=cli.ProjectFile,
        metavar="STAR",
        help="the micrographs to pick; or particles, extracted with the box of the model's windows",
    )
    add("--in_parts", type=cli.ProjectFile, help=argparse.SUPPRESS)
    add(
        "--model",
        type=cli.ProjectFile,
        metavar="FILE",
        help="the model (default: ClassBin/model.h5)",
    )
    add(
        "--threshold",
        type=cli.probability,
        metavar="P",
        help="least probability of a pick (default: the model's; for particles 0.5)",
    )
    add(
        "--min-distance",
        type=cli.positive,
        metavar="A",
        help="between picks (default: half the particle's diameter); for particles: also write "
        "particles_unique.star, the best of those less than A apart",
    )
    add(
        "-j",
        "--jobs",
        type=cli.jobs,
        metavar="N",
        help="work in N processes, which share the cores (default: in one, which uses two well)",
    )
    add(
        "--scheduler",
        type=cli.scheduler,
        metavar="ADDRESS",
        help="work on the Dask cluster of this scheduler: tcp://HOST:PORT, or its scheduler file",
    )
    cli.add_clear(parser, "--clear")
    add = parser.add_argument_group("for micrographs").add_argument
    add(
        "--fdr",
        type=cli.share,
        metavar="Q",
        help="in place of --threshold: the lowest at which no more than the share Q of the picks "
        "is expected to be such as your labels would call bad",
    )
    add(
        "--stride",
        type=int,
        choices=(1, 2, 4, 8),
        metavar="PX",
        help="score every 1, 2, 4 or 8 pixels of the model's scale (default: 4)",
    )
    add(
        "--border",
        type=cli.not_negative,
        metavar="A",
        help="between picks and the border (default: half a box)",
    )
    add(
        "--max-picks",
        type=cli.positive_int,
        metavar="N",
        help="keep the best N of a micrograph (default: all)",
    )
    add(
        "--recut",
        action="store_true",
        default=None,
        help="cut the picks that are there anew, at another --threshold, --fdr or --max-picks, "
        "without scoring again; options not given are as before",
    )
    add(
        "--sample",
        type=cli.positive_int,
        metavar="N",
        help="pick only N micrographs, spread over defocus, for a first look",
    )
    add(
        "--watch",
        type=cli.positive,
        metavar="SECONDS",
        help="read the list again every so often and pick what is new, until Ctrl-C or --until",
    )
    add(
        "--until",
        type=cli.positive_int,
        metavar="N",
        help="with --watch: end once N micrographs are picked or can't be used",
    )
    add(
        "--max-bad",
        type=cli.percent,
        metavar="PERCENT",
        help="of the micrographs that may be unreadable before the run stops; one always may "
        "(default: 5)",
    )
    add(
        "--invert",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="the model was taught with inverted contrast, or not (default: its record says)",
    )
    add(
        "--extract",
        action="store_true",
        default=None,
        help="also cut the picks into stacks, as RELION extracted the particles of the training, "
        "and list them in particles.star",
    )
    add(
        "--compare",
        "--in_coords",
        type=cli.ProjectFile,
        metavar="STAR",
        help="say what is kept, new and dropped of the picks or particles in STAR; with --extract "
        "also list the new ones in particles_new.star",
    )
    add(
        "--box-files",
        action="store_true",
        default=None,
        help="also write the picks as EMAN's box files, for viewers",
    )
    add(
        "--invert-y",
        action="store_true",
        default=None,
        help="also list the picks with y from the other end (picks_inverted_y.star), for "
        "micrographs that another program aligned upside down",
    )
    add(
        "--cs",
        type=cli.ProjectFile,
        metavar="CS",
        help="also write the picks as cryoSPARC's particles (picks.cs); CS is the .cs file of its "
        "exposures. Needs cryosparc-tools",
    )
    add(
        "--allow-missing",
        action="store_true",
        default=None,
        help="let the list of --compare have micrographs that this one lacks, and that of --cs "
        "lack some",
    )
    add = parser.add_argument_group("for particles").add_argument
    add(
        "-m",
        "--micrographs",
        type=cli.ProjectFile,
        metavar="STAR",
        help="the micrographs, to check the contrast, and for --min-distance "
        "(default: the Extract job's)",
    )
    add("--batch", type=cli.batch, metavar="N", help="windows scored at a time (default: 256)")
    return parser


def generate(project, star, model_file, options, out, clear):
    """Pick or classify, as the list's table decides; return RELION's nodes."""
    from apbc_common import picking, relion, watching

    particles = relion.names_particles(star)
    for name in OF_MICROGRAPHS if particles else OF_PARTICLES:
        if options[name] is not None:
            what = "micrographs, this list is of particles" if particles else "particles, this list"
            what += "" if particles else " is of micrographs"
            raise ApbcError(f"{star}: --{name.replace('_', '-')} is for lists of {what}")
    classbin = ClassBin(project, out)
    if options["recut"]:
        model_file, options = picking.as_before(project, classbin, model_file, options)
    model_file = model_file or ClassBin(project).model
    record = read_model_record(model_file)
    way = classify if particles else watching.watch if options["watch"] else picking.pick
    return way(project, classbin, star, model_file, record, options, clear)


def classify(project, classbin, star, model_file, record, options, clear):
    """Check, score what has no score yet, and write the lists."""
    from apbc_common import cluster, grid, names, network, relion

    threshold = WINDOWS_FROM if options["threshold"] is None else options["threshold"]
    min_distance, micrographs = options["min_distance"], options["micrographs"]
    particles = relion.read_particles(project, star)
    if micrographs and particles.micrograph is not None:
        particles = names.place(particles, relion.read_micrographs(micrographs), None)
    grid.check_box(particles, model_file, record["dataset"])
    apart = grid.distances_px(project, particles, micrographs, min_distance)
    invert = grid.differs(project, particles, micrographs, record["dataset"])
    network.check_model(model_file, record)
    run = Run(
        classbin.record("gen_picks"),
        project,
        {"particles": star, "model": model_file, "micrographs": micrographs},
        {"threshold": threshold, "min_distance": min_distance},
        clear,
    )
    lists = ["true", "false", *(["unique"] if min_distance else [])]
    outputs = [classbin.particles(name) for name in lists]
    nodes = [(external.PARTICLES, path) for path in outputs]
    if run.finished(outputs):
        print(f"finished before: nothing to do -> {', '.join(map(str, outputs))}")
        return nodes
    with run.writing([*outputs, classbin.scores]):
        windows = grid.Windows(project, particles, record["dataset"], invert)
        work = grid.Work(model_file, record, options["batch"] or BATCH)
        where = cluster.Where.of(options)
        scores = grid.score(windows, work, where, classbin.scores, run.record)
        keep = grid.select(particles, scores, threshold, apart)
        for name in lists:
            cells = {relion.SCORE: (f"{value:.4f}" for value in scores)}
            relion.copy_particles(particles, classbin.particles(name), keep[name], cells)
        classbin.scores.unlink()
        counts = {name: int(keep[name].sum()) for name in lists}
        run.finish({"particles": len(particles), **counts})
    if not counts["true"]:
        cli.warn(
            f"{star}: no particle is true; was the list extracted as those of the training? -m "
            "MICROGRAPHS.star has that checked"
        )
    elif apart and counts["unique"] == counts["true"]:
        cli.warn(f"--min-distance {min_distance:g}: no two true windows are nearer than that")
    unique = f", {counts['unique']} unique ({min_distance:g} A apart)" if min_distance else ""
    print(
        f"{len(particles)} particles: {counts['true']} true (from {threshold:g}), "
        f"{counts['false']} false, 0 skipped{unique} -> {classbin.folder}"
    )
    return nodes


def main(argv=None) -> int:
    """Run the command line; return the exit code."""
    parser = build_parser()
    args = cli.parse(parser, argv)
    if args.in_parts:
        args.imagestar, args.micrographs = args.in_parts, args.imagestar or args.micrographs
    if not args.imagestar:
        parser.error("the following arguments are required: -i/--imagestar")
    if args.recut and args.clear:
        parser.error("argument --recut: not with -c, which clears what it cuts from")
    if args.recut and args.sample:
        parser.error("argument --recut: not with --sample; it cuts all that was picked")
    if args.watch and (args.recut or args.sample):
        parser.error("argument --watch: not with --recut or --sample; it picks all that comes")
    if args.until and not args.watch:
        parser.error("argument --until: only with --watch")
    if args.fdr is not None and args.threshold is not None:
        parser.error("argument --fdr: not with --threshold, which it chooses")
    names = (
        "threshold",
        "min_distance",
        "jobs",
        "cores",
        "scheduler",
        *OF_MICROGRAPHS,
        *OF_PARTICLES,
    )
    return cli.run(
        parser.prog,
        generate,
        args.projpath,
        args.imagestar,
        args.model,
        {name: getattr(args, name) for name in names},
        args.out,
        args.clear,
        job=args.job,
    )


if __name__ == "__main__":
    sys.exit(main())
