"""Markers, and a tiny RELION project to try the scripts on."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from apbc_common import images, mrc  # noqa: E402

MARKERS = {
    "slow": "takes minutes; run with tests/run.sh --slow",
    "gpu": "needs an NVIDIA GPU",
    "relion": "needs RELION on the PATH",
}
APIX = 4.0  # of the tiny project's micrographs, A
BOX, SCALE = 96, 64  # px of the micrograph, px of the windows
BINNED = APIX * BOX / SCALE

OPTICS_31 = """
# version 30001

data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
_rlnMicrographOriginalPixelSize #3
_rlnVoltage #4
_rlnSphericalAberration #5
_rlnAmplitudeContrast #6
"""


def pytest_configure(config):
    for name, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")
    config.addinivalue_line("filterwarnings", "error")


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("relion"):
            item.fixturenames.insert(0, "relion")


@pytest.fixture(scope="session")
def relion():
    """RELION on the PATH; without it the test is skipped, or fails where RELION is demanded."""
    on_path("relion_preprocess", "relion")


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium; likewise."""
    from playwright.sync_api import sync_playwright

    quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
    with sync_playwright() as driver:
        started = driver.chromium.launch(
            executable_path=on_path("chromium", "chromium"), args=quiet
        )
        yield started
        started.close()


def on_path(command, package):
    if path := shutil.which(command):
        return path
    demanded = f"APBC_REQUIRE_{package.upper()}"
    if os.environ.get(demanded):
        pytest.fail(f"{demanded} is set, but {command} is not on the PATH")
    pytest.skip(f"{command} is not on the PATH (Debian package {package})")


@pytest.fixture(scope="session")
def shared():
    """The folder of test data beside the project; without it the test is skipped."""
    if not (SHARED / "data" / "empiar-10017").is_dir():
        pytest.skip("../shared, which holds the real micrographs, is absent")
    return SHARED


@dataclass
class Project:
    """A tiny project: paths relative to ``path``, as a user would type them."""

    path: Path
    micrographs: str = "CtfFind/job003/micrographs_ctf.star"
    good: str = "Select/job010/particles.star"
    bad: str = "Select/job011/particles.star"

    def __truediv__(self, name):
        return self.path / name

    def copy(self, target, how=shutil.copy2):
        """Copy all of it; return the copy."""
        return Project(shutil.copytree(self.path, target, copy_function=how))

    def call(self, script, *args):
        """Run a script's main in this process; return its exit code."""
        module = __import__(script)
        try:
            return module.main(["-p", str(self.path), *map(str, args)])
        except SystemExit as stop:  # argparse
            return stop.code


def more(project, count):
    """Make the list of micrographs longer: ``count`` more, links to those there; return names."""
    names = [f"Micrographs/sub{i % 2}/mic_a.{i}.mrc" for i in range(3)]
    (project / "Micrographs/more").mkdir(exist_ok=True)
    for i in range(count):
        names.append(f"Micrographs/more/{i}.mrc")
        os.link(project / names[i % 3], project / names[-1])
    (project / project.micrographs).write_text(micrographs_star(names))
    return names


def picked_whole(project, count):
    """Make the list longer and pick it; return the project without picks, and what they were."""
    more(project, count)
    picks = project / "ClassBin/picks"
    assert project.call("gen_picks", "-i", project.micrographs) == 0
    expected = contents(picks)
    shutil.rmtree(picks)
    return project, expected


def count_picked(project):
    """Count the micrographs that have picks."""
    return len(list((project / "ClassBin/picks/Micrographs").rglob("[!.]*_autopick.star")))


def workers_of(process) -> list[int]:
    """Return the processes that one has started to work for it, by their numbers."""
    listed = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(process)], capture_output=True, text=True
    )
    return [int(line.split()[0]) for line in listed.stdout.splitlines() if "spawn_main" in line]


def snapshot(folder):
    """What lies in a folder: {path: None for a folder, else (size, mtime, digest)}."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir():
            found[name] = None
        else:
            stat, digest = path.stat(), hashlib.sha256(path.read_bytes()).hexdigest()
            found[name] = stat.st_size, stat.st_mtime_ns, digest
    return found


def contents(folder):
    """The bytes of a folder's files, by path; of runs' records without times and counts kept."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            if path.name.startswith("run_"):
                data = re.sub(rb' "(written|seconds|kept)": .*', b"", data)
            found[str(path.relative_to(folder))] = data
    return found


def micrograph(rng, good, bad, size=512, scale=1.0):
    """Noise, with dark discs at ``good`` and bright crosses at ``bad``; (size, size) float32.

    At ``scale`` 1 of a disc's deviation of 9 px.
    """
    picture = rng.normal(0, 1, (size, size))
    y, x = np.mgrid[:size, :size]
    for cx, cy in good:
        picture -= 1.5 * np.exp(-(((x - cx) ** 2 + (y - cy) ** 2) / (2 * (9.0 * scale) ** 2)))
    for cx, cy in bad:
        near = np.hypot(x - cx, y - cy) < 30 * scale
        picture += 2.0 * (near & ((abs(x - cx) < 4 * scale) | (abs(y - cy) < 4 * scale)))
    return picture.astype(np.float32)


def particle_rows(job, name, xy, start):
    """Rows of a 3.1 particles table: name, coordinates, optics group, and a column to keep."""
    stack = f"Extract/{job}/{name.removesuffix('.mrc')}.mrcs"
    return [
        f"{start + i:06d}@{stack} {name} {x:.6f} {y:.6f} 1 0{i:02d} 1.0e-07"
        for i, (x, y) in enumerate(xy, 1)
    ]


PARTICLES_31 = """

# version 30001

data_particles

loop_
_rlnImageName #1
_rlnMicrographName #2
_rlnCoordinateX #3
_rlnCoordinateY #4
_rlnOpticsGroup #5
_rlnGroupNumber #6
_rlnUnknownThing #7
"""


def particles_star(rows, apix=BINNED, box=SCALE):
    """The text of a particles.star of RELION 3.1."""
    labels = "_rlnImagePixelSize #7\n_rlnImageSize #8\n_rlnImageDimensionality #9\n"
    optics = f"opticsGroup1 1 1.0 300 2.7 0.1 {apix:.6f} {box} 2\n"
    return OPTICS_31 + labels + optics + PARTICLES_31 + "\n".join(rows) + "\n\n"


def micrographs_star(names, apix=APIX):
    """The text of a micrographs_ctf.star of RELION 3.1."""
    rows = "".join(f"{name} 1 15000.0\n" for name in names)
    return (
        OPTICS_31
        + f"_rlnMicrographPixelSize #7\nopticsGroup1 1 1.0 300 2.7 0.1 {apix}\n\n\n"
        + "# version 30001\n\ndata_micrographs\n\nloop_\n_rlnMicrographName #1\n"
        + "_rlnOpticsGroup #2\n_rlnDefocusU #3\n"
        + rows
        + "\n"
    )


def make_project(folder, count=3, seed=0):
    """Write a project of ``count`` micrographs with 12 good and 12 bad particles each."""
    rng = np.random.default_rng(seed)
    project = Project(Path(folder))
    names = [f"Micrographs/sub{i % 2}/mic a.{i}.mrc".replace(" ", "_") for i in range(count)]
    rows = {"good": [], "bad": []}
    places = np.stack(np.meshgrid(np.arange(64, 512, 96), np.arange(64, 512, 96)), -1).reshape(
        -1, 2
    )
    for name in names:
        xy = rng.permutation(places)[:24] + rng.integers(-8, 9, (24, 2))
        picture = micrograph(rng, xy[:12], xy[12:])
        mrc.write(project / name, picture, APIX)
        boxes = images.extract(picture, xy, BOX, SCALE)
        mrc.write(project / f"Extract/job005/{name.removesuffix('.mrc')}.mrcs", boxes, BINNED)
        rows["good"] += particle_rows("job005", name, xy[:12], 0)
        rows["bad"] += particle_rows("job005", name, xy[12:], 12)
    texts = {
        project.good: particles_star(rows["good"]),
        project.bad: particles_star(rows["bad"]),
        "Extract/job005/particles.star": particles_star(rows["good"] + rows["bad"]),
        project.micrographs: micrographs_star(names),
        "Extract/job005/job.star": (
            "\ndata_job\n\n_rlnJobTypeLabel relion.extract\n\n\ndata_joboptions_values\n\nloop_\n"
            "_rlnJobOptionVariable #1\n_rlnJobOptionValue #2\n"
            f"star_mics {project.micrographs}\n\n"
        ),
    }
    for path, text in texts.items():
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        (project / path).write_text(text)
    return project


@pytest.fixture(scope="session")
def _template(tmp_path_factory):
    return make_project(tmp_path_factory.mktemp("template") / "project")


@pytest.fixture
def project(_template, tmp_path):
    """A fresh copy of the tiny project."""
    return _template.copy(tmp_path / "a project.1")


@pytest.fixture(scope="session")
def _trained(_template, tmp_path_factory):
    project = _template.copy(tmp_path_factory.mktemp("trained") / "p")
    assert project.call("gen_data", "-g", project.good, "-b", project.bad) == 0
    assert project.call("gen_model", "--epochs", "15", "--batch", "16") == 0
    return project


@pytest.fixture
def trained(_trained, tmp_path):
    """A fresh copy of the tiny project with windows and a model."""
    return _trained.copy(tmp_path / "trained.1")


@pytest.fixture(scope="session")
def _taught(_template, tmp_path_factory):
    project = _template.copy(tmp_path_factory.mktemp("taught") / "p")
    lists = ("-g", project.good, "-b", project.bad)
    assert project.call("gen_data", *lists, "--from-micrographs") == 0
    assert project.call("gen_model", "--epochs", "60", "--batch", "16") == 0
    return project


@pytest.fixture
def taught(_taught, tmp_path):
    """A fresh copy of the tiny project with a model from its micrographs, for direct picking."""
    return _taught.copy(tmp_path / "taught.1")


@pytest.fixture(scope="session")
def real(shared, relion, tmp_path_factory):
    """The seven real micrographs as a project, their manual labels extracted by RELION."""
    path = tmp_path_factory.mktemp("real")
    maker = shared / "data" / "empiar-10017" / "make_project.py"
    subprocess.run([sys.executable, maker, path], check=True, stdout=subprocess.DEVNULL)
    for kind in ("good", "bad"):
        extract(path, "micrographs_ctf.star", f"Labels/{kind}/", "_manual.star", f"Extract/{kind}/")
    return Project(
        path, "micrographs_ctf.star", *(f"Extract/{k}/particles.star" for k in ("good", "bad"))
    )


def extract(
    path,
    micrographs,
    coord_dir,
    suffix,
    part_dir,
    box=216,
    scale=64,
    norm=True,
    invert=True,
    bg_radius=None,
):
    """Run relion_preprocess --extract in a project, as RELION's GUI does; return its output."""
    command = ["relion_preprocess", "--i", micrographs, "--coord_dir", coord_dir]
    command += ["--coord_suffix", suffix, "--part_dir", part_dir, "--extract"]
    command += ["--part_star", f"{part_dir}particles.star", "--extract_size", str(box)]
    command += ["--scale", str(scale)] if scale != box else []
    command += ["--norm", "--bg_radius", str(bg_radius or int(0.75 * scale / 2))] if norm else []
    command += ["--invert_contrast"] if invert else []
    done = subprocess.run(command, cwd=path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def read_mrc(path):
    """An MRC file's data through mrcfile."""
    with mrcfile.open(path, permissive=True) as file:
        return file.data.copy()
