"""Where windows come from: micrographs with derived negatives, stacks, names."""

import numpy as np
import pytest
from scipy import ndimage

from apbc_common import ApbcError, images, mrc, relion, star, windows

NX, NY, APIX = 300, 240, 4.0
GEOMETRY = windows.Geometry(24, 110.4, 120.0)  # px, A, A: 4.6 A a pixel, not quite
UNIT = GEOMETRY.box / APIX


class Lists:
    """Particle lists of micrographs of noise; the stack is one for all of them."""

    def __init__(self, folder, micrographs=6, each=5, seed=0):
        self.folder, rng = folder, np.random.default_rng(seed)
        self.names = [f"Micrographs/m{i}.mrc" for i in range(micrographs)]
        for name in self.names:
            mrc.write(folder / name, rng.normal(size=(NY, NX)), APIX)
        mrc.write(folder / "s.mrcs", rng.normal(size=(2000, 4, 4)), 30)
        self.xy = {
            kind: {n: rng.uniform((1, 1), (NX - 1, NY - 1), (each, 2)) for n in self.names}
            for kind in ("good", "bad")
        }

    def read(self, kind, origins=None):
        """The list as RELION 3.1 writes it, with origins (labels, x, y) if given, read again."""
        labels = ["ImageName", "MicrographName", "CoordinateX", "CoordinateY", "OpticsGroup"]
        more = ""
        if origins:
            labels += origins[0]
            more = " ".join(map(str, origins[1:]))
        start = 1 if kind == "good" else 1001
        places = [(name, *place) for name, xy in self.xy[kind].items() for place in xy]
        text = "data_optics\nloop_\n_rlnOpticsGroup\n_rlnImagePixelSize\n1 30\n\n"
        text += "data_particles\nloop_\n" + "".join(f"_rln{label}\n" for label in labels)
        for i, (name, x, y) in enumerate(places):
            text += f"{start + i:06d}@s.mrcs {name} {x} {y} 1 {more}\n"
        path = self.folder / f"{kind}.star"
        path.write_text(text)
        return relion.read_particles(self.folder, path)

    def listed(self, **apix):
        """The micrographs' list; ``apix`` of single ones by the stem of their name."""
        sizes = [apix.get(name[12:-4], APIX) for name in self.names]
        return relion.Micrographs(self.folder / "mics.star", self.names, sizes)

    def source(self, origins=None, seed=0, listed=None):
        lists = {kind: self.read(kind, origins) for kind in ("good", "bad")}
        listed = listed or self.listed()
        return windows.Micrographs(self.folder, lists, GEOMETRY, seed, listed)


@pytest.fixture(scope="module")
def lists(tmp_path_factory):
    return Lists(tmp_path_factory.mktemp("lists"))


def nearest(xy, others):
    return np.hypot(*(np.asarray(xy)[:, None] - np.asarray(others)).transpose(2, 0, 1)).min(axis=1)


def by_kind(source, derived):
    """Places of the windows of one kind ('good', 'bad' or what they derive from) by micrograph."""
    found = {}
    for window in source.windows():
        if derived == (window.derived or window.kind):
            found.setdefault(window.source, []).append(window.where)
    return found


def error(function, *args):
    with pytest.raises(ApbcError) as caught:
        function(*args)
    return str(caught.value)


# --- the listed particles ------------------------------------------------------------------------


def test_every_listed_particle_has_a_window_under_its_row(lists):
    found = [w for w in lists.source().windows() if not w.derived]
    assert len(found) == len(set(found)) == 60
    for window in found:
        row = lists.names.index(window.source) * 5 + int(window.number - 1) % 5
        assert window.number == row + 1 and window.stem == window.source[:-4].replace("/", "__")
        assert window.where == tuple(lists.xy[window.kind][window.source][row % 5])


@pytest.mark.parametrize(
    "labels, per_angst",
    [(["OriginXAngst", "OriginYAngst"], 1.0), (["OriginX", "OriginY"], 1 / 30)],
    ids=["3.1: A", "3.0: particle pixels"],
)
def test_good_particles_are_moved_by_their_origins_and_bad_ones_not(lists, labels, per_angst):
    source = lists.source((labels, 12.0 * per_angst, -8.0 * per_angst))
    assert source.centred
    for name in lists.names:
        good, bad = by_kind(source, "good")[name], by_kind(source, "bad")[name]
        assert good == pytest.approx(lists.xy["good"][name] - (3, -2), abs=1e-9)
        assert bad == pytest.approx(lists.xy["bad"][name], abs=1e-9)


def test_origins_in_angstroms_count_by_each_micrograph_s_own_pixel_size(lists):
    origins = (["OriginXAngst", "OriginYAngst"], 12.0, -8.0)
    moved = by_kind(lists.source(origins, listed=lists.listed(m2=2.0)), "good")
    for name in lists.names:
        shift = (6, -4) if "m2" in name else (3, -2)
        assert moved[name] == pytest.approx(lists.xy["good"][name] - shift, abs=1e-9)


def test_lists_without_origins_are_taken_as_centred(lists):
    assert not lists.source().centred


def test_what_lies_outside_is_counted_and_left_out(tmp_path):
    outside = Lists(tmp_path)
    outside.xy["good"]["Micrographs/m1.mrc"][:2] = (-0.01, 50), (50, NY)
    outside.xy["bad"]["Micrographs/m2.mrc"][0] = NX, 50
    outside.xy["bad"]["Micrographs/m3.mrc"][0] = 0, NY - 0.01  # inside
    source = outside.source()
    assert source.outside == 3
    listed = [w for w in source.windows() if not w.derived]
    assert len(listed) == 57
    assert not {6, 7} & {w.number for w in listed if w.kind == "good"}  # the first two of m1
    shifted = outside.source((["OriginXAngst", "OriginYAngst"], 80 * APIX, 0.0))
    good = np.concatenate(list(outside.xy["good"].values()))
    assert shifted.outside == (good[:, 0] < 80).sum() + 1 > 5  # and the bad one


# --- derived windows -----------------------------------------------------------------------------


def test_derived_windows_keep_their_distances(lists):
    source = lists.source()
    good, bad = lists.xy["good"], lists.xy["bad"]
    drawn = {kind: by_kind(source, kind) for kind in ("offcentre", "beside", "empty")}
    least = windows.OFFCENTRE[0] * UNIT - 1e-6
    for name in lists.names:
        both = np.concatenate([good[name], bad[name]])
        off = np.array(drawn["offcentre"][name])
        beside, empty = (np.array(drawn[kind][name]) for kind in ("beside", "empty"))
        assert len(off) == windows.PER_GOOD["offcentre"] * 5
        assert (nearest(off, good[name]) >= least).all()
        assert (nearest(off, good[name]) <= windows.OFFCENTRE[1] * UNIT + 1e-6).all()
        assert 5 <= len(beside) <= windows.PER_BAD * 5
        assert (nearest(beside, good[name]) >= least).all()
        assert (nearest(beside, bad[name]) <= windows.BESIDE[1] * UNIT + 1e-6).all()
        assert len(empty) == windows.PER_GOOD["empty"] * 5
        assert (nearest(empty, both) >= windows.FAR * UNIT).all()
        for xy in (off, beside, empty):
            assert ((xy >= 0) & (xy <= (NX - 1, NY - 1))).all()
    gaps = np.concatenate([nearest(drawn["offcentre"][n], good[n]) for n in lists.names])
    assert np.ptp(gaps) > 0.1 * UNIT


def test_where_there_is_no_room_nothing_is_derived(tmp_path):
    crowded = Lists(tmp_path, 3)
    x, y = np.meshgrid(np.arange(0, NX, 4), np.arange(0, NY, 4))  # 0.13 boxes apart
    name = crowded.names[0]
    crowded.xy["good"][name] = np.stack([x, y], -1).reshape(-1, 2)[:900].astype(float)
    crowded.xy["good"][name][-1] = NX - 1, NY - 1  # the rest of the micrograph is free
    source = crowded.source()
    found = by_kind(source, "offcentre")[name]
    assert 0 < len(found) < 900
    assert (nearest(found, crowded.xy["good"][name]) >= 0.2 * UNIT - 1e-6).all()


def test_derived_windows_are_bad_and_in_the_part_of_their_micrograph(lists):
    source = lists.source()
    for window in source.windows():
        assert window.part == ("test" if source.parts[window.source] == "test" else "train")
        assert window.micrograph == window.source and (window.row < 0) == bool(window.derived)
        assert window.kind == "bad" or not window.derived


# --- the split -----------------------------------------------------------------------------------


def test_the_split_is_by_micrograph_and_each_part_has_good_ones(lists):
    record = lists.source().record()
    parts = [entry["part"] for entry in record["micrographs"].values()]
    assert (parts.count("test"), parts.count("validation"), parts.count("train")) == (1, 1, 4)
    assert record["split"] == "by micrograph" and record["source"] == "micrograph"
    assert set(record["micrographs"]) == set(lists.names)


def test_the_shares_go_by_particles_and_no_part_is_empty(tmp_path):
    uneven = Lists(tmp_path, 9)
    for i, name in enumerate(uneven.names):
        uneven.xy["good"][name] = uneven.xy["good"][name][: i % 5]  # two have none
    count = {name: len(xy) for name, xy in uneven.xy["good"].items()}
    tested = set()
    for seed in range(8):
        parts = uneven.source(seed=seed).parts
        held = {p: sum(count[n] for n in parts if parts[n] == p) for p in set(parts.values())}
        assert min(held.values()) > 0 and held.keys() == {"train", "validation", "test"}
        assert held["test"] == pytest.approx(0.2 * 16, abs=2)
        assert held["validation"] == pytest.approx(0.2 * (16 - held["test"]), abs=2)
        tested |= {name for name in parts if parts[name] == "test"}
    assert len(tested) > 2


@pytest.mark.parametrize("counts", [(1, 1, 50), (1, 50, 1), (50, 1, 1), (1, 1, 1)])
def test_three_micrographs_are_enough_however_uneven(tmp_path, counts):
    three = Lists(tmp_path, 3, each=50)
    for name, count in zip(three.names, counts, strict=True):
        three.xy["good"][name] = three.xy["good"][name][:count]
    for seed in range(3):
        assert set(three.source(seed=seed).parts.values()) == {"train", "validation", "test"}


def test_the_seed_alone_decides(lists):
    one, same, other = (list(lists.source(seed=seed).windows()) for seed in (3, 3, 4))
    assert one == same
    assert [w for w in one if w.derived] != [w for w in other if w.derived]


def test_each_micrograph_draws_places_of_its_own(lists):
    empty = by_kind(lists.source(), "empty")
    assert len({places[0] for places in empty.values()}) == len(lists.names)


def test_an_added_micrograph_leaves_the_places_of_the_others(tmp_path):
    more = Lists(tmp_path, 7)
    derived = by_kind(more.source(), "offcentre")
    last = more.names.pop()
    for kind in more.xy:
        del more.xy[kind][last]
    assert by_kind(more.source(), "offcentre") == {n: derived[n] for n in more.names}


# --- of stacks ----------------------------------------------------------------------------------


def of_stacks(folder, **stacks):
    """A source of which each list names these stacks, row by row."""
    lists = {}
    for kind, letters in stacks.items():
        rows = [f"{i:06d}@{kind if s == 'x' else ''}{s}.mrcs" for i, s in enumerate(letters, 1)]
        path = folder / f"{kind}.star"
        path.write_text("data_\nloop_\n_rlnImageName\n" + "".join(f"{row}\n" for row in rows))
        block = star.scan(path)[""]
        found = relion.image_names(block)
        row = np.arange(len(rows))
        lists[kind] = relion.Particles(block, [], row, *found, [], None, None, row)
    return windows.Stacks(folder, lists, GEOMETRY, 0)


def test_windows_come_stack_by_stack_in_the_order_of_the_lists(tmp_path):
    source = of_stacks(tmp_path, good="caxbca", bad="baba")
    found = [(w.source, w.kind, w.row) for w in source.windows()]
    assert found == [
        *[("b.mrcs", "bad", 0), ("b.mrcs", "bad", 2), ("b.mrcs", "good", 3)],
        *[("a.mrcs", "bad", 1), ("a.mrcs", "bad", 3), ("a.mrcs", "good", 1), ("a.mrcs", "good", 5)],
        *[("c.mrcs", "good", 0), ("c.mrcs", "good", 4), ("goodx.mrcs", "good", 2)],
    ]


def test_the_part_of_a_window_is_that_of_its_row(tmp_path):
    source = of_stacks(tmp_path, good="abc" * 10, bad="ba" * 10)
    for label, (kind, particles) in enumerate(sorted(source.lists.items())):
        parts = windows.split(len(particles), [0, label])
        found = [w for w in source.windows() if w.kind == kind]
        assert len(found) == len(particles)
        for window in found:
            assert window.part == parts[window.row]
            assert window.where + 1 == window.number == window.row + 1
            assert window.micrograph == window.source


def test_packed_windows_are_the_same(lists, tmp_path):
    for source in (lists.source(), of_stacks(tmp_path, good="ab", bad="ba")):
        found = list(source.windows())
        packed = windows.Packed(found)
        assert len(packed) == len(found)
        assert list(packed) == list(packed) == found  # as often as one likes
        assert {type(w.where) for w in packed} == {type(w.where) for w in found}


# --- what is refused -----------------------------------------------------------------------------


def test_micrographs_that_cannot_be_used_are_named_and_counted(tmp_path):
    lists = Lists(tmp_path, 6)
    (tmp_path / lists.names[1]).unlink()
    (tmp_path / lists.names[3]).write_bytes(b"x")
    listed = relion.Micrographs(
        tmp_path / "mics.star", lists.names[:5], [APIX, APIX, None, APIX, APIX]
    )
    assert error(lists.source, None, 0, listed) == (
        f"{tmp_path}/mics.star: 4 of 6 micrographs of the particles can't be used: "
        f"Micrographs/m1.mrc: not there; Micrographs/m2.mrc has no pixel size "
        f"({relion.MICROGRAPH_APIX}); {tmp_path}/Micrographs/m3.mrc: not an MRC file; ..."
    )


@pytest.mark.parametrize("label", ["MicrographName", "CoordinateX"])
def test_a_list_that_does_not_say_where_its_particles_are(lists, monkeypatch, label):
    bad = lists.read("bad")
    path = lists.folder / "bad.star"
    path.write_text(path.read_text().replace(f"_rln{label}", "_rlnFoo"))
    found = {"good": lists.read("good"), "bad": relion.read_particles(lists.folder, bad.block.path)}
    assert error(windows.Micrographs, lists.folder, found, GEOMETRY, 0, lists.listed()) == (
        f"{path}: no columns rlnMicrographName, rlnCoordinateX and rlnCoordinateY; cutting from "
        "micrographs needs them"
    )


def test_good_particles_on_two_micrographs_are_too_few(tmp_path):
    lists = Lists(tmp_path, 4)
    for name in lists.names[2:]:
        lists.xy["good"][name] = np.empty((0, 2))
    assert error(lists.source) == (
        f"{tmp_path}/good.star: good particles on 2 micrographs, expected at least 3: one each to "
        "learn from, to decide by and to test with"
    )


# --- pixels --------------------------------------------------------------------------------------


def test_windows_are_cut_from_the_conditioned_micrograph(lists):
    source, name = lists.source(), lists.names[2]
    places = [(40.0, 50.0), (294.9, 120.2), (3.0, NY - 1)]  # the second shows the true scale
    cut = source.cut(name, places)
    picture = mrc.image(lists.folder / name)
    grey, scale = images.condition_micrograph(picture, APIX, 4.6, 120.0)
    assert cut.dtype == np.uint8 and cut.shape == (3, 24, 24)
    assert (cut == images.windows(grey, places / scale, 24)).all()


def test_a_micrograph_of_another_pixel_size_gives_windows_of_the_same_scale(tmp_path):
    """The same spot in the same place, in A, on micrographs of 4 and of 3 A a pixel."""
    lists = Lists(tmp_path, 3, each=4)
    rng = np.random.default_rng(1)
    for name, apix in zip(lists.names[:2], (4.0, 3.0), strict=True):
        shape = round(960 / apix), round(1200 / apix)
        y, x = np.indices(shape) * apix
        spot = np.exp(-((x - 600) ** 2 + (y - 480) ** 2) / (2 * 16.0**2))
        mrc.write(tmp_path / name, 20 * spot + rng.normal(size=shape), apix)
    source = lists.source(listed=lists.listed(m1=3.0))
    one = source.cut(lists.names[0], [(150, 120)])[0].astype(float)
    other = source.cut(lists.names[1], [(200, 160)])[0].astype(float)
    assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.9
    for window in (one, other):
        assert ndimage.center_of_mass(window > 200) == pytest.approx((12, 12), abs=0.6)


def draw_spots(lists, step=(0.0, 0.0)):
    """Give the micrographs a dark spot at so many pixels from each good particle."""
    rng = np.random.default_rng(1)
    for name in lists.names:
        picture = rng.normal(size=(NY, NX))
        y, x = np.indices(picture.shape)
        for cx, cy in lists.xy["good"][name] + step:
            picture -= 6 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * 3.0**2))
        mrc.write(lists.folder / name, picture, APIX)


def test_the_average_is_that_of_the_good(tmp_path):
    lists = Lists(tmp_path, 4, each=8)
    draw_spots(lists)
    source = lists.source()
    source.narrow(120.0)
    average = source.average()
    assert average.shape == (24, 24)  # 120 A of 5 A
    dark = (np.median(average) - average).clip(0)
    dark[dark < dark.max() / 3] = 0
    assert ndimage.center_of_mass(dark) == pytest.approx((12, 12), abs=0.2)
    assert images.diameter(average) * 5.0 == pytest.approx(2 * 12 * np.sqrt(2 * np.log(10)), abs=12)


@pytest.mark.parametrize("origin", [None, (-5.0, 3.0)])
def test_what_all_good_particles_are_off_by_is_found_and_taken_away(tmp_path, origin):
    lists = Lists(tmp_path, 4, each=8)
    draw_spots(lists, (4.0, -2.5))
    off = np.array([16.0, -10.0])  # A
    origins = None
    if origin:
        origins = (["OriginXAngst", "OriginYAngst"], *origin)
        off += origin
    source = lists.source(origins)
    bad = by_kind(source, "bad")
    source.centre()
    assert source.moved and source.off == pytest.approx(off, abs=1.5)
    assert source.spread < 2
    for name, found in by_kind(source, "good").items():
        assert nearest(found, lists.xy["good"][name] + (4.0, -2.5)).max() < 0.5
    assert by_kind(source, "bad") == bad
    assert source.record()["off_angst"] == source.off.round(2).tolist()


def test_what_is_centred_stays_where_it_is(tmp_path):
    lists = Lists(tmp_path, 4, each=8)
    draw_spots(lists)
    source = lists.source()
    before = by_kind(source, "good")
    source.centre()
    assert not source.moved and np.hypot(*source.off) < 1
    assert by_kind(source, "good") == before


# --- stacks --------------------------------------------------------------------------------------


def stacks(folder, geometry, n=32):
    rng = np.random.default_rng(0)
    data = rng.normal(size=(12, n, n))
    k = np.arange(n) - n // 2
    data[:6] += 9 * (np.hypot(k, k[:, None]) < 5)
    mrc.write(folder / "s.mrcs", data, 3.0)
    text = "data_optics\nloop_\n_rlnOpticsGroup\n_rlnImagePixelSize\n1 3.0\n\ndata_particles\n"
    text += "loop_\n_rlnImageName\n_rlnOpticsGroup\n"
    lists = {}
    for kind, numbers in (("good", range(1, 7)), ("bad", range(7, 13))):
        path = folder / f"{kind}.star"
        path.write_text(text + "".join(f"{i:06d}@s.mrcs 1\n" for i in numbers))
        lists[kind] = relion.read_particles(folder, path)
    return windows.Stacks(folder, lists, geometry, 0), data.astype(np.float32)


def test_windows_of_a_stack_cover_what_they_should(tmp_path):
    source, data = stacks(tmp_path, windows.Geometry(16, 96.0, 96.0))
    source.narrow(62.0)
    assert source.geometry.box_px == 24  # 24.8, made even: the scale follows
    assert source.geometry.window == pytest.approx(16 * 96 / 24)
    cut = np.stack(list(source.cut("s.mrcs", [3, 0])))
    assert (cut == images.condition(data[[3, 0]], 24, 16)).all()
    whole = images.condition(data[[3]], 24)[0]
    assert (cut[0] == whole[4:20, 4:20]).all()


def test_the_average_of_stacks_is_that_of_the_good(tmp_path):
    source, _ = stacks(tmp_path, windows.Geometry(24, 96.0, 96.0))
    average = source.average()
    assert average.shape == (24, 24)
    assert images.diameter(average) * source.geometry.apix == pytest.approx(30, abs=8)
    assert source.record() == {"source": "stack", "split": "random by class"}
