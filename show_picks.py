#!/usr/bin/env python3
"""Draw micrographs with their picks as circles, coloured by score; of several lists, by list.

Writes ClassBin/pngs/<micrograph>_<list>.png, oriented as RELION shows it. Candidates below the
threshold that picked are dashed.

Example: show_picks.py -p . -m MotionCorr/job002/Movies/a.mrc
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from pathlib import Path

from apbc_common import ApbcError, SomeSkipped, cli
from apbc_common.classbin import ClassBin, picked_by, read_picking

FORMATS = (".png", ".svg", ".pdf")
MOST = 6  # lists in one picture: overlay.COLOURS


def picture_file(text) -> str:
    """Argparse type: a picture to be written."""
    if Path(text).suffix.lower() not in FORMATS:
        raise argparse.ArgumentTypeError(f"{text!r} does not end in {', '.join(FORMATS)}")
    return text


def build_parser():
    """Return the parser of the command line."""
    parser = cli.parser("show_picks.py", __doc__)
    which = parser.add_mutually_exclusive_group(required=True).add_argument
    which("-m", "--image", type=cli.ProjectFile, metavar="MRC", help="the micrograph")
    which(
        "--all",
        action="store_true",
        help="every micrograph of a list; pictures newer than all that they show are kept",
    )
    which(
        "--report",
        action="store_true",
        help="write ClassBin/report.html: micrographs with their picks, a threshold to choose, "
        "boxes to correct, and what is known of the model",
    )
    add = parser.add_argument
    add(
        "-i",
        "--imagestar",
        "--in_mics",
        type=cli.ProjectFile,
        metavar="STAR",
        help="with --all: the list (default: those that the run of gen_picks.py has picked)",
    )
    add(
        "-s",
        "--star",
        "--in_coords",
        type=cli.ProjectFile,
        action="append",
        metavar="STAR",
        help="the picks: a coordinate file, a list of many micrographs' files, picks or particles, "
        "an EMAN .box file (default: ClassBin/picks/picks.star); again and again for lists in "
        "several colours",
    )
    add(
        "-z",
        "--binfactor",
        type=cli.positive,
        metavar="Z",
        help="binning of the extraction, 4 for 256 to 64 (default: from the pixel sizes)",
    )
    add(
        "-x",
        "--boxsize",
        type=cli.positive,
        metavar="BOX",
        help="diameter of the circles in pixels of the micrograph (default: the particle's for "
        "what gen_picks.py picked, the box for other particles and of .box files, and for other "
        "coordinate files that of the first list that tells one); needed where none does",
    )
    add(
        "--lowpass",
        type=cli.positive,
        metavar="A",
        help="blur what is finer than A (default: nothing)",
    )
    add(
        "--out",
        dest="picture",
        type=picture_file,
        metavar="FILE",
        help="with -m: write the picture to FILE, a PNG, SVG or PDF by its extension",
    )
    return parser


def tell(project, stars, out):
    """Write the report on a run of direct picking."""
    from apbc_common import report

    target = ClassBin(project, out).report
    star = stars[0] if stars else default_list(project, out, run=True)
    shown, read = report.write(project, star, target)
    size = target.stat().st_size / 1e6
    print(f"{Path(star).parent}: {shown} of {read} micrographs shown, {size:.1f} MB -> {target}")


def show(project, stars, out, look, image, target):
    """Draw one micrograph with its picks."""
    from apbc_common import album, mrc, relion

    name = os.path.relpath(image, project)
    if name.startswith(os.pardir):
        raise ApbcError(f"{image}: not in the project {Path(project).resolve()}; link it in")
    classbin = ClassBin(project, out)
    stars = stars or [default_list(project, out)]
    pictures = album.Album(project, stars, [name], album.Look(*look))
    page = pictures.page(name, image)
    if all(page.lacking):
        raise page.lacking[0]
    said = []
    for one, layer, *odd in zip(
        pictures.lists, page.layers, page.outside, page.lacking, strict=True
    ):
        warn_of_odd(one.path, image, name, len(layer.xy), *odd)
        label = layer.label if len(stars) > 1 else layer.counted
        said.append(f"{label}, {odd[0]} of them outside, circles of {layer.box:.0f} px")
    if target is None:
        what = name_of(project, stars, classbin.folder)
        target = classbin.picture(relion.rest(name), what)
    pictures.draw(target, name, mrc.image(image), page)
    print("\n".join(said), "->", target)


def warn_of_odd(star, image, name, count, outside, lacking):
    """Warn of picks that may not be those of the micrograph."""
    if lacking:
        cli.warn(lacking)
    other = Path(star).stem
    other = other if Path(star).suffix == ".box" else other.rpartition("_")[0]
    other = Path(image).with_name(other + Path(image).suffix)
    if other != Path(image) and other.is_file():
        cli.warn(f"{star}: by its name of {other.name}, drawn on {name}")
    if outside:
        cli.warn(f"{star}: {outside} of {count} picks lie outside {name}")


def show_all(project, stars, out, look, micrographs_star):
    """Draw every micrograph of a list, but for those that are drawn."""
    from apbc_common import album, mrc, relion

    classbin = ClassBin(project, out)
    stars = stars or [default_list(project, out)]
    listed, names = micrographs_of(project, stars, micrographs_star)
    pictures = album.Album(project, stars, names, album.Look(*look), listed)
    check_lists(pictures.lists, listed, names)
    what = name_of(project, stars, classbin.folder)
    totals, kept, bad = [Counter() for _ in stars], 0, []
    for name in cli.progress(names, "micrographs"):
        image, target = Path(project) / name, classbin.picture(relion.rest(name), what)
        try:
            page = pictures.page(name, image)
            is_drawn = pictures.is_drawn(target, name, image, page)
            picture = None if is_drawn else mrc.image(image)
        except album.LookError:
            raise
        except (ApbcError, OSError, MemoryError) as err:
            bad.append(cli.explain(err, image))
            cli.warn(f"{bad[-1]}; skipped")
            continue
        if not is_drawn:
            pictures.draw(target, name, picture, page)
        kept += is_drawn
        for total, layer, outside in zip(totals, page.layers, page.outside, strict=True):
            total.update(picks=len(layer.xy), outside=outside, without=not len(layer.xy))
    if len(bad) == len(names):
        raise ApbcError(f"none of {len(names)} micrographs can be drawn: {bad[0]}")
    for shown, total in zip(pictures.shown, totals, strict=True):
        print(
            f"{shown}: {total['picks']} picks, {total['outside']} of them outside, "
            f"{total['without']} micrographs without"
        )
    left = len(listed.names) - len(names)
    print(
        f"{len(names)} micrographs: {len(names) - kept - len(bad)} drawn, {kept} kept from before, "
        f"{len(bad)} skipped{f'; {left} were not picked' if left else ''} -> {classbin.pictures}"
    )
    if bad:
        raise SomeSkipped(
            f"{listed.path}: {len(bad)} micrographs were skipped: {relion.first(bad)}", None
        )


def micrographs_of(project, stars, micrographs_star):
    """Return a list of micrographs, and those of it to draw: of the default one, those picked."""
    from apbc_common import relion

    if micrographs_star:
        listed = relion.read_micrographs(micrographs_star)
        return listed, listed.names
    picking = next(filter(None, map(read_picking, stars)), None)
    if picking is None:
        raise ApbcError(
            f"{stars[0]}: no run of gen_picks.py wrote it, which would tell the micrographs; give "
            "their list with -i"
        )
    if picking["state"] != "finished":
        raise ApbcError(
            f"{stars[0]}: the run of gen_picks.py that writes it has not come to its end; start it "
            "again, or give a list of micrographs with -i"
        )
    listed = relion.read_micrographs(Path(project) / picking["growing"]["list"]["path"])
    picked = picked_by(picking)
    names = [name for name in listed.names if relion.rest(name) in picked]
    if not names:
        raise ApbcError(
            f"{listed.path}: none of its {len(listed.names)} micrographs has been picked by the "
            f"run that wrote {stars[0]}; give their list with -i"
        )
    return listed, names


def check_lists(lists, listed, names):
    """Warn of lists that have picks of no micrograph; raise ApbcError if none has any."""
    from apbc_common import relion

    odd = []
    for one in lists:
        if one.known is None:
            raise ApbcError(
                f"{one.path}: names no micrographs; --all takes lists that do, or nodes"
            )
        if not one.has_any():
            odd.append(
                f"{one.path}: no picks of any of {len(names)} micrographs of {listed.path}, but of "
                f"{len(one.known)} others ({relion.first(one.known)})"
            )
    if len(odd) == len(lists):
        raise ApbcError(odd[0])
    for line in odd:
        cli.warn(line)


def default_list(project, out, run=False):
    """Return the list of all direct picks, of ``out`` first; raise ApbcError if there is none.

    With ``run`` also one that a run has still to write.
    """
    places = [ClassBin(project, place) for place in dict.fromkeys((out, None))]
    for classbin in places:
        star = classbin.all_picks("picks")
        if star.is_file() or (run and classbin.picks_record.is_file()):
            return star
    where = " or ".join(str(classbin.all_picks("picks")) for classbin in places)
    raise ApbcError(f"{where}: not there; pick with gen_picks.py first, or name a list with -s")


def name_of(project, stars, pictures):
    """Return what tells the picture of lists from that of others: 'true' for particles_true.star.

    Lists that lie elsewhere than the pictures get their folder's name in front.
    """
    homes = [pictures.resolve(), ClassBin(project).folder.resolve()]
    parts = []
    for star in map(Path, stars):
        folder = star.resolve().parent
        if not any(map(folder.is_relative_to, homes)):
            parts += Path(os.path.relpath(folder, project)).parts
        parts.append("box" if star.suffix == ".box" else star.stem.rpartition("_")[2])
    return "_".join(parts)


def main(argv=None) -> int:
    """Run the command line; return the exit code."""
    parser = build_parser()
    args = cli.parse(parser, argv)
    target = args.picture and args.projpath / args.picture
    check(parser, args, target)
    if args.report:
        return cli.run(parser.prog, tell, args.projpath, args.star, args.out, job=args.job)
    way, of_way = (show_all, [args.imagestar]) if args.all else (show, [args.image, target])
    return cli.run(
        parser.prog,
        way,
        args.projpath,
        args.star,
        args.out,
        (args.binfactor, args.boxsize, args.lowpass),
        *of_way,
        job=args.job,
    )


def check(parser, args, target):
    """Refuse options that do not go together."""
    if args.imagestar and not args.all:
        parser.error("argument -i/--imagestar: only with --all")
    if target and not args.image:
        parser.error("argument --out: one picture, only with -m")
    if target and target.exists():
        for path in (args.image, *(args.star or ())):
            if os.path.samefile(path, target):
                parser.error(
                    f"argument --out: {args.picture}: it would be overwritten, and is read"
                )
    many = len(args.star or ())
    if many > MOST:
        parser.error(f"argument -s/--star: {many} lists, at most {MOST} have a colour")
    if args.report and many > 1:
        parser.error("argument -s/--star: the report is on one list")
    for option in ("-z/--binfactor", "-x/--boxsize", "--lowpass") if args.report else ():
        if getattr(args, option.rpartition("--")[2]):
            parser.error(f"argument {option}: not with --report")


if __name__ == "__main__":
    sys.exit(main())
