"""Reading and writing files: reads are bounded, writes are atomic and by one process at a time.

Everything that gpunet writes goes through here.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any

from gpunet.errors import OutputError

logger = logging.getLogger("gpunet")

PathLike = str | os.PathLike[str]
"""What names a file: a string or a path."""

_LARGEST_JSON = 2**26


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], *, keep: PathLike | None = None) -> Iterator[Path]:
    """Write a file atomically: at any moment, `path` holds either the old content or the new, never a partial file.

    Yields the path of an empty temporary file in the same folder (and so on the same file system) with the same
    suffix. On exit from the block the file is synced to disk and renamed to `path`; if the block raises, it is removed
    and `path` is left untouched. A symbolic link is followed, not replaced.

    Args:
        keep: a path in the same folder that the old file is renamed to, once the new one is on the disk; between the
            two renames there is no file at `path`.

    Raises:
        OutputError: the folder is missing or read-only, the disk is full, `path` is not a regular file, or the block
            itself raised an OSError; the message names `path` and the reason.
    """
    given = Path(path)
    temporary: Path | None = None
    try:
        target = given.resolve()
        if target.is_dir():
            raise OutputError(f"cannot write {given}: it is a folder, expected the name of a file")
        if target.exists() and not target.is_file():
            raise OutputError(f"cannot write {given}: it is not a regular file")
        if not target.parent.is_dir():
            raise OutputError(f"cannot write {given}: the folder {target.parent} does not exist")
        created = target.with_name(_temporary_name(target.stem[:100], target.suffix[:20]))
        # Created here rather than by the block, so that a read-only folder is detected before any work is done.
        os.close(os.open(created, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        temporary = created
        yield temporary
        _sync(temporary)
        if keep is not None and target.exists():
            target.replace(keep)
        temporary.replace(target)
        with contextlib.suppress(OSError):  # some file systems cannot sync a folder
            _sync(target.parent)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write {given}: {_reason(error, (given, temporary))}") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def make_folder(path: PathLike) -> None:
    """Create the folder `path` and its parents, unless they exist.

    Raises:
        OutputError: it cannot be created; the message names it and the reason.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {path}: {error.strerror or error}") from error


def write_bytes_atomic(path: str | os.PathLike[str], data: bytes | bytearray | memoryview) -> None:
    """Write `data` to `path` atomically.

    Raises:
        OutputError: as :func:`atomic_write`.
    """
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def write_text_atomic(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` to `path` atomically as UTF-8, with line endings unchanged.

    Raises:
        OutputError: as :func:`atomic_write`.
    """
    write_bytes_atomic(path, text.encode())


def open_regular(path: str | os.PathLike[str]) -> IO[bytes]:
    """Open the file at `path` for reading, unless it is a pipe or a device, which may have no end.

    Raises:
        OSError: it cannot be opened, or is not a regular file; ``strerror`` is the reason.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe that nobody writes to would block
    except ValueError:
        raise OSError(errno.EINVAL, "its name contains a NUL character", str(path)) from None
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is a pipe or a device, expected a regular file", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: str | os.PathLike[str], *, limit: int) -> bytes:
    """The content of the regular file at `path`, of at most `limit` bytes.

    Raises:
        OSError: as :func:`open_regular`, or the file is longer.
    """
    with open_regular(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"it has more than {limit} bytes", str(path))
    return data


def parse_json(text: str | bytes) -> Any:
    """The value of JSON text.

    Raises:
        ValueError: it is not JSON in UTF-8, nested too deeply, or has half a surrogate pair, which cannot be written.
    """
    text = text.decode("utf-8") if isinstance(text, bytes) else text
    try:
        found = json.loads(text)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(found, ensure_ascii=False).encode("utf-8")
        return found
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_json(path: str | os.PathLike[str]) -> Any:
    """The value in a JSON file of at most 64 MiB.

    Raises:
        OSError: as :func:`read_regular`. ValueError: as :func:`parse_json`.
    """
    return parse_json(read_regular(path, limit=_LARGEST_JSON))


def copy_folder(source: Path, target: Path, *, only: Collection[str] | None = None) -> None:
    """Copy the folder `source` to `target` atomically; an existing `target` is left as it is.

    Args:
        only: names of the entries to copy; None: all of them.

    Raises:
        OutputError: it cannot be read or written; the message names both and the reason.
    """
    if target.exists():
        return
    temporary = target.with_name(_temporary_name(target.name))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(
            source, temporary, ignore=lambda _, names: set(names).difference(names if only is None else only)
        )
        temporary.replace(target)  # fails if another process was faster, whose copy is as good
    except OSError as error:
        if not target.exists():
            raise OutputError(f"cannot copy {source} to {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_temporaries(folder: Path) -> None:
    """Remove the temporary files and folders under `folder` that processes left when they were killed.

    The caller must know that no other process is writing there; see :func:`lock_folder`.
    """
    for path in list(folder.glob("**/.*.tmp*")):
        if not _TEMPORARY.fullmatch(path.name):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()


@contextlib.contextmanager
def lock_folder(folder: Path, busy: str, *, patience: float = 0.0) -> Iterator[IO[str]]:
    """Lock `folder`, created if necessary, for one process at a time; yields the open lock file.

    Child processes that inherit the file hold the lock, too, until they have ended.

    Args:
        busy: what is going on in the folder if the lock is taken, and what to do: the error's message.
        patience: seconds to wait for the lock.

    Raises:
        OutputError: the lock is taken, or the folder cannot be created or written to.
    """
    import fcntl

    make_folder(folder)
    path = folder / ".lock"
    limit = time.monotonic() + patience
    while True:
        try:
            file = path.open("w", encoding="utf-8")
        except OSError as error:
            raise OutputError(f"cannot write to the folder {folder}: {error.strerror or error}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(file, path):
                break
            file.close()  # the process that had the lock has removed the file since
        except BlockingIOError:
            file.close()
            if time.monotonic() >= limit:
                raise OutputError(busy) from None
            time.sleep(0.1)
        except OSError as error:  # a file system without locks
            logger.warning("cannot lock %s (%s): do not train in it twice at once", folder, error.strerror or error)
            break
    with file:
        try:
            yield file
        finally:
            with contextlib.suppress(OSError):
                path.unlink()


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}\.tmp(\..{1,19})?")


def _temporary_name(stem: str, suffix: str = "") -> str:
    return f".{stem}.{secrets.token_hex(6)}.tmp{suffix}"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: OSError, known: tuple[Path | None, ...]) -> str:
    """The reason for `error`, with the file it concerns unless that is one of `known`."""
    reason = error.strerror or str(error)
    others = [str(name) for name in (error.filename, error.filename2) if name is not None]
    unknown = [name for name in others if Path(name) not in known]
    return f"{reason} ({', '.join(unknown)})" if unknown else reason
