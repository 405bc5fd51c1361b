"""What the machine code says of its kernels: an ELF file with a section of attributes for each (NVIDIA's EIATTR)."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

_SECTION = struct.Struct("<IIQQQQIIQQ")
_MAX_THREADS, _PARAMETER = 0x05, 0x17
_SIZED = 0x04  # the format of an attribute that is followed by as many bytes as it says


@dataclass
class Code:
    """A kernel as compiled."""

    sizes: list[int] = field(default_factory=list)
    """Of its parameters, in bytes."""
    shared: int = 0
    """Bytes of static shared memory."""
    max_threads: int = 0
    """The most threads of a block, 0 if the kernel does not say."""


def read(image: bytes) -> dict[str, Code]:
    """The kernels of a cubin by name."""
    (table,) = struct.unpack_from("<Q", image, 0x28)
    size, count, names = struct.unpack_from("<HHH", image, 0x3A)
    sections = [_SECTION.unpack_from(image, table + number * size) for number in range(count)]
    names_begin = sections[names][4]
    found: dict[str, Code] = {}
    for section in sections:
        begin = names_begin + section[0]
        name = image[begin : image.index(b"\0", begin)].decode()
        if name.startswith(".nv.info."):
            _read_attributes(image[section[4] : section[4] + section[5]], found.setdefault(name[9:], Code()))
        elif name.startswith(".nv.shared."):
            found.setdefault(name[11:], Code()).shared = section[5]
    return found


def _read_attributes(data: bytes, code: Code) -> None:
    at = 0
    sizes: dict[int, int] = {}
    while at + 4 <= len(data):
        kind, attribute, value = struct.unpack_from("<BBH", data, at)
        at += 4
        if kind != _SIZED:
            continue
        if attribute == _PARAMETER:
            _, ordinal, _, packed = struct.unpack_from("<IHHI", data, at)
            sizes[ordinal] = packed >> 18
        elif attribute == _MAX_THREADS:
            x, y, z = struct.unpack_from("<III", data, at)
            code.max_threads = x * y * z
        at += value
    code.sizes = [sizes[ordinal] for ordinal in sorted(sizes)]
