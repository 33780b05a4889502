"""A script as an External job of RELION: what RELION is told of it, and what it tells.

Conventions of RELION 3.1 to 5.0 (pipeline_control.cpp, pipeliner.cpp): a job ends with a mark in
its folder; its nodes, which other jobs can take, are read when there is the mark of success.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
from pathlib import Path

from . import ApbcError

KIND = "External"  # where such jobs lie
FOLDER = re.compile(r"job\d{3,}")
MARK = "RELION_JOB_EXIT_"
SUCCESS, FAILURE, ABORTED = (MARK + end for end in ("SUCCESS", "FAILURE", "ABORTED"))
ABORT = "RELION_JOB_ABORT_NOW"  # its user wants it to end
NODES = "RELION_OUTPUT_NODES.star"
PIPELINE = "default_pipeline.star"
LOOK = 1.0  # seconds between two looks for ABORT

COORDINATES, PARTICLES = "coordinates", "particles"
NUMBER = {COORDINATES: 2, PARTICLES: 3}  # types of nodes in RELION 3.1
LABEL = {
    "4.0": {
        COORDINATES: "MicrographsCoords.star.relion.autopick",
        PARTICLES: "ParticlesData.star.relion",
    },
    "5.0": {
        COORDINATES: "MicrographCoordsGroup.star.relion.autopick",
        PARTICLES: "ParticleGroupMetadata.star.relion",
    },
}


class Stopped(KeyboardInterrupt):
    """RELION, its queue or its user wants the job to end."""


class Job:
    """A job's folder, from its start to its mark.

    As a context: old marks go, the block is done, the mark of its end is set. SIGTERM, and the file
    by which RELION aborts a job, end the block with `Stopped`.

    Parameters
    ----------
    project : path-like
    folder : path-like
        ``--o``: External/jobNNN/ of the project.
    """

    def __init__(self, project, folder):
        self.project, self.folder = Path(project), Path(folder)

    def __enter__(self):
        """Begin; raise ApbcError if the folder does not lie in the project."""
        self._aborted = False
        if not self.folder.resolve().is_relative_to(self.project.resolve()):
            self.end(FAILURE)
            raise ApbcError(
                f"{self.folder}: not below the project {self.project.resolve()}, where RELION has "
                "its jobs; give another --o"
            )
        for name in (SUCCESS, FAILURE, ABORTED, ABORT, NODES):
            (self.folder / name).unlink(missing_ok=True)
        self._before = signal.signal(signal.SIGTERM, _stop)
        self._ended = threading.Event()
        self._thread = threading.Thread(
            target=self._look, args=(threading.get_ident(),), daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, kind, error, trace):
        """Set the mark: of success, unless there was an error."""
        self._ended.set()
        with contextlib.suppress(Stopped):  # too late
            self._thread.join()
        signal.signal(signal.SIGTERM, self._before)
        self.end(SUCCESS if kind is None else ABORTED if self._aborted else FAILURE)

    def _look(self, main):
        while not self._ended.wait(LOOK):
            if (self.folder / ABORT).exists():
                self._aborted = True
                signal.pthread_kill(main, signal.SIGTERM)
                return

    def end(self, mark):
        """Set the mark of an end, and no other, as far as that can be done."""
        with contextlib.suppress(OSError):
            for other in {SUCCESS, FAILURE, ABORTED} - {mark}:
                (self.folder / other).unlink(missing_ok=True)
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / mark).touch()

    def write_nodes(self, nodes) -> str:
        """Write which files other jobs can take, for the RELION that has the project.

        Parameters
        ----------
        nodes : list of tuple
            A kind, and the file of RELION 3.1, which later ones take too; then that of 4.0 and 5.0
            where it is another.

        Returns
        -------
        str
            What is odd about the project, or ''.
        """
        if not nodes:
            return ""
        version = version_of(self.project)
        named = [
            os.path.relpath(one[1 if version in (None, "3.1") else -1], self.project)
            for one in nodes
        ]
        kinds = [one[0] for one in nodes]
        columns = {"rlnPipeLineNodeName": named}
        if version in (None, "3.1"):
            columns["rlnPipeLineNodeType"] = [str(NUMBER[kind]) for kind in kinds]
        if version != "3.1":
            columns["rlnPipeLineNodeTypeLabel"] = [LABEL[version or "4.0"][kind] for kind in kinds]
        from . import star

        star.write_rows(
            self.folder / NODES, "output_nodes", list(columns), zip(*columns.values(), strict=True)
        )
        if version is None:
            return (
                f"{self.project / PIPELINE}: not of RELION 3.1, 4.0 or 5.0; {NODES} is written "
                "with the types of 3.1 and of 4.0"
            )
        return ""


def job_of(project, out):
    """Return the `Job` of a folder that is named like one of RELION's External jobs, else None."""
    if not out or not FOLDER.fullmatch(Path(out).name) or Path(out).parent.name != KIND:
        return None
    return Job(project, out)


def version_of(project):
    """Return which RELION a project's pipeline is of: '3.1', '4.0', '5.0'; None if it is unclear.

    The tables' columns tell 3.1 from 4.0; 5.0 calls nodes by other names, or says so in a comment.
    """
    try:
        words = set((Path(project) / PIPELINE).read_text(errors="replace").split())
    except OSError:
        return None
    if words & {"_rlnPipeLineProcessTypeLabel", "_rlnPipeLineNodeTypeLabel"}:
        newer = "50001" in words or any(re.match(r"\w+Group(Metadata)?\.star", w) for w in words)
        return "5.0" if newer else "4.0"
    return "3.1" if words & {"_rlnPipeLineProcessType", "_rlnPipeLineNodeType"} else None


def _stop(number, frame):
    raise Stopped
