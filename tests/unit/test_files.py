"""Whole files only; grey PNGs."""

import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from apbc_common import files, png


def test_atomic_shows_the_file_at_the_end_only(tmp_path):
    path = tmp_path / "new" / "deep" / "a.star"
    with files.atomic(path) as part:
        part.write_text("x")
        assert not path.exists()
        assert (part.parent, part.suffix) == (path.parent, path.suffix)
    assert [each.name for each in path.parent.iterdir()] == ["a.star"]
    assert path.read_text() == "x"


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt, SystemExit])
def test_atomic_leaves_the_old_file_when_it_is_stopped(tmp_path, stop):
    path = tmp_path / "a.star"
    path.write_text("old")
    with pytest.raises(stop), files.atomic(path) as part:
        part.write_text("half")
        raise stop
    assert [each.name for each in tmp_path.iterdir()] == ["a.star"]
    assert path.read_text() == "old"


def test_atomic_writes_over_what_a_killed_process_left(tmp_path):
    (tmp_path / ".part-a.star").write_text("left by a killed process")
    files.write_text(tmp_path / "a.star", "new")
    assert (tmp_path / "a.star").read_text() == "new"
    assert [each.name for each in tmp_path.iterdir()] == ["a.star"]


def test_atomic_without_a_file_written_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), files.atomic(tmp_path / "a.star") as part:
        assert not part.exists()
    assert not list(tmp_path.iterdir())


def test_write_text_gives_back_the_bytes_of_a_name(tmp_path):
    name = b"a\xe4\n".decode("utf-8", "surrogateescape") + "ä日\n"
    files.write_text(tmp_path / "a", name)
    assert (tmp_path / "a").read_bytes() == b"a\xe4\n" + "ä日\n".encode()


def test_write_bytes_overwrites_and_leaves_nothing_else(tmp_path):
    for data in (b"one", b""):
        files.write_bytes(str(tmp_path / "a.png"), data)
        assert (tmp_path / "a.png").read_bytes() == data
    assert [each.name for each in tmp_path.iterdir()] == ["a.png"]
    with pytest.raises(FileNotFoundError):
        files.write_bytes(str(tmp_path / "none" / "a.png"), b"")


def test_digest(tmp_path):
    data = bytes(range(256)) * 5000
    (tmp_path / "a").write_bytes(data)
    assert files.digest(tmp_path / "a") == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (48, 48), (64, 64), (256, 300)])
def test_png_holds_every_pixel(shape):
    window = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with Image.open(io.BytesIO(png.encode(window))) as picture:
        picture.load()
        assert (picture.mode, picture.format) == ("L", "PNG")
        assert (np.asarray(picture) == window).all()


def test_png_of_a_view_of_a_larger_array():
    window = np.arange(256, dtype=np.uint8).reshape(16, 16)[::2, 1::3]
    with Image.open(io.BytesIO(png.encode(window))) as picture:
        assert np.asarray(picture).tolist() == window.tolist()


def test_an_error_names_the_file_that_people_know(tmp_path):
    (tmp_path / ".part-a.txt").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        files.write_text(tmp_path / "a.txt", "text")
    assert caught.value.filename == str(tmp_path / "a.txt")
