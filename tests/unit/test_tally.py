"""What a run found, counted."""

import numpy as np
import pytest

from apbc_common import boxes, charts, tally
from apbc_common.tally import Micrograph, Tally

RNG = np.random.default_rng(0)


def one(number, defocus=None, picks=5, below=3, apix=2.0):
    score = np.r_[RNG.uniform(0.5, 1, picks), RNG.uniform(0.01, 0.5, below)]
    xy = RNG.uniform(0, 1000, (len(score), 2))
    return Micrograph(f"m{number}.mrc", apix, defocus, xy, np.sort(score)[::-1].round(4))


def run(tmp_path, micrographs, calibrated=True, threshold=0.5, **options):
    options = {"threshold": threshold, "min_distance": 90.0, **options}
    record = {"options": options, "growing": {"list": {"path": "a b.star"}}, "inputs": {}}
    taught = {
        "dataset": {"diameter_angst": 180.0},
        "calibration": {"slope": 1} if calibrated else None,
    }
    return Tally(
        tmp_path / "picks", record, tmp_path / "model.h5", taught, micrographs, len(micrographs)
    )


def test_those_chosen_hold_the_extremes():
    found = [one(i, 10000.0 + 100 * ((7 * i) % 30), picks=1 + (11 * i) % 30) for i in range(30)]
    chosen = tally.choose(found, 0.5, 6)
    assert len(chosen) == 6 == len(set(chosen)) and chosen == sorted(chosen)
    for of in ([m.defocus for m in found], [m.picks(0.5) for m in found]):
        assert {int(np.argmin(of)), int(np.argmax(of))} <= set(chosen)


def test_those_chosen_are_spread():
    """Of two kinds that differ in nothing but defocus and picks, both are there about equally."""
    found = [one(i, 10000.0 + i, picks=5) for i in range(20)]
    found += [one(i, 30000.0 + i, picks=50) for i in range(20, 40)]
    chosen = tally.choose(found, 0.5, 8)
    assert 3 <= sum(i < 20 for i in chosen) <= 5


@pytest.mark.parametrize(("total", "count"), [(1, 12), (2, 12), (12, 12), (5, 3)])
def test_no_more_are_chosen_than_there_are(total, count):
    assert len(tally.choose([one(i) for i in range(total)], 0.5, count)) == min(total, count)


def test_levels_count_what_a_loop_counts(tmp_path):
    found = [one(i, picks=40, below=60) for i in range(3)]
    levels = tally.levels(run(tmp_path, found, threshold=0.4321))
    score = np.concatenate([m.score for m in found])
    assert 0.4321 in levels["at"] and levels["at"] == sorted(levels["at"])
    for at, picks, false in zip(*levels.values(), strict=True):
        picked = score[score >= at]
        assert picks == len(picked)
        assert false == (pytest.approx(1 - picked.mean(), abs=1e-4) if len(picked) else None)


def test_scores_that_are_no_chances_expect_nothing(tmp_path):
    assert set(tally.levels(run(tmp_path, [one(0)], calibrated=False))["false"]) == {None}


def test_levels_of_nothing(tmp_path):
    nothing = Micrograph("m.mrc", 2.0, None, np.empty((0, 2)), np.empty(0))
    levels = tally.levels(run(tmp_path, [nothing]))
    assert set(levels["picks"]) == {0} and set(levels["false"]) == {None}


def test_distances_are_in_angstrom_and_of_picks_alone(tmp_path):
    xy = np.array([[0, 0], [30, 40], [500, 0], [501, 0]])
    found = Micrograph("m.mrc", 2.0, None, xy, np.array([0.9, 0.8, 0.7, 0.1]))
    assert tally.distances(run(tmp_path, [found])).tolist() == pytest.approx(
        [100, 100, 2 * np.hypot(470, 40)]
    )
    alone = Micrograph("m.mrc", 2.0, None, xy[:1], np.array([0.9]))
    assert len(tally.distances(run(tmp_path, [alone]))) == 0


def test_the_commands_name_another_folder_and_model(tmp_path):
    found = run(tmp_path, [one(0)])
    place = ["gen_picks.py", "-i", "a b.star", "--o", "picks"]
    cut, anew = (tally.command(tmp_path, found, anew) for anew in (False, True))
    assert cut == [*place, "--threshold", "{}", "--recut"]
    assert anew == [*place, "--model", "model.h5", "-c"]


def test_galleries_show_the_best_the_middle_and_those_in_doubt():
    score = np.linspace(0.999, 0.001, 999)
    found = boxes.galleries(score, 0.4)
    best, averaged = found["The best"]
    assert best.tolist() == list(range(24)) and averaged.tolist() == list(range(200))
    middle, averaged = found["The middle"]
    assert abs(middle.mean() - 300) < 1 and len(middle) == 24 and len(averaged) == 200
    near, averaged = found["Around the threshold"]
    assert np.abs(score[near] - 0.4).max() < 0.013
    assert np.abs(np.log(score / (1 - score)) - np.log(0.4 / 0.6))[averaged].max() <= 0.5


@pytest.mark.parametrize("score", [[], [0.2], [0.9], [0.9, 0.2]])
def test_galleries_of_few(score):
    found = boxes.galleries(np.array(score), 0.5)
    picks = sum(s >= 0.5 for s in score)
    assert [len(shown) for shown, _ in found.values()] == [picks, picks, len(score)]


def test_members_that_disagree_come_first():
    score, logits = np.array([0.5, 0.6, 0.9]), np.array([[0, 0, 9.0], [0, 0, -5.0]])
    assert boxes.nearest(score, 0.5).tolist() == [0, 1, 2]
    spread = boxes.disagreement(logits)
    assert boxes.nearest(score[1:], 0.5, spread[1:]).tolist() == [1, 0]


def test_mistakes_are_the_surest_of_each_kind():
    rows = [
        {"file": f"{i}", "label": label, "probability": p, "prediction": int(p >= 0.5)}
        for i, (label, p) in enumerate(
            [(1, 0.1), (1, 0.9), (0, 0.7), (0, 0.95), (0, 0.2), (1, 0.02)]
        )
    ]
    found = [[row["file"] for row in some] for some in boxes.mistakes(rows).values()]
    assert found == [["5", "0"], ["3", "2"]]


def test_charts_are_svg_that_names_its_axes():
    values = RNG.normal(size=100)
    for svg in (
        charts.histogram(values, "title", "x", "y", 0.2, log=True),
        charts.histogram(np.empty(0), "title", "x", "y"),
        charts.histogram(np.full(3, 7), "title", "x", "y"),
        charts.scatter(values, values, "title", "x", "y"),
    ):
        assert svg.count("<svg") == 1 and "<!-- title -->" in svg


def test_the_palette_grows_lighter():
    light = [sum(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c in charts.palette(5)]
    assert light == sorted(light)


def test_boxes_are_cut_where_the_micrograph_s_pixels_say():
    """Of a view of half the micrograph's pixels along x and a third along y."""
    grey = np.zeros((100, 200), np.uint8)
    grey[60, 150] = 255
    found = boxes.cut(grey, np.array([2.0, 3.0]), np.array([[300.0, 180.0], [20.0, 20.0]]), 32)
    assert found.shape == (2, 16, 16)
    assert found[0, 8, 8] == 255 and found[0].sum() == 255 and not found[1].any()
