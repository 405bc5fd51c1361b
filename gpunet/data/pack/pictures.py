"""Sources of pictures: folders, WebDataset's tar files and Parquet files of encoded images; read one after another."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpunet.data import folders
from gpunet.data.config import DataConfig
from gpunet.data.images import picture_header, read_picture
from gpunet.data.pack.source import Source, SourcePart, rows_of
from gpunet.errors import DataError
from gpunet.files import open_regular, parse_json

logger = logging.getLogger("gpunet")

TAR = re.compile(r"\.(tar|tar\.gz|tar\.bz2|tar\.xz|tgz)$", re.IGNORECASE)
_LARGEST_MEMBER = 2**28
_LABELS = ("label", "labels", "class", "cls", "target", "y", "fine_label")
_IMAGES = ("image", "img", "picture", "jpg", "png")


class _Picture(NamedTuple):
    path: Path
    """Of the file, or a name for messages."""
    label: Any
    content: bytes | None = None
    """Unless it is in a file of its own."""


_Pictures = Callable[[], Iterator[_Picture]]
"""Goes through the pictures of a part, from the first on, each time in the same order."""


def _source(
    root: Path, parts: dict[str, _Pictures], config: DataConfig, class_names: tuple[str, ...] | None = None
) -> Source:
    """The pictures of each part, brought to one size; damaged ones are refused, or left out if so configured.

    The headers of all are read first and, to leave damaged ones out, all pixels.
    """
    damaged: list[str] = []
    left_out: dict[str, set[int]] = {part: set() for part in parts}
    labels: dict[str, list[Any]] = {part: [] for part in parts}
    sizes: Counter[tuple[int, int]] = Counter()
    colour = False
    for part, pictures in parts.items():
        for number, (path, label, content) in enumerate(pictures()):
            labels[part].append(label)
            try:
                height, width, in_colour = picture_header(path, content)
            except DataError as error:
                damaged.append(str(error))
                left_out[part].add(number)
                continue
            sizes[height, width] += 1
            colour |= in_colour
    if not sizes or (damaged and not config.skip_damaged):
        folders.refuse(root, damaged)
    shape = (*folders.common_size(root, sizes, config), config.channels or (3 if colour else 1))
    if config.skip_damaged:
        for part, pictures in parts.items():
            for number, (path, _, content) in enumerate(pictures()):
                try:
                    _ = number in left_out[part] or read_picture(path, shape, content)
                except DataError as error:
                    damaged.append(str(error))
                    left_out[part].add(number)
        if damaged:
            logger.warning("%s: %d damaged files are left out:\n  %s", root, len(damaged), "\n  ".join(damaged))
    found = {}
    for part, pictures in parts.items():
        kept = [label for number, label in enumerate(labels[part]) if number not in left_out[part]]
        if kept:
            found[part] = _part(root, part, pictures, kept, shape, left_out[part])
    if "train" not in found:
        folders.refuse(root, damaged)
    return Source(found, class_names, eight_bits=True)


def _part(
    root: Path, part: str, pictures: _Pictures, labels: list[Any], shape: tuple[int, int, int], left_out: set[int]
) -> SourcePart:
    def blocks() -> Iterator[np.ndarray]:
        damaged: list[str] = []
        block: list[np.ndarray] = []
        for number, (path, _, content) in enumerate(pictures()):
            if number in left_out:
                continue
            try:
                block.append(read_picture(path, shape, content))
            except DataError as error:  # go on: all of them are to be named
                damaged.append(str(error))
            if len(block) == rows_of(block[0].nbytes if block else 1):
                yield np.stack(block)
                block.clear()
        if damaged:
            folders.refuse(root, damaged)
        if block:
            yield np.stack(block)

    return SourcePart(np.array(labels), blocks, f"{root}, {part},")


def folder_source(root: Path, config: DataConfig) -> Source:
    """A folder of pictures, as :func:`gpunet.data.folders.load_folder` reads it."""
    found = {part: folders.pictures_in(folder) for part, folder in folders.part_folders(root).items()}

    def pictures(part: str) -> _Pictures:
        return lambda: (_Picture(*picture) for picture in found[part])

    return _source(root, {part: pictures(part) for part in found}, config)


# --- WebDataset -----------------------------------------------------------------------------------------------------


def tar_files(path: Path) -> list[Path]:
    """The tar files at `path`: itself, or those in a folder."""
    files = [path] if path.is_file() else sorted(path.iterdir())
    return [file for file in files if TAR.search(file.name)]


def tar_source(path: Path, config: DataConfig) -> Source:
    """Tar files in WebDataset's form: ``key.jpg`` (or another picture) beside ``key.cls``, a class as a number or a
    word, or ``key.json``, an object with a ``label``.

    Of a folder, the files whose names begin with val (valid, validation) or test are these parts.

    Source: github.com/webdataset/webdataset, "The WebDataset Format".
    """
    parts = _by_part(tar_files(path))
    return _source(path, {part: _reader(_in_tars, files, config) for part, files in parts.items()}, config)


def _by_part(files: Sequence[Path]) -> dict[str, list[Path]]:
    """The files of each part, judged by the first word of their names; of others, ``train``."""
    found: dict[str, list[Path]] = {}
    words = {word: part for part, names in folders.PART_NAMES.items() for word in names}
    for file in files:
        first = re.split(r"[^a-z]", file.name.lower(), maxsplit=1)[0]
        found.setdefault(words.get(first, "train") if len(files) > 1 else "train", []).append(file)
    if "train" not in found:
        raise DataError(f"{files[0].parent} has no training part: it holds {', '.join(file.name for file in files)}")
    return {part: found[part] for part in ("train", "validation", "test") if part in found}


def _reader(
    read: Callable[[Sequence[Path], DataConfig], Iterator[_Picture]], files: Sequence[Path], config: DataConfig
) -> _Pictures:
    return lambda: read(files, config)


def _in_tars(files: Sequence[Path], config: DataConfig) -> Iterator[_Picture]:
    for file in files:
        try:
            with open_regular(file) as raw, tarfile.open(fileobj=raw, mode="r|*") as archive:
                yield from _samples(file, archive)
        except DataError:
            raise
        except OSError as error:
            raise DataError(f"cannot read {file}: {error.strerror or error}") from error
        except Exception as error:  # tarfile and the decompressors raise many kinds of errors for damaged files
            raise DataError(f"{file} is not a readable tar file: {error}") from error


def _samples(file: Path, archive: tarfile.TarFile) -> Iterator[_Picture]:
    """The samples of an archive: members with the same name up to its first dot, which follow each other."""
    key = ""
    entries: dict[str, bytes] = {}
    for member in archive:
        folder, _, name = member.name.rpartition("/")
        stem, _, suffix = name.partition(".")
        if not member.isfile() or not stem:
            continue
        if f"{folder}/{stem}" != key:
            yield from _sample(file, key, entries)
            key, entries = f"{folder}/{stem}", {}
        if f".{suffix.lower()}" in folders.SUFFIXES or suffix in ("cls", "json"):
            if member.size > _LARGEST_MEMBER:
                raise DataError(f"{file}, {member.name} has {member.size} bytes, expected at most {_LARGEST_MEMBER}")
            content = archive.extractfile(member)
            assert content is not None
            entries[suffix] = content.read()
    yield from _sample(file, key, entries)


def _sample(file: Path, key: str, entries: dict[str, bytes]) -> Iterator[_Picture]:
    pictures = {suffix: content for suffix, content in entries.items() if suffix not in ("cls", "json")}
    if not entries:
        return
    name = file / key.lstrip("/")
    if len(pictures) != 1 or len(entries) == len(pictures):
        raise DataError(
            f"{name} has {', '.join(f'.{suffix}' for suffix in entries)}: expected one picture, and .cls or .json with "
            "its class"
        )
    ((suffix, content),) = pictures.items()
    yield _Picture(Path(f"{name}.{suffix}"), _label(name, entries), content)


def _label(name: Path, entries: dict[str, bytes]) -> int | str:
    try:
        if "cls" in entries:
            text = entries["cls"].decode().strip()
            return int(text) if re.fullmatch(r"\d{1,9}", text) else text
        found = parse_json(entries["json"])
        label = next((found[key] for key in _LABELS if key in found), None) if isinstance(found, dict) else None
    except ValueError as error:
        raise DataError(f"{name}: its class cannot be read: {error}") from error
    if not isinstance(label, (int, str)) or isinstance(label, bool):
        raise DataError(f"{name}.json has no class: expected an object with one of {', '.join(_LABELS)}")
    return label


# --- Parquet --------------------------------------------------------------------------------------------------------


def parquet_files(path: Path) -> list[Path]:
    """The Parquet files at `path`: itself, those in a folder, or in its folder ``data`` (as Hugging Face has them)."""
    if path.is_file():
        return [path] if path.suffix.lower() == ".parquet" else []
    return sorted(path.glob("*.parquet")) or sorted(path.glob("data/*.parquet"))


def parquet_source(path: Path, config: DataConfig) -> Source:
    """Parquet files with a column of encoded images, as Hugging Face's data sets have them, and one of labels.

    Source: huggingface.co/docs/datasets, "Image": a column of structs with the ``bytes`` of a file.
    """
    parts = _by_part(parquet_files(path))
    names = _class_names(parts["train"][0], config)
    return _source(path, {part: _reader(_in_parquet, files, config) for part, files in parts.items()}, config, names)


def _in_parquet(files: Sequence[Path], config: DataConfig) -> Iterator[_Picture]:
    for file in files:
        with _parquet(file) as table:
            image, label = _columns(file, table, config)
            number = 0
            for group in range(table.num_row_groups):
                for batch in table.iter_batches(batch_size=256, row_groups=[group], columns=[image, label]):
                    for cell, name in zip(batch[image].to_pylist(), batch[label].to_pylist(), strict=True):
                        content = cell.get("bytes") if isinstance(cell, dict) else cell
                        row = Path(f"{file}, row {number}")
                        if not isinstance(content, bytes) or name is None:
                            raise DataError(f"{row} has no image of its own, or no label")
                        yield _Picture(row, name, content)
                        number += 1


@contextlib.contextmanager
def _parquet(path: Path) -> Iterator[Any]:
    """A Parquet file, open; a DataError for all that is raised while it is read."""
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise DataError(f"{path} needs pyarrow to be read: pip install 'gpunet[tables]'") from error
    try:
        with open_regular(path) as file:
            yield ParquetFile(file)
    except DataError:
        raise
    except Exception as error:  # pyarrow raises many kinds of errors for damaged files
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(f"{path} cannot be read: {reason}") from error


def _columns(file: Path, table: Any, config: DataConfig) -> tuple[str, str]:
    """The names of the columns of images and of labels."""
    import pyarrow

    schema = table.schema_arrow

    def holds_images(field: Any) -> bool:
        kind = field.type
        in_struct = pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
        inner = kind.field("bytes").type if in_struct else kind
        return bool(pyarrow.types.is_binary(inner) or pyarrow.types.is_large_binary(inner))

    images = [field.name for field in schema if holds_images(field)]
    image = next((name for name in _IMAGES if name in images), images[0] if len(images) == 1 else None)
    names = (config.label_column,) if config.label_column else _LABELS
    label = next((name for name in names if name in schema.names), None)
    if image is None or label is None:
        what = "column of encoded images" if image is None else "column of labels (--label-column)"
        raise DataError(f"{file} has no {what}: its columns are {', '.join(schema.names)}")
    return image, label


def _class_names(file: Path, config: DataConfig) -> tuple[str, ...] | None:
    """The names of the classes, as Hugging Face's metadata have them; None if they do not."""
    with _parquet(file) as table:
        _, label = _columns(file, table, config)
        try:
            features = json.loads((table.schema_arrow.metadata or {})[b"huggingface"])["info"]["features"]
            names = features[label]["names"]
        except (KeyError, TypeError, ValueError):
            return None
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else None
