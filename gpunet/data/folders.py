"""Folders of pictures: one folder for each class, in one folder or in train, val and test."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn, TypeVar

import numpy as np

from gpunet.data.bounded import check_memory
from gpunet.data.classes import some
from gpunet.data.config import DataConfig
from gpunet.data.images import picture_header, read_picture
from gpunet.data.parts import Found, Loaded, Part, assemble
from gpunet.errors import DataError

logger = logging.getLogger("gpunet")

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".tif", ".tiff", ".webp")
PART_NAMES = {"train": ("train", "training"), "validation": ("val", "valid", "validation"), "test": ("test", "testing")}
_Result = TypeVar("_Result")


class Picture(NamedTuple):
    """A file of a picture, and the name of its class."""

    path: Path
    label: str


def load_folder(root: Path, config: DataConfig) -> Loaded:
    """The pictures in ``root/class/`` or in ``root/train/class/``, and ``val`` and ``test`` beside ``train``.

    Classes are called by their folders, and sorted, as are files; folders in them are searched, too. Names that begin
    with a dot are passed over. With ``image_size``, pictures are resized to fit (area averaging to shrink, bilinear to
    enlarge), keeping their aspect ratio, and centred on black; without it, all must have one size. 16-bit pictures are
    read with 8 bits; transparent areas as :func:`gpunet.data.read_image` does.

    Raises:
        DataError: there are no classes, a class has no pictures, they differ in size, or files are damaged: each is
            named, unless ``skip_damaged``.
    """
    folders = part_folders(root)
    pictures = {part: pictures_in(folder) for part, folder in folders.items()}
    damaged: list[str] = []
    headers = {part: _each(part_pictures, picture_header, damaged) for part, part_pictures in pictures.items()}
    sizes = Counter((height, width) for found in headers.values() for _, (height, width, _) in found)
    colour = any(in_colour for found in headers.values() for _, (*_, in_colour) in found)
    if not sizes:
        refuse(root, damaged)
    shape = (*common_size(root, sizes, config), config.channels or (3 if colour else 1))
    check_memory(sum(sizes.values()) * int(np.prod(shape)), f"{root}, {sum(sizes.values())} images {shape},")

    parts = {}
    for part, found in headers.items():
        read = _each([picture for picture, _ in found], lambda path: read_picture(path, shape), damaged)
        if read:
            images = np.stack([pixels for _, pixels in read])
            labels = np.array([picture.label for picture, _ in read])
            parts[part] = Part(images, labels, str(folders[part]), str(folders[part]))
    if damaged and (not config.skip_damaged or "train" not in parts):
        refuse(root, damaged)
    if damaged:
        logger.warning("%s: %d damaged files are left out:\n  %s", root, len(damaged), "\n  ".join(damaged))
    return assemble(Found(parts["train"], parts.get("test"), parts.get("validation"), eight_bits=True), config)


def refuse(root: Path, damaged: list[str]) -> NoReturn:
    """Raise the DataError that names all damaged files."""
    head = f"{root}: {len(damaged)} files cannot be read: mend or remove them, or give --skip-damaged"
    raise DataError("\n  ".join([head, *damaged]))


def part_folders(root: Path) -> dict[str, Path]:
    """Part -> its folder; the whole is ``train`` if there are no folders for parts."""
    inner = {path.name.lower(): path for path in _folders(root)}
    found = {part: inner[name] for part, names in PART_NAMES.items() for name in names if name in inner}
    if "train" not in found or not any(_folders(found["train"])):
        return {"train": root}
    others = [path.name for path in inner.values() if path not in found.values()]
    if others:
        logger.warning("%s: beside %s, the folders %s are ignored", root, ", ".join(found), some(others))
    return found


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in _listed(root) if path.is_dir() and not path.name.startswith("."))


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise DataError(f"cannot read {folder}: {error.strerror or error}") from error


def pictures_in(root: Path) -> list[Picture]:
    """All pictures below `root`, by class and path."""
    classes = _folders(root)
    if not classes:
        raise DataError(
            f"{root} has no data set: expected a folder of pictures for each class (or train/, val/ and test/ of "
            "such), MNIST's IDX files, CIFAR's binary files, or train.csv"
        )
    found: list[Picture] = []
    others: list[str] = []
    for folder in classes:
        files = [path for path in _files(folder) if not path.name.startswith(".")]
        pictures = [path for path in files if path.suffix.lower() in SUFFIXES]
        others += [str(path) for path in files if path.suffix.lower() not in SUFFIXES]
        if not pictures:
            raise DataError(
                f"{folder} has no pictures: expected files with {', '.join(SUFFIXES)}; "
                "remove the folder if it is no class"
            )
        found += [Picture(path, folder.name) for path in pictures]
    if others:
        logger.warning("%s: %d files that are no pictures are ignored: %s", root, len(others), some(others))
    return found


def _files(folder: Path) -> Iterator[Path]:
    """The files below `folder`, sorted; links to folders are not followed, as they may lead back."""
    for path in sorted(_listed(folder)):
        if path.is_dir():
            if not path.name.startswith(".") and not path.is_symlink():
                yield from _files(path)
        else:
            yield path


def _each(
    pictures: Iterable[Picture], read: Callable[[Path], _Result], damaged: list[str]
) -> list[tuple[Picture, _Result]]:
    """What `read` returns of each picture; what it refuses is added to `damaged`."""
    found = []
    for picture in pictures:
        try:
            found.append((picture, read(picture.path)))
        except DataError as error:
            damaged.append(str(error))
    return found


def common_size(root: Path, sizes: Counter[tuple[int, int]], config: DataConfig) -> tuple[int, int]:
    """Height and width of the images."""
    if config.image_size:
        return config.image_size[0], config.image_size[-1]
    if len(sizes) == 1:
        return next(iter(sizes))
    common = ", ".join(f"{count} of {height} x {width}" for (height, width), count in sizes.most_common(3))
    raise DataError(
        f"{root}: the pictures have {len(sizes)} different sizes ({common}{' and others' if len(sizes) > 3 else ''}): "
        "give a height and width to resize them to, such as --image-size 64"
    )
