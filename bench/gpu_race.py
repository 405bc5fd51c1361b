"""Training steps and inference of gpunet and PyTorch on a GPU, side by side; the last line of the output is JSON.

python -m bench.gpu_race
--rehearse    one step of each on next to no data: that it runs

Both have the same layers, float32 arrays and Adam, and images on the device: gpunet's as uint8, gathered and scaled in
each step, PyTorch's as a batch of floats that is there already. PyTorch runs as it is (eager), as one CUDA graph and
compiled (``reduce-overhead``, which makes CUDA graphs), channels last and with cuDNN's fastest algorithms. They take
turns of some steps each, in rotating order; a time is the median of the rounds, a ratio that of the two in each round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

from bench import racers
from bench.racers import model_of, torch_model
from gpunet.backend import PRECISIONS, Backend
from gpunet.devices import get_backend

BATCHES = {"cnn-train": (128, 256, 1024), "mlp-train": (128, 1024), "cnn-infer": (1000,)}
COMPILED = {("cnn-train", 256), ("mlp-train", 128)}
"""What PyTorch compiles: each takes some ten seconds."""
STEPS, ROUNDS = 30, 7

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


def race(contestants: dict[str, Turn], rounds: int = ROUNDS) -> dict[str, str]:
    """Of each contestant microseconds a step; of gpunet's peers also the ratio of their time to gpunet's."""
    names = list(contestants)
    for turn in contestants.values():
        for _ in range(3):
            turn()
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            started = time.perf_counter()
            steps = contestants[name]()
            times[name].append((time.perf_counter() - started) / steps * 1e6)
    found = {name: f"{statistics.median(taken):.1f} us" for name, taken in times.items()}
    for name in names:
        if name != "gpunet":
            ratios = [theirs / ours for theirs, ours in zip(times[name], times["gpunet"], strict=True)]
            found[name] += f", {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) times gpunet's"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_race")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rehearse", action="store_true")
    args = parser.parse_args()
    backend = get_backend(args.device)
    torch = pytorch(args.device)
    found: dict[str, Any] = {"PyTorch": torch.__version__ if torch else "not installed"}
    steps, rounds = (1, 1) if args.rehearse else (STEPS, ROUNDS)
    for case, batches in {"mlp-train": (8,)}.items() if args.rehearse else BATCHES.items():
        for batch in batches:
            for precision in PRECISIONS:
                contestants = {"gpunet": ours(backend, case, batch, precision, steps)}
                ways = ("eager", "graph", *(("compiled",) if (case, batch) in COMPILED else ())) if torch else ()
                for how in ways:
                    contestants[f"PyTorch {how}"] = theirs(torch, args.device, case, batch, how, precision, steps)
                found[f"{case}, batch {batch}, {precision}"] = race(contestants, rounds)
                print(case, batch, precision, found[f"{case}, batch {batch}, {precision}"], flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
