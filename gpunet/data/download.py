"""Downloading Fashion-MNIST to the cache: from two mirrors, then from Debian's package if apt-get is available."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from gpunet.data.files import FILES, Files, cache_folder, find_files, inspect, locate, read_checked
from gpunet.errors import DataError, OutputError

logger = logging.getLogger("gpunet")

MIRRORS = (
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
)
PACKAGE = "dataset-fashion-mnist"
TIMEOUT = (5.0, 20.0)
"""Seconds to wait for a connection, and for the next bytes of an open one."""
SLOWEST = 10_000
"""Bytes per second; a download slower than this is aborted after 30 seconds."""
COMMAND_TIMEOUT = 600.0
"""Timeout in seconds for apt-get and dpkg-deb."""

_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG, errno.EIO}
_STAGING = ".download-"
_STALE = 24 * 3600.0


def fetch(path: str | os.PathLike[str] | None = None) -> Path:
    """The folder of the four verified files, found as by :func:`find`, or else downloaded to the cache.

    Raises:
        DataError: the given folder is damaged, or no source has the files; the message says why for each source.
        OutputError: the cache cannot be written to.

    >>> gn.data.fetch()  # doctest: +SKIP
    PosixPath('/home/me/.cache/gpunet/fashion-mnist')
    """
    found = find_files(path)
    return found.folder if found else _fetched()


def fetch_files(path: str | os.PathLike[str] | None = None) -> Files:
    """The four verified files themselves, found or downloaded as by :func:`fetch`.

    Raises: as :func:`fetch`.
    """
    found = find_files(path) or find_files(_fetched())
    assert found is not None  # a folder that is given holds them, or an error was raised
    return found


def _fetched() -> Path:
    folder = cache_folder()
    download(folder)
    return folder


def download(folder: Path) -> None:
    """Download those of the four files that are missing from `folder` or damaged there.

    They are downloaded, decompressed and verified in a temporary folder inside `folder` and moved only once all are
    valid, so that an interruption never leaves a partial file.

    Raises:
        DataError: no source had all of them; the message says why for each source.
        OutputError: `folder` cannot be written to.
    """
    needed = [name for name, finding in inspect(folder).items() if finding.problem]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_stale(folder)
        with tempfile.TemporaryDirectory(prefix=_STAGING, dir=folder) as name:
            staging = Path(name)
            _fill(staging, list(needed))
            for name in needed:
                (staging / name).replace(folder / name)
    except OSError as error:
        raise OutputError(
            f"cannot write the data cache {folder}: {error.strerror or error}; set GPUNET_CACHE to a writable folder"
        ) from error
    logger.debug("Fashion-MNIST: downloaded to %s", folder)


def _fill(staging: Path, needed: list[str]) -> None:
    """Download the files `needed` to `staging` and verify them, trying one source after another."""
    failures = []
    logger.info("Fashion-MNIST: not on this machine, so downloading it")
    for mirror in MIRRORS:
        problem = _from_mirror(mirror, staging, needed)
        if problem is None:
            return
        logger.debug("Fashion-MNIST: %s", problem)
        failures.append(problem)
    problem = _from_package(staging, needed)
    if problem is None:
        return
    logger.debug("Fashion-MNIST: %s", problem)
    failures.append(problem)
    raise DataError(
        "\n  ".join(["Fashion-MNIST is not on this machine and could not be downloaded:", *failures])
        + f"\nDownload {', '.join(f'{name}.gz' for name in FILES)} manually to a folder "
        "and set GPUNET_DATA to it."
    )


def _from_mirror(mirror: str, staging: Path, needed: list[str]) -> str | None:
    """Download the files `needed` and remove them from the list; returns the first error, or None."""
    try:
        import pooch
    except ImportError as error:
        return f"{mirror}: pooch, which downloads it, cannot be imported ({error}): pip install pooch"
    while needed:
        name = needed[0]
        url, part = f"{mirror}{name}.gz", staging / f"{name}.part"
        logger.debug("Fashion-MNIST: downloading %s", url)
        fetcher = pooch.HTTPDownloader(progressbar=_Progress(name), chunk_size=1 << 16, timeout=TIMEOUT)
        try:
            with part.open("wb") as file:
                fetcher(url, _Bounded(file, FILES[name].size), None)
        except OSError as error:  # the errors of requests are OSErrors, too, but without these errnos
            if error.errno in _DISK_ERRORS:
                raise
            return f"{url}: {error}"
        problem = _take(part, staging, name)
        if problem:
            return f"{url}: {problem}"
        part.unlink()
        needed.pop(0)
    return None


def _from_package(staging: Path, needed: list[str]) -> str | None:
    """Extract the files `needed` from Debian's package, without installing it; returns an error, or None."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return f"Debian package {PACKAGE}: apt-get and dpkg-deb are not on this machine"
    logger.info("Fashion-MNIST: not on the mirrors, so apt-get download %s", PACKAGE)
    work = staging / "package"
    work.mkdir()
    problem = _run(["apt-get", "download", PACKAGE], work)
    if problem:  # perhaps for want of package lists; they are the system's, and only its administrator updates them
        return f"{problem} (after apt-get update, it may be found)"
    archive = next(work.glob("*.deb"), None)
    if archive is None:
        return f"apt-get download {PACKAGE}: left no .deb file"
    problem = _run(["dpkg-deb", "-x", archive.name, "extracted"], work)
    if problem:
        return problem
    extracted = work / "extracted" / "usr" / "share" / "datasets" / "fashion-mnist"
    while needed:
        path = locate(extracted, needed[0])
        problem = _take(path, staging, needed[0]) if path else f"{needed[0]}.gz is not in it"
        if problem:
            return f"Debian package {PACKAGE}: {problem}"
        needed.pop(0)
    return None


def _take(path: Path, staging: Path, name: str) -> str | None:
    """Verify the downloaded file at `path` and write it, decompressed and synced to disk, to `staging` / `name`."""
    found = read_checked(path, name)
    if found.content is not None:
        with (staging / name).open("wb") as file:
            file.write(found.content)
            file.flush()
            os.fsync(file.fileno())
    return found.problem


def _run(command: Sequence[str], folder: Path) -> str | None:
    """Run `command` in `folder`; returns its last error message if it failed, else None."""
    line = " ".join(command)
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMMAND_TIMEOUT,
            env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"{line}: stopped after {COMMAND_TIMEOUT:g} s"
    except OSError as error:
        return f"{line}: {error.strerror or error}"
    if done.returncode == 0:
        return None
    complaints = [text.strip() for text in done.stderr.splitlines() if text.strip()]
    return f"{line}: {complaints[-1] if complaints else f'exit code {done.returncode}'}"


def _remove_stale(folder: Path) -> None:
    """Remove what killed downloads left behind, so that the cache does not grow."""
    for left in folder.glob(f"{_STAGING}*"):
        with contextlib.suppress(FileNotFoundError):  # another process has just removed it
            if time.time() - left.stat().st_mtime > _STALE:
                shutil.rmtree(left, ignore_errors=True)


class _Bounded:
    """A file that refuses to grow far beyond `size` bytes, so that an endless answer does not fill the disk."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self.file, self.done = file, 0
        self.limit = size + size // 100 + 1024  # gzip makes data that it cannot compress a little longer

    def write(self, chunk: bytes) -> None:
        self.done += len(chunk)
        if self.done > self.limit:
            raise OSError(f"sends more than {self.limit} bytes")
        self.file.write(chunk)

    def flush(self) -> None:
        self.file.flush()


class _Progress:
    """A progress bar for pooch that logs every 25 %, and aborts a download that is too slow."""

    def __init__(self, name: str) -> None:
        self.name, self.total, self.done, self.quarters = name, 0, 0, 0
        self.start = time.monotonic()

    def update(self, size: int) -> None:
        self.done += size
        seconds = time.monotonic() - self.start
        if seconds > 30 and self.done < SLOWEST * seconds:
            raise TimeoutError(f"slower than {SLOWEST} bytes/s")
        if self.total and (quarters := min(4 * self.done // self.total, 4)) > self.quarters:
            self.quarters = quarters
            logger.info("Fashion-MNIST: %s %d %% of %.1f MB", self.name, 25 * quarters, self.total / 1e6)

    def reset(self) -> None:
        self.done = 0

    def close(self) -> None:
        pass
