"""RELION's meaning of tables, names, jobs and coordinate files."""

from pathlib import Path

import numpy as np
import pytest

from apbc_common import ApbcError, mrc, relion, star

DATA = Path(__file__).resolve().parents[1] / "data"
VERSIONS = ["3.0", "3.1", "4.0", "5.0"]
STACKS = [f"Extract/job003/Movies/mic_{letter}.mrcs" for letter in "ab"]
MICROGRAPHS = [f"MotionCorr/job002/Movies/mic_{letter}.mrc" for letter in "ab"]


def make_stacks(project, count=3, box=16, names=STACKS):
    for name in names:
        mrc.write(project / name, np.arange(count * box * box).reshape(count, box, box), 2.0)


def put(folder, text, name="f.star"):
    (folder / name).write_text(text)
    return folder / name


def changed(folder, version, *pairs, kind="particles"):
    """Write a copy of a file of ``tests/data`` with texts replaced, each wherever it is."""
    text = (DATA / f"{kind}_{version}.star").read_text()
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    return put(folder, text)


def error(function, *args):
    with pytest.raises(ApbcError) as caught:
        function(*args)
    return str(caught.value)


def line_of(path, text):
    """Return the 1-based number of the first line that holds ``text``."""
    return next(i for i, line in enumerate(path.read_text().splitlines(), 1) if text in line)


# --- particles -----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_particles_of_every_version(tmp_path, version):
    make_stacks(tmp_path)
    path = DATA / f"particles_{version}.star"
    found = relion.read_particles(tmp_path, path)
    assert len(found) == 6
    assert found.stacks == STACKS and found.micrographs == MICROGRAPHS
    assert found.stack.tolist() == found.micrograph.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.section.tolist() == [0, 1, 2] * 2
    assert found.section.dtype == found.stack.dtype == found.group.dtype == np.int32
    assert found.xy[[0, 5]].tolist() == [[27.9, 31.65], [22.75, 37.34]]
    assert found.name(4) == "000002@Extract/job003/Movies/mic_b.mrcs"
    if version == "3.0":  # no optics table: one group for each pixel size
        assert found.optics == [relion.Optics("", 2.0, 16)]
        assert found.group.tolist() == [0] * 6
    else:
        assert found.optics == [relion.Optics("1", 2.0, 16), relion.Optics("2", 2.5, 16)]
        assert found.group.tolist() == [0, 0, 0, 1, 1, 1]
        assert [optics.box_angst for optics in found.optics] == [32, 40]


def test_the_project_of_the_fixtures(project):
    found = relion.read_particles(project.path, project / project.good)
    assert len(found) == 36 and len(found.stacks) == 3
    assert found.optics == [relion.Optics("1", 6.0, 64)]


def test_particles_without_coordinates_and_micrographs(tmp_path):
    make_stacks(tmp_path)
    path = changed(tmp_path, "3.1", ("_rlnCoordinateX", "_rlnFoo"), ("_rlnMicrographName", "_rlnB"))
    found = relion.read_particles(tmp_path, path)
    assert (found.xy, found.micrograph, found.micrographs) == (None, None, [])


def test_the_box_is_the_stacks_where_the_optics_do_not_tell(tmp_path):
    make_stacks(tmp_path, box=20)
    path = changed(tmp_path, "3.1", ("_rlnImageSize", "_rlnSomething"))
    assert [optics.box for optics in relion.read_particles(tmp_path, path).optics] == [20, 20]


def test_groups_in_any_order_and_unused_ones(tmp_path):
    make_stacks(tmp_path)
    path = changed(
        tmp_path,
        "3.1",
        ("opticsGroup1            1", "opticsGroup3            3"),
        ("mic_a.mrc            1", "mic_a.mrc            2"),
    )
    found = relion.read_particles(tmp_path, path)
    assert [optics.group for optics in found.optics] == ["3", "2"]
    assert found.group.tolist() == [1] * 6


@pytest.mark.parametrize(
    "pairs, message",
    [
        ([("_rlnImageName", "_rlnFoo")], "0 particle tables (with a column rlnImageName) among "),
        ([("_rlnImagePixelSize", "_rlnFoo")], "data_optics has no column rlnImagePixelSize; it "),
        ([("data_optics", "data_foo")], "data_particles has rlnOpticsGroup, but no data_optics"),
        (
            [("opticsGroup2            2", "opticsGroup2            7")],
            "rlnOpticsGroup 2 of data_particles is not in data_optics",
        ),
        (
            [("opticsGroup2            2", "opticsGroup2            1")],
            "rlnOpticsGroup 1 is in data_optics more than once",
        ),
        ([("16            2", "16            3")], "rlnImageDimensionality 3, expected 2"),
        ([("    2.500000", "    0.000000")], "rlnImagePixelSize 0 of group 2"),
        (
            [("000001@", "000002@")],
            "2 images named a second time: 000002@Extract/job003/Movies/mic_a.mrcs (lines 39 and "
            "40); 000002@Extract/job003/Movies/mic_b.mrcs (lines 42 and 43); remove them",
        ),
    ],
)
def test_particle_lists_that_are_refused(tmp_path, pairs, message):
    make_stacks(tmp_path)
    path = changed(tmp_path, "3.1", *pairs)
    found = error(relion.read_particles, tmp_path, path)
    assert found.startswith(f"{path}: {message}")
    if message[-1] != " ":
        assert found == f"{path}: {message}"


@pytest.mark.parametrize(
    "name",
    ["000000@a.mrcs", "x@a.mrcs", "@a.mrcs", "-1@a.mrcs", "9" * 25 + "@a", "3000000000@a", "1@"],
)
def test_an_image_name_that_is_none(tmp_path, name):
    path = changed(tmp_path, "3.1", ("000003@Extract/job003/Movies/mic_b.mrcs", name))
    line = line_of(path, f" {name} ")
    assert error(relion.read_particles, tmp_path, path) == (
        f"{path}:{line}: rlnImageName is {name!r}, expected 000001@stack.mrcs"
    )


def images(folder, names, name="images.star"):
    """The block of a list with nothing but image names."""
    path = put(folder, "data_\nloop_\n_rlnImageName\n" + "".join(f"{n}\n" for n in names), name)
    return star.scan(path)[""]


@pytest.mark.parametrize("piece", [1, 3, 1000])
def test_images_named_twice_far_apart_are_named_with_both_lines(tmp_path, monkeypatch, piece):
    monkeypatch.setattr(star, "PIECE", piece)
    names = [f"{i:06d}@{stack}.mrcs" for i in range(1, 11) for stack in "ab"]
    assert relion.image_names(images(tmp_path, names))[0] == ["a.mrcs", "b.mrcs"]
    block = images(tmp_path, [*names, "2@b.mrcs", "a.mrcs", "000001@a.mrcs"])
    assert error(relion.image_names, block) == (
        f"{block.path}: 3 images named a second time: 000002@b.mrcs (lines 7 and 24); "
        "000001@a.mrcs (lines 4 and 25); 000001@a.mrcs (lines 4 and 26); remove them"
    )


def test_an_image_name_that_is_none_is_found_in_any_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(star, "PIECE", 2)
    block = images(tmp_path, ["1@a.mrcs", "2@a.mrcs", "3@a.mrcs", "0@a.mrcs"])
    message = f"{block.path}:7: rlnImageName is '0@a.mrcs', expected 000001@stack.mrcs"
    assert error(relion.image_names, block) == message


@pytest.mark.parametrize("version", VERSIONS)
def test_particles_in_pieces_are_the_same(tmp_path, monkeypatch, version):
    make_stacks(tmp_path)
    path = changed(tmp_path, version)
    whole = relion.read_particles(tmp_path, path)
    monkeypatch.setattr(star, "PIECE", 1)
    pieces = relion.read_particles(tmp_path, path)
    for name in ("stacks", "optics", "micrographs"):
        assert getattr(pieces, name) == getattr(whole, name)
    for name in ("stack", "section", "group", "micrograph", "xy"):
        found, expected = getattr(pieces, name), getattr(whole, name)
        assert found.dtype == expected.dtype and np.array_equal(found, expected)


def of_images(folder, names):
    """Particles that have images and nothing else."""
    block = images(folder, names)
    stacks, stack, section = relion.image_names(block)
    nothing = np.zeros(len(section), np.int32)
    return relion.Particles(
        block, [], nothing, stacks, stack, section, [], None, None, np.arange(len(section))
    )


def test_which_images_two_lists_share(tmp_path):
    one = of_images(tmp_path, ["1@a.mrcs", "1@b.mrcs", "2@a.mrcs", "000003@c.mrcs", "2@d.mrcs"])
    other = of_images(tmp_path, ["3@c.mrcs", "1@b.mrcs", "2@b.mrcs", "1@c.mrcs"])
    assert relion.shared(one, other).tolist() == [False, True, False, True, False]
    assert relion.shared(other, one).tolist() == [True, True, False, False]
    assert not relion.shared(one, other.some(np.zeros(4, bool))).any()


def test_the_rows_of_each_name():
    found = relion.rows_of(np.array([2, 0, 2, 3, 0], np.int32), ["a", "b", "c", "d"])
    rows = {name: rows.tolist() for name, rows in found.items()}
    assert list(rows.items()) == [("c", [0, 2]), ("a", [1, 4]), ("d", [3])]
    assert relion.rows_of(np.empty(0, np.int32), ["a"]) == {}


def test_a_name_without_a_number_is_an_image_of_its_own(tmp_path):
    make_stacks(tmp_path, 1, names=["a.mrc", "b@1.mrcs"])
    rows = "data_\nloop_\n_rlnImageName\n_rlnMagnification\n_rlnDetectorPixelSize\n"
    path = put(tmp_path, rows + "a.mrc 25000 5\n1@b@1.mrcs 20000 5\n")
    found = relion.read_particles(tmp_path, path)
    assert found.stacks == ["a.mrc", "b@1.mrcs"]
    assert found.section.tolist() == [0, 0]
    assert [optics.apix for optics in found.optics] == [2.0, 2.5]


def test_pixel_sizes_of_3_0_row_by_row(tmp_path):
    make_stacks(tmp_path)
    path = changed(tmp_path, "3.0", ("mic_b.mrc 10000.000000", "mic_b.mrc 40000.000000"))
    found = relion.read_particles(tmp_path, path)
    assert [optics.apix for optics in found.optics] == [0.5, 2.0]
    assert found.group.tolist() == [1, 1, 1, 0, 0, 0]


@pytest.mark.parametrize("magnification", ["0.000000", "-1.00000"])
def test_a_magnification_that_gives_no_pixel_size(tmp_path, magnification):
    path = changed(tmp_path, "3.0", ("mic_b.mrc 10000.000000", f"mic_b.mrc {magnification}"))
    line = line_of(path, f"mic_b.mrc {magnification}")
    assert error(relion.read_particles, tmp_path, path) == (
        f"{path}:{line}: rlnDetectorPixelSize 2 and rlnMagnification "
        f"{float(magnification):g} give no pixel size"
    )


def test_a_list_of_3_0_without_magnification(tmp_path):
    path = changed(tmp_path, "3.0", ("_rlnMagnification", "_rlnFoo"))
    message = error(relion.read_particles, tmp_path, path)
    assert message.startswith(f"{path}: data_ has no column rlnMagnification; it has rlnCoord")


def test_a_coordinate_that_is_no_number(tmp_path):
    path = changed(tmp_path, "3.1", ("   39.910000", "   abc      "))
    assert error(relion.read_particles, tmp_path, path) == (
        f"{path}:{line_of(path, 'abc')}: rlnCoordinateX is 'abc', expected a number"
    )


def test_a_list_without_particles(tmp_path):
    text = (DATA / "particles_3.1.star").read_text()
    path = put(tmp_path, text[: text.index("   27.9")])
    assert error(relion.read_particles, tmp_path, path) == (
        f"{path}: data_particles has no particles"
    )


def test_a_list_with_two_particle_tables(tmp_path):
    text = (DATA / "particles_3.1.star").read_text()
    path = put(tmp_path, text + "\ndata_more\nloop_\n_rlnImageName\n1@a.mrcs\n")
    assert error(relion.read_particles, tmp_path, path) == (
        f"{path}: 2 particle tables (with a column rlnImageName) among "
        "data_optics, data_particles, data_more, expected 1"
    )


@pytest.mark.parametrize(
    "make, faults",
    [
        (lambda path: path.unlink(), [STACKS[1] + ": No such file or directory"]),
        (lambda path: path.write_bytes(b"x"), ["{project}/" + STACKS[1] + ": not an MRC file"]),
        (
            lambda path: make_stacks(path.parents[3], 2, names=STACKS[1:]),
            [STACKS[1] + ": 2 images, but number 3 is named"],
        ),
        (
            lambda path: make_stacks(path.parents[3], box=18, names=STACKS[1:]),
            [STACKS[1] + ": images of 18 x 18, expected 16 x 16"],
        ),
        (
            lambda path: mrc.write(path, np.zeros((3, 14, 16)), 1),
            [STACKS[1] + ": images of 16 x 14, expected 16 x 16"],
        ),
        (
            lambda path: make_stacks(path.parents[3], box=15),
            [name + ": images of 15 px, expected an even box" for name in STACKS],
        ),
    ],
    ids=["missing", "no MRC", "short", "other size", "not square", "odd"],
)
def test_stacks_that_cannot_be_used(tmp_path, make, faults):
    size = "_rlnFoo" if "even" in faults[0] else "_rlnImageSize"
    make_stacks(tmp_path)
    make(tmp_path / STACKS[1])
    path = changed(tmp_path, "3.1", ("_rlnImageSize", size))
    assert error(relion.read_particles, tmp_path, path) == (
        f"{path}: {len(faults)} of 2 stacks can't be used: "
        + "; ".join(faults).format(project=tmp_path)
    )


def test_the_first_three_of_many_faults(tmp_path):
    path = put(
        tmp_path,
        "data_\nloop_\n_rlnImageName\n_rlnMagnification\n_rlnDetectorPixelSize\n"
        + "".join(f"1@{i}.mrcs 10000 5\n" for i in range(5)),
    )
    why = "No such file or directory"
    assert error(relion.read_particles, tmp_path, path) == (
        f"{path}: 5 of 5 stacks can't be used: 0.mrcs: {why}; 1.mrcs: {why}; 2.mrcs: {why}; ..."
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_copy_particles_changes_the_score_only(tmp_path, version):
    make_stacks(tmp_path)
    path = DATA / f"particles_{version}.star"
    particles = relion.read_particles(tmp_path, path)
    keep = np.array([True, False, True, False, False, True])
    target = tmp_path / "out" / "true.star"
    relion.copy_particles(particles, target, keep, {relion.SCORE: [f"0.{i}000" for i in range(6)]})
    again = relion.read_particles(tmp_path, target)
    assert again.optics == particles.optics
    old, new = particles.block.read(), again.block.read()
    assert new.columns.tolist() == old.columns.tolist()
    assert new[relion.SCORE].tolist() == ["0.0000", "0.2000", "0.5000"]
    others = [label for label in old.columns if label != relion.SCORE]
    assert new[others].to_numpy().tolist() == old[keep][others].to_numpy().tolist()
    head = path.read_bytes()[: particles.block.offset]
    assert target.read_bytes().startswith(head)


# --- origins -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "version, expected",
    [("3.0", None), ("3.1", None), ("4.0", [[1.5, -0.5]] * 6), ("5.0", [[1.5, -0.5]] * 6)],
)
def test_origins_of_every_version(tmp_path, version, expected):
    make_stacks(tmp_path)
    found = relion.origins(relion.read_particles(tmp_path, DATA / f"particles_{version}.star"))
    assert expected == (found if found is None else found.tolist())


def test_origins_of_3_0_are_pixels_of_each_particle(tmp_path):
    make_stacks(tmp_path)
    path = changed(
        tmp_path,
        "3.0",
        ("_rlnDefocusU", "_rlnOriginX"),
        ("_rlnDefocusV", "_rlnOriginY"),
        ("mic_b.mrc 10000", "mic_b.mrc 40000"),  # 0.5 A a pixel instead of 2
        (" 15000.000000 14900.000000", " 3.0 -1.5"),
        (" 16000.000000 15900.000000", " 3.0 -1.5"),
    )
    found = relion.origins(relion.read_particles(tmp_path, path))
    assert found.tolist() == [[6, -3]] * 3 + [[1.5, -0.75]] * 3


@pytest.mark.parametrize(
    "version, gone, left",
    [
        ("4.0", "rlnOriginXAngst", "rlnOriginYAngst"),
        ("4.0", "rlnOriginYAngst", "rlnOriginXAngst"),
        ("3.0", "rlnOriginX", "rlnOriginY"),
    ],
)
def test_one_of_a_pair_of_origins_is_refused(tmp_path, version, gone, left):
    make_stacks(tmp_path)
    pair = (f"_{gone} ", "_rlnFoo ") if version == "4.0" else ("_rlnDefocusU ", f"_{left} ")
    path = changed(tmp_path, version, pair)
    message = error(relion.origins, relion.read_particles(tmp_path, path))
    table = "data_" if version == "3.0" else "data_particles"
    assert message.startswith(f"{path}: {table} has no column {gone}; it has ")


def test_an_origin_that_is_no_number(tmp_path):
    make_stacks(tmp_path)
    path = changed(tmp_path, "4.0", ("    1.500000    -0.500000", "    1.500000    x"))
    particles = relion.read_particles(tmp_path, path)
    assert error(relion.origins, particles) == (
        f"{path}:{particles.block.line}: rlnOriginYAngst is 'x', expected a number"
    )


# --- micrographs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_micrographs_of_every_version(version):
    """The pixel size is never rlnMicrographOriginalPixelSize, which is 1.0 and 0.5."""
    path = DATA / f"micrographs_{version}.star"
    found = relion.read_micrographs(path)
    assert (found.path, found.names, found.apix) == (path, MICROGRAPHS, [2.0, 2.5])


@pytest.mark.parametrize(
    "version, pair, apix",
    [
        ("3.1", ("_rlnMicrographPixelSize", "_rlnFoo"), [None, None]),
        ("3.0", ("_rlnMagnification", "_rlnFoo"), [None, None]),
        ("3.1", ("     2.500000 \n", "     0.000000 \n"), [2.0, None]),
    ],
)
def test_a_pixel_size_that_is_not_told_is_none(tmp_path, version, pair, apix):
    path = changed(tmp_path, version, pair, kind="micrographs")
    assert relion.read_micrographs(path).apix == apix


@pytest.mark.parametrize(
    "pair, message",
    [
        (
            ("mic_b.mrc            2", "mic_b.mrc            9"),
            ": rlnOpticsGroup 9 of data_micrographs is not in data_optics",
        ),
        (
            ("opticsGroup2            2", "opticsGroup2            1"),
            ": rlnOpticsGroup 1 is in data_optics more than once",
        ),
        (
            ("_rlnMicrographName", "_rlnFoo"),
            ": 0 micrograph tables (with a column rlnMicrographName) among data_optics, "
            "data_micrographs, expected 1",
        ),
        (("_rlnDefocusU", "_rlnCoordinateX"), ": a list of particles, expected one of micrographs"),
        (("_rlnDefocusU", "_rlnImageName"), ": a list of particles, expected one of micrographs"),
        (
            ("mic_b.mrc", "mic_a.mrc"),
            f":29: {MICROGRAPHS[0]} and {MICROGRAPHS[0]} would share one file of picks; keep one",
        ),
        (
            (MICROGRAPHS[1], "Import/job1234/Movies/mic_a.tif"),
            f":29: {MICROGRAPHS[0]} and Import/job1234/Movies/mic_a.tif would share one file of "
            "picks; keep one",
        ),
        ((MICROGRAPHS[1], "../b.mrc"), ":29: ../b.mrc lies above the project; link it in"),
    ],
)
def test_micrograph_lists_that_are_refused(tmp_path, pair, message):
    path = changed(tmp_path, "3.1", pair, kind="micrographs")
    assert error(relion.read_micrographs, path) == f"{path}{message}"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_list_is_one_of_particles_or_of_micrographs(version):
    assert relion.names_particles(DATA / f"particles_{version}.star")
    assert not relion.names_particles(DATA / f"micrographs_{version}.star")


def test_the_defocus_where_it_is_told(tmp_path):
    assert relion.read_micrographs(DATA / "micrographs_3.1.star").defocus == [15000, 16000]
    path = changed(tmp_path, "3.1", ("_rlnDefocusU", "_rlnFoo"), kind="micrographs")
    assert relion.read_micrographs(path).defocus is None


def test_a_list_without_micrographs(tmp_path):
    path = put(tmp_path, "data_\nloop_\n_rlnMicrographName\n")
    assert error(relion.read_micrographs, path) == f"{path}: data_ has no micrographs"


@pytest.mark.parametrize(
    "name, expected",
    [
        ("MotionCorr/job002/Movies/a.mrc", "Movies/a"),
        ("MotionCorr/job002/a.b.mrc", "a.b"),
        ("MotionCorr/job12345/a.mrc", "a"),
        ("job002/a.mrc", "a"),
        ("a/job002/b/job003/c.mrc", "b/job003/c"),
        ("MotionCorr/job02/a.mrc", "MotionCorr/job02/a"),
        ("MotionCorr/myjob002/a.mrc", "MotionCorr/myjob002/a"),
        ("Micrographs/a.mrc", "Micrographs/a"),
        ("Micro.graphs/a", "Micro.graphs/a"),
        ("a.mrc", "a"),
        ("/data/x/a.mrc", "data/x/a"),
        ("/data/MotionCorr/job002/Movies/a.mrc", "Movies/a"),
        ("a folder/job002/a mic.mrc", "a mic"),
    ],
)
def test_rest(name, expected):
    assert relion.rest(name) == expected


# --- coordinates ---------------------------------------------------------------------------------


@pytest.mark.parametrize("scores", [None, [0.25, 1.0, 0.00004]])
def test_coordinates_written_and_read(tmp_path, scores):
    path = tmp_path / "a_autopick.star"
    xy = np.array([[10.5, 20], [0, 4095.996], [11520, 0.004]])
    relion.write_coordinates(path, xy, scores)
    assert list(star.scan(path)) == [""]
    block = star.scan(path)[""]
    assert block.labels == (relion.X, relion.Y, relion.CLASS, relion.PSI, relion.SCORE)
    assert block.read().iloc[1].tolist()[:4] == ["0.00", "4096.00", "0", "0.0"]
    found, fom = relion.read_coordinates(path)
    assert np.abs(found - xy).max() < 0.00501
    assert fom.tolist() == ([-999.0] * 3 if scores is None else [0.25, 1.0, 0.0])
    assert relion.read_coordinates(path, "any.mrc")[0].tolist() == found.tolist()


def test_coordinates_of_no_picks(tmp_path):
    for i, xy in enumerate(([], np.empty((0, 2)))):
        relion.write_coordinates(tmp_path / f"{i}.star", xy)
        found, scores = relion.read_coordinates(tmp_path / f"{i}.star")
        assert found.shape == (0, 2) and scores.shape == (0,)


def test_coordinates_of_one_micrograph_of_a_particle_list():
    path = DATA / "particles_4.0.star"
    xy, scores = relion.read_coordinates(path, MICROGRAPHS[1])
    assert xy.tolist() == [[31.74, 17.4], [39.91, 23.3], [22.75, 37.34]]
    assert scores.tolist() == [0.9, 0.8, 0.7]
    assert len(relion.read_coordinates(path)[0]) == 6
    assert error(relion.read_coordinates, path, "c.mrc") == (
        f"{path}: no picks of c.mrc among 2 micrographs ({'; '.join(MICROGRAPHS)})"
    )


def test_coordinates_without_a_score(tmp_path):
    path = put(tmp_path, "data_\nloop_\n_rlnCoordinateY\n_rlnCoordinateX\n1 2\n")
    xy, scores = relion.read_coordinates(path)
    assert xy.tolist() == [[2, 1]] and scores is None


@pytest.mark.parametrize("version", VERSIONS)
def test_coordinate_lists_name_micrographs_as_their_list_does(tmp_path, version):
    source = tmp_path / "Ctf Find" / "micrographs.star"
    source.parent.mkdir()
    source.write_bytes((DATA / f"micrographs_{version}.star").read_bytes())
    names = relion.read_micrographs(source).names
    targets = {n: tmp_path / "ClassBin/grid" / f"{relion.rest(n)}_x.star" for n in names}
    out, suffix = (
        tmp_path / "ClassBin/grid/grid.star",
        tmp_path / "ClassBin/grid/coords_suffix_x.star",
    )
    relion.write_coordinate_lists(tmp_path, source, targets, out, suffix)
    assert suffix.read_text() == "Ctf Find/micrographs.star\n"
    block = star.scan(out)["coordinate_files"]
    assert block.read("rlnMicrographName", "rlnMicrographCoordinates").to_numpy().tolist() == [
        [MICROGRAPHS[0], "ClassBin/grid/Movies/mic_a_x.star"],
        [MICROGRAPHS[1], "ClassBin/grid/Movies/mic_b_x.star"],
    ]


def test_coordinate_lists_hold_names_with_spaces(tmp_path):
    source = put(tmp_path, "data_\nloop_\n_rlnMicrographName\n'Mic 1/a b.mrc'\n")
    targets = dict.fromkeys(relion.read_micrographs(source).names, tmp_path / "a b.star")
    out = tmp_path / "grid.star"
    relion.write_coordinate_lists(tmp_path, source, targets, out, tmp_path / "s")
    row = star.scan(out)["coordinate_files"].read().to_numpy().tolist()
    assert row == [["Mic 1/a b.mrc", "a b.star"]]


def test_picks_of_many_micrographs_in_one_list(tmp_path):
    names = ["Mic 1/a.mrc", "b.mrc", "c.mrc"]
    picks = {names[0]: [[1, 2.345], [1e4, 0]], names[1]: [], names[2]: [[7, 8]]}
    parts = []
    for i, (name, xy) in enumerate(picks.items()):
        parts.append((name, tmp_path / f"{i}.star"))
        relion.write_coordinates(parts[-1][1], xy, [0.5, 0.25][: len(xy)])
    counts = relion.gather_coordinates(tmp_path / "all.star", iter(parts))
    assert counts == {names[0]: 2, names[1]: 0, names[2]: 1}
    assert star.scan(tmp_path / "all.star")["particles"].read().to_numpy().tolist() == [
        [names[0], "1.00", "2.35", "0", "0.0", "0.5000"],
        [names[0], "10000.00", "0.00", "0", "0.0", "0.2500"],
        [names[2], "7.00", "8.00", "0", "0.0", "0.5000"],
    ]
    xy, scores = relion.read_coordinates(tmp_path / "all.star", names[0])
    assert xy.tolist() == [[1, 2.35], [1e4, 0]] and scores.tolist() == [0.5, 0.25]


# --- the Extract job -----------------------------------------------------------------------------

JOB_STAR = (
    "data_job\n\n_rlnJobType 5\n\ndata_joboptions_values\n\nloop_\n_rlnJobOptionVariable #1\n"
    '_rlnJobOptionValue #2\nother_args ""\nstar_mics "Ctf Find/job002/mics.star"\n'
)
NOTE = (
    " ++++ Executing new job on Mon\n `which relion_preprocess` --i Ctf/first.star --part_dir X/\n"
    " ++++ Executing new job on Tue\n mpirun -n 2 `which relion_preprocess_mpi` --x 1 "
    "--i Ctf/m.star --part_dir Extract/job003/\n"
)


@pytest.mark.parametrize(
    "files, expected",
    [
        ({"job.star": JOB_STAR}, "Ctf Find/job002/mics.star"),
        ({"job.star": JOB_STAR, "note.txt": NOTE}, "Ctf Find/job002/mics.star"),
        ({"note.txt": NOTE}, "Ctf/m.star"),
        ({"job.star": JOB_STAR.replace("star_mics", "foo"), "note.txt": NOTE}, "Ctf/m.star"),
        ({"note.txt": "nothing here"}, None),
        ({}, None),
    ],
)
def test_the_micrographs_of_an_extract_job(tmp_path, files, expected):
    job = tmp_path / "Extract" / "job003"
    job.mkdir(parents=True)
    for name, text in files.items():
        put(job, text, name)
    assert relion.extract_micrographs(tmp_path, STACKS[0]) is None  # named, but not there
    if expected:
        (tmp_path / expected).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / expected).touch()
        assert relion.extract_micrographs(tmp_path, STACKS[0]) == tmp_path / expected
    assert relion.extract_micrographs(tmp_path, "Particles/mic_a.mrcs") is None


def job(folder, note="", **options):
    """Write the files of Extract/job003: its note, and its options where there are some."""
    path = folder / "Extract/job003"
    path.mkdir(parents=True)
    if options:
        rows = "".join(f'\n{name} "{value}"' for name, value in options.items())
        put(path, JOB_STAR.rstrip("\n") + rows + "\n\n", "job.star")
    if note:
        put(path, f" ++++ with the command:\n`which relion_preprocess_mpi` {note}\n", "note.txt")


BINNED = {"do_norm": "Yes", "extract_size": "216"}


@pytest.mark.parametrize(
    "note, options, expected",
    [
        ("--i m.star --norm --bg_radius 20 --scale 64 ", {}, (True, 20, True)),
        ("--i m.star --bg_radius 20.0 --norm", {"do_norm": "No"}, (True, 20, True)),
        ("--i m.star --extract", BINNED, (False, 24, True)),
        ("--i m.star --norm --bg_radius x", {}, (True, 24, True)),
        ("--version", BINNED, (True, 24, True)),  # no extraction
        ("", {**BINNED, "bg_diameter": "-1"}, (True, 24, True)),
        ("", {**BINNED, "bg_diameter": "140"}, (True, 20, True)),  # 70 of 216 px
        ("", {**BINNED, "bg_diameter": "inf"}, (True, 24, True)),
        ("", {"do_norm": "Yes", "bg_diameter": "140"}, (True, 24, True)),  # of what box?
        ("", {"do_norm": "No"}, (False, 24, True)),
        ("", {"fn_x": "y"}, (True, 24, False)),
        ("", {}, (True, 24, False)),
    ],
)
def test_how_an_extract_job_normalised(tmp_path, note, options, expected):
    job(tmp_path, note, **options)
    found = relion.extract_norm(tmp_path, STACKS[0], 64)
    assert tuple(found[name] for name in ("norm", "bg_radius", "known")) == expected
    other = relion.extract_norm(tmp_path, "Particles/mic_a.mrcs", 64)
    assert other == {"norm": True, "bg_radius": 24, "known": False}
