"""The scripts as External jobs of RELION: fields of its GUI, marks, nodes."""

import pytest
from conftest import BOX

from apbc_common import external, star

OUT = ("--o", "External/job020/")
END = ("--j", 1, "--pipeline_control", "External/job020/")  # what RELION appends


@pytest.fixture
def job(taught):
    """The folder that RELION has made for a job of a project with a model."""
    (taught / "External/job020").mkdir(parents=True)
    (taught / external.PIPELINE).write_text("_rlnPipeLineProcessType #3\n")
    return taught


def mark(project):
    """How the job ended."""
    (found,) = project.path.glob(f"External/job020/{external.MARK}*")
    return found.name.removeprefix(external.MARK)


def nodes(project):
    """Which files other jobs can take."""
    path = project / "External/job020" / external.NODES
    if not path.exists():
        return []
    return star.scan(path)["output_nodes"].read()["rlnPipeLineNodeName"].tolist()


ALL = "Extract/job005/particles.star"


@pytest.mark.parametrize("script, fields, expected", [
    ("gen_grid", ("--in_mics", "{mics}", "--boxsize", BOX), ["coords_suffix_grid.star"]),
    ("gen_data", ("--in_parts", "{good}", "--in_mics", "{mics}", "--starbad", "{bad}"), []),
    ("gen_model", ("--data", "ClassBin", "--epochs", 1), []),
    ("gen_picks", ("--in_mics", "{mics}"), ["coords_suffix_autopick.star"]),
    ("gen_picks", ("--in_mics", "{mics}", "--extract"),
     ["coords_suffix_autopick.star", "particles.star"]),
    ("gen_picks", ("--in_parts", ALL, "--in_mics", "{mics}"),
     ["particles_true.star", "particles_false.star"]),
    ("show_picks", ("--image", "Micrographs/sub0/mic_a.0.mrc", "--star", ALL), []),
    ("show_picks", ("--in_mics", "{mics}", "--in_coords", ALL, "--all"), []),
])  # fmt: skip
def test_fields_of_the_gui(job, capsys, script, fields, expected):
    """Continue, the same line in the same folder, succeeds too, and keeps the nodes."""
    texts = [str(one).format(mics=job.micrographs, good=job.good, bad=job.bad) for one in fields]
    for _ in range(2):
        assert job.call(script, *OUT, *texts, *END) == 0, capsys.readouterr().err
        assert mark(job) == "SUCCESS"
        assert nodes(job) == [f"External/job020/{name}" for name in expected]
        assert all((job / name).is_file() for name in nodes(job))


@pytest.mark.parametrize("script, fields, said", [
    ("gen_grid", ("--boxsize", BOX), "required: -i/--imagestar"),
    ("gen_picks", (), "required: -i/--imagestar"),
    ("gen_grid", ("--in_movies", "a.star", "--boxsize", BOX), "--in_movies: gen_grid.py has no"),
    ("gen_model", ("--in_mics", "a.star"), "--in_mics: gen_model.py has no use for it"),
    ("gen_picks", ("--in_mics", "none.star"), "none.star: no such file"),
])  # fmt: skip
def test_a_line_that_cannot_be_run_is_a_failure(job, capsys, script, fields, said):
    """Else RELION would wait for it for ever, or take an earlier success for its end."""
    (job / "External/job020" / external.SUCCESS).touch()
    assert job.call(script, *OUT, *fields, *END) == 2
    assert said in capsys.readouterr().err
    assert mark(job) == "FAILURE"


def test_a_wrong_line_of_no_job_makes_no_mark(job):
    for out in ((), ("--o", "Elsewhere"), ("--o", "External/job099/")):
        assert job.call("gen_grid", *out) == 2
    assert not list(job.path.rglob(f"{external.MARK}*")) and not (job / "Elsewhere").exists()


def test_help_is_no_failure(job):
    assert job.call("gen_grid", *OUT, "--help") == 0
    assert not list(job.path.rglob(f"{external.MARK}*"))


def test_unreadable_micrographs_are_a_success_with_a_warning(job, capsys):
    """As many as --max-bad allows; the nodes have the others."""
    (job / "Micrographs/sub1/mic_a.1.mrc").write_bytes(b"nothing")
    assert job.call("gen_picks", *OUT, "--in_mics", job.micrographs, *END) == 0
    assert "warning: " in (err := capsys.readouterr().err) and "1 micrographs were skipped" in err
    assert mark(job) == "SUCCESS" and len(nodes(job)) == 1
    (job / "Micrographs/sub0/mic_a.2.mrc").write_bytes(b"nothing")
    assert job.call("gen_picks", *OUT, "--in_mics", job.micrographs, *END, "-c") == 1
    assert mark(job) == "FAILURE" and not nodes(job)
