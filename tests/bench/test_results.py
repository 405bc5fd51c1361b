"""Result files: what is in them, which is the newest, and files that are none."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numba
import numpy as np
import pytest

from bench import machine, results
from gpunet.errors import DataError, OutputError
from tests.bench import samples
from tests.filesystem import read_only_folder


def test_a_report_says_where_and_with_what() -> None:
    found = results.report("memory", [{"peak_mb": 3}], threads=1)
    assert found["results"] == [{"peak_mb": 3}] and found["kind"] == "memory"
    assert found["machine"]["threads"] == 1 and found["machine"]["cores"] >= 1 and found["machine"]["cpu"]
    kilobytes = int(Path("/proc/meminfo").read_text().split()[1])
    assert abs(found["machine"]["memory_gb"] - kilobytes * 1024 / 1e9) < 0.1
    assert found["versions"]["numpy"] == np.__version__ and found["versions"]["numba"] == numba.__version__
    assert set(found["commit"]) == {"hash", "dirty"}


def test_saved_and_loaded(tmp_path: Path) -> None:
    found = samples.report("bench", samples.ops())
    path = results.save(found, "| the table |", tmp_path / "new")
    assert path == tmp_path / "new" / "bench-2026-01-02-030405.json"
    assert results.load(path) == {**found, "file": path.name}
    page = path.with_suffix(".md").read_text()
    assert page.startswith("# Ops, 2026-01-02\n\n- Some CPU (AVX2), 2 cores, 2 threads, 8.0 GB, no GPU\n")
    assert "- python 3.12.1, numpy 2.4.0; commit 0123456789\n" in page
    assert "- cpu: 50 GFLOP/s in a large product, 10.0 GB/s in a large copy\n\n| the table |\n" in page


def test_uncommitted_changes_and_unknown_commits_are_said() -> None:
    found = samples.report("race", [], commit={"hash": "f" * 40, "dirty": True})
    assert machine.which(found).endswith("; commit ffffffffff with uncommitted changes")
    assert machine.which({**found, "commit": {"hash": None, "dirty": None}}).endswith("; an unknown commit")
    alone = {**samples.MACHINE, "cores": 1, "threads": 1, "features": [], "gpus": ["GPU X"]}
    assert machine.where({"machine": alone}) == "Some CPU, 1 core, 1 thread, 8.0 GB, GPU X"


def test_the_newest_of_a_kind(tmp_path: Path) -> None:
    dates = ("2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z", "2025-12-01T00:00:00Z")
    files = [samples.write(tmp_path, samples.report("race", [{"n": n}], date)) for n, date in enumerate(dates)]
    files.append(samples.write(tmp_path, samples.report("memory", [], "2027-01-01T00:00:00Z")))
    newest = results.newest("race", files)
    assert newest is not None and newest["results"] == [{"n": 1}]
    assert results.newest("bench", files) is None and results.newest("race", []) is None


@pytest.mark.parametrize("text", ["{", "[1, 2]", '{"kind": "race"}', json.dumps(samples.report("unheard", []))])
def test_no_result_file(text: str, tmp_path: Path) -> None:
    (tmp_path / "race-1.json").write_text(text)
    with pytest.raises(DataError, match=r"race-1\.json (cannot be read as a|is not a) result file"):
        results.load(tmp_path / "race-1.json")


def test_missing_and_unwritable(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read as a result file"):
        results.load(tmp_path / "gone.json")
    with read_only_folder() as folder, pytest.raises(OutputError, match=r"cannot write .*bench-2026-01-02"):
        results.save(samples.report("bench", []), "", folder)


def test_committed_files_and_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    monkeypatch.setattr(machine, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    folder = tmp_path / "bench" / "results"
    folder.mkdir(parents=True)
    first = samples.write(folder, samples.report("race", []))
    assert results.committed(folder) == [first]  # no repository: all
    assert machine.commit() == {"hash": None, "dirty": None}
    git("init")
    assert results.committed(folder) == []
    git("add", ".")
    git("commit", "-m", "first")
    samples.write(folder, samples.report("bench", []))
    assert results.committed(folder) == [first]
    found = machine.commit()
    assert len(found["hash"]) == 40 and found["dirty"] is False  # a new result is no change of the code
    (tmp_path / "code.py").touch()
    assert machine.commit()["dirty"] is True


def test_threads_are_the_same_for_every_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    given = machine.pinned(3)
    assert {given[name] for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS")} == {"3"}
    assert given["PATH"] and machine.threads() == 7
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert machine.threads() == machine.available_cores()
