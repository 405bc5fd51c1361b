"""File systems that refuse: a folder that may not be written to, and a disk that is full."""

from __future__ import annotations

import contextlib
import os
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path

NOBODY = 65534


@contextlib.contextmanager
def read_only_folder() -> Iterator[Path]:
    """An existing folder in which this process may create nothing, for root as well as for users."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        was = os.geteuid()
        folder.chmod(0o555)
        if was == 0:
            os.seteuid(NOBODY)  # permissions do not bind root
        try:
            yield folder
        finally:
            os.seteuid(was)
            folder.chmod(0o755)


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: the kernel refuses the write, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
