"""Labels held against peaks: which move, and how far."""

import numpy as np
import pytest

from apbc_common import labels
from apbc_common.samples import Samples
from apbc_common.survey import Survey

APIX = 2.0
DATASET = {"diameter_angst": 100.0, "box_angst": 200.0}  # 30 A make a match, 40 A a move or a lie
FILLERS = 40  # of each kind, a clear peak or none: what the line is fitted to
OFF = 8.0  # px that the peaks of the good among them are off: 16 A, four times what peaks err by
WAY = 15 / 16  # that particles then go


def samples(*rows, part="train"):
    """Of (kind, micrograph, x, y); px."""
    kind, source, x, y = (np.array(column, object) for column in zip(*rows, strict=True))
    where = np.stack([x, y], axis=1).astype(float)
    parts = np.full(len(kind), part, object)
    return Samples(kind, source, where, source, np.arange(len(kind)), parts, None)


def survey(*peaks, names=("a", "b")):
    """Of (micrograph, x, y, score)."""
    peaks = sorted(peaks, key=lambda one: (one[0], -one[3]))
    number = np.array([names.index(one[0]) for one in peaks])
    xy, score = np.array([one[1:3] for one in peaks], float), np.array([one[3] for one in peaks])
    return Survey(list(names), number, xy, score, dict.fromkeys(names, APIX))


def filled(rows, peaks, names=("a", "b", "far")):
    """What is given, and clear cases on a micrograph of their own; how many rows are given."""
    for i in range(FILLERS):
        rows = [*rows, ("good", "far", 200 * i, 0), ("bad", "far", 200 * i, 1000)]
        peaks = [*peaks, ("far", 200 * i + OFF, 0, 0.95), ("far", 200 * i, 1000, 0.05)]
    return samples(*rows), survey(*peaks, names=names)


def test_a_peak_is_the_nearest_listed_particle_and_of_its_micrograph():
    listed = samples(("good", "a", 0, 0), ("bad", "a", 20, 0), ("good", "b", 100, 0))
    found = survey(("a", 4, 0, 0.9), ("a", 17, 0, 0.8), ("a", 100, 0, 0.7), ("b", 90, 0, 0.6))
    assert found.match(listed, np.arange(3), 30).tolist() == [0, 1, -1, 2]
    assert found.match(listed, np.array([1]), 100).tolist() == [1, -1, -1, -1]
    label, score = labels.at_peaks(found, listed, np.array([2, 0, 1]), DATASET)
    assert label.tolist() == [1, 0, -1, 1]
    assert score.tolist() == [0.6, 0.9, 0.8]


def test_a_particle_without_a_peak_has_the_least_score():
    listed = samples(("good", "a", 0, 0), ("good", "b", 0, 0))
    _, score = labels.at_peaks(survey(("a", 16, 0, 0.9)), listed, np.arange(2), DATASET)
    assert score.tolist() == [0.01, 0.01]  # 32 A away


def test_good_particles_move_towards_sure_peaks_within_reach_and_nothing_else_moves():
    rows = [
        ("good", "a", 100, 100),  # its peak 10 px away
        ("good", "a", 300, 100),  # 21 px = 42 A
        ("good", "a", 500, 100),  # the peak is unsure
        ("bad", "b", 100, 100),
        ("empty", "b", 300, 100),
    ]
    peaks = [("a", 106, 108, 0.9), ("a", 321, 100, 0.9), ("a", 505, 100, 0.2), ("b", 105, 100, 0.2)]
    before, found = filled(rows, peaks)
    revision = labels.revise(found, before, DATASET)
    assert revision.samples.where[0] == pytest.approx([100 + WAY * 6, 100 + WAY * 8])
    assert np.flatnonzero(revision.moved[: len(rows)]).tolist() == [0]
    assert (revision.samples.where[1 : len(rows)] == before.where[1 : len(rows)]).all()
    assert before.where[0].tolist() == [100, 100]
    assert revision.said == (
        f"{1 + FILLERS} of {3 + FILLERS} good particles found, half of them by more than 16.0 A "
        "off, all by 15.9, 0.4 A on average; moved 94% of the way"
    )


def test_no_two_particles_move_to_one_peak():
    rows = [("good", "a", 100, 100), ("good", "a", 110, 100)]
    before, found = filled(rows, [("a", 107, 100, 0.9)])
    revision = labels.revise(found, before, DATASET)
    assert revision.samples.where[:2].tolist() == [[100, 100], [110 - WAY * 3, 100]]


@pytest.mark.parametrize(("off", "share"), [(0, 0), (2, 0), (3, 5 / 9), (40, 1 - 1 / 400)])
def test_the_nearer_labels_are_the_less_they_move(off, share):
    """Peaks err too: by 2 px here."""
    assert labels.way(np.full(9, 2.0 * off), 4.0) == pytest.approx(share)
    assert labels.way(np.empty(0), 4.0) == 0


def test_what_was_not_asked_about_stays():
    rows = [("good", "c", 100, 100), ("bad", "c", 300, 100), ("empty", "c", 500, 100)]
    revision = labels.revise(*reversed(filled(rows, [])), DATASET)
    assert not revision.moved[:3].any()
