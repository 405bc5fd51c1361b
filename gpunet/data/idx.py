"""The IDX format of the MNIST family: a header with type and sizes, followed by a big-endian array.

Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST database", section "the IDX file format".
"""

from __future__ import annotations

import contextlib
import gzip
import math
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpunet.data.bounded import Stream, check_memory, read_into
from gpunet.errors import DataError
from gpunet.files import open_regular, write_bytes_atomic

_GZIP_MAGIC = b"\x1f\x8b"
_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_HIGHEST_RANK = 64  # of a NumPy array
_LONGEST_HEADER = 4 + 4 * 255
_HIGHEST_RATIO = 1032  # of deflate (zlib's technical details, "Maximum Compression Factor")
_CODES = {np.dtype(text).newbyteorder("="): code for code, text in _DTYPES.items()}


class _Header(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    start: int
    """Bytes before the array."""

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self.start + math.prod(self.shape) * self.dtype.itemsize


@contextlib.contextmanager
def _decompressed(path: str | os.PathLike[str]) -> Iterator[tuple[Stream, int, int]]:
    """The content of a file, decompressed if it is a gzip file (judged by its content, not its name).

    Yields it with the file's size in bytes, and how many times that many the content can have.

    Raises:
        DataError: the file cannot be read, or its gzip stream is damaged or truncated.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            packed = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
            file.seek(0)
            if not packed:
                yield file, size, 1
                return
            try:
                with gzip.GzipFile(fileobj=file) as stream:
                    yield stream, size, _HIGHEST_RATIO
            except EOFError as error:
                raise DataError(f"{path} is truncated: its gzip stream ends early, after {size} bytes") from error
            except (OSError, zlib.error) as error:
                raise DataError(f"{path} is damaged: its gzip stream cannot be decompressed: {error}") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def read_plain(path: str | os.PathLike[str], *, limit: int) -> bytearray:
    """The content of a file, decompressed if it is a gzip file; of a longer one, `limit` bytes and one more.

    Raises:
        DataError: the file cannot be read, or its gzip stream is damaged or truncated.
    """
    data = bytearray()
    with _decompressed(path) as (stream, *_):
        read_into(data, stream, limit + 1)
    return data


def read_content(path: str | os.PathLike[str]) -> bytearray:
    """The content of an IDX file, decompressed: exactly the bytes that its header declares.

    The header is read first, so that no more is decompressed than it declares.

    Raises:
        DataError: unreadable, not an IDX file, of an unknown type, its size contradicts its header, or it is larger
            than the memory that is left.
    """
    data = bytearray()
    with _decompressed(path) as (stream, size, ratio):
        read_into(data, stream, _LONGEST_HEADER)
        header = _header(data, path)
        if header.size > size * ratio:
            raise _contradiction(path, header, size * ratio, "" if ratio == 1 else "at most ")
        check_memory(header.size, f"{path}, {_declared(header)},")
        read_into(data, stream, header.size + 1)  # one byte more, which must not be there
    if ratio == 1 and size != header.size:
        raise _contradiction(path, header, size)
    if len(data) != header.size:
        raise _contradiction(path, header, len(data), "at least " if len(data) > header.size else "")
    return data


def as_array(content: bytearray, path: str | os.PathLike[str]) -> np.ndarray[Any, Any]:
    """The array in what :func:`read_content` returned, in the machine's byte order; single bytes are not copied.

    Raises:
        DataError: as :func:`read_content`; `path` is the file that the messages name.
    """
    header = _header(content, path)
    flat = np.frombuffer(content, header.dtype, count=math.prod(header.shape), offset=header.start)
    try:
        shaped = flat.reshape(header.shape)
    except ValueError as error:  # a size of 0 beside others that overflow
        raise DataError(f"{path}: its header declares {_declared(header)}, which is no array: {error}") from error
    return shaped.astype(header.dtype.newbyteorder("="), copy=False)


@contextlib.contextmanager
def opened_array(path: str | os.PathLike[str]) -> Iterator[tuple[Stream, tuple[int, ...], np.dtype[Any]]]:
    """The values of an IDX file as a stream, and the shape and big-endian dtype that its header declares.

    Raises:
        DataError: unreadable, not an IDX file, or its size contradicts its header; of a gzip file, only as far as its
            size tells.
    """
    with _decompressed(path) as (stream, size, ratio):
        data = bytearray()
        read_into(data, stream, 4)
        read_into(data, stream, 4 + 4 * data[3] if len(data) == 4 else 4)
        header = _header(data, path)
        if header.size > size * ratio or (ratio == 1 and header.size != size):
            raise _contradiction(path, header, size * ratio, "" if ratio == 1 else "at most ")
        yield stream, header.shape, header.dtype


def read_idx(path: str | os.PathLike[str]) -> np.ndarray[Any, Any]:
    """Read an IDX file, gzipped or not, into a new array in the machine's byte order.

    Raises:
        DataError: as :func:`read_content`.
    """
    return as_array(read_content(path), path)


def _header(data: bytearray, path: str | os.PathLike[str]) -> _Header:
    """The header at the start of `data`."""
    if len(data) < 4 or data[0] or data[1]:
        raise DataError(
            f"{path} is not an IDX file: expected two zero bytes, a type and a rank, "
            f"got {data[:4].hex(' ') or 'nothing'}"
        )
    if data[2] not in _DTYPES:
        known = ", ".join(f"0x{code:02x}" for code in _DTYPES)
        raise DataError(f"{path}: unknown IDX type 0x{data[2]:02x}, expected one of {known}")
    rank, dtype = data[3], np.dtype(_DTYPES[data[2]])
    start = 4 + 4 * rank
    if not 1 <= rank <= _HIGHEST_RANK:
        raise DataError(f"{path}: an IDX file of rank {rank} holds no array of 1 to {_HIGHEST_RANK} dimensions")
    if len(data) < start:
        raise DataError(f"{path} is truncated: a header of rank {rank} has {start} bytes, the file has {len(data)}")
    shape = tuple(int(size) for size in np.frombuffer(data, ">u4", count=rank, offset=4))
    return _Header(shape, dtype, start)


def _contradiction(path: str | os.PathLike[str], header: _Header, size: int, bound: str = "") -> DataError:
    state = "is truncated" if size < header.size else "has trailing bytes"
    return DataError(
        f"{path} {state}: its header declares {_declared(header)}, that is {header.size} bytes, "
        f"but the file has {bound}{size}"
    )


def _declared(header: _Header) -> str:
    return f"{' x '.join(map(str, header.shape))} of {header.dtype.newbyteorder('=')}"


def write_idx(path: str | os.PathLike[str], array: np.ndarray[Any, Any]) -> None:
    """Write `array` as an IDX file, gzipped if `path` ends with ``.gz``; equal arrays give equal bytes.

    Raises:
        DataError: the array's dtype is not one of IDX's (uint8, int8, int16, int32, float32, float64), or its rank or
            a size does not fit the header.
        OutputError: the file cannot be written.
    """
    code = _CODES.get(array.dtype.newbyteorder("="))
    if code is None:
        names = ", ".join(str(dtype) for dtype in _CODES)
        raise DataError(f"an IDX file cannot hold {array.dtype}, expected one of {names}")
    if not 1 <= array.ndim <= 255 or max(array.shape) >= 2**32:
        raise DataError(f"an IDX file cannot hold an array of shape {array.shape}")
    header = bytes((0, 0, code, array.ndim)) + np.array(array.shape, ">u4").tobytes()
    data = header + array.astype(_DTYPES[code]).tobytes()
    write_bytes_atomic(path, gzip.compress(data, mtime=0) if Path(path).suffix == ".gz" else data)
