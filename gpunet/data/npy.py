"""Arrays in NPY files and in the members of NPZ archives, checked against their size before they are read.

Source: NumPy Enhancement Proposal 1, "A Simple File Format for NumPy Arrays", and numpy.lib.format.
"""

from __future__ import annotations

import contextlib
import math
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from gpunet.data.bounded import check_memory, read_into
from gpunet.errors import DataError
from gpunet.files import open_regular

MAGIC = b"\x93NUMPY"
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def read_npy(stream: IO[bytes], size: int, source: str) -> np.ndarray[Any, Any]:
    """The array in `stream`, which holds `size` bytes, in the machine's byte order; `source` names it in messages.

    Raises:
        DataError: it is damaged, holds Python objects, has another size than its header declares, or is larger than the
            memory that is left.
    """
    shape, fortran, dtype = read_header(stream, source)
    declared = stream.tell() + math.prod(shape) * dtype.itemsize
    if declared != size:
        raise DataError(
            f"{source} {'is truncated' if declared > size else 'has trailing bytes'}: its header declares "
            f"{dtype} {shape}, that is {declared} bytes, but it has {size}"
        )
    check_memory(size, source)
    data = bytearray()
    read_into(data, stream, size - stream.tell())
    try:
        array: np.ndarray[Any, Any] = np.ndarray(shape, dtype, data, order="F" if fortran else "C")
    except (ValueError, TypeError) as error:  # fewer bytes than promised; a size of 0 beside others that overflow
        raise DataError(f"{source} holds no array {dtype} {shape}: {error}") from error
    return array.astype(dtype.newbyteorder("="), copy=False)


def read_header(stream: IO[bytes], source: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether the order is Fortran's, and dtype, from the start of `stream`; `source` names it in messages.

    Raises:
        DataError: it is no header, or of Python objects.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers written by Python 2
            version = np.lib.format.read_magic(stream)
            if version == (1, 0):
                shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
            elif version == (2, 0):
                shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
            else:  # 3.0, for field names beyond Latin-1, or none that NumPy knows
                raise ValueError(f"NPY version {version[0]}.{version[1]}, expected 1.0 or 2.0")
        if dtype.hasobject:
            raise ValueError("Object arrays cannot be loaded")
        if (dtype.itemsize == 0 and dtype.kind not in "US") or min(shape, default=0) < 0:
            raise ValueError(f"a header that declares {dtype} {shape}")
    except Exception as error:  # what NumPy evaluates in a damaged header may raise anything
        raise DataError(f"{source} is not a readable array: {error}") from error
    return shape, fortran, dtype


def npz_names(path: Path, expected: str) -> list[str]:
    """The names of the arrays in the NPZ file at `path`; `expected` says in messages what should be in it.

    Raises:
        DataError: `path` is not a readable NPZ file.
    """
    with _archive(path, expected) as members:
        return list(members.infos)


def read_npz(path: Path, names: Sequence[str], optional: Sequence[str] = ()) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays `names`, and those of `optional` that are there, of the NPZ file at `path`; no others are read.

    Raises:
        DataError: `path` is not a readable NPZ file, lacks an array, or one is as :func:`read_npy` refuses it.
    """
    with _archive(path, ", ".join(names)) as members:
        missing = [name for name in names if name not in members.infos]
        if missing:
            found = ", ".join(members.infos) or "nothing"
            raise DataError(f"{path} lacks {', '.join(missing)}: it holds {found}, expected {', '.join(names)}")
        wanted = {name: members.infos[name] for name in (*names, *optional) if name in members.infos}
        check_memory(sum(info.file_size for info in wanted.values()), str(path))
        return {name: _member(members.archive, info, f"{path}, {name}") for name, info in wanted.items()}


@contextlib.contextmanager
def opened_member(path: Path, name: str) -> Iterator[IO[bytes]]:
    """The file of the array `name` in the NPZ file at `path`, from its header on.

    Raises:
        DataError: `path` is not a readable NPZ file, or lacks the array; or, in the block, the file is damaged.
    """
    with _archive(path, name) as members:
        if name not in members.infos:
            raise DataError(f"{path} lacks {name}: it holds {', '.join(members.infos) or 'nothing'}")
        with _opened(members.archive, members.infos[name], f"{path}, {name}") as stream:
            yield stream


class _Members(NamedTuple):
    archive: zipfile.ZipFile
    infos: dict[str, zipfile.ZipInfo]


@contextlib.contextmanager
def _archive(path: Path, expected: str) -> Iterator[_Members]:
    """The NPZ file at `path`, open; DataError for all that is raised while it is read."""
    try:
        with open_regular(path) as file:
            if file.read(len(MAGIC)) == MAGIC:
                raise DataError(f"{path} holds a single array, expected an NPZ file with {expected}")
            with zipfile.ZipFile(file) as archive:
                yield _Members(archive, {info.filename.removesuffix(".npy"): info for info in archive.infolist()})
    except (DataError, MemoryError):
        raise
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # zipfile and zlib raise many kinds of errors for damaged files
        raise DataError(f"{path} is not a readable NPZ file: {error}") from error


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, source: str) -> np.ndarray[Any, Any]:
    with _opened(archive, info, source) as stream:
        return read_npy(stream, info.file_size, source)


def _opened(archive: zipfile.ZipFile, info: zipfile.ZipInfo, source: str) -> IO[bytes]:
    if info.compress_type not in _METHODS:  # the others decompress a block at a time, of any size
        raise DataError(f"{source} is compressed by a method that NumPy does not write: save it with numpy.savez")
    return archive.open(info)
