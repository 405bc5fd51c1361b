"""Training steps and inference of gpunet and PyTorch on a GPU, side by side; the last line of the output is JSON.

python -m bench.gpu_race
--contestant NAME    the times of one alone
--rehearse           one step of each on next to no data: that it runs

Both have the same layers, float32 arrays and Adam, and images on the device: gpunet's as uint8, gathered and scaled in
each step, PyTorch's as a batch of floats that is there already. PyTorch runs as it is (eager), as one CUDA graph and
compiled (``reduce-overhead``, which makes CUDA graphs), channels last and with cuDNN's fastest algorithms. Each runs in
a process of its own, one after the other: times are microseconds a step, the median, lowest and highest of rounds of
some steps each.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from bench import racers
from bench.racers import model_of, torch_model
from gpunet.backend import PRECISIONS, Backend
from gpunet.devices import get_backend

BATCHES = {"cnn-train": (128, 256, 1024), "mlp-train": (128, 1024), "cnn-infer": (1000,)}
REHEARSED = {"mlp-train": (8,)}
COMPILED = {("cnn-train", 256)}
"""What PyTorch compiles: each takes some ten seconds."""
STEPS, ROUNDS = 30, 7
PEERS = {"PyTorch eager": "eager", "PyTorch graph": "graph", "PyTorch compiled": "compiled"}
LIMIT = 70
"""Seconds of a contestant."""

Turn = Callable[[], int]
"""Some steps, waited for; returns how many."""


def ours(backend: Backend, case: str, batch: int, precision: str, steps: int = STEPS) -> Turn:
    """Turns of gpunet."""
    step = racers.gpunet(case, batch, batch * steps, backend, precision)
    calls = steps if case == "cnn-infer" else 1  # of training, a call is an epoch

    def turn() -> int:
        for _ in range(calls):
            step()
        backend.synchronize()
        return steps

    return turn


def theirs(torch: Any, device: str, case: str, batch: int, how: str, precision: str, steps: int = STEPS) -> Turn:
    """Turns of PyTorch: `how` is ``eager``, ``graph`` or ``compiled``."""
    torch.backends.cudnn.benchmark = True
    _set_precision(torch, precision)
    model = torch_model(model_of(case)).to(device)
    x = torch.rand(batch, 1, 28, 28, device=device)
    if case == "mlp-train":
        x = x.flatten(1)
    else:
        model, x = model.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, 10, (batch,), device=device)
    run = torch.compile(model, mode="reduce-overhead") if how == "compiled" else model
    if case == "cnn-infer":
        model.eval()

        def step() -> None:
            with torch.inference_mode():
                run(x)
    else:
        fused = {"fused": True, "capturable": True} if device != "cpu" else {}
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, **fused)

        def step() -> None:
            optimizer.zero_grad(set_to_none=how != "graph")
            torch.nn.functional.cross_entropy(run(x), y).backward()
            optimizer.step()

    call = _captured(torch, step) if how == "graph" else step

    def turn() -> int:
        _set_precision(torch, precision)
        for _ in range(steps):
            call()
        if device != "cpu":
            torch.cuda.synchronize()
        return steps

    return turn


def _set_precision(torch: Any, precision: str) -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"


def _captured(torch: Any, step: Callable[[], None]) -> Callable[[], None]:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())  # where the arrays are made
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()

    def replay() -> None:
        assert step  # keeps the arrays that the graph computes with
        graph.replay()

    return replay


def pytorch(device: str) -> Any:
    """PyTorch; None if it or its GPU is not there."""
    try:
        import torch
    except ImportError:
        return None
    return torch if device == "cpu" or torch.cuda.is_available() else None


def times(turn: Turn, rounds: int) -> list[float]:
    """Microseconds a step, of each round."""
    for _ in range(3):
        turn()
    found = []
    for _ in range(rounds):
        started = time.perf_counter()
        steps = turn()
        found.append((time.perf_counter() - started) / steps * 1e6)
    return found


def contest(contestant: str, device: str, rehearse: bool) -> Iterator[tuple[str, list[float]]]:
    """The times of one contestant in each case that it takes part in."""
    backend, steps, rounds = get_backend(device), *((1, 1) if rehearse else (STEPS, ROUNDS))
    torch = None if contestant == "gpunet" else pytorch(device)
    for case, batches in (REHEARSED if rehearse else BATCHES).items():
        for batch in batches:
            if contestant == "PyTorch compiled" and (case, batch) not in COMPILED:
                continue
            for precision in PRECISIONS:
                if contestant == "gpunet":
                    turn = ours(backend, case, batch, precision, steps)
                else:
                    turn = theirs(torch, device, case, batch, PEERS[contestant], precision, steps)
                yield f"{case}, batch {batch}, {precision}", times(turn, rounds)


def summary(found: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, list[float]]]:
    """Of each case and contestant median, lowest and highest of the times."""
    return {
        case: {
            name: [round(number, 1) for number in (statistics.median(taken), min(taken), max(taken))]
            for name, taken in by_name.items()
        }
        for case, by_name in found.items()
    }


def run(contestant: str, arguments: list[str]) -> tuple[dict[str, list[float]], str]:
    """What :func:`contest` finds in another process, and why it is not all."""
    command = [sys.executable, "-m", "bench.gpu_race", "--contestant", contestant, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
        output, problem = done.stdout, "" if done.returncode == 0 else (done.stderr.strip() or "?").splitlines()[-1]
    except subprocess.TimeoutExpired as error:
        output, problem = (error.stdout or b"").decode(), f"took more than {LIMIT} s"
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("[")]
    return dict(lines), problem


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_race")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--contestant", choices=["gpunet", *PEERS])
    parser.add_argument("--rehearse", action="store_true")
    args = parser.parse_args()
    if args.contestant:
        for case, taken in contest(args.contestant, args.device, args.rehearse):
            print(json.dumps([case, taken]), flush=True)
        return
    torch = pytorch(args.device)
    found: dict[str, dict[str, list[float]]] = {}
    problems: dict[str, str] = {}
    for contestant in ["gpunet", *(PEERS if torch else ())]:
        by_case, problem = run(contestant, ["--device", args.device, *(["--rehearse"] if args.rehearse else [])])
        for case, taken in by_case.items():
            found.setdefault(case, {})[contestant] = taken
        if problem:
            problems[contestant] = problem
    print(json.dumps({"PyTorch": torch.__version__ if torch else "not installed", **summary(found), **problems}))
    sys.exit("gpunet" in problems)


if __name__ == "__main__":
    main()
