"""Every STAR file that the scripts write, with all options that make one, is read by RELION."""

import pytest
from conftest import BOX
from test_oracle import ALL, printed

from apbc_common import relion, star

pytestmark = pytest.mark.relion

MADE = {
    *(f"ClassBin/{name}.star" for name in ("train", "test", "suspects", "particles_rescued")),
    *(f"ClassBin/particles_{name}.star" for name in ("true", "false", "unique")),
    *(f"ClassBin/picks/{name}.star" for name in ("picks", "candidates", "autopick", "particles")),
    *(f"ClassBin/picks/{name}.star" for name in ("compared", "particles_new", "picks_inverted_y")),
    "ClassBin/grid/grid.star",
}


def test_relion_reads_every_file(taught):
    calls = [
        ("gen_data", "-g", taught.good, "-b", taught.bad, "--from-micrographs", "-c"),
        ("gen_model", "--members", 2, "--epochs", 2, "-c"),
        ("gen_grid", "-i", taught.micrographs, "-x", BOX),
        ("gen_picks", "-i", ALL, "--min-distance", 50),
        ("gen_picks", "-i", taught.micrographs, "--extract", "--invert-y", "--compare", ALL,
         "--threshold", 0.1),
    ]  # fmt: skip
    for script, *options in calls:
        assert taught.call(script, *options) == 0
    found = {str(path.relative_to(taught.path)) for path in (taught / "ClassBin").rglob("*.star")}
    lists = {name for name in found if not name.split("/")[-1].startswith(relion.SUFFIX)}
    assert lists >= MADE
    each = lists - MADE
    assert len(each) == 9  # of each micrograph: grid, picks, candidates
    for name in sorted(lists):
        blocks = star.scan(taught / name)
        for table, block in blocks.items():
            rows = printed(taught, name, table, f"_{block.labels[0]}")
            assert len(rows) == block.rows, (name, table)
            if not name.endswith(("rescued.star", "suspects.star")):
                assert rows, name
