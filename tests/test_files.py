"""Writing files whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from gpunet.errors import OutputError
from gpunet.files import atomic_write, lock_folder, write_bytes_atomic, write_text_atomic
from tests.filesystem import largest_file, read_only_folder


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_writes_bytes_and_text(tmp_path: Path) -> None:
    write_bytes_atomic(tmp_path / "a.bin", b"\x00\xff")
    write_text_atomic(tmp_path / "b.txt", "Trouser \u00e9\n")
    assert (tmp_path / "a.bin").read_bytes() == b"\x00\xff"
    assert (tmp_path / "b.txt").read_bytes() == b"Trouser \xc3\xa9\n"
    assert names(tmp_path) == ["a.bin", "b.txt"]


def test_replaces_the_old_content_only_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "state.json"
    target.write_text("old")
    with atomic_write(target) as temporary:
        assert temporary.parent == tmp_path and temporary.suffix == ".json" and temporary != target
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert names(tmp_path) == ["state.json"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_keeps_the_old_content(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "state.json"
    target.write_text("old")
    with pytest.raises(error), atomic_write(target) as temporary:
        temporary.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert names(tmp_path) == ["state.json"]


def test_two_writers_do_not_disturb_each_other(tmp_path: Path) -> None:
    target = tmp_path / "state.json"
    with atomic_write(target) as first:
        first.write_text("first")
        with atomic_write(target) as second:
            second.write_text("second")
        assert target.read_text() == "second"
    assert target.read_text() == "first"


def test_mode_follows_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text_atomic(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_follows_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_text_atomic(tmp_path / "link", "x")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "x"


def test_longest_file_name(tmp_path: Path) -> None:
    name = "n" * 255
    write_text_atomic(tmp_path / name, "x")
    assert names(tmp_path) == [name]


def test_content_is_on_the_disk_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a"
    synced = []

    def fsync(descriptor: int) -> None:
        synced.append((Path(f"/proc/self/fd/{descriptor}").readlink(), target.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    with atomic_write(target) as temporary:
        temporary.write_text("x")
    assert synced == [(temporary, False), (tmp_path, True)]


def test_full_disk(tmp_path: Path) -> None:
    target = tmp_path / "weights"
    target.write_bytes(b"old")
    with largest_file(1000), pytest.raises(OutputError, match=r"cannot write .*weights: File too large$"):
        write_bytes_atomic(target, bytes(2000))
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["weights"]


def test_disk_that_is_full_when_it_is_forced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OutputError, match=r"cannot write .*weights: No space left on device$"):
        write_bytes_atomic(tmp_path / "weights", b"x")
    assert names(tmp_path) == []


def test_read_only_folder() -> None:
    with read_only_folder() as folder:
        with pytest.raises(OutputError, match=r"cannot write .*report\.html: Permission denied"):
            write_text_atomic(folder / "report.html", "x")
        assert names(folder) == []


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot write .*a\.txt: the folder .*nowhere does not exist"):
        write_text_atomic(tmp_path / "nowhere" / "a.txt", "x")


def test_target_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"it is a folder"):
        write_text_atomic(tmp_path, "x")


def test_target_is_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match=r"it is not a regular file"):
        write_text_atomic(tmp_path / "pipe", "x")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_error_about_another_file_names_it(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"cannot write .*copy: No such file or directory \(.*source\)"),
        atomic_write(tmp_path / "copy") as temporary,
    ):
        temporary.write_bytes((tmp_path / "source").read_bytes())
    assert names(tmp_path) == []


def test_output_errors_exit_code() -> None:
    assert OutputError.exit_code == 1


def test_the_old_file_is_kept_where_that_is_asked_for(tmp_path: Path) -> None:
    for content in ("1", "2", "3"):
        with atomic_write(tmp_path / "last", keep=tmp_path / "previous") as temporary:
            temporary.write_text(content)
    assert (tmp_path / "last").read_text() == "3" and (tmp_path / "previous").read_text() == "2"
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "last", keep=tmp_path / "previous"):
        raise ZeroDivisionError
    assert (tmp_path / "last").read_text() == "3" and (tmp_path / "previous").read_text() == "2"
    assert names(tmp_path) == ["last", "previous"]


def test_a_lock_is_for_one_and_is_waited_for(tmp_path: Path) -> None:
    held, order = threading.Event(), []

    def hold() -> None:
        with lock_folder(tmp_path / "new", "busy"):
            held.set()
            with (
                pytest.raises(OutputError, match="busy with something"),
                lock_folder(tmp_path / "new", "busy with something"),
            ):
                pass
            order.append("first")

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    with lock_folder(tmp_path / "new", "busy", patience=60):
        order.append("second")
    thread.join()
    assert order == ["first", "second"] and names(tmp_path / "new") == []
