"""The beta-galactosidase example: simulate.py, pick_log.py, label.py and score.py."""

import csv
import importlib.util
import json
import math
import sys
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from conftest import BINNED, SCALE, particle_rows, particles_star
from scipy import fft

from apbc_common import mrc, relion, star

FOLDER = Path(__file__).resolve().parents[2] / "beta-galactosidase"


def load(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


simulate, pick_log, score, label = map(load, ("simulate", "pick_log", "score", "label"))


def make(project, *options):
    """Run simulate.py on a small project; options given later win."""
    small = ["--size", "384", "--micrographs", "1", "--seed", "5"]
    assert simulate.main([str(project), *small, *map(str, options)]) == 0
    return project


def truth_of(project, index=1):
    with (project / "truth" / f"sim_{index:04d}.csv").open(newline="") as handle:
        return list(csv.DictReader(handle))


def pixels(project, index=1):
    return mrcfile.read(project / "Micrographs" / f"sim_{index:04d}.mrc")


CLEAN = ("--contamination", 0, "--broken", 0, "--aggregates", 0, "--carbon", 0)
QUIET = ("--noise", 0, "--mottle", 0, "--dose", 1000)


# --- the particle --------------------------------------------------------------------------------


def test_tetramer_has_size_centre_and_weight():
    particle = simulate.tetramer()
    atoms = particle.atoms.reshape(-1, 3)
    assert np.ptp(atoms, axis=0) == pytest.approx([175, 135, 90])
    assert atoms.mean(axis=0) == pytest.approx([0, 0, 0], abs=1e-9)
    thickness = particle.atom_area * len(atoms) * simulate.APIX**2
    assert thickness == pytest.approx(465e3 * 1.21, rel=0.01)  # A^3: 465 kDa, 1.21 A^3 per Da


def test_tetramer_is_d2_and_no_more():
    atoms = simulate.tetramer().atoms.reshape(-1, 3)

    def same(matrix):
        moved = atoms @ np.array(matrix, float).T
        keys = [set(map(tuple, np.round(xyz + 0.0, 6) + 0.0)) for xyz in (atoms, moved)]
        return keys[0] == keys[1]

    for axis in range(3):
        turn = -np.eye(3)
        turn[axis, axis] = 1  # 180 degrees about one axis
        assert same(turn)
    assert not same(np.diag([1, 1, -1]))  # a mirror: it would have no hand
    assert not same(np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]]))


def test_tetramer_is_one_lump_not_four():
    x, y, z = simulate.tetramer().atoms.reshape(-1, 3).T
    for a in (x, y):  # matter within 6 A of the planes between the subunits
        assert (np.abs(a) < 6).mean() > 0.03


def test_globule_is_270_across():
    atoms = simulate.globule().atoms.reshape(-1, 3)
    assert np.linalg.norm(atoms, axis=1).max() == pytest.approx(135)
    assert atoms.mean(axis=0) == pytest.approx([0, 0, 0], abs=1e-9)
    spread = np.sqrt(np.linalg.eigvalsh(np.cov(atoms.T)))
    assert spread.max() / spread.min() < 1.25  # compact


@pytest.mark.parametrize(
    "angles, direction",
    [
        ((0, 0, 0), (0, 0, 1)),
        ((0, 90, 0), (1, 0, 0)),
        ((90, 90, 45), (0, 1, 0)),
        ((30, 60, 10), (0.75, math.sqrt(3) / 4, 0.5)),
    ],
)
def test_view_direction_is_that_of_relion(angles, direction):
    matrix = simulate.euler_matrix(*angles)
    assert matrix @ matrix.T == pytest.approx(np.eye(3))
    assert np.linalg.det(matrix) == pytest.approx(1)
    assert matrix[2] == pytest.approx(direction)  # sin tilt cos rot, sin tilt sin rot, cos tilt


def test_psi_turns_the_picture_as_in_relion():
    # Euler_angles2matrix of RELION at rot = tilt = 0: first row cos psi, sin psi, 0
    assert simulate.euler_matrix(0, 0, 30)[0] == pytest.approx([math.cos(math.pi / 6), 0.5, 0])


def test_views_are_uniform():
    rng = np.random.default_rng(3)
    directions = np.array(
        [simulate.euler_matrix(*simulate.random_view(rng))[2] for _ in range(800)]
    )
    assert np.abs(directions.mean(axis=0)).max() < 0.08
    assert (directions**2).mean(axis=0) == pytest.approx([1 / 3] * 3, abs=0.04)


def test_pieces_are_smaller_and_centred():
    particle, rng = simulate.tetramer(), np.random.default_rng(1)
    whole = particle.atoms.shape[0] * particle.atoms.shape[1]
    shares = []
    for _ in range(60):
        piece = simulate.break_off(rng, particle)
        assert piece.mean(axis=0) == pytest.approx([0, 0, 0], abs=1e-9)
        shares.append(len(piece) / whole)
    assert 0.24 < min(shares) and max(shares) < 0.61


# --- the picture ---------------------------------------------------------------------------------


@pytest.mark.parametrize("make_particle", [simulate.tetramer, simulate.globule])
@pytest.mark.parametrize("x, y", [(100.0, 90.0), (101.37, 96.81)])
def test_projection_lies_on_its_centre(make_particle, x, y):
    particle = make_particle()
    atoms = particle.atoms.reshape(-1, 3)
    item = simulate.Item("good", x, y, (20.0, 65.0, -40.0), atoms)
    picture = simulate.protein_map([item], particle, 256, pad=20)
    rows, columns = np.mgrid[:256, :256] - 20
    found = [(picture * part).sum() / picture.sum() for part in (columns, rows)]
    assert found == pytest.approx([x, y], abs=0.1)
    assert picture.sum() * simulate.APIX**2 == pytest.approx(particle.volume, rel=1e-3)


def test_projection_is_seen_along_its_view():
    particle = simulate.tetramer()
    atom = np.array([[17.7, 0.0, 8.85]])
    for view, moved in (((0, 0, 90), (0, -10)), ((0, 90, 0), (-5, 0)), ((90, 0, 0), (0, -10))):
        item = simulate.Item("broken", 50.0, 50.0, view, atom)
        picture = simulate.protein_map([item], particle, 100, pad=0)
        row, column = np.unravel_index(picture.argmax(), picture.shape)
        assert (column - 50, row - 50) == moved


def test_projection_has_the_size_of_the_particle():
    particle = simulate.tetramer()
    item = simulate.Item("good", 100.0, 100.0, (0.0, 0.0, 0.0), particle.atoms.reshape(-1, 3))
    picture = simulate.protein_map([item], particle, 200, pad=0)
    assert np.ptp(np.nonzero(picture.any(axis=0))[0]) == pytest.approx(175 / 1.77, abs=2)
    assert np.ptp(np.nonzero(picture.any(axis=1))[0]) == pytest.approx(135 / 1.77, abs=2)


def test_splat_leaves_out_what_is_outside():
    xy = np.array([[1.25, 2.0], [-0.5, 1.0], [3.5, 1.0]])
    found = simulate.splat((4, 4), xy, np.ones(3, np.float32))
    assert found.sum() == pytest.approx(1)
    assert found[2, 1:3] == pytest.approx([0.75, 0.25])


def test_transfer_is_dark_at_low_frequencies_and_vanishes_where_it_should():
    edge, defocus = 512, 20000.0
    found = simulate.transfer(edge, defocus, defocus, 0.0, bfactor=0.0)[0]
    k = fft.rfftfreq(edge, simulate.APIX)
    assert found[0] == pytest.approx(-0.1)
    phase = math.pi * 0.019687 * defocus * k**2 - math.pi / 2 * 2e7 * 0.019687**3 * k**4
    first_zero = np.interp(math.pi - math.asin(0.1), phase, k)
    assert (found[k < first_zero - 0.002] < 0).all()
    assert found[np.searchsorted(k, first_zero + 0.002)] > 0


def test_astigmatism_has_defocus_u_on_its_angle():
    edge = 128
    mixed = simulate.transfer(edge, 22000.0, 18000.0, 0.0, 100.0)
    along_x = simulate.transfer(edge, 22000.0, 22000.0, 0.0, 100.0)
    along_y = simulate.transfer(edge, 18000.0, 18000.0, 0.0, 100.0)
    assert mixed[0] == pytest.approx(along_x[0], abs=1e-5)
    assert mixed[:, 0] == pytest.approx(along_y[:, 0], abs=1e-5)
    turned = simulate.transfer(edge, 22000.0, 18000.0, 45.0, 100.0)
    diagonal = np.arange(1, 60)
    assert turned[diagonal, diagonal] == pytest.approx(along_x[diagonal, diagonal], abs=1e-5)


def test_envelope_is_the_bfactor():
    plain = simulate.transfer(64, 1e4, 1e4, 0.0, 0.0)
    damped = simulate.transfer(64, 1e4, 1e4, 0.0, 200.0)
    k = fft.rfftfreq(64, simulate.APIX)[20]
    assert damped[0, 20] / plain[0, 20] == pytest.approx(math.exp(-50 * k**2), rel=1e-4)


def test_particles_are_dark_where_the_truth_says(tmp_path):
    image = pixels(make(tmp_path / "p", "--particles", 5, *CLEAN, *QUIET))
    truth = truth_of(tmp_path / "p")
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    near = np.min([np.hypot(columns - float(r["x"]), rows - float(r["y"])) for r in truth], axis=0)
    assert len(truth) == 5
    assert image[near < 25].mean() < 0.99 * image[(near > 70)].mean()
    swapped = np.min(
        [np.hypot(rows - float(r["x"]), columns - float(r["y"])) for r in truth], axis=0
    )
    assert image[near < 25].mean() < image[swapped < 25].mean()


def test_noise_is_that_of_counted_electrons(tmp_path):
    image = pixels(make(tmp_path / "p", "--particles", 0, *CLEAN, *QUIET, "--dose", 40))
    assert image.mean() == pytest.approx(40 * 1.77**2, rel=0.05)
    step = np.diff(image, axis=1)
    assert step.var() / 2 == pytest.approx(image.mean(), rel=0.03)
    assert (image == np.round(image)).all()


def test_carbon_is_darker_and_rougher(tmp_path):
    options = ("--particles", 0, *CLEAN, *QUIET, "--noise", 40)
    bare = pixels(make(tmp_path / "bare", *options))
    foil = pixels(make(tmp_path / "foil", *options, "--carbon", 1))
    dark = foil < 0.93 * np.median(bare)
    assert 0.05 < dark.mean() < 0.6
    assert foil.min() < bare.min()


def test_mottle_has_its_rms_and_no_fine_detail():
    found = simulate.mottle_map(np.random.default_rng(2), 400, 0.02)
    assert found.shape == (400, 400) and found.dtype == np.float32
    assert found.std() == pytest.approx(0.02, rel=0.2)
    assert np.diff(found, axis=0).std() < 0.2 * found.std()


# --- where things lie ----------------------------------------------------------------------------


def test_truth_is_inside_and_apart(tmp_path):
    project = make(tmp_path / "p", "--size", 1024, "--particles", 40, "--carbon", 0)
    rows = truth_of(project)
    xy = np.array([(float(r["x"]), float(r["y"])) for r in rows])
    kinds = np.array([r["kind"] for r in rows])
    assert set(kinds) <= {"good", "edge", "aggregate", "broken", "ice"}
    assert (kinds == "good").sum() > 10 and (kinds == "broken").sum() > 5
    assert xy.min() >= 0 and xy.max() <= 1023
    border = np.minimum(xy, 1023 - xy).min(axis=1)
    assert border[kinds == "good"].min() >= 108
    assert border[kinds == "edge"].max() < 108
    whole = xy[(kinds == "good") | (kinds == "edge")]
    apart = np.linalg.norm(whole[:, None] - whole[None], axis=2)[~np.eye(len(whole), dtype=bool)]
    assert apart.min() >= 0.9 * 180 / 1.77
    for row in rows:
        assert bool(row["rot"]) == (row["kind"] in ("good", "edge", "aggregate"))


def test_no_good_particle_touches_the_carbon():
    settings = simulate.settings_from(
        simulate.build_parser(), simulate.build_parser().parse_args(["x", "--size", "2048"])
    )
    particle = simulate.tetramer()
    rng = np.random.default_rng(4)
    depth = simulate.carbon_depth(rng, 2048)
    items = simulate.lay_out(rng, settings, particle, depth)
    good = [depth(i.x, i.y) for i in items if i.kind == "good"]
    edge = [depth(i.x, i.y) for i in items if i.kind == "edge"]
    assert max(good) <= -particle.diameter_px / 2
    assert max(edge) > 0  # some lie on the carbon


def test_shares_and_defocus_are_even_over_few_micrographs():
    for seed in range(5):
        shown = [simulate.spread(i, seed, math.sqrt(2) - 1) < 0.25 for i in range(12)]
        assert 2 <= sum(shown) <= 4
        at = np.sort([simulate.spread(i, seed, (math.sqrt(5) - 1) / 2) for i in range(12)])
        assert np.diff(at).max() < 0.2


def test_particles_without_room_are_counted(tmp_path, capsys):
    make(tmp_path / "p", "--particles", 60, *CLEAN)
    found = len(truth_of(tmp_path / "p"))
    assert found < 60
    assert f"({60 - found} particles of 60 found no room)" in capsys.readouterr().out


# --- the project ---------------------------------------------------------------------------------


def test_same_seed_same_pixels_whatever_the_number(tmp_path):
    one = make(tmp_path / "one", "--micrographs", 1)
    two = make(tmp_path / "two", "--micrographs", 2)
    other = make(tmp_path / "other", "--seed", 6)
    assert (pixels(one) == pixels(two)).all()
    assert truth_of(one) == truth_of(two)
    assert (pixels(two, 1) != pixels(two, 2)).mean() > 0.5
    assert (pixels(one) != pixels(other)).mean() > 0.5
    lines = [(p / "micrographs_ctf.star").read_text().splitlines() for p in (one, two)]
    assert [row for row in lines[0] if row.startswith("Micro")][0] in lines[1]


def test_project_is_one_relion_reads(tmp_path):
    project = make(tmp_path / "p", "--micrographs", 3)
    found = relion.read_micrographs(project / "micrographs_ctf.star")
    assert found.names == [f"Micrographs/sim_{i:04d}.mrc" for i in (1, 2, 3)]
    assert found.apix == [1.77] * 3
    table = star.scan(project / "micrographs_ctf.star")["micrographs"]
    u, v = table.numbers("rlnDefocusU", "rlnDefocusV").T
    assert (u >= v).all() and (v > 0.85e4).all() and (u < 3.5e4).all()
    with mrcfile.open(project / found.names[0]) as mrc:
        assert mrc.data.dtype == np.float32 and mrc.data.shape == (384, 384)
        assert mrc.voxel_size.x == pytest.approx(1.77)
    assert not list(project.rglob(".*"))


def test_repeated_run_finishes_what_is_missing(tmp_path, capsys):
    project = make(tmp_path / "p", "--micrographs", 2)
    kept, lost = (project / "Micrographs" / f"sim_000{i}.mrc" for i in (1, 2))
    before, stamp = lost.read_bytes()[1024:], kept.stat().st_mtime_ns
    lost.unlink()
    capsys.readouterr()
    make(project, "--micrographs", 2)
    assert "2 micrographs (1 made now)" in capsys.readouterr().out
    assert lost.read_bytes()[1024:] == before  # the header holds the date
    assert kept.stat().st_mtime_ns == stamp


def test_other_options_are_refused(tmp_path, capsys):
    project = make(tmp_path / "p")
    before = pixels(project)
    options = ["--size", "384", "--micrographs", "1", "--seed", "7"]
    assert simulate.main([str(project), *options]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"simulate.py: error: {project} was made with other options (seed 5, not 7); name a new one"
    )
    assert (pixels(project) == before).all()


def test_folder_of_somebody_else_is_refused(tmp_path, capsys):
    (tmp_path / "Micrographs").mkdir()
    assert simulate.main([str(tmp_path), "--size", "256"]) == 1
    assert "Micrographs there is not of a simulation" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["Micrographs"]


@pytest.mark.parametrize(
    "options, message",
    [
        (["--preset", "easy"], "invalid choice: 'easy'"),
        (["--carbon", "2"], "argument --carbon: 2: expected 0 to 1"),
        (["--size", "64"], "argument --size: 64: expected 256 to 16384"),
        (["--defocus-min", "3.6"], "argument --defocus-min: greater than --defocus-max"),
    ],
)
def test_wrong_options_end_with_2(tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as end:
        simulate.main([str(tmp_path / "p"), *options])
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "p").exists()


def test_presets_are_in_the_record(tmp_path):
    make(tmp_path / "p", "--preset", "few", "--contrast", 0.7)
    record = json.loads((tmp_path / "p" / "simulation.json").read_text())
    assert (record["preset"], record["labels"], record["diameter"]) == ("few", 600, 270.0)
    assert record["contrast"] == 0.7 and record["particle"] == "globule"
    standard, hard = simulate.PRESETS["standard"], simulate.PRESETS["hard"]
    assert hard["carbon"] == 0.5 and hard["contrast"] < standard["contrast"]
    assert hard["broken"] == 2 * standard["broken"]
    assert hard["contamination"] == 2 * standard["contamination"]


# --- pick_log.py ---------------------------------------------------------------------------------


def discs(size, *found):
    """Noise with discs x, y, diameter, depth on it."""
    image = np.random.default_rng(0).normal(0, 1, (size, size)).astype(np.float32)
    rows, columns = np.mgrid[:size, :size]
    for x, y, diameter, depth in found:
        image[np.hypot(columns - x, rows - y) <= diameter / 2] -= depth
    return image


def test_log_finds_dark_discs_of_the_size_asked_for():
    image = discs(600, (150, 300, 60, 1), (420, 180, 80, 1), (300, 480, 70, -1), (480, 460, 220, 1))
    xy, scores = pick_log.pick(image, np.geomspace(50, 90, 5))
    best = xy[np.argsort(-scores)[:2]]
    assert sorted(map(tuple, best)) == [
        pytest.approx((150, 300), abs=2.5),
        pytest.approx((420, 180), abs=2.5),
    ]
    low = scores[np.hypot(*(xy - (480, 460)).T) < 60]
    assert low.size == 0 or low.max() < 0.5 * np.sort(scores)[-2]
    bright = scores[np.hypot(*(xy - (300, 480)).T) < 20]
    assert bright.size == 0 or bright.max() < 0.3 * np.sort(scores)[-2]


def test_log_leaves_out_what_is_too_dark():
    image = discs(500, (150, 150, 60, 0.6), (350, 350, 60, 4))
    xy, scores = pick_log.pick(image, [50, 60, 70])
    assert xy[scores.argmax()] == pytest.approx([350, 350], abs=2.5)
    xy, scores = pick_log.pick(image, [50, 60, 70], upper=0.9 * scores.max())
    assert xy[scores.argmax()] == pytest.approx([150, 150], abs=2.5)


def test_log_takes_no_blob_that_answers_to_a_larger_size():
    image = discs(500, (150, 150, 60, 1), (330, 330, 150, 1))
    sizes = np.geomspace(50, 90, 3)
    every, fitting = pick_log.blobs(image, sizes), pick_log.blobs(image, sizes, larger=[135, 200])
    assert every[150, 150] == fitting[150, 150] > 0
    assert every[330, 330] > 0 and fitting[330, 330] == 0


def test_log_finds_no_peak_in_what_was_left_out():
    response = np.zeros((40, 40))
    assert len(pick_log.peaks(response, 5)) == 0
    response[20, 30] = 1
    assert pick_log.peaks(response, 5).tolist() == [[20, 30]]


def test_log_keeps_from_the_border_and_apart():
    xy, _ = pick_log.pick(discs(400), [40, 50, 60])
    assert xy.min() >= 20 and xy.max() <= 379
    apart = np.linalg.norm(xy[:, None] - xy[None], axis=2)[~np.eye(len(xy), dtype=bool)]
    assert apart.min() > 20


def test_log_writes_where_relion_looks(tmp_path, capsys):
    project = make(tmp_path / "p", "--size", 512, "--particles", 10, *CLEAN)
    home = project / "MotionCorr/job002/Movies"
    home.mkdir(parents=True)
    (project / "Micrographs/sim_0001.mrc").rename(home / "a.b.mrc")
    table = project / "micrographs_ctf.star"
    text = table.read_text().replace("Micrographs/sim_0001", "MotionCorr/job002/Movies/a.b")
    table.write_text(text)
    argv = ["-p", project, "-i", "micrographs_ctf.star", "--diameter", 200, "--o", "Picks/"]
    assert pick_log.main([str(word) for word in argv]) == 0
    written = project / "Picks/Movies/a.b_autopick.star"
    labels = [line.split()[0] for line in written.read_text().splitlines() if line[:1] == "_"]
    assert labels == [
        "_rlnCoordinateX",
        "_rlnCoordinateY",
        "_rlnClassNumber",
        "_rlnAnglePsi",
        "_rlnAutopickFigureOfMerit",
    ]
    xy, scores = relion.read_coordinates(written)
    assert f"1 micrographs, {len(xy)} picks" in capsys.readouterr().out
    best = xy[scores.argmax()]
    centres = [(float(r["x"]), float(r["y"])) for r in truth_of(project)]
    assert min(np.hypot(*(best - centre)) for centre in centres) < 40


@pytest.mark.parametrize(
    "options, code, message",
    [
        (["-i", "none.star", "--diameter", "200"], 2, "no such file"),
        (["-i", "m.star", "--diameter", "-3"], 2, "argument --diameter"),
        (["-i", "m.star", "--diameter", "9", "--min-diameter", "10"], 2, "greater than --diameter"),
        (["-i", "m.star", "--diameter", "200"], 1, "m.star"),
    ],
)
def test_log_errors_are_one_line(tmp_path, capsys, options, code, message):
    (tmp_path / "m.star").write_text("data_\n\nloop_\n_rlnMicrographName\n")
    try:
        found = pick_log.main(["-p", str(tmp_path), *options])
    except SystemExit as end:
        found = end.code
    assert found == code
    assert message in capsys.readouterr().err.splitlines()[-1]


# --- label.py ------------------------------------------------------------------------------------


def labelled(project, *options):
    """Label 400 candidates 3 px beside particles and broken ones; return row, x - origin of each.

    Those of particles have the even rows; their tilts go from 0 to 179 degrees.
    """
    xy = np.stack([100 + 40.0 * np.arange(400), np.full(400, 300.0)], axis=1)
    (project / "truth").mkdir(parents=True, exist_ok=True)
    kinds = ["good", "broken"] * 200
    rows = [
        f"{x - 3},{y},{kind},0,{179 * i / 399 if kind == 'good' else ''},0"
        for i, ((x, y), kind) in enumerate(zip(xy, kinds, strict=True))
    ]
    (project / "truth/a.csv").write_text("\n".join(["x,y,kind,rot,tilt,psi", *rows, ""]))
    stack = project / "Extract/job005/Micrographs/a.mrcs"
    mrc.write(stack, np.zeros((len(xy), SCALE, SCALE), np.float32), BINNED)
    lines = particle_rows("job005", "Micrographs/a.mrc", xy, 0)
    (project / "all.star").write_text(particles_star(lines))
    words = ["-p", project, "-i", "all.star", "--truth", "truth", "--diameter", 20, "--apix", 1]
    assert label.main([str(word) for word in [*words, "--centring", 0.01, *options]]) == 0
    found = {}
    for kind in ("good", "bad"):
        particles = relion.read_particles(project, project / f"Select/{kind}/particles.star")
        row = ((particles.xy[:, 0] - 100) / 40).round().astype(int)
        found[kind] = row, particles.xy - relion.origins(particles)
    return found


def test_labels_are_the_truth_and_origins_lead_to_the_centre(tmp_path):
    found = labelled(tmp_path, "--wrong", 0)
    row, centre = found["good"]
    assert row.tolist() == list(range(0, 400, 2))
    assert centre[:, 0] == pytest.approx(100 + 40 * row - 3, abs=0.1)
    assert found["bad"][0].tolist() == list(range(1, 400, 2))


def test_some_labels_are_wrong(tmp_path, capsys):
    good = labelled(tmp_path, "--wrong", 0.2)["good"][0]
    wrong = (good % 2).sum() + 200 - (good % 2 == 0).sum()
    assert 50 < wrong < 110
    assert f"good: {len(good)}, {(good % 2).sum()} of them wrong" in capsys.readouterr().out


def test_all_labels_are_off_to_one_side(tmp_path):
    row, centre = labelled(tmp_path, "--wrong", 0, "--shift", 5)["good"]
    assert centre[:, 0] == pytest.approx(100 + 40 * row - 3 + 5, abs=0.1)
    assert centre[:, 1] == pytest.approx(300, abs=0.1)


def test_views_near_the_axis_are_bad(tmp_path):
    good = labelled(tmp_path, "--wrong", 0, "--cone", 30)["good"][0]
    tilt = 179 * good / 399
    assert tilt.min() == pytest.approx(30, abs=1) and tilt.max() == pytest.approx(150, abs=1)
    assert (good % 2 == 0).all() and len(good) == pytest.approx(200 * 120 / 180, abs=3)


# --- score.py ------------------------------------------------------------------------------------


def truth(good, ignored=()):
    return score.Truth(*(np.array(part, float).reshape(-1, 2) for part in (good, ignored)))


def picks(*rows):
    return np.array(rows, float).reshape(-1, 3)


def test_score_of_perfect_picks():
    got = score.score(
        {"a": picks((10, 10, 2), (50, 50, 1))}, {"a": truth([(10, 10), (50, 50)])}, 20
    )
    assert (got["precision"], got["recall"], got["f1"], got["ap"]) == (1, 1, 1, 1)
    assert (got["distance"], got["kept"], got["best_kept"], got["best_score"]) == (0, 2, 2, 1)


def test_score_counts_by_hand():
    # by score: right, wrong, right (3 px off), second pick of the first: wrong; one of 4 missed
    rows = [(100, 100, 9), (300, 300, 8), (203, 100, 7), (101, 100, 6)]
    known = {"a": truth([(100, 100), (200, 100)]), "b": truth([(10, 10), (90, 90)])}
    got = score.score({"a": picks(*rows)}, known, diameter=20)
    assert (got["micrographs"], got["particles"], got["picks"]) == (2, 4, 4)
    assert (got["precision"], got["recall"]) == (0.5, 0.5)
    assert got["f1"] == pytest.approx(0.5)
    assert got["best_f1"] == pytest.approx(2 * 2 / (3 + 4)) and got["best_score"] == 7
    assert got["ap"] == pytest.approx(0.25 * 1 + 0.25 * 2 / 3)
    assert got["distance"] == pytest.approx(1.5)


def test_score_cut_keeps_its_own_value():
    rows = [(10, 10, 0.9), (50, 50, 0.5), (90, 90, 0.1)]
    got = score.score({"a": picks(*rows)}, {"a": truth([(10, 10)])}, 20, threshold=0.5)
    assert (got["kept"], got["precision"], got["recall"]) == (2, 0.5, 1)
    got = score.score({"a": picks(*rows)}, {"a": truth([(10, 10)])}, 20, threshold=5)
    assert (got["kept"], got["precision"], got["recall"], got["f1"]) == (0, 0, 0, 0)


def test_score_matches_the_best_first_and_each_once():
    # the better pick takes its nearest particle; the other one takes what is left within reach
    known = {"a": truth([(0, 0), (5, 0)])}
    got = score.score({"a": picks((3, 0, 1), (1, 0, 2))}, known, diameter=20)
    assert got["f1"] == 1 and got["distance"] == pytest.approx(1.5)
    got = score.score({"a": picks((3, 0, 2), (3, 0, 1), (3, 0, 0.5))}, known, diameter=20)
    assert got["precision"] == pytest.approx(2 / 3)
    got = score.score({"a": picks((2, 0, 1), (1, 0, 2))}, {"a": truth([(0, 0)])}, diameter=20)
    assert got["distance"] == 1  # the better pick's, although it comes second in the list


def test_score_radius_is_inclusive_in_diameters():
    known = {"a": truth([(0, 0)])}
    for x, right in ((6.0, 1), (6.01, 0)):
        assert score.score({"a": picks((x, 0, 1))}, known, diameter=20)["recall"] == right
    assert score.score({"a": picks((9, 0, 1))}, known, diameter=20, radius=0.5)["recall"] == 1


def test_score_neither_right_nor_wrong():
    known = {"a": truth([(100, 100)], ignored=[(10, 10), (104, 100)])}
    rows = [(100, 100, 3), (25, 10, 2), (101, 100, 1.5), (50, 50, 1)]
    got = score.score({"a": picks(*rows)}, known, diameter=20)
    assert got["picks"] == 2  # the right one and the one far from all
    assert (got["precision"], got["recall"]) == (0.5, 1)


def test_score_without_picks_and_without_particles():
    got = score.score({}, {"a": truth([(1, 1)])}, 20)
    assert (got["precision"], got["recall"], got["f1"], got["best_f1"], got["ap"]) == (0,) * 5
    assert math.isnan(got["distance"])
    with pytest.raises(ValueError, match="no good particle"):
        score.score({"a": picks((1, 1, 1))}, {"a": truth([])}, 20)


@pytest.fixture
def scored(tmp_path):
    """Truth of two micrographs, coordinate files of one, a particle list of both."""
    (tmp_path / "truth").mkdir()
    (tmp_path / "truth/a.csv").write_text("x,y,kind\n100,100,good\n300,100,ice\n200,200,edge\n")
    (tmp_path / "truth/b.csv").write_text("x,y\n50,60\n")
    rows = np.array([(100, 101), (300, 100), (200, 210)])
    relion.write_coordinates(tmp_path / "LoG/Movies/a_autopick.star", rows, [3, 2, 1])
    (tmp_path / "particles.star").write_text(
        "data_particles\n\nloop_\n_rlnMicrographName\n_rlnCoordinateX\n_rlnCoordinateY\n"
        "Movies/a.mrc 100 100\nMovies/b.mrc 58 60\nMovies/c.mrc 1 1\n"
    )
    return tmp_path


def test_score_command_line_prints_a_table(scored, capsys):
    argv = ["--truth", scored / "truth", "--diameter", 36, "--apix", 1.8]
    lists = [f"LoG={scored / 'LoG'}", f"CNN={scored}/part*.star"]
    assert score.main([*map(str, argv), *lists]) == 0
    out, err = capsys.readouterr()
    first, head, log, cnn = out.splitlines()
    assert first == "2 particles in 2 micrographs"
    assert len({len(line.rstrip()) for line in (head, log, cnn)}) == 1  # aligned to the right
    # LoG: one right 1 px off, the ice wrong, the edge left out
    assert log.split() == "LoG 2 0.500 0.500 0.500 1.000 0.500 0.667 3.000 0.500 1.8".split()
    # CNN: one right, one 8 px off: wrong, for 36 A are 20 px and a right pick lies within 6
    assert cnn.split() == "CNN 2 0.500 0.500 0.500 1.000 0.500 0.667 1.000 0.500 0.0".split()
    assert err == "warning: CNN: 1 micrographs without truth left out: c ...\n"


@pytest.mark.parametrize(
    "lists, code, message",
    [
        (["LoG={0}/none"], 1, "none: no such file"),
        (["LoG="], 2, "'LoG=' is not NAME=FILES"),
        (["{0}/truth/a.csv"], 1, "a.csv"),
    ],
)
def test_score_errors_are_one_line(scored, capsys, lists, code, message):
    argv = ["--truth", str(scored / "truth"), "--diameter", "36", "--apix", "1.8"]
    try:
        found = score.main([*argv, *(word.format(scored) for word in lists)])
    except SystemExit as end:
        found = end.code
    err = capsys.readouterr().err
    assert found == code and message in err.splitlines()[-1] and "Traceback" not in err


def test_score_names_the_bad_line_of_the_truth(scored, capsys):
    (scored / "truth/b.csv").write_text("x,y\n1,2\n3,\n")
    argv = ["--truth", scored / "truth", "--diameter", 36, "--apix", 1.8, scored / "LoG"]
    assert score.main([str(word) for word in argv]) == 1
    assert f"{scored / 'truth/b.csv'}:3: expected numbers x and y" in capsys.readouterr().err
