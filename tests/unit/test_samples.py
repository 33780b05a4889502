"""Lists of windows."""

import numpy as np
import pytest

from apbc_common.samples import Samples


@pytest.mark.parametrize(
    ("listed", "corrected", "each"),
    [(81, 10, 8), (80, 10, 8), (40, 10, 4), (10, 10, 1), (5, 10, 1), (0, 10, 1), (5, 0, None)],
)
def test_corrections_count_for_no_more_than_what_is_listed(listed, corrected, each):
    kind = ["good", "bad"] * 50  # both, and what is added, as they come
    kind = np.array([*kind[: listed + corrected], "empty", "beside", "empty"], object)
    row = np.full(len(kind), -1)
    row[:listed] = range(listed)
    nothing = np.zeros(len(kind))
    found = Samples(kind, nothing, nothing, nothing, row, nothing, None)
    assert found.corrected.sum() == corrected
    assert found.weight[found.corrected].tolist() == [each] * corrected
    assert found.weight[~found.corrected].tolist() == [1] * (listed + 3)
