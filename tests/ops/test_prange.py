"""``prange`` of the CPU kernels: each task is run once, by whichever thread, and errors in threads are raised."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba.core import types
from numba.extending import intrinsic

import gpunet
from gpunet.ops._numba import jit, prange

PACKAGE = Path(gpunet.__file__).parent


@jit
def add_squares(numbers: Any, scale: float, counts: Any, squares: Any) -> None:
    for task in prange(counts.size):
        counts[task] += 1
        squares[task] += scale * numbers[task] ** 2


@jit
def fill_rows(arrays: tuple[Any, Any], rows: Any) -> None:
    first, second = arrays
    for row in prange(rows.shape[0]):
        add_squares(first, 1.0, rows[row, 0], rows[row, 1])
        rows[row, 1] += second[row]


@jit
def fail_at(task: int, counts: Any) -> None:
    for number in prange(counts.size):
        counts[number] = 1
        if number == task:
            raise ValueError("this task")


@intrinsic
def _read(typing_context: Any, array: Any, at: Any) -> Any:
    """An element as it is now: LLVM must not keep what it was."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.load_atomic(builder.gep(data, [args[1]]), "monotonic", 8)

    return array.dtype(array, types.intp), codegen


read: Any = _read


@jit
def wait_for_the_others(tasks: int, patience: int, counts: Any, done: Any) -> None:
    """Task 0 waits until `done` has that of all others, or runs out of `patience`; `counts` is what it saw."""
    for task in prange(tasks):
        if task:
            done[task] = 1
        else:
            for _ in range(patience):
                counts[0] = 0
                for other in range(tasks):
                    counts[0] += read(done, other)
                if counts[0] == tasks - 1:
                    break


@jit
def returns_something(x: Any) -> Any:
    for i in prange(x.size):
        x[i] = 1
    return x.size


@jit
def has_two_loops(x: Any) -> None:
    for i in prange(x.size):
        x[i] = 1
    for i in prange(x.size):
        x[i] = 2


@pytest.fixture(autouse=True)
def all_threads() -> Any:
    yield
    numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)


def use_threads(count: int) -> None:
    numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))


@given(tasks=st.integers(0, 40), threads=st.integers(1, 16))
def test_each_task_is_run_once(tasks: int, threads: int) -> None:
    use_threads(threads)
    numbers, counts, squares = np.arange(tasks, dtype=np.float32), np.zeros(tasks, np.uint8), np.zeros(tasks)
    add_squares(numbers, 2.0, counts, squares)
    assert counts.tolist() == [1] * tasks
    assert squares.tolist() == [2.0 * number**2 for number in range(tasks)]


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads")
def test_a_thread_that_is_done_takes_over_tasks_of_another() -> None:
    use_threads(2)
    counts, done = np.zeros(1, np.int64), np.zeros(16, np.int64)
    wait_for_the_others(16, 10**8, counts, done)
    assert counts.tolist() == [15]


@pytest.mark.parametrize("threads", [1, 2])
def test_in_a_loop_a_kernel_runs_as_a_whole(threads: int) -> None:
    use_threads(threads)
    numbers, added, rows = np.arange(7.0), np.arange(5) * 100.0, np.zeros((5, 2, 7))
    for _ in range(3):
        rows[...] = 0
        fill_rows((numbers, added), rows)
        assert rows[:, 0].tolist() == [[1] * 7] * 5
        assert rows[:, 1].tolist() == [[number**2 + row * 100 for number in range(7)] for row in range(5)]
        assert numba.get_num_threads() == min(threads, numba.config.NUMBA_NUM_THREADS)


@pytest.mark.parametrize("task", [0, 5, 9])
def test_an_error_in_a_thread_is_raised_and_the_next_call_works(task: int) -> None:
    with pytest.raises(ValueError, match="this task"):
        fail_at(task, np.zeros(10))
    counts = np.zeros(10)
    fail_at(-1, counts)
    assert counts.tolist() == [1] * 10


@pytest.mark.parametrize("kernel", [returns_something, has_two_loops])
def test_a_kernel_of_another_form_is_not_compiled(kernel: Any) -> None:
    with pytest.raises(Exception, match=f"{kernel.py_func.__name__}: a kernel has one loop over prange"):
        kernel(np.zeros(3))


def test_python_threads_call_kernels_at_the_same_time() -> None:
    results: list[list[float]] = []

    def call() -> None:
        for _ in range(200):
            counts, squares = np.zeros(50, np.uint8), np.zeros(50)
            add_squares(np.full(50, 3, np.float32), 1.0, counts, squares)
            if counts.tolist() != [1] * 50 or squares.tolist() != [9.0] * 50:
                results.append(squares.tolist())

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert results == []


def test_arrays_of_the_caller_keep_their_owners() -> None:
    numbers, counts, squares = np.ones(9, np.float32), np.zeros(9, np.uint8), np.zeros(9)
    before = [sys.getrefcount(array) for array in (numbers, counts, squares)]
    for _ in range(10):
        add_squares(numbers, 1.0, counts, squares)
    assert [sys.getrefcount(array) for array in (numbers, counts, squares)] == before


def test_the_work_queue_of_numba_runs_the_same(tmp_path: Path) -> None:
    program = """if True:
        import numba, numpy as np
        from tests.ops.test_prange import fill_rows
        for threads in range(1, 4):
            numba.set_num_threads(threads)
            rows = np.zeros((5, 2, 7))
            fill_rows((np.arange(7.0), np.arange(5) * 100.0), rows)
            assert (rows[:, 0] == 1).all()
            assert (rows[:, 1] == np.arange(7.0) ** 2 + 100 * np.arange(5)[:, None]).all()
        print(numba.threading_layer())
    """
    environment = {"NUMBA_THREADING_LAYER": "workqueue", "NUMBA_NUM_THREADS": "3", "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=PACKAGE.parent,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("workqueue\n", 0), done.stderr


def kernels() -> dict[str, ast.FunctionDef]:
    """The functions of the package with a loop over ``prange``, by file and name."""
    return {
        f"{path.relative_to(PACKAGE)}:{function.name}": function
        for path in sorted(PACKAGE.rglob("*.py"))
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(function, ast.FunctionDef) and "prange" in calls(function)
    }


def calls(tree: ast.AST) -> list[str]:
    return [node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]


def test_kernels_end_with_their_one_loop_and_return_nothing() -> None:
    found = kernels()
    assert len(found) > 40
    for name, function in found.items():
        loop = function.body[-1]
        assert calls(function).count("prange") == 1, name
        assert isinstance(loop, ast.For) and calls(loop.iter)[0] == "prange" and not loop.orelse, name
        assert not any(isinstance(node, ast.Return) and node.value for node in ast.walk(function)), name


def written(tree: ast.AST) -> set[str]:
    """The names of the arrays to whose elements something is assigned."""
    return {
        node.value.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name)
    }


def test_what_comes_before_the_loop_writes_to_no_argument_and_what_it_makes_is_not_written_in_the_loop() -> None:
    for name, function in kernels().items():
        *before, loop = function.body
        arguments = {argument.arg for argument in function.args.args}
        assert not arguments & {array for statement in before for array in written(statement)}, name
        made = {
            target.id
            for statement in before
            if isinstance(statement, ast.Assign) and "empty" in ast.unparse(statement.value)
            for target in statement.targets
            if isinstance(target, ast.Name)
        }
        assert not made & written(loop), name
