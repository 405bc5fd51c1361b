"""Downloads, from servers on this machine and from commands that play apt-get and dpkg-deb."""

from __future__ import annotations

import errno
import gzip
import http.server
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pooch
import pytest

from gpunet.data import download
from gpunet.data.download import fetch
from gpunet.data.files import cache_folder, find
from gpunet.errors import DataError, OutputError
from tests.data.conftest import CONTENTS, fill
from tests.filesystem import largest_file, read_only_folder

IMAGES, LABELS, TEST_IMAGES, TEST_LABELS = CONTENTS


class Server(http.server.ThreadingHTTPServer):
    """Serves the files of `folder`; `damage` maps a name and its bytes to the size promised and the bytes sent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.damage: Callable[[str, bytes], tuple[int, bytes]] = lambda name, data: (len(data), data)
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name = self.path.lstrip("/")
        self.server.asked.append(name)
        path = self.server.folder / name
        if not path.is_file():
            self.send_error(404, "Not Found")
            return
        promised, data = self.server.damage(name, path.read_bytes())
        self.send_response(200)
        self.send_header("Content-Length", str(promised))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        pass


@pytest.fixture
def mirrors(
    tmp_path: Path, contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Server, Server]]:
    """Two mirrors that hold the files; both are asked in this order."""
    folder = fill(tmp_path / "served", contents, compress=True)
    servers = Server(folder), Server(folder)
    threads = [threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}) for server in servers]
    for thread in threads:
        thread.start()
    monkeypatch.setattr(download, "MIRRORS", tuple(server.url for server in servers))
    monkeypatch.setattr(download, "TIMEOUT", (0.5, 0.5))
    monkeypatch.setenv("no_proxy", "*")
    yield servers
    for server, thread in zip(servers, threads, strict=True):
        server.shutdown()
        thread.join()
        server.server_close()


def in_cache() -> dict[str, bytes]:
    """All that lies in the cache, temporary folders included."""
    folder = cache_folder()
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.is_dir() else {}


def test_download(mirrors: tuple[Server, Server], contents: dict[str, bytes], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "gpunet"):
        folder = fetch()
    assert folder == cache_folder() and in_cache() == contents
    assert mirrors[0].asked == [f"{name}.gz" for name in contents] and mirrors[1].asked == []
    assert f"Fashion-MNIST: downloading {mirrors[0].url}{IMAGES}.gz" in caplog.messages
    assert f"Fashion-MNIST: {IMAGES} 100 % of 0.0 MB" in caplog.messages
    assert f"Fashion-MNIST: downloaded to {folder}" in caplog.messages
    assert fetch() == folder and len(mirrors[0].asked) == 4  # not again


def test_uncompressed_answers_are_accepted(mirrors: tuple[Server, Server], contents: dict[str, bytes]) -> None:
    def unpack(name: str, data: bytes) -> tuple[int, bytes]:
        data = gzip.decompress(data)
        return len(data), data

    mirrors[0].damage = unpack
    fetch()
    assert in_cache() == contents and not mirrors[1].asked


def wrong_bytes(name: str, data: bytes) -> tuple[int, bytes]:
    return (4, b"oops") if name == f"{LABELS}.gz" else (len(data), data)


def other_file(name: str, data: bytes) -> tuple[int, bytes]:
    data = gzip.compress(CONTENTS[IMAGES]) if name == f"{LABELS}.gz" else data
    return len(data), data


def broken_off(name: str, data: bytes) -> tuple[int, bytes]:
    return (len(data), data[: len(data) // 2]) if name == f"{LABELS}.gz" else (len(data), data)


def hang(name: str, data: bytes) -> tuple[int, bytes]:
    if name == f"{LABELS}.gz":
        time.sleep(1.0)
    return len(data), data


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (wrong_bytes, "is truncated: expected 12 bytes after decompression, actual 4"),
        (other_file, f"it should be {LABELS} but holds {IMAGES}"),
        (broken_off, "Connection broken: IncompleteRead"),
        (hang, "Read timed out"),
    ],
)
def test_next_mirror_after_a_bad_answer(
    mirrors: tuple[Server, Server],
    contents: dict[str, bytes],
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[str, bytes], tuple[int, bytes]],
    reason: str,
) -> None:
    mirrors[0].damage = damage
    with caplog.at_level(logging.DEBUG, "gpunet"):
        fetch()
    assert in_cache() == contents
    assert mirrors[0].asked == [f"{IMAGES}.gz", f"{LABELS}.gz"]  # given up at the first failure
    assert mirrors[1].asked == [f"{LABELS}.gz", f"{TEST_IMAGES}.gz", f"{TEST_LABELS}.gz"]  # only what is missing
    failures = [message for message in caplog.messages if f"{mirrors[0].url}{LABELS}.gz: " in message]
    assert len(failures) == 1 and reason in failures[0]


def test_endless_answer_does_not_fill_the_disk(
    mirrors: tuple[Server, Server], contents: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    mirrors[0].damage = lambda name, data: (10**12, bytes(10**6))
    with largest_file(2000), caplog.at_level(logging.DEBUG, "gpunet"):  # beyond it, the disk would be said to be full
        fetch()
    assert in_cache() == contents
    assert any(
        message.endswith(f"{mirrors[0].url}{IMAGES}.gz: sends more than 1064 bytes") for message in caplog.messages
    )


def test_every_source_fails(mirrors: tuple[Server, Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (mirrors[0].folder / f"{IMAGES}.gz").unlink()
    dead = "http://127.0.0.1:1/"
    monkeypatch.setattr(download, "MIRRORS", (mirrors[0].url, dead))
    with pytest.raises(DataError) as caught:
        fetch()
    message = str(caught.value)
    assert f"{mirrors[0].url}{IMAGES}.gz: 404 Client Error: Not Found" in message
    assert f"{dead}{IMAGES}.gz: " in message and "Connection refused" in message
    assert "Debian package dataset-fashion-mnist: apt-get and dpkg-deb are not on this machine" in message
    assert "set GPUNET_DATA to it" in message
    assert caught.value.exit_code == 3
    assert in_cache() == {}


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_interrupted_download_leaves_nothing(
    mirrors: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    get = pooch.HTTPDownloader.__call__

    def stop_in_the_second_file(self: pooch.HTTPDownloader, url: str, output_file: IO[bytes], pooch: None) -> None:
        get(self, url, output_file, pooch)
        if LABELS in url:
            output_file.write(b"half")
            raise error

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", stop_in_the_second_file)
    with pytest.raises(error):
        fetch()
    assert in_cache() == {}


def test_damaged_cache_is_fetched_anew(
    mirrors: tuple[Server, Server], contents: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    folder = fill(cache_folder(), {**contents, IMAGES: b"damaged"})
    (folder / TEST_LABELS).unlink()
    with caplog.at_level(logging.DEBUG, "gpunet"):
        assert fetch() == folder
    assert in_cache() == contents
    assert mirrors[0].asked == [f"{IMAGES}.gz", f"{TEST_LABELS}.gz"]  # the two others are kept
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert f"{folder / IMAGES} is truncated" in warning and f"{folder / TEST_LABELS} is missing" in warning


def test_damaged_given_folder_is_not_replaced(mirrors: tuple[Server, Server], contents: dict[str, bytes]) -> None:
    folder = fill(cache_folder().parent / "given", {**contents, IMAGES: b"damaged"})
    with pytest.raises(DataError, match="is truncated"):
        fetch(folder)
    assert not mirrors[0].asked and (folder / IMAGES).read_bytes() == b"damaged" and in_cache() == {}


def test_read_only_cache(mirrors: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch) -> None:
    with read_only_folder() as folder:
        monkeypatch.setenv("GPUNET_CACHE", str(folder))
        with pytest.raises(OutputError, match=f"cannot write the data cache {folder}.*: Permission denied; set GPUNET"):
            download.download(cache_folder())
    assert not mirrors[0].asked


def test_cache_that_is_a_file(mirrors: tuple[Server, Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("GPUNET_CACHE", str(tmp_path / "file"))
    with pytest.raises(OutputError, match=r"cannot write the data cache .*file/fashion-mnist: Not a directory"):
        fetch()


def test_full_disk(mirrors: tuple[Server, Server]) -> None:
    with largest_file(20), pytest.raises(OutputError, match=r"cannot write the data cache .*: File too large"):
        fetch()
    assert in_cache() == {}
    assert not mirrors[1].asked  # it is not the mirror's fault


def test_failed_move(mirrors: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch) -> None:
    def replace(path: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(OutputError, match="No space left on device"):
        fetch()
    assert in_cache() == {}


def test_leftovers_of_killed_downloads_are_removed_after_a_day(
    mirrors: tuple[Server, Server], contents: dict[str, bytes]
) -> None:
    cache = cache_folder()
    for name, age in ((".download-old", 2 * 86400), (".download-new", 60)):
        (cache / name).mkdir(parents=True)
        (cache / name / "part").touch()
        os.utime(cache / name, (time.time() - age,) * 2)
    fetch()
    assert sorted(path.name for path in cache.iterdir()) == sorted([".download-new", *contents])


def test_trickling_mirror_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    progress = download._Progress("file")
    progress.update(1000)
    now = 129.0
    progress.update(1000)
    now = 131.0
    with pytest.raises(TimeoutError, match="slower than 10000 bytes/s"):
        progress.update(1000)
    progress.update(310_000)


def command(tmp_path: Path, name: str, script: str) -> None:
    """Put a shell script on the PATH, which else holds nothing."""
    path = tmp_path / "bin" / name
    path.write_text(f"#!{shutil.which('sh', path='/bin:/usr/bin')}\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def package(tmp_path: Path, contents: dict[str, bytes]) -> Path:
    """A folder in place of the archive, and commands that bring and unpack it; apt-get logs how it is called."""
    folder = fill(tmp_path / "deb" / "usr" / "share" / "datasets" / "fashion-mnist", contents, compress=True)
    command(
        tmp_path,
        "apt-get",
        f'echo "$@" >> {tmp_path}/calls\n[ "$*" = "download dataset-fashion-mnist" ] || exit 3\n'
        ": > dataset-fashion-mnist_1_all.deb",
    )
    command(
        tmp_path,
        "dpkg-deb",
        f'[ "$1 $2" = "-x dataset-fashion-mnist_1_all.deb" ] || exit 4\n/bin/cp -r {tmp_path}/deb "$3"',
    )
    return folder


def calls(tmp_path: Path) -> list[str]:
    return (tmp_path / "calls").read_text().splitlines()


def test_debian_package(
    tmp_path: Path, contents: dict[str, bytes], package: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "gpunet"):
        fetch()
    assert in_cache() == contents
    assert calls(tmp_path) == ["download dataset-fashion-mnist"]
    assert "Fashion-MNIST: not on the mirrors, so apt-get download dataset-fashion-mnist" in caplog.messages
    assert list((tmp_path / "work").iterdir()) == []


def test_mirror_and_package_complement_each_other(
    mirrors: tuple[Server, Server], contents: dict[str, bytes], package: Path
) -> None:
    for server in mirrors:
        (server.folder / f"{LABELS}.gz").unlink(missing_ok=True)
    (package / f"{IMAGES}.gz").unlink()  # not needed from there any more
    fetch()
    assert in_cache() == contents


@pytest.mark.parametrize("user", [0, 1000])
def test_the_package_lists_are_left_alone(
    tmp_path: Path, package: Path, monkeypatch: pytest.MonkeyPatch, user: int
) -> None:
    """Also where root could update them: they are the system's."""
    command(
        tmp_path,
        "apt-get",
        f"""echo "$@" >> {tmp_path}/calls
echo "W: some warning" >&2
echo "E: Unable to locate package dataset-fashion-mnist" >&2
exit 100""",
    )
    monkeypatch.setattr(os, "geteuid", lambda: user)
    with pytest.raises(DataError) as raised:
        fetch()
    reason = "apt-get download dataset-fashion-mnist: E: Unable to locate package dataset-fashion-mnist"
    assert f"{reason} (after apt-get update, it may be found)" in str(raised.value)
    assert calls(tmp_path) == ["download dataset-fashion-mnist"]
    assert in_cache() == {}


@pytest.mark.parametrize(
    ("name", "script", "message"),
    [
        ("apt-get", "exit 0", "apt-get download dataset-fashion-mnist: left no .deb file"),
        ("dpkg-deb", "echo 'not a Debian archive' >&2; exit 2", r"dpkg-deb -x \S+ extracted: not a Debian archive"),
        ("dpkg-deb", "exit 0", f"Debian package dataset-fashion-mnist: {IMAGES}.gz is not in it"),
        ("apt-get", "while :; do :; done", "apt-get download dataset-fashion-mnist: stopped after 0.2 s"),
    ],
)
def test_package_failures(
    tmp_path: Path, package: Path, monkeypatch: pytest.MonkeyPatch, name: str, script: str, message: str
) -> None:
    command(tmp_path, name, script)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    if "while" in script:
        monkeypatch.setattr(download, "COMMAND_TIMEOUT", 0.2)
    with pytest.raises(DataError, match=message):
        fetch()
    assert in_cache() == {}


def test_command_that_cannot_start(tmp_path: Path, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin" / "apt-get").write_text("#!/nowhere/at/all\n")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(DataError, match="apt-get download dataset-fashion-mnist: No such file or directory"):
        fetch()


def test_damaged_package(package: Path, contents: dict[str, bytes]) -> None:
    (package / f"{TEST_IMAGES}.gz").write_bytes(gzip.compress(contents[IMAGES]))
    with pytest.raises(DataError, match=f"it should be {TEST_IMAGES} but holds {IMAGES}"):
        fetch()
    assert in_cache() == {} and find() is None
