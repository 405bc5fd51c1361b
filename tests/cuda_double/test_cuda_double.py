"""The real CuPy on the double: each planted fault is reported. The tests of a GPU run there by ``make gpu-double``."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

from tests.cuda_double import __main__
from tests.cuda_double.at_exit import EXIT_CODE
from tests.cuda_double.build import Double, Unavailable, build
from tests.cuda_double.run import run

pytestmark = [pytest.mark.slow, pytest.mark.network]  # the first time

REPORTS = {
    "use_after_free": r"use after free: relu\(x\): 0x\w+ lies in 128 bytes of device 0 that were freed",
    "copy_after_free": r"use after free: cudaMemcpyAsync reads: ",
    "replay_after_free": r"use after free: relu\(x\): ",
    "free_twice": r"cudaFree: 0x\w+ is freed twice",
    "read_beyond_the_end": r"relu: invalid address \[address 0x\w+, block \(\d+, 0, 0\), thread \(\d+, 0, 0\)\]",
    "write_beyond_the_end": r"out of bounds: cudaMemsetAsync: 129 bytes at 0x\w+, but its allocation of 128 ",
    "copy_in_a_capture": r"cudaMemcpyAsync of 128 bytes between host and device is captured",
    "copy_beside_a_capture": r"cudaMemcpy in the default stream while another is captured: it is no part of the graph",
    "synchronisation_in_a_capture": r"cudaDeviceSynchronize during a capture",
    "waiting_for_the_captured_stream": r"cudaStreamSynchronize of a stream that is captured",
    "launch_beside_a_capture": r"relu in the default stream while another is captured: it is no part of the graph",
    "allocation_in_a_strict_capture": r"cudaMalloc during a capture that is not relaxed",
    "memory_of_another_device": r"wrong device: relu\(x\): 0x\w+ is memory of device 0, the current device is 1",
    "function_of_another_device": r"wrong device: relu was loaded on device 0, the current one is 1",
    "stream_of_another_device": r"wrong stream: relu is launched in a stream of device 1, the current device is 0",
    "event_of_another_device": r"wrong device: an event of device 1 is recorded in a stream of device 0",
    "graph_of_another_device": r"wrong device: a graph of device 0 is launched on device 1",
    "wrong_argument_size": r"relu: arguments of \[8, 8, 8\] bytes, the machine code takes \[8, 8, 4\]",
    "illegal_grid": r"relu: illegal grid \(1, 65536, 1\)",
    "illegal_block": r"relu: (illegal block \(2048, 1, 1\)|a block of 2048 threads, compiled for at most \d+)",
    "too_much_shared_memory": r"relu: 49153 bytes of dynamic shared memory, its limit is 49152",
    "leaked_memory": r"leaked memory: 128 bytes of device 0 in 1 allocation\(s\)",
    "use_of_a_destroyed_stream": r"0x\w+ is no stream, or one that was destroyed",
}
"""The functions of ``faults.py``, and what is reported of each."""


@pytest.fixture(scope="module")
def double() -> Double:
    try:
        return build()
    except Unavailable as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("program", ["nothing", "too_much_memory"])
def test_without_a_fault_nothing_is_reported(double: Double, program: str) -> None:
    done = run(double, ["-m", "tests.cuda_double.faults", program], devices=2, capture_output=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_fault_has_a_report() -> None:
    tree = ast.parse((Path(__file__).parent / "faults.py").read_text())
    programs = {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name[0] != "_"}
    assert programs == {*REPORTS, "nothing", "too_much_memory"}


def test_what_cannot_be_made_is_left_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def unavailable() -> Double:
        raise Unavailable("no network")

    monkeypatch.setattr(__main__, "build", unavailable)
    for command, code, said in (("all", 0, "left out: no network\n"), ("run", 2, "no network\n")):
        monkeypatch.setattr("sys.argv", ["cuda_double", command])
        assert (__main__.main(), capsys.readouterr().err) == (code, said)


def test_all_fails_if_a_run_does(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Whichever it is; a variant's, too."""
    seen: list[dict[str, int]] = []

    def fails(unused: object, args: list[str], **options: int) -> subprocess.CompletedProcess[str]:
        chosen = {name: options[name] for name in ("devices", "ftz") if name in options}
        seen.append(chosen)
        return subprocess.CompletedProcess(args, int(chosen == failing), stdout=f"{chosen}")

    def rehearses(unused: object, args: list[str]) -> int:
        return int(failing == {"rehearsal": 1})

    monkeypatch.setattr(__main__, "run_tests", fails)
    monkeypatch.setattr(__main__, "rehearse", rehearses)
    for failing in ({}, {"devices": 1}, {"devices": 2}, {"devices": 2, "ftz": True}, {"rehearsal": 1}):
        seen.clear()
        assert __main__.run_all(None, []) == int(bool(failing))  # type: ignore[arg-type]
        assert len(seen) == 3 and (failing in seen or failing in ({}, {"rehearsal": 1}))
        assert capsys.readouterr().out.count("== pytest -m gpu") == 3


@pytest.mark.parametrize("fault", REPORTS)
def test_a_planted_fault_is_reported(double: Double, fault: str) -> None:
    done = run(double, ["-m", "tests.cuda_double.faults", fault], devices=2, capture_output=True, timeout=120)
    assert re.search(f"^cuda double: {REPORTS[fault]}", done.stderr, re.MULTILINE), done.stderr
    assert done.returncode == EXIT_CODE
    assert "cuda double: 1 problem(s) in process" in done.stderr, "and nothing else"
