"""The scripts as External jobs, run by RELION's own pipeliner, and jobs of RELION after them."""

import os
import subprocess
import sys
import time

import pytest
from conftest import BOX, ROOT, SCALE
from test_oracle import count_read, printed, run

from apbc_common import external, relion

pytestmark = pytest.mark.relion

PIPELINE = "\n# version 30001\n\ndata_pipeline_general\n\n_rlnPipeLineJobCounter 10\n \n"


@pytest.fixture
def pipeline(taught, tmp_path, monkeypatch):
    """A project that RELION runs, in an environment full of another Python's packages."""
    (taught / external.PIPELINE).write_text(PIPELINE)
    hostile = tmp_path / "hostile"
    hostile.mkdir()
    for name in ("python", "python3"):
        (hostile / name).write_text("#!/bin/sh\necho another Python >&2\nexit 1\n")
        (hostile / name).chmod(0o755)
    for name in ("numpy", "tensorflow", "apbc_common"):
        (hostile / f"{name}.py").write_text("raise ImportError('another one')\n")
    subprocess.run(
        ["bash", ROOT / "build.sh", "--launchers", taught / "bin"],
        env={**os.environ, "PYTHON": sys.executable},
        check=True,
    )
    monkeypatch.setenv("PATH", f"{hostile}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(hostile))
    monkeypatch.setenv("PYTHONHOME", str(hostile))
    return taught


def add(project, kind, **options):
    """Add a job to RELION's pipeline; return its folder."""
    before = set(project.path.glob(f"{kind}/job*"))
    text = ";".join(f"{name} == {value}" for name, value in options.items())
    run(project, "relion_pipeliner", "--addJob", kind, "--addJobOptions", text)
    (made,) = set(project.path.glob(f"{kind}/job*")) - before
    return f"{made.relative_to(project.path)}/"


def run_job(project, job):
    """Let RELION run a job, or go on with it; return its status: 2 done, 3 failed."""
    run(project, "relion_pipeliner", "--RunJobs", job, "--sec_wait_after", 1)
    rows = printed(
        project, external.PIPELINE, "pipeline_processes",
        "_rlnPipeLineProcessName", "_rlnPipeLineProcessStatus",
    )  # fmt: skip
    return dict(rows)[job]


def known_nodes(project):
    """The nodes of RELION's pipeline: {name: type}."""
    return dict(
        printed(
            project, external.PIPELINE, "pipeline_nodes",
            "_rlnPipeLineNodeName", "_rlnPipeLineNodeType",
        )
    )  # fmt: skip


def extract_after(project, coordinates):
    """Let RELION extract what a node names; return how many particles."""
    job = add(
        project, "Extract", star_mics=project.micrographs, coords_suffix=coordinates,
        extract_size=BOX, do_rescale="Yes", rescale=SCALE, bg_diameter=72,
    )  # fmt: skip
    assert run_job(project, job) == "2"
    return count_read(project, f"{job}particles.star")


def test_relion_runs_the_grid_and_takes_it_on(pipeline):
    job = add(
        pipeline, "External", fn_exe=pipeline / "bin/gen_grid.py", in_mic=pipeline.micrographs,
        param1_label="boxsize", param1_value=BOX,
    )  # fmt: skip
    assert run_job(pipeline, job) == "2", (pipeline / job / "run.err").read_text()
    assert (pipeline / job / "run.err").read_text() == ""
    assert known_nodes(pipeline)[f"{job}coords_suffix_grid.star"] == "2"
    assert extract_after(pipeline, f"{job}coords_suffix_grid.star") == 3 * 81
    assert run_job(pipeline, job) == "2"  # Continue
    assert (pipeline / job / "run.out").read_text().count("finished before: nothing to do") == 1


def test_relion_runs_the_direct_picks_and_takes_them_on(pipeline):
    job = add(
        pipeline, "External", fn_exe=pipeline / "bin/gen_picks.py", in_mic=pipeline.micrographs,
        param1_label="extract", param1_value="",
    )  # fmt: skip
    assert run_job(pipeline, job) == "2", (pipeline / job / "run.err").read_text()
    nodes = known_nodes(pipeline)
    assert nodes[f"{job}coords_suffix_autopick.star"] == "2"
    assert nodes[f"{job}particles.star"] == "3"
    picked = len(relion.table(pipeline / job / "picks.star", relion.X, "pick").read(relion.X))
    assert extract_after(pipeline, f"{job}coords_suffix_autopick.star") == picked >= 33
    assert count_read(pipeline, f"{job}particles.star") == picked


def test_relion_runs_the_session_of_the_readme(pipeline):
    """From two selections to particles; a field's option without a value is a switch."""
    at = pipeline / "bin"
    data = add(
        pipeline, "External", fn_exe=at / "gen_data.py", in_mic=pipeline.micrographs,
        in_part=pipeline.good, param1_label="starbad", param1_value=pipeline.bad,
        param2_label="from-micrographs", param2_value="",
    )  # fmt: skip
    assert run_job(pipeline, data) == "2"
    learnt = add(
        pipeline, "External", fn_exe=at / "gen_model.py", param1_label="data", param1_value=data,
        param2_label="epochs", param2_value=2,
    )  # fmt: skip
    assert run_job(pipeline, learnt) == "2"
    picked = add(
        pipeline, "External", fn_exe=at / "gen_picks.py", in_mic=pipeline.micrographs,
        param1_label="model", param1_value=f"{learnt}model.h5",
        param2_label="max-picks", param2_value=5, param3_label="threshold", param3_value=0.01,
    )  # fmt: skip
    assert run_job(pipeline, picked) == "2"
    assert extract_after(pipeline, f"{picked}coords_suffix_autopick.star") == 15


def test_relion_is_told_of_a_failure_and_goes_on(pipeline):
    """A micrograph that was away is there when the job is continued."""
    away = pipeline / "Micrographs/sub0/mic_a.0.mrc"
    away.rename(away.with_suffix(".gone"))
    job = add(
        pipeline, "External", fn_exe=pipeline / "bin/gen_grid.py", in_mic=pipeline.micrographs,
        param1_label="boxsize", param1_value=BOX,
    )  # fmt: skip
    assert run_job(pipeline, job) == "3"
    assert "mic_a.0.mrc" in (pipeline / job / "run.err").read_text()
    assert f"{job}coords_suffix_grid.star" not in known_nodes(pipeline)
    away.with_suffix(".gone").rename(away)
    assert run_job(pipeline, job) == "2"


@pytest.mark.parametrize("how, mark", [("abort", "ABORTED"), ("kill", "FAILURE")])
def test_a_running_job_is_ended(pipeline, how, mark):
    """While it learns: by RELION's file, or by the queue's signal; the same line goes on."""
    folder = pipeline / "External/job050"
    folder.mkdir(parents=True)
    command = [pipeline / "bin/gen_model.py", "--o", "External/job050/", "--data", "ClassBin"]
    with open(folder / "run.out", "w") as out:
        running = subprocess.Popen(
            [*command, "--epochs", "100000"], cwd=pipeline.path, stdout=out, stderr=out
        )
        try:
            until = time.monotonic() + 120
            while "2/100000" not in (folder / "run.out").read_text() and time.monotonic() < until:
                time.sleep(0.2)
            if how == "kill":
                running.terminate()
            else:
                (folder / external.ABORT).touch()
            running.wait(60)
        finally:
            running.kill()
    assert (folder / f"{external.MARK}{mark}").exists(), (folder / "run.out").read_text()[-500:]
    assert len(list(folder.glob(f"{external.MARK}*"))) == 1


def test_a_schedule_of_relion_picks_what_arrives(pipeline):
    job = add(
        pipeline, "External", fn_exe=pipeline / "bin/gen_picks.py", in_mic=pipeline.micrographs,
        param1_label="model", param1_value="ClassBin/model.h5",
        param2_label="watch", param2_value=1, param3_label="until", param3_value=3,
    )  # fmt: skip
    schedule = ("relion_scheduler", "--schedule", "fly")
    for step in (
        ("--add", "variable", "--name", "turns", "--value", "1"),
        ("--add", "job", "--i", job, "--mode", "continue", "--name", "pick"),
        ("--add", "operator", "--type", "exit", "--name", "EXIT"),
        ("--add", "edge", "--i", job, "--o", "EXIT"),
        ("--set_current_node", job),
    ):
        run(pipeline, *schedule, *step)
    assert "reached an exit point" in run(pipeline, *schedule, "--run")[1]
    made = job.replace("job010", "job011")  # a schedule copies its jobs
    assert known_nodes(pipeline)[f"{made}coords_suffix_autopick.star"] == "2"
    assert (pipeline / made / "run.out").read_text().count(" 0 skipped -> ") == 1
