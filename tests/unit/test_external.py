"""A script's folder as RELION's External job sees it."""

import os
import signal
import time

import pytest

from apbc_common import ApbcError, SomeSkipped, cli, external

VERSIONS = {
    "3.1": "_rlnPipeLineProcessType #3\n",
    "4.0": "# version 30001\n_rlnPipeLineProcessTypeLabel #3\nMicrographsData.star.relion\n",
    "5.0": "# version 50001\n_rlnPipeLineProcessTypeLabel #3\n",
    "": "data_something\n",
}
NODES = [(external.COORDINATES, "coords_suffix_a.star", "a.star"), (external.PARTICLES, "p.star")]


@pytest.fixture
def job(tmp_path):
    """A job's folder, as RELION makes it before the start."""
    found = external.Job(tmp_path, tmp_path / "External/job007")
    found.folder.mkdir(parents=True)
    return found


def marks(job):
    """What the folder says of the end."""
    return [path.name for path in job.folder.glob("RELION_JOB_*")]


@pytest.mark.parametrize("out, is_one", [
    ("External/job007/", True), ("External/job1234", True), ("ClassBin/", False), (None, False),
    ("External/job07/", False), ("External/job007/picks", False), ("External/job007x", False),
    ("Extract/job007/", False),
])  # fmt: skip
def test_a_job_is_a_folder_of_relion_s_name(tmp_path, out, is_one):
    assert bool(external.job_of(tmp_path, out)) == is_one


def test_success_comes_after_the_nodes(job, capsys):
    """Old marks and nodes are gone before the work begins."""
    for name in (external.SUCCESS, external.FAILURE, external.ABORT, external.NODES):
        (job.folder / name).touch()
    (job.project / external.PIPELINE).write_text(VERSIONS["3.1"])

    def work():
        print("working")
        assert not list(job.folder.iterdir())
        return [(kind, *(job.folder / name for name in names)) for kind, *names in NODES]

    assert cli.run("x.py", work, job=job) == 0
    assert marks(job) == [external.SUCCESS]
    nodes, mark = (job.folder / name for name in (external.NODES, external.SUCCESS))
    assert nodes.stat().st_mtime_ns <= mark.stat().st_mtime_ns
    assert capsys.readouterr() == ("working\n", "")


@pytest.mark.parametrize("error, code", [
    (ApbcError("a.star: bad"), 1), (OSError("disk"), 1), (MemoryError(), 1),
    (KeyboardInterrupt(), 130), (ValueError("a bug"), None),
])  # fmt: skip
def test_any_error_is_a_failure(job, capsys, error, code):
    def work():
        raise error

    if code is None:
        with pytest.raises(ValueError, match="a bug"):
            cli.run("x.py", work, job=job)
    else:
        assert cli.run("x.py", work, job=job) == code
    assert marks(job) == [external.FAILURE] and not (job.folder / external.NODES).exists()


def test_a_few_that_were_skipped_are_a_success_with_a_warning(job, capsys):
    def work():
        raise SomeSkipped(
            "2 micrographs were skipped", [(external.PARTICLES, job.folder / "p.star")]
        )

    (job.project / external.PIPELINE).write_text(VERSIONS["4.0"])
    assert cli.run("x.py", work) == 1
    assert capsys.readouterr().err == "x.py: error: 2 micrographs were skipped\n"
    assert cli.run("x.py", work, job=job) == 0
    assert capsys.readouterr().err == "warning: 2 micrographs were skipped\n"
    assert marks(job) == [external.SUCCESS]
    assert "External/job007/p.star" in (job.folder / external.NODES).read_text()


@pytest.mark.parametrize("how, mark", [("signal", "FAILURE"), ("file", "ABORTED")])
def test_relion_can_end_it(job, monkeypatch, capsys, how, mark):
    """The work is interrupted wherever it is, as by Ctrl-C; SIGTERM kills again afterwards."""
    monkeypatch.setattr(external, "LOOK", 0.01)
    before = signal.getsignal(signal.SIGTERM)

    def work():
        if how == "signal":
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            (job.folder / external.ABORT).touch()
        time.sleep(30)

    start = time.monotonic()
    assert cli.run("x.py", work, job=job) == 130
    assert time.monotonic() - start < 20
    assert marks(job).count(external.MARK + mark) == 1
    assert {external.SUCCESS, external.FAILURE, external.ABORTED} & set(marks(job)) == {
        external.MARK + mark
    }
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_folder_outside_the_project(tmp_path, capsys):
    (tmp_path / "project").mkdir()
    job = external.Job(tmp_path / "project", tmp_path / "External/job007")
    assert cli.run("x.py", lambda: pytest.fail("it has begun"), job=job) == 1
    assert "External/job007: not below the project" in capsys.readouterr().err
    assert marks(job) == [external.FAILURE]


@pytest.mark.parametrize("version, names, columns", [
    ("3.1", ["coords_suffix_a.star", "p.star"], {"": ["2", "3"]}),
    ("4.0", ["a.star", "p.star"],
     {"Label": ["MicrographsCoords.star.relion.autopick", "ParticlesData.star.relion"]}),
    ("5.0", ["a.star", "p.star"],
     {"Label": ["MicrographCoordsGroup.star.relion.autopick",
                "ParticleGroupMetadata.star.relion"]}),
    ("", ["coords_suffix_a.star", "p.star"],
     {"": ["2", "3"],
      "Label": ["MicrographsCoords.star.relion.autopick", "ParticlesData.star.relion"]}),
])  # fmt: skip
def test_nodes_are_those_of_the_project_s_relion(job, version, names, columns):
    (job.project / external.PIPELINE).write_text(VERSIONS[version])
    odd = job.write_nodes([(kind, *(job.folder / n for n in files)) for kind, *files in NODES])
    assert ("not of RELION 3.1, 4.0 or 5.0" in odd) == (not version)
    lines = (job.folder / external.NODES).read_text().split("loop_\n")[1].split("\n")
    labels = [line for line in lines if line.startswith("_")]
    assert labels == [f"_rlnPipeLineNode{name} #{i}" for i, name in
                      enumerate(["Name", *(f"Type{end}" for end in columns)], 1)]  # fmt: skip
    rows = [line.split() for line in lines[len(labels) :] if line]
    expected = zip([f"External/job007/{name}" for name in names], *columns.values(), strict=True)
    assert rows == list(map(list, expected))


def test_nodes_that_cannot_be_written_are_a_failure(job, capsys):
    def work():
        job.folder.chmod(0o755)
        (job.folder / external.NODES).mkdir()
        return [(external.PARTICLES, job.folder / "p.star")]

    assert cli.run("x.py", work, job=job) == 1
    assert external.NODES in capsys.readouterr().err
    assert marks(job) == [external.FAILURE]


def test_progress_goes_to_run_out(job, capsys):
    """RELION's GUI shows in red what is in run.err."""
    assert cli.run("x.py", lambda: list(cli.progress(range(2), "windows")) and None, job=job) == 0
    found = capsys.readouterr()
    assert "100% 2/2" in found.out and found.err == ""
    cli.run("x.py", lambda: list(cli.progress(range(2), "windows")))
    found = capsys.readouterr()
    assert "100% 2/2" in found.err and found.out == ""
