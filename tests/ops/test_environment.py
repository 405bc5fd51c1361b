"""The environment that kernels run in: variables that keep them from running, and processes that were forked."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from gpunet.errors import ConfigError
from gpunet.ops._environment import check_environment

fork_only = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

VARIABLES = ("NUMBA_NUM_THREADS", "NUMBA_DISABLE_JIT", "NUMBA_THREADING_LAYER")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("NUMBA_NUM_THREADS", value) for value in ("0", "-1", "two", "", "2.0", "1025", "9" * 5000)),
        *(("NUMBA_DISABLE_JIT", value) for value in ("1", "2", "yes")),
        *(("NUMBA_THREADING_LAYER", value) for value in ("", "openmp", "1")),
    ],
)
def test_variables_with_which_no_kernel_can_run(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as raised:
        check_environment()
    message = str(raised.value)
    assert name in message and repr(value)[:80] in message and "\n" not in message and len(message) < 400


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("NUMBA_NUM_THREADS", value) for value in ("1", "1024", " 4 ")),
        *(("NUMBA_DISABLE_JIT", value) for value in ("", "0")),
        *(("NUMBA_THREADING_LAYER", value) for value in ("omp", "TBB", "forksafe")),
        ("HOME", "/"),
    ],
)
def test_variables_that_are_fine(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    check_environment()


def run(program: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**{name: value for name, value in os.environ.items() if name not in VARIABLES}, **variables}
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, env=environment, check=False
    )


FIRST_OP = """
import os
import numpy as np
import gpunet
from gpunet.errors import ConfigError
for _ in range(2):
    try:
        print(gpunet.ops.relu(np.array([-1, 2], np.float32)).tolist())
    except ConfigError as error:
        print(error)
        del os.environ["{name}"]
"""


LAYER = FIRST_OP.replace('del os.environ["{name}"]', "")


@pytest.mark.parametrize(
    ("name", "value"), [("NUMBA_NUM_THREADS", "0"), ("NUMBA_DISABLE_JIT", "1"), ("NUMBA_THREADING_LAYER", "none")]
)
def test_the_first_op_names_the_variable(name: str, value: str) -> None:
    """And the next one runs, once it is unset."""
    done = run(FIRST_OP.format(name=name), **{name: value})
    message, result = done.stdout.splitlines()
    assert name in message and repr(value) in message
    assert (result, done.stderr) == ("[0.0, 2.0]", "")


def test_a_threading_layer_that_is_not_installed() -> None:
    done = run("import sys; sys.modules['numba.np.ufunc.tbbpool'] = None\n" + LAYER, NUMBA_THREADING_LAYER="tbb")
    first, second = done.stdout.splitlines()
    assert first.startswith("NUMBA_THREADING_LAYER is 'tbb', which cannot be used: No threading layer"), done
    assert (second, done.stderr) == (first, "")


FORKS = """
import logging, os, signal, sys, threading
import numpy as np
from gpunet import ops

logging.basicConfig(format="%(message)s", stream=sys.stdout)
rng = np.random.default_rng(0)
maps, kernels = rng.standard_normal((64, 14, 14, 8), np.float32), rng.standard_normal((3, 3, 8, 16), np.float32)
rows, weight = rng.standard_normal((512, 300), np.float32), rng.standard_normal((300, 512), np.float32)

def results():
    wide = rows @ weight  # NumPy's BLAS
    y = ops.conv2d(maps, kernels, padding="same")
    gradients = ops.linear_backward(wide, rows, weight)
    return [array.tobytes() for array in (y, ops.linear(rows, weight), ops.relu(wide), *gradients)]

expected = results() if "before" in sys.argv else None

def in_child(check):
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)  # ends a child that waits for ever
        try:
            check()
            sys.stdout.flush()
            os._exit(0)
        except BaseException as error:
            print(repr(error), flush=True)
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code == 0, code

def same():
    assert expected is None or results() == expected

def more_threads():
    import numba
    numba.set_num_threads(2)
    same()

def in_threads():
    found = []
    threads = [threading.Thread(target=lambda: found.append(results())) for _ in range(2)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert found == [expected] * 2
    same()

def grandchild():
    in_child(same)
    same()
    in_child(same)

def idle():
    pass

{body}
"""


def forks(body: str, *words: str) -> list[str]:
    """The lines that a process and its forked children print."""
    program = FORKS.replace("{body}", body)
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        capture_output=True, text=True, timeout=300, env={**os.environ, "NUMBA_NUM_THREADS": "2"}, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout.splitlines()


@fork_only
def test_forked_children_answer() -> None:
    """With the parent's bits, on one thread, after a line that says so; theirs and threads of their own, too."""
    lines = forks(
        "for check in (same, more_threads, in_threads, grandchild, idle):\n    in_child(check)\nsame()", "before"
    )
    assert len(lines) == 3 + 3  # a line from each process that computes
    assert all("run on one thread" in line and "spawn" in line for line in lines)
    assert len({line.split()[2] for line in lines}) == len(lines), "each names itself"


@fork_only
def test_a_fork_from_another_thread() -> None:
    body = "thread = threading.Thread(target=lambda: (same(), in_child(in_threads), print('back')))\n"
    lines = forks(body + "thread.start(); thread.join()", "before")
    assert lines[1:] == ["back"] and "run on one thread" in lines[0]


@fork_only
def test_a_fork_before_the_first_op_leaves_all_threads() -> None:
    assert forks("in_child(lambda: results()); in_child(in_threads) if expected else None") == []


@fork_only
def test_a_pool_of_forked_processes() -> None:
    body = """
import multiprocessing
with multiprocessing.get_context("fork").Pool(2) as pool:
    print([answer == expected for answer in pool.starmap(results, [()] * 4)])
"""
    assert forks(body, "before")[-1] == str([True] * 4)


@fork_only
def test_a_child_that_cannot_go_on_says_what_to_do() -> None:
    """As with a Numba whose threads cannot be started again: every op is refused, none waits for ever."""
    body = """
import gpunet.errors
from numba.np.ufunc import omppool
del omppool.launch_threads

def refused():
    for _ in range(2):
        try:
            results()
            raise AssertionError("no error")
        except gpunet.errors.DeviceError as error:
            print(error)

in_child(refused)
same()
"""
    lines = forks(body, "before")
    assert len(lines) == 2 and len(set(lines)) == 1
    assert lines[0].startswith("this process was forked after a CPU kernel had run") and "spawn" in lines[0]
