"""Fashion-MNIST on this machine: finding its four files, and verifying their checksums."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from gpunet.data.idx import read_plain
from gpunet.errors import DataError, OutputError

logger = logging.getLogger("gpunet")


class Checksum(NamedTuple):
    """Size in bytes and SHA-256 of a decompressed file."""

    size: int
    sha256: str


# Checksums of the decompressed bytes, because the gzip headers of the official files and of Debian's differ.
FILES = {
    "train-images-idx3-ubyte": Checksum(47_040_016, "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"),
    "train-labels-idx1-ubyte": Checksum(60_008, "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
    "t10k-images-idx3-ubyte": Checksum(7_840_016, "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
    "t10k-labels-idx1-ubyte": Checksum(10_008, "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
}

SYSTEM_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package ``dataset-fashion-mnist`` puts the files."""


class Finding(NamedTuple):
    """The result of looking for one file: its path, if it exists, and its content or the problem with it."""

    path: Path | None
    problem: str | None
    content: bytearray | None = None
    """Decompressed; None if there is a problem."""


class Files(NamedTuple):
    """The four verified files: their folder, and by name the very bytes that were verified."""

    folder: Path
    contents: dict[str, bytearray]


def cache_folder() -> Path:
    """The folder of downloaded data: ``fashion-mnist`` in $GPUNET_CACHE, $XDG_CACHE_HOME/gpunet or ~/.cache/gpunet.

    Raises:
        OutputError: none of the variables is set, and there is no home folder.
    """
    if given := os.environ.get("GPUNET_CACHE"):
        return _expanded(given) / "fashion-mnist"
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    if Path(xdg).is_absolute():  # the XDG specification says to ignore relative paths
        return Path(xdg) / "gpunet" / "fashion-mnist"
    try:
        return Path.home() / ".cache" / "gpunet" / "fashion-mnist"
    except RuntimeError as error:
        raise OutputError("there is no home folder for the cache: set GPUNET_CACHE to a writable folder") from error


def locate(folder: Path, name: str) -> Path | None:
    """The file `name` or `name`.gz in `folder`, also if spelt ``...images.idx3-ubyte``; None if there is none."""
    for stem in (name, name.replace("-idx", ".idx")):
        for candidate in (folder / stem, folder / f"{stem}.gz"):
            if candidate.is_file():
                return candidate
    return None


def read_checked(path: Path, name: str) -> Finding:
    """Read the file at `path`, which should be `name`, and verify what was read."""
    expected, largest = FILES[name], max(checksum.size for checksum in FILES.values())
    try:
        data = read_plain(path, limit=largest)
    except DataError as error:
        return Finding(path, f"{error}; expected sha256 {expected.sha256}, actual none")
    if len(data) > largest:
        found = f"{path} is too long: expected {expected.size} bytes after decompression, actual more than {largest}"
        return Finding(path, f"{found}; expected sha256 {expected.sha256}, actual none")
    problem = mismatch(data, path, name)
    return Finding(path, problem) if problem else Finding(path, None, data)


def mismatch(data: bytearray, path: Path, name: str) -> str | None:
    """How `data`, the decompressed content of the file at `path`, differs from `name`; None if it does not."""
    expected = FILES[name]
    actual = hashlib.sha256(data).hexdigest()
    if actual == expected.sha256:
        return None
    sums = f"expected sha256 {expected.sha256}, actual {actual}"
    for other, checksum in FILES.items():
        if actual == checksum.sha256:
            return f"{path} is swapped: it should be {name} but holds {other}; {sums}"
    if len(data) != expected.size:
        state = "truncated" if len(data) < expected.size else "too long"
        return f"{path} is {state}: expected {expected.size} bytes after decompression, actual {len(data)}; {sums}"
    return f"{path} is damaged: {sums}"


def inspect(folder: Path) -> dict[str, Finding]:
    """Look for the four files in `folder` and check each against its checksum; name -> finding."""
    findings = {}
    for name, expected in FILES.items():
        path = locate(folder, name)
        if path is None:
            problem = f"{folder / name} is missing (also as .gz): expected sha256 {expected.sha256}"
            findings[name] = Finding(None, problem)
        else:
            findings[name] = read_checked(path, name)
    return findings


def find(path: str | os.PathLike[str] | None = None) -> Path | None:
    """The folder that contains the four verified files, or None; downloads nothing.

    If a folder is given, by `path` or by $GPUNET_DATA, only that one is searched. Otherwise the cache, torchvision's
    layout ``FashionMNIST/raw`` under the current folder, Keras' folder and Debian's are tried in this order; one with
    missing or damaged files is logged and skipped.

    Raises:
        DataError: files are missing or damaged in the given folder; the message lists each problem.

    >>> gn.data.find()  # doctest: +SKIP
    PosixPath('/usr/share/datasets/fashion-mnist')
    >>> gn.data.find("elsewhere")
    Traceback (most recent call last):
    ...
    gpunet.errors.DataError: elsewhere (the folder given) is not a folder: expected the one that contains ...
    """
    found = find_files(path)
    return found.folder if found else None


def find_files(path: str | os.PathLike[str] | None = None) -> Files | None:
    """The four files themselves, found as by :func:`find`, each read once.

    Raises:
        DataError: as :func:`find`.
    """
    if path is not None:
        return _given(_expanded(path), "the folder given")
    if given := os.environ.get("GPUNET_DATA"):
        return _given(_expanded(given), "GPUNET_DATA")
    for folder in _local_folders():
        findings = inspect(folder)
        problems = _problems(findings)
        if not problems:
            logger.info("Fashion-MNIST: found in %s", folder)
            return _files(folder, findings)
        if all(finding.path is None for finding in findings.values()):
            logger.debug("Fashion-MNIST: not in %s", folder)
        else:
            logger.warning("Fashion-MNIST: %s skipped: %s", folder, "; ".join(problems))
    return None


def verify(path: str | os.PathLike[str] | None = None) -> dict[str, str]:
    """Verify the files that :func:`find` finds; file name -> SHA-256 of its decompressed bytes.

    Raises:
        DataError: there are none, or files are missing or damaged in the given folder.

    >>> gn.data.verify("elsewhere")
    Traceback (most recent call last):
    ...
    gpunet.errors.DataError: elsewhere (the folder given) is not a folder: expected the one that contains ...
    >>> gn.data.verify()["t10k-labels-idx1-ubyte"]  # doctest: +SKIP
    '0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34'
    """
    folder = find(path)
    if folder is None:
        raise DataError("Fashion-MNIST is not on this machine; download it with gpunet.data.fetch()")
    return {name: checksum.sha256 for name, checksum in FILES.items()}


def _files(folder: Path, findings: dict[str, Finding]) -> Files:
    return Files(folder, {name: found.content for name, found in findings.items() if found.content is not None})


def _given(folder: Path, origin: str) -> Files:
    if not folder.is_dir():
        raise DataError(f"{folder} ({origin}) is not a folder: expected the one that contains {', '.join(FILES)}")
    candidates = (folder, folder / "FashionMNIST" / "raw", folder / "fashion-mnist")
    for candidate in candidates:
        findings = inspect(candidate)
        if all(finding.path is None for finding in findings.values()):
            continue
        if problems := _problems(findings):
            raise DataError("\n  ".join([f"Fashion-MNIST in {candidate} ({origin}) cannot be used:", *problems]))
        logger.info("Fashion-MNIST: found in %s (%s)", candidate, origin)
        return _files(candidate, findings)
    raise DataError(
        f"{folder} ({origin}) does not contain Fashion-MNIST: {', '.join(FILES)} are missing (also as .gz), there and "
        "in its subfolders FashionMNIST/raw and fashion-mnist"
    )


def _local_folders() -> Iterator[Path]:
    try:
        yield cache_folder()
    except OutputError as error:
        logger.debug("Fashion-MNIST: no cache: %s", error)
    # Only with the data set's name in the path: MNIST's own files have the same names.
    for base in (Path(), Path("data"), Path("datasets")):
        for inner in ("FashionMNIST/raw", "fashion-mnist"):
            yield base.absolute() / inner
    try:
        yield Path.home() / ".keras" / "datasets" / "fashion-mnist"
    except RuntimeError:
        logger.debug("Fashion-MNIST: no home folder to search for Keras' data")
    yield SYSTEM_FOLDER


def _problems(findings: dict[str, Finding]) -> list[str]:
    return [finding.problem for finding in findings.values() if finding.problem is not None]


def _expanded(path: str | os.PathLike[str]) -> Path:
    """`path` with ~ expanded if there is a home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
