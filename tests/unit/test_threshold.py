"""The threshold that gen_model.py chooses on peaks, where a list holds some of the particles."""

import numpy as np
import pytest
from scipy import special

from apbc_common import decision


def scores(seed, particles=2000, others=2000):
    """Scores of peaks, and which are particles: two bells of log odds, 4 apart."""
    rng = np.random.default_rng(seed)
    odds = np.concatenate([rng.normal(2, 1, particles), rng.normal(-2, 1, others)])
    return 1 / (1 + np.exp(-odds)), np.arange(particles + others) < particles


def fit(probability, good, bad, micrographs=1):
    label = np.where(good, 1, np.where(bad, 0, -1))
    return decision.calibrate(probability, label, np.arange(len(label)) % micrographs, micrographs)


def cut_of(probability, good, bad):
    """The threshold, as a score before it is calibrated."""
    found = fit(probability, good, bad)
    return special.expit((special.logit(found.threshold) - found.line.offset) / found.line.slope)


def f1(probability, right, cut):
    picked = probability >= cut
    return 2 * (right & picked).sum() / (picked.sum() + right.sum())


def drawn(share, seed=1):
    """Which of the peaks a list holds."""
    return np.random.default_rng(seed).random(4000) < share


@pytest.mark.parametrize("share", [1.0, 0.2, 0.02])
def test_the_cut_parts_particles_from_others_however_many_are_listed(share):
    probability, right = scores(0)
    listed = drawn(share)
    cut = cut_of(probability, right & listed, ~right & listed)
    assert f1(probability, right, cut) > 0.97  # the best there is: 0.977


@pytest.mark.parametrize("kinds", ["good", "both"])
def test_lists_of_the_clear_ones_alone_do_not_raise_the_cut(kinds):
    """As a person labels: what is surest, and hardly anything bad."""
    probability, right = scores(0)
    clear = right & drawn(0.2) & (probability > 0.9)
    bad = ~right & drawn(0.01) & (probability > 0.3)
    assert 0 < bad.sum() < 5 < 100 < clear.sum()
    cut = cut_of(probability, clear, bad if kinds == "both" else np.zeros(4000, bool))
    assert 0.01 < cut < 0.9
    assert f1(probability, right, cut) > 0.9


def test_wrong_labels_hardly_move_the_cut():
    probability, right = scores(0)
    wrong = drawn(0.05, seed=2)
    cut = cut_of(probability, right ^ wrong, ~(right ^ wrong))
    assert f1(probability, right, cut) > 0.97


def test_more_false_peaks_ask_for_a_higher_cut():
    few, many = (
        cut_of(probability, right, ~right)
        for probability, right in (scores(0, others=500), scores(0, others=50_000))
    )
    assert many > few + 0.2


def test_where_all_are_parted_the_cut_lies_between():
    probability, right = np.array([0.9, 0.8, 0.05, 0.04]), np.array([1, 1, 0, 0], bool)
    assert 0.05 < cut_of(probability, right, ~right) <= 0.9
    assert cut_of(probability, np.zeros(4, bool), right) == 0.5


def test_the_line_of_log_odds_is_found_and_few_labels_leave_it_where_it_was():
    rng = np.random.default_rng(0)
    odds = rng.normal(0, 3, 20_000)
    good = rng.random(len(odds)) < special.expit(0.7 * odds - 2)
    line = decision.fit_line(special.expit(odds), good)
    assert (line.slope, line.offset) == pytest.approx((0.7, -2), abs=0.1)
    assert max(line.missed, line.false) < 0.02
    line = decision.fit_line(np.array([0.9, 0.1]), np.array([True, False]))
    assert (line.slope, line.offset) == pytest.approx((1.1, 0), abs=0.2)
    assert (line.missed, line.false) == pytest.approx((0.05, 0.05), abs=0.005)


def test_what_is_expected_is_what_comes():
    """A twentieth of the peaks is listed; bells of log odds, 2 apart, and scores three too high."""
    rng = np.random.default_rng(0)
    odds = np.concatenate([rng.normal(1, 1.4, 4000), rng.normal(-1, 1.4, 8000)])
    right, listed = np.arange(len(odds)) < 4000, rng.random(len(odds)) < 0.05
    found = fit(special.expit(odds + 3), right & listed, ~right & listed, 10)
    odds, chance = found.line.odds(special.expit(odds + 3)), np.empty(len(odds))
    for one in range(10):
        chance[one::10] = special.expit(found.evening.even(odds[one::10]))
    for low in np.arange(0.1, 0.9, 0.1):
        some = (chance >= low) & (chance < low + 0.1)
        assert chance[some].mean() == pytest.approx(right[some].mean(), abs=0.06)
    for start, picks, false in zip(*found.expected.values(), strict=True):
        picked = chance >= start
        if picks:
            assert picks == pytest.approx(picked.sum() / 10, rel=0.02)
            assert false == pytest.approx((~right[picked]).mean(), abs=0.04)
    level = decision.level(found.expected, 0.2)
    assert level["false"] <= 0.2
    assert decision.level(found.expected, 0.19)["from"] >= level["from"] > found.threshold / 2
    assert decision.level({"from": [0.1, 0.2], "picks": [3, 0], "false": [0.5, 0]}, 0.1) is None


def unlike(shift, each=200):
    """Log odds of peaks of ten micrographs, those of odd ones higher by a shift, and particles."""
    odds, right = [], []
    for micrograph in range(10):
        score, particle = scores(micrograph, each, each)
        odds.append(1.5 * special.logit(score) + shift * (micrograph % 2))
        right.append(particle)
    return np.concatenate(odds), np.concatenate(right), np.repeat(np.arange(10), 2 * each)


def test_micrographs_whose_scores_are_high_are_evened():
    odds, right, micrograph = unlike(3.0)
    found = decision.calibrate(special.expit(odds), right.astype(int), micrograph, 10)
    before = found.line.odds(special.expit(odds))
    each = [before[micrograph == one] for one in range(10)]
    after = np.concatenate([found.evening.even(one) for one in each])
    assert found.evening.part > 1.5  # they are as far above the usual as others are below
    apart = [np.median(o[micrograph % 2 == 1]) - np.median(o[micrograph % 2 == 0])
             for o in (before, after)]  # fmt: skip
    assert abs(apart[1]) < 0.3 * apart[0]
    cut = special.logit(found.threshold)
    assert f1(after, right, cut) > f1(before, right, cut) + 0.01
    assert (after <= before).all()


def test_micrographs_alike_stay_as_they_are_and_labels_decide_how_much_is_too_much():
    odds, right, micrograph = unlike(0.0)
    alike = decision.calibrate(special.expit(odds), right.astype(int), micrograph, 10).evening
    for one in range(10):
        here = odds[micrograph == one]
        assert abs(alike.even(here) - here).max() < 0.3
    # What is high since its particles are clear, with junk as low as elsewhere, is not too much.
    odds[right & (micrograph % 2 == 1)] += 3.0
    clear = decision.calibrate(special.expit(odds), right.astype(int), micrograph, 10).evening
    odds, right, micrograph = unlike(3.0)
    high = decision.calibrate(special.expit(odds), right.astype(int), micrograph, 10).evening
    assert clear.part < high.part - 0.2


def test_micrographs_with_next_to_no_particle_stay_as_they_are():
    evening = decision.Evening(usual=4.0, part=0.8)
    junk = np.linspace(-4, -1, 50)
    for likely in ([], [0.5], [2.0, 3.0], [9.0]):
        odds = np.r_[junk, likely]
        assert abs(evening.even(odds) - odds).max() < 0.2  # so few say little
    assert (evening.even(np.r_[junk, [9.0] * 100])[:50] < junk - 2.5).all()
    assert len(evening.even(np.empty(0))) == 0


def test_a_record_without_evening_changes_nothing():
    odds = np.r_[np.full(100, 7.0), -3.0]
    for calibration in (None, {"slope": 1.0, "expected": {}}):
        evening = decision.Evening.of({"calibration": calibration})
        assert evening.even(odds).tolist() == odds.tolist()
    odds, right, micrograph = unlike(3.0)
    found = decision.calibrate(special.expit(odds), right.astype(int), micrograph, 10)
    assert decision.Evening.of({"calibration": found.record()}) == found.evening


@pytest.mark.parametrize(("missed", "false"), [(0.0, 0.0), (0.05, 0.05), (0.3, 0.0), (0.05, 0.2)])
def test_how_many_labels_are_slips_is_found_and_which(missed, false):
    probability, right = scores(0, particles=3000)
    rng = np.random.default_rng(3)
    slip = rng.random(len(right)) < np.where(right, missed, false)
    line = decision.fit_line(probability, right ^ slip)
    assert (line.missed, line.false) == pytest.approx((missed, false), abs=0.02)
    wrong = line.wrong(probability, right ^ slip)
    assert wrong[right ^ slip].mean() == pytest.approx(slip[right ^ slip].mean(), abs=0.02)
    assert wrong[~(right ^ slip)].mean() == pytest.approx(slip[~(right ^ slip)].mean(), abs=0.02)
    if slip.any():
        assert slip[np.argsort(-wrong)[: slip.sum() // 2]].mean() > 0.95


def test_slips_are_counted_where_scores_learnt_from_them_are_unsure():
    rng = np.random.default_rng(4)
    odds = rng.normal(0, 5, 3000)
    right, slip = rng.random((2, len(odds))) < np.array([special.expit(odds), 0 * odds + 0.3])
    line = decision.fit_line(special.expit(0.4 * (odds + 3)), right ^ slip)
    assert (line.missed, line.false) == pytest.approx((0.3, 0.3), abs=0.035)
    assert line.slope == pytest.approx(2.5, rel=0.3)
