"""A made-up Fashion-MNIST of 200 bytes, on a machine that holds no other and reaches no network."""

from __future__ import annotations

import gzip
import hashlib
import struct
from pathlib import Path

import pytest

from gpunet.data import download, files

CONTENTS = {
    "train-images-idx3-ubyte": struct.pack(">4B3I", 0, 0, 8, 3, 4, 2, 3) + bytes(range(24)),
    "train-labels-idx1-ubyte": struct.pack(">4BI", 0, 0, 8, 1, 4) + bytes((0, 1, 1, 0)),
    "t10k-images-idx3-ubyte": struct.pack(">4B3I", 0, 0, 8, 3, 2, 2, 3) + bytes(range(100, 112)),
    "t10k-labels-idx1-ubyte": struct.pack(">4BI", 0, 0, 8, 1, 2) + bytes((1, 0)),
}


@pytest.fixture
def contents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The decompressed bytes of the four files, which the checksum table is made to expect.

    The home folder, the working folder and the system's are empty ones; the mirrors and apt-get are gone.
    """
    for name, data in CONTENTS.items():
        monkeypatch.setitem(files.FILES, name, files.Checksum(len(data), hashlib.sha256(data).hexdigest()))
    for variable in ("GPUNET_DATA", "GPUNET_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    for name in ("home", "work", "bin"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(files, "SYSTEM_FOLDER", tmp_path / "system")
    monkeypatch.setattr(download, "MIRRORS", ())
    return dict(CONTENTS)


def fill(folder: Path, contents: dict[str, bytes], *, compress: bool = False) -> Path:
    """Write the files into `folder`, as they are or as .gz."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        if compress:
            (folder / f"{name}.gz").write_bytes(gzip.compress(data))
        else:
            (folder / name).write_bytes(data)
    return folder
