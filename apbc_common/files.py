"""A file under its final name is whole: write beside it, then rename."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from pathlib import Path


@contextlib.contextmanager
def atomic(path):
    """Give a temporary path beside ``path``; rename it to ``path`` when the block ends well.

    Folders are made where they are missing. On any exception these and the temporary file are
    removed, and what lay at ``path`` stays as it was. A killed process leaves ``.part-<name>``,
    which the next one overwrites.

    Parameters
    ----------
    path : path-like
        The final name.

    Yields
    ------
    pathlib.Path
        Where to write; it has the suffix of ``path``.
    """
    path = Path(path)
    made = [folder for folder in path.parents if not folder.exists()]
    part = path.with_name(f".part-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, path)
    except BaseException as err:
        if isinstance(err, OSError) and err.errno and err.filename in (None, os.fspath(part)):
            err.filename = os.fspath(
                path
            )  # a write says only what, or names a file that nobody knows
        with contextlib.suppress(OSError):  # another process may have written there
            part.unlink(missing_ok=True)
            for folder in made:
                folder.rmdir()
        raise


def copy(source, target):
    """Copy a file, whole or not at all."""
    with atomic(target) as part:
        shutil.copyfile(source, part)


def write_text(path, text):
    """Write ``text`` (UTF-8; undecodable bytes of file names come back as they were)."""
    with atomic(path) as part:
        part.write_text(text, encoding="utf-8", errors="surrogateescape")


def digest(path):
    """Hex SHA-256 of a file's contents, read in pieces."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def digest_all(paths):
    """Hex SHA-256 of the contents of some files, one after the other."""
    found = hashlib.sha256()
    for path in paths:
        found.update(Path(path).read_bytes())
    return found.hexdigest()


def write_bytes(path, data):
    """Write a small file in a folder that exists; leaner than `atomic`, for thousands of them."""
    folder, name = os.path.split(path)
    part = os.path.join(folder, f".part-{name}")
    try:
        with open(part, "wb", buffering=0) as handle:
            if handle.write(data) < len(data):  # as a disk does that is just full
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise
