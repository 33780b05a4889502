"""The threshold that gen_model.py chooses on peaks, where a list holds some of the particles."""

import numpy as np
import pytest

import gen_model


def scores(seed, particles=2000, others=2000):
    """Scores of peaks, and which are particles: two bells of log odds, 4 apart."""
    rng = np.random.default_rng(seed)
    odds = np.concatenate([rng.normal(2, 1, particles), rng.normal(-2, 1, others)])
    return 1 / (1 + np.exp(-odds)), np.arange(particles + others) < particles


@pytest.mark.parametrize("share", [1.0, 0.5, 0.2])
def test_the_cut_parts_particles_from_others_however_many_are_listed(share):
    probability, right = scores(0)
    listed = right & (np.random.default_rng(1).random(len(right)) < share)
    cut = gen_model.best_cut(probability, listed, int(listed.sum()))
    assert 0.3 < cut < 0.7
    f1 = 2 * right[probability >= cut].sum() / ((probability >= cut).sum() + right.sum())
    assert f1 > 0.96  # the best there is: 0.977


def test_more_false_peaks_ask_for_a_higher_cut():
    few, many = (
        gen_model.best_cut(probability, right, int(right.sum()))
        for probability, right in (scores(0, others=500), scores(0, others=50_000))
    )
    assert many > few + 0.2


def test_where_all_are_parted_the_cut_lies_between():
    probability, right = np.array([0.9, 0.8, 0.05, 0.04]), np.array([1, 1, 0, 0], bool)
    assert 0.05 < gen_model.best_cut(probability, right, 2) <= 0.9
    assert gen_model.best_cut(probability, np.zeros(4, bool), 2) == 0.5
