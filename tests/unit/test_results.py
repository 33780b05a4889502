"""Figures of test windows and of peaks: how sure they are, and how far chances hold."""

from types import SimpleNamespace

import numpy as np
import pytest

import gen_model
from apbc_common import results


def drawn(count, slips=(0.0, 0.0), seed=0):
    """Chances that hold, and labels that are particles by them, some of them slips."""
    rng = np.random.default_rng(seed)
    chance = rng.random(count)
    good = rng.random(count) < slips[1] + (1 - sum(slips)) * chance
    return {"label": good.astype(int), "probability": chance}


def test_chances_that_hold_have_no_calibration_error():
    chance, good, error = results.reliability(drawn(20_000))
    assert chance == pytest.approx(np.linspace(0.05, 0.95, 10), abs=0.01)
    assert good == pytest.approx(chance, abs=0.03)
    assert error < 0.02


def test_chances_that_do_not_hold_have_one():
    found = drawn(20_000)
    found["probability"] = found["probability"] / 2 + 0.5
    assert results.reliability(found)[2] == pytest.approx(0.25, abs=0.01)


def test_slips_of_labels_are_not_held_against_chances():
    found = drawn(20_000, slips=(0.2, 0.1))
    assert results.reliability(found)[2] > 0.06
    assert results.reliability(found, (0.2, 0.1))[2] < 0.02


def test_intervals_are_those_over_micrographs():
    """Twenty micrographs, the windows of each all right or all wrong: it is they that vary."""
    right = np.repeat(np.arange(20) < 15, 100)
    label = np.tile([0, 1], 1000)
    found = {"label": label, "probability": np.where(right == label, 0.9, 0.1)}
    value, low, high = results.intervals(found, np.repeat(np.arange(20), 100).astype(str))[
        "accuracy"
    ]
    assert value == 0.75
    assert (low, high) == pytest.approx((0.55, 0.92), abs=0.05)  # binomial of 20
    _, low, high = results.intervals(found, np.arange(2000).astype(str))["accuracy"]
    assert (low, high) == pytest.approx((0.73, 0.77), abs=0.01)  # of 2000


def test_where_there_is_nothing_to_tell_from_none_is_given():
    found = {"label": np.array([0, 1, 0, 1]), "probability": np.array([0.1, 0.9, 0.2, 0.8])}
    two = results.intervals(found, np.array(["a", "a", "b", "b"]))
    assert results.say(two) == "accuracy 1.000, ROC area 1.000, average precision 1.000"
    found["label"][:] = 1
    assert all(
        np.isnan(one).all() for one in results.intervals(found, np.array(list("abcd"))).values()
    )


@pytest.mark.parametrize("tells", [True, False])
def test_a_model_that_hardly_tells_good_from_bad_is_said_to_be_one(tells, capsys):
    label = np.arange(40) % 2
    chance = np.where(label == 1, 0.8, 0.3) if tells else np.linspace(0.1, 0.9, 40)
    part = {"index": np.arange(40), "label": label, "probability": chance}
    windows = SimpleNamespace(micrograph=np.array(list("abcd") * 10))
    gen_model.print_results(
        windows, dict.fromkeys(("training", "testing"), part), {"calibration": None}
    )
    assert ("this model hardly tells good from bad" in capsys.readouterr().err) != tells
