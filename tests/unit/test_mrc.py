"""MRC files: every mode in both byte orders, and the faults that are refused."""

import re

import mrcfile
import numpy as np
import pytest

from apbc_common import mrc

TYPES = {0: np.int8, 1: np.int16, 2: np.float32, 6: np.uint16, 12: np.float16}
RAMP = np.arange(24).reshape(2, 3, 4)  # two sections of 4 x 3


STAMPS = {"<": b"DD\0\0", ">": b"\x11\x11\0\0", "": bytes(4)}


def make(path, data, mode=2, order="<", apix=0.0, extended=b"", stamp=None, shape=None):
    """Write an MRC file byte by byte; ``stamp`` is the order it claims, by default the true one."""
    nz, ny, nx = shape or (1, *data.shape)[-3:]
    words = np.zeros(256, order + "i4")
    words[[0, 1, 2, 3, 7, 8, 9]] = nx, ny, nz, mode, nx, ny, nz
    words.view(order + "f4")[10:13] = np.array([nx, ny, nz]) * apix
    words[23] = len(extended)
    header = bytearray(words.tobytes())
    header[208:212] = b"MAP "
    header[212:216] = STAMPS[order if stamp is None else stamp]
    pixels = np.asarray(data).astype(np.dtype(TYPES.get(mode, np.float32)).newbyteorder(order))
    path.write_bytes(header + extended + pixels.tobytes())
    return path


def error(function, *args):
    with pytest.raises(mrc.MrcError) as caught:
        function(*args)
    return str(caught.value)


@pytest.mark.parametrize("mode", TYPES)
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("extended", [b"", b"x" * 100], ids=["plain", "extended"])
def test_every_mode_in_both_byte_orders(tmp_path, mode, order, extended):
    path = make(tmp_path / "a.mrcs", RAMP, mode, order, apix=1.5, extended=extended)
    assert mrc.size(path) == mrc.Size(4, 3, 2, 1.5)
    stack = mrc.Stack(path)
    sections = stack.read([1, 0, 1])
    stack.close()
    assert sections.dtype == np.float32
    assert sections.tolist() == RAMP[[1, 0, 1]].tolist()
    one = mrc.image(make(tmp_path / "b.mrc", RAMP[0], mode, order, extended=extended))
    assert one.dtype == np.float32 and one.tolist() == RAMP[0].tolist()


def test_rows_and_columns_are_those_of_the_file(tmp_path):
    path = make(tmp_path / "a.mrc", RAMP[0])
    assert np.fromfile(path, np.float32, offset=1024)[:4].tolist() == mrc.image(path)[0].tolist()


@pytest.mark.parametrize("suffix", ["mrc", "mrcs"])
@pytest.mark.parametrize("space_group", [0, 1], ids=["stack", "volume"])
@pytest.mark.parametrize("count", [1, 2])
def test_stacks_and_volumes_of_one_and_more(tmp_path, suffix, space_group, count):
    path = tmp_path / f"a.{suffix}"
    with mrcfile.new(path) as file:
        file.set_data(RAMP[:count].astype(np.float32))
        if space_group:
            file.set_volume()
        else:
            file.set_image_stack()
    stack = mrc.Stack(path)
    assert stack.size == mrc.Size(4, 3, count, 0.0)
    assert stack.read([count - 1]).tolist() == RAMP[count - 1 : count].tolist()
    stack.close()


def test_write_of_one_image_and_of_stacks(tmp_path):
    for data in (RAMP, RAMP[:1], RAMP[0]):
        path = tmp_path / "sub" / "a.mrcs"
        mrc.write(path, data, 2.5)
        found = mrc.size(path)
        assert (found.nx, found.ny, found.nz) == (4, 3, (1, *data.shape)[-3])
        assert found.apix == pytest.approx(2.5)
        with mrcfile.open(path) as file:
            assert file.data.dtype == np.float32
            assert file.data.reshape(data.shape).tolist() == data.tolist()
            assert file.is_image_stack() == (found.nz > 1)  # of one image: mrcfile says 2-D
        assert mrcfile.validate(path)
    assert [each.name for each in path.parent.iterdir()] == ["a.mrcs"]


def test_a_pixel_size_that_is_not_told_is_0(tmp_path):
    assert mrc.size(make(tmp_path / "a.mrc", RAMP[0], apix=0)).apix == 0
    assert mrc.size(make(tmp_path / "b.mrc", RAMP[0], apix=-1)).apix == 0


@pytest.mark.parametrize(
    "data", [b"", b"x" * 1023, b"\0" * 5000, b"data_\n\nloop_\n" * 200, b"\xff" * 2000]
)
def test_what_is_no_mrc_file(tmp_path, data):
    path = tmp_path / "a.mrc"
    path.write_bytes(data)
    for function in (mrc.size, mrc.image, mrc.Stack):
        assert error(function, path) == f"{path}: not an MRC file"


@pytest.mark.parametrize("mode", [3, 4, 5, 16, 101])
def test_a_mode_without_real_images(tmp_path, mode):
    path = make(tmp_path / "a.mrc", RAMP[0], mode)
    expected = f"{path}: MRC mode {mode}, expected one of 0, 1, 2, 6, 12"
    assert error(mrc.size, path) == expected


@pytest.mark.parametrize("extended", [b"", b"x" * 80], ids=["plain", "extended"])
@pytest.mark.parametrize("order", "<>")
def test_a_truncated_file(tmp_path, order, extended):
    path = make(tmp_path / "a.mrc", RAMP, 2, order, extended=extended)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    expected = f"{path}: truncated: {len(whole) - 1} bytes, its header asks for {len(whole)}"
    for function in (mrc.size, mrc.image, mrc.Stack):
        assert error(function, path) == expected


@pytest.mark.parametrize("shape", [(1, 0, 4), (0, 3, 4), (-1, 3, 4)])
def test_a_damaged_header(tmp_path, shape):
    path = make(tmp_path / "a.mrc", RAMP[0], shape=shape)
    nz, ny, nx = shape
    expected = f"{path}: the header says {nx} x {ny} x {nz} pixels; it is damaged"
    assert error(mrc.size, path) == expected


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("stamp", ["", "<", ">"], ids=["none", "little", "big"])
def test_a_stamp_that_is_missing_or_wrong_spoils_no_pixel(tmp_path, order, stamp):
    path = make(tmp_path / "a.mrc", RAMP[0], 2, order, stamp=stamp)
    try:
        assert mrc.image(path).tolist() == RAMP[0].tolist()
    except mrc.MrcError as err:
        assert stamp and stamp != order
        assert str(err) == f"{path}: its machine stamp contradicts its size; write it anew"


def test_a_movie_where_a_micrograph_is_due(tmp_path):
    path = make(tmp_path / "a.mrc", RAMP)
    expected = f"{path}: 2 sections (a movie or a stack?), expected one micrograph"
    assert error(mrc.image, path) == expected


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_micrograph_that_is_not_finite(tmp_path, bad):
    data = RAMP[0].astype(float)
    data[1, 1:3] = bad
    path = make(tmp_path / "a.mrc", data)
    assert error(mrc.image, path) == f"{path}: 2 pixels are not finite"


def test_a_micrograph_that_is_constant_but_for_a_few_pixels(tmp_path):
    data = np.zeros((600, 500))
    data[:5, :5] = 3
    path = make(tmp_path / "a.mrc", data)
    assert error(mrc.image, path) == f"{path}: all but a few pixels are 0"


def test_a_constant_micrograph(tmp_path):
    path = make(tmp_path / "a.mrc", np.full((3, 4), 1.5))
    assert error(mrc.image, path) == f"{path}: every pixel is 1.5"


def test_a_missing_file_is_an_oserror(tmp_path):
    for function in (mrc.size, mrc.image, mrc.Stack):
        with pytest.raises(FileNotFoundError, match=re.escape("none.mrc")):
            function(tmp_path / "none.mrc")


def test_equal_images_are_equal_files(tmp_path):
    for name in ("a.mrcs", "b.mrcs"):
        mrc.write(tmp_path / name, np.ones((2, 4, 4)), 1.5)
        with mrcfile.open(tmp_path / name) as file:
            assert file.get_labels() == ["Autopick-BC"]  # no date
    assert (tmp_path / "a.mrcs").read_bytes() == (tmp_path / "b.mrcs").read_bytes()
