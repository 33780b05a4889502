"""MRC files: size, one image, chosen sections of a stack. No knowledge of RELION.

Modes 0, 1, 2, 6 and 12 in both byte orders come through the mrcfile library; data are mapped into
memory, so that only the sections that are asked for are read.
"""

from __future__ import annotations

import struct
import warnings
from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np

from . import ApbcError, files

ALMOST_ALL = (0.1, 99.9)  # per cent: what lies beyond is no picture
SAMPLED = 100_000  # pixels, to find it by
BYTES = {0: 1, 1: 2, 2: 4, 6: 2, 12: 2}  # a pixel of each mode that holds real images


class MrcError(ApbcError):
    """An MRC file that cannot be used; the text starts with its path."""


@dataclass(frozen=True)
class Size:
    """Columns, rows and sections of a file, and its pixel size in A (0: the header has none)."""

    nx: int
    ny: int
    nz: int
    apix: float


def size(path) -> Size:
    """Read an MRC header and hold it against the length of the file.

    Raises
    ------
    MrcError
        If it is no MRC file, of a mode that holds no real images, or shorter than its header says.
    OSError
        If it cannot be read.
    """
    path = Path(path)
    if path.exists() and not path.is_file():  # reading a pipe would wait for ever
        raise MrcError(f"{path}: not a file")
    with open(path, "rb") as handle:
        header = handle.read(1024)
        length = handle.seek(0, 2)
    order = _byte_order(path, header)
    nx, ny, nz, mode = struct.unpack_from(order + "4i", header, 0)
    (mx,), (cell,) = (struct.unpack_from(order + t, header, at) for t, at in (("i", 28), ("f", 40)))
    (extended,) = struct.unpack_from(order + "i", header, 92)
    if mode not in BYTES:
        raise MrcError(f"{path}: MRC mode {mode}, expected one of {', '.join(map(str, BYTES))}")
    if min(nx, ny, nz) < 1 or extended < 0:
        raise MrcError(f"{path}: the header says {nx} x {ny} x {nz} pixels; it is damaged")
    expected = 1024 + extended + nx * ny * nz * BYTES[mode]
    if length < expected:
        raise MrcError(f"{path}: truncated: {length} bytes, its header asks for {expected}")
    return Size(nx, ny, nz, cell / mx if mx > 0 and cell > 0 else 0.0)


def _byte_order(path, header):
    """Return '<' or '>': the order in which the number of columns and the mode make sense."""
    if len(header) == 1024:
        for order in "<>":
            columns, _, _, mode = struct.unpack_from(order + "4i", header, 0)
            if 0 < columns < 1 << 20 and 0 <= mode < 256:
                return order
    raise MrcError(f"{path}: not an MRC file")


def image(path) -> np.ndarray:
    """Read a micrograph: float32, shape (ny, nx), row 0 the first of the file.

    Raises
    ------
    MrcError
        As `size` does, and for more than one section (a movie, a stack), NaN, or an image that is
        constant, but for a few pixels perhaps.
    """
    found = size(path)
    if found.nz != 1:
        raise MrcError(
            f"{path}: {found.nz} sections (a movie or a stack?), expected one micrograph"
        )
    stack = Stack(path)
    data = stack.read([0])[0]
    stack.close()
    least, most = data.min(), data.max()  # NaN where one pixel is
    if not np.isfinite([least, most]).all():
        raise MrcError(f"{path}: {np.count_nonzero(~np.isfinite(data))} pixels are not finite")
    if least == most:
        raise MrcError(f"{path}: every pixel is {data.flat[0]:g}")
    low, high = np.percentile(data.flat[:: 1 + data.size // SAMPLED], ALMOST_ALL)
    if low == high:
        raise MrcError(f"{path}: all but a few pixels are {low:g}")
    return data


class Stack:
    """The sections of an MRC file, opened once and mapped into memory."""

    def __init__(self, path):
        self.path, self.size = Path(path), size(path)
        with warnings.catch_warnings():  # old headers without MAP or machine stamp are common
            warnings.simplefilter("ignore")
            try:
                self._file = mrcfile.mmap(path, mode="r", permissive=True)
            except (ValueError, ArithmeticError) as err:  # the latter for a volume of 0 sections
                raise MrcError(f"{path}: {err}") from err
        shape = (self.size.nz, self.size.ny, self.size.nx)
        if self._file.data is None or self._file.data.size != np.prod(shape):
            self._file.close()
            raise MrcError(f"{path}: its machine stamp contradicts its size; write it anew")
        self._data = np.asarray(self._file.data).reshape(shape)  # a memmap's indexing is slow

    def read(self, sections) -> np.ndarray:
        """Return sections (0-based, any order) as float32, shape (len(sections), ny, nx)."""
        return self._data[np.asarray(sections)].astype(np.float32, copy=False)  # indexing copies

    def close(self):
        """Release the map."""
        self._data = None
        self._file.close()


def write(path, data, apix):
    """Write float32 images, whole or not at all: a stack (n, ny, nx) or one image (ny, nx).

    ``apix`` is A a pixel, for the header.
    """
    with files.atomic(path) as part, mrcfile.new(part, overwrite=True) as handle:
        handle.set_data(np.asarray(data, dtype=np.float32))
        if handle.data.ndim == 3:
            handle.set_image_stack()
        handle.header.label[0] = "Autopick-BC"  # mrcfile's has the time: equal files would differ
        handle.voxel_size = apix
