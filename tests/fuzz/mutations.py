"""Mutations of files: of their bytes, of the words of a text, and of what lies inside a container."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from random import Random
from typing import Any

Mutator = Callable[[Random, bytes], bytes]
Structure = Callable[[Random, bytes, Mutator], bytes]
"""Applies a mutator to a part of a container, and makes it whole again: lengths, checksums, compression."""

_LARGEST = 1 << 18
_NUMBERS = (0, 1, 2, 3, 127, 128, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
_WORDS = (
    *(b"0", b"-1", b"1", b"3", b"1e999", b"-1e-999", b"nan", b"NaN", b"inf", b"Infinity", b"-Infinity", b"0.5"),
    *(b"18446744073709551616", b"9" * 400, b"9" * 5000, b"0x7f", b"true", b"false", b"null", b'""', b"''", b'"x"'),
    *(b"[]", b"{}", b"[1, 2]", b'["a", 3]', b"{ a = 1 }", b'{"a": 1}', b"[" * 2000, b'{"a":' * 1500, b"]", b"}"),
    *(b"1000000", b"2147483647", b"9007199254740993"),
    *(b"\\u0000", b"\\ud800", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", "čšž".encode(), b"\x00", b"\n", b"\r", b"#", b"="),
    *(b"1979-05-27T07:32:00Z", b"07:32:00", b"fashion-mnist", b"../..", b"/dev/zero", b"~nobody/x", b"a.b.c = 1\n"),
)


def flip(rng: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def truncate(rng: Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def insert(rng: Random, data: bytes) -> bytes:
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.choice((rng.randbytes(rng.randint(1, 40)), rng.choice(_WORDS))) + data[place:]


def delete(rng: Random, data: bytes) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.randint(1, 64) :]


def repeat(rng: Random, data: bytes) -> bytes:
    start = rng.randrange(len(data))
    end = start + rng.randint(1, 64)
    return data[:end] + data[start:end] * rng.choice((1, 2, 50)) + data[end:]


def number(rng: Random, data: bytes) -> bytes:
    """Overwrite a field of a header, more often at the start, where headers are."""
    code = rng.choice("BHIQ")
    value = rng.choice(_NUMBERS) % 256 ** struct.calcsize(code)
    field = struct.pack(rng.choice("<>") + code, value)
    place = rng.randrange(min(len(data), rng.choice((16, 64, 256, _LARGEST))))
    return data[:place] + field + data[place + len(field) :]


_BYTES = (flip, truncate, insert, delete, repeat, number, number)


def mutate(rng: Random, data: bytes) -> bytes:
    """One or a few mutations of the bytes of `data`."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if data:
            data = rng.choice(_BYTES)(rng, data)
    return data[:_LARGEST]


def splice(rng: Random, data: bytes, other: bytes) -> bytes:
    """The start of one file and the end of another."""
    return data[: rng.randint(0, len(data))] + other[rng.randint(0, len(other)) :]


def mutate_words(rng: Random, data: bytes) -> bytes:
    """Change words or lines of a text: values become others, of other types or extreme."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        pattern = rng.choice((rb'"[^"]*"|[\w.+-]+', rb"[^\n]*\n", rb"[\[\]{}=:,]", rb"[-+.\d]+"))
        places = [found.span() for found in re.finditer(pattern, data)]
        if not places:
            continue
        start, end = rng.choice(places)
        first, last = rng.choice(places)
        new = rng.choice((rng.choice(_WORDS), rng.choice(_WORDS), data[first:last], b"", data[start:end] * 2))
        data = data[:start] + new + data[end:]
    return data[:_LARGEST]


def text(rng: Random, data: bytes, mutator: Mutator) -> bytes:
    return mutate_words(rng, data)


def in_gzip(rng: Random, data: bytes, mutator: Mutator) -> bytes:
    return gzip.compress(mutator(rng, gzip.decompress(data)), 1, mtime=0)


def in_zip(rng: Random, data: bytes, mutator: Mutator) -> bytes:
    """Mutate a member, or its name."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    place = rng.randrange(len(members))
    name, content = members[place]
    if rng.random() < 0.1:
        members[place] = (rng.choice(members)[0] or "x", content)
    else:
        head = content.index(b"\n") + 1  # of an NPY header
        changed = mutate_words(rng, content[:head]) + content[head:] if rng.random() < 0.5 else mutator(rng, content)
        members[place] = (name, changed)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for name in dict.fromkeys(name for name, _ in members):
            archive.writestr(zipfile.ZipInfo(name), dict(members)[name])
    return buffer.getvalue()


def in_png(rng: Random, data: bytes, mutator: Mutator) -> bytes:
    """Mutate, repeat or leave out a chunk; lengths and checksums are right. Image data are mutated decompressed."""
    start, chunks = 8, []
    while start < len(data):
        size = struct.unpack_from(">I", data, start)[0]
        chunks.append((data[start + 4 : start + 8], data[start + 8 : start + 8 + size]))
        start += size + 12
    place = rng.randrange(len(chunks))
    kind, content = chunks[place]
    action = rng.random()
    if action < 0.1:
        chunks.pop(place)
    elif action < 0.2:
        chunks.insert(rng.randrange(len(chunks)), chunks[place])
    elif kind == b"IDAT" and action < 0.6:
        chunks[place] = (kind, zlib.compress(mutator(rng, zlib.decompress(content)), 1))
    else:
        chunks[place] = (kind, mutator(rng, content))
    return data[:8] + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def in_safetensors(rng: Random, data: bytes, mutator: Mutator) -> bytes:
    """Mutate the header, or the JSON in its metadata; its length is right."""
    size = struct.unpack_from("<Q", data)[0]
    header, rest = data[8 : 8 + size], data[8 + size :]
    if rng.random() < 0.5:
        header = mutate_words(rng, header)
    else:
        document = json.loads(header)
        inner = json.loads(document["__metadata__"]["metadata"])
        if rng.random() < 0.5:
            name = rng.choice(list(inner))
            inner[name] = mutate_words(rng, str(inner[name]).encode()).decode("latin-1")
            changed = json.dumps(inner)
        else:
            changed = mutate_words(rng, json.dumps(inner).encode()).decode("latin-1")
        document["__metadata__"]["metadata"] = changed
        header = json.dumps(document).encode()
    return struct.pack("<Q", len(header)) + header + rest


def in_onnx(rng: Random, data: bytes, mutator: Mutator) -> bytes:
    """Change, repeat or leave out fields of the messages of an ONNX file, which stays a protobuf."""
    from onnx import ModelProto

    proto = ModelProto.FromString(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        _change_field(rng, proto, mutator)
    return bytes(proto.SerializeToString(deterministic=True))[:_LARGEST]


def _change_field(rng: Random, message: Any, mutator: Mutator) -> None:
    known = message.ListFields()
    if not known:
        return
    field, value = rng.choice(known)
    holder: Any = message
    key: Any = field.name
    if hasattr(value, "append"):  # a repeated field
        holder, key = value, rng.randrange(len(value))
        action = rng.random()
        if action < 0.15:
            del value[key]
            return
        value = value[key]
        if action < 0.25:
            holder.append(value)
            return
    elif rng.random() < 0.05:
        message.ClearField(key)
        return
    if hasattr(value, "ListFields"):
        _change_field(rng, value, mutator)
        return
    changed: Any
    if isinstance(value, bytes):
        changed = mutator(rng, value)
    elif isinstance(value, str):
        changed = mutate_words(rng, value.encode()).decode("utf-8", "replace")
    elif isinstance(value, float):
        changed = rng.choice((0.0, -1.0, 1e-45, 3e38, math.inf, math.nan, -value))
    else:
        changed = rng.choice((value + 1, value - 1, -value, *_NUMBERS, -(2**63), -(2**31)))
    with contextlib.suppress(ValueError):  # beyond the field's type
        if isinstance(key, str):
            setattr(holder, key, changed)
        else:
            holder[key] = changed


def without_metadata(data: bytes) -> bytes:
    """An ONNX file as one of another library: it says nothing of its input or its model beside the graph."""
    from onnx import ModelProto

    proto = ModelProto.FromString(data)
    del proto.metadata_props[:]
    return bytes(proto.SerializeToString(deterministic=True))
