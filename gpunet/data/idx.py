"""The IDX format of the MNIST family: a header with type and sizes, followed by a big-endian array.

Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST database", section "the IDX file format".
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from gpunet.errors import DataError
from gpunet.files import write_bytes_atomic

_GZIP_MAGIC = b"\x1f\x8b"
_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_CODES = {np.dtype(text).newbyteorder("="): code for code, text in _DTYPES.items()}


def read_plain(path: str | os.PathLike[str]) -> bytes:
    """The content of a file, decompressed if it is a gzip file (judged by its content, not its name).

    Raises:
        DataError: the file cannot be read, or its gzip stream is damaged or truncated.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    if not data.startswith(_GZIP_MAGIC):
        return data
    try:
        return gzip.decompress(data)
    except EOFError as error:
        raise DataError(f"{path} is truncated: its gzip stream ends early, after {len(data)} bytes") from error
    except (OSError, zlib.error) as error:
        raise DataError(f"{path} is damaged: its gzip stream cannot be decompressed: {error}") from error


def read_idx(path: str | os.PathLike[str]) -> np.ndarray[Any, Any]:
    """Read an IDX file, gzipped or not, into a new array in the machine's byte order.

    Raises:
        DataError: unreadable, not an IDX file, of an unknown type, or its size contradicts its header.
    """
    data = read_plain(path)
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
    if rank == 0:
        raise DataError(f"{path}: an IDX file of rank 0 contains no array")
    if len(data) < start:
        raise DataError(f"{path} is truncated: a header of rank {rank} has {start} bytes, the file has {len(data)}")
    shape = tuple(int(size) for size in np.frombuffer(data, ">u4", count=rank, offset=4))
    expected = start + math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        state = "is truncated" if len(data) < expected else "has trailing bytes"
        sizes = " x ".join(map(str, shape))
        raise DataError(
            f"{path} {state}: its header declares {sizes} of {dtype.newbyteorder('=')}, that is {expected} bytes, "
            f"but the file has {len(data)}"
        )
    return np.frombuffer(data, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


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
