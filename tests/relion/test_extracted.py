"""The extracted picks are those of relion_preprocess --extract: pixels, particles and optics."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import APIX, BOX, ROOT, SCALE, extract, read_mrc

from apbc_common import relion, star

pytestmark = pytest.mark.relion

NAMES = ["Micrographs/sub0/mic_a.0.mrc", "Micrographs/sub1/mic_a.1.mrc"]
NAMES += ["Micrographs/sub0/mic_a.2.mrc"]
OPTICS = ["OpticsGroupName", "OpticsGroup", "MicrographOriginalPixelSize", "Voltage"]
OPTICS += ["SphericalAberration", "AmplitudeContrast", "MicrographPixelSize"]
CTF = ["DefocusU", "DefocusV", "CtfAstigmatism", "DefocusAngle", "CtfFigureOfMerit"]
CTF += ["CtfMaxResolution"]

# The micrographs as RELION's CtfFind lists them, and what else a list may or may not have.
LISTS = {
    "as CtfFind": (
        [*OPTICS, "MtfFileName"],
        ["'my group' 1 0.885 300 2.7 0.1 4.0 'mtf 300.star'"],
        ["CtfPowerSpectrum", "MicrographName", "MicrographMetadata", "OpticsGroup"]
        + ["AccumMotionTotal", "CtfImage", *CTF],
        [
            f"ctf/{i}.mrcs MotionCorr/job002/{name} m{i}.star 1 12.34 ctf/{i}.ctf:mrc "
            f"1500{i}.123456 14000.5 1000.6 -0.00012{i} 0.1234567 3.21"
            for i, name in enumerate(NAMES)
        ],
    ),
    "groups of other numbers and pixel sizes": (
        [*OPTICS, "CtfBfactor", "OddZernike"],
        ["a 3 0.885 300 2.7 0.1 4.0 55 [0.1,2,3]", "unused 5 1.0 200 2.7 0.1 2.0 44 []"]
        + ["b 7 0.885 200 2.0 0.07 3.8 -1e-7 []"],
        ["OpticsGroup", "MicrographName", "DefocusU", "PhaseShift"],
        [f"{7 if i == 1 else 3} {name} 2000{i} 33.3" for i, name in enumerate(NAMES)],
    ),
    "no defocus": (
        OPTICS[1:],
        ["1 0.885 300 2.7 0.1 4.0"],
        ["MicrographName", "OpticsGroup", "DefocusAngle", "CtfMaxResolution"],
        [f"{name} 1 12 3.3" for name in NAMES],
    ),
}


def write_list(project, optics, groups, labels, rows):
    """Write a list of micrographs; give those in job folders their files."""
    text = ""
    for table, names, cells in (("optics", optics, groups), ("micrographs", labels, rows)):
        head = "".join(f"_rln{name} #{i}\n" for i, name in enumerate(names, 1))
        text += f"\n# version 30001\n\ndata_{table}\n\nloop_\n{head}" + "\n".join(cells) + "\n\n"
    (project / project.micrographs).write_text(text)
    shutil.copytree(project / "Micrographs", project / "MotionCorr/job002/Micrographs")


def assert_equal(ours, theirs):
    """Same labels in the same order, same text, and numbers as near as RELION writes them."""
    assert list(ours) == list(theirs)
    assert len(ours) == len(theirs) > 0
    for label in ours:
        for cell, expected in zip(ours[label], theirs[label], strict=True):
            try:
                wanted = pytest.approx(float(expected), rel=1e-6, abs=6e-7)
            except ValueError:
                assert cell == expected, label
            else:
                assert float(cell) == wanted, label


def compare(project, box, names, folder="ClassBin/picks/", **how):
    """Extract the picks by RELION with one box; hold the micrographs named against ours."""
    job = f"Extract/{box}/"
    extract(
        *(project.path, project.micrographs, "ClassBin/picks/", "_autopick.star", job, box, SCALE),
        **how,
    )
    ours, theirs = (
        {name: block.read() for name, block in star.scan(project / path).items()}
        for path in (f"{folder}particles.star", f"{job}particles.star")
    )
    cut = {}
    for of, tables in (("ours", ours), ("theirs", theirs)):
        particles = tables["particles"]
        cut[of] = particles[particles[relion.MICROGRAPH].isin(names)].copy()
    groups = set(cut["ours"][relion.GROUP].astype(int))
    stacks = [name.partition("@")[2] for name in cut["ours"][relion.IMAGE]]
    for stack in dict.fromkeys(stacks):
        mine = read_mrc(project / stack)
        other = read_mrc(project / stack.replace(folder, job))
        assert mine.shape == other.shape == (stacks.count(stack), SCALE, SCALE)
        assert mine.dtype == np.float32
        assert mine.std() > 0.5
        assert abs(mine - other).max() <= 1e-5
    cut["theirs"][relion.IMAGE] = [
        name.replace(job, folder) for name in cut["theirs"][relion.IMAGE]
    ]
    assert_equal(*(table.reset_index(drop=True) for table in cut.values()))
    of_groups = [
        tables["optics"][tables["optics"][relion.GROUP].astype(int).isin(groups)]
        for tables in (ours, theirs)
    ]
    assert_equal(*of_groups)
    assert len(ours["optics"]) == len(theirs["optics"])
    return len(cut["ours"])


def assert_inside(project):
    """No box reaches over the border of its micrograph."""
    apix = relion.read_micrographs(project / project.micrographs).apix_by_name()
    for name, size in apix.items():
        xy, _ = relion.read_coordinates(project / "ClassBin/picks/picks.star", name)
        half = round(BOX * APIX / size / 2)
        first = xy.astype(int) - half
        assert (first >= 0).all()
        assert (first + 2 * half <= 512).all()


@pytest.mark.parametrize("name", LISTS)
def test_picks_are_extracted_as_relion_does(taught, name):
    write_list(taught, *LISTS[name])
    assert taught.call("gen_picks", "-i", taught.micrographs, "--extract") == 0
    apix = relion.read_micrographs(taught / taught.micrographs).apix_by_name()
    boxes = {4.0: 96, 3.8: 102}  # 384 A; 101.05 px are 102, the next even number to half of it
    count = sum(
        compare(taught, boxes[size], [name for name in apix if apix[name] == size])
        for size in set(apix.values())
    )
    picks = star.scan(taught / "ClassBin/picks/picks.star")["particles"].rows
    assert count == picks >= 30
    assert_inside(taught)


@pytest.mark.parametrize(
    "how", [{"bg_radius": 20}, {"norm": False, "invert": False}], ids=["radius", "raw"]
)
def test_picks_are_extracted_as_the_particles_of_the_training_were(taught, how):
    coordinates = taught / "picked"
    for name in NAMES:
        xy = [relion.read_coordinates(taught / path, name)[0] for path in (taught.good, taught.bad)]
        target = coordinates / f"{relion.rest(name)}_pick.star"
        relion.write_coordinates(target, np.concatenate(xy))
    job = "Extract/job005/"
    extract(taught.path, taught.micrographs, "picked/", "_pick.star", job, BOX, SCALE, **how)
    options = "--norm --bg_radius 20 --invert_contrast" if "bg_radius" in how else ""
    (taught / f"{job}note.txt").write_text(
        " ++++ with the following command(s):\n"
        f"`which relion_preprocess` --i {taught.micrographs} --extract {options}\n ++++\n"
    )
    lists = ("-g", taught.good, "-b", taught.bad, "--from-micrographs", "--o", "anew")
    assert taught.call("gen_data", *lists) == 0
    record = json.loads((taught / "ClassBin/model.json").read_text())
    record["dataset"] = json.loads((taught / "anew/dataset.json").read_text())
    (taught / "ClassBin/model.json").write_text(json.dumps(record))
    assert taught.call("gen_picks", "-i", taught.micrographs, "--extract") == 0
    assert compare(taught, BOX, NAMES, **how) >= 30


def test_the_example_extracts_as_relion_does(taught):
    write_list(taught, *LISTS["as CtfFind"])
    assert taught.call("gen_picks", "-i", taught.micrographs) == 0
    script = ROOT / "beta-galactosidase/extract.py"
    command = [sys.executable, script, "-p", taught.path, "-i", taught.micrographs]
    command += ["--coord-dir", "ClassBin/picks/", "--coord-suffix", "_autopick.star"]
    command += ["--box", str(BOX), "--scale", str(SCALE), "--o", "Extract/job007/"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    names = relion.read_micrographs(taught / taught.micrographs).names
    assert compare(taught, BOX, names, "Extract/job007/") >= 30


def test_relion_reads_the_extracted_picks(taught):
    assert taught.call("gen_picks", "-i", taught.micrographs, "--extract") == 0
    path = "ClassBin/picks/particles.star"
    command = ["relion_stack_create", "--i", path, "--o", "all", "--one_by_one"]
    done = subprocess.run(command, cwd=taught.path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    particles = relion.read_particles(taught.path, taught / path)
    images = read_mrc(taught / "all.mrcs")
    assert len(images) == len(particles) >= 30
    for row in (0, len(images) - 1):
        stack = read_mrc(taught / particles.stacks[particles.stack[row]])
        assert abs(images[row] - stack[particles.section[row]]).max() <= 1e-5
