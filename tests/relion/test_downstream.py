"""What picks are worth further on: RELION's 2D classes of the example's lists."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

pytestmark = [pytest.mark.relion, pytest.mark.slow]

MINUTES = 10  # that a 2D classification may take


def test_direct_picks_bring_more_true_particles_through_2d_classification(tmp_path):
    project = tmp_path / "project"
    subprocess.run(
        ["bash", ROOT / "beta-galactosidase/run.sh"],
        env={**os.environ, "APBC_PROJECT": str(project)}, check=True,
    )  # fmt: skip
    bench = ROOT / "tests/bench/downstream.py"
    done = subprocess.run(
        [sys.executable, bench, project, "--no-3d"], capture_output=True, text=True, check=True
    )
    rows = {}
    for line in done.stdout.splitlines()[2:]:
        name, *cells = line.replace(" (LoG)", "").split()
        rows[name] = [float(cell) for cell in cells]
    assert list(rows) == ["autopick", "grid", "direct"]
    _, before, minutes, _, true, found = zip(*rows.values(), strict=True)
    assert max(minutes) <= MINUTES
    autopick, grid, direct = range(3)
    assert before[direct] > max(before[autopick], before[grid])
    assert true[direct] > max(true[autopick], true[grid])
    assert found[direct] > max(found[autopick], found[grid])
