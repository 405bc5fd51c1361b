"""Running mutated files through the parsers, and judging how each ends."""

from __future__ import annotations

import ctypes
import logging
import signal
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random
from types import FrameType

from gpunet.errors import GpunetError
from tests.fuzz.mutations import mutate, splice
from tests.fuzz.targets import Target

CURRENT = "current"
"""The file, in the working folder, that says which input is being read, should that end the process."""


class _Hang(BaseException):
    """Raised in a parser that takes too long."""


@dataclass
class Finding:
    """An input that ended neither in a value nor in a GpunetError."""

    target: Target
    number: int
    what: str
    data: bytes
    details: str = ""
    count: int = 1
    """How many inputs ended at the same place in the same way."""


@dataclass
class Result:
    """How the inputs of a campaign ended."""

    values: dict[str, int] = field(default_factory=dict)
    """Target -> inputs that ended in a value."""
    errors: dict[str, int] = field(default_factory=dict)
    """Target -> inputs that ended in a GpunetError."""
    findings: dict[tuple[str, str], Finding] = field(default_factory=dict)

    @property
    def inputs(self) -> int:
        ends = [*self.values.values(), *self.errors.values(), *(found.count for found in self.findings.values())]
        return sum(ends)


def input_of(target: Target, seed: int, number: int) -> bytes:
    """Input `number` of the campaign with `seed`: the same whenever and wherever it is made."""
    rng = Random(f"{seed} {number} {target.name}")
    data = rng.choice(target.seeds)
    action = rng.random()
    if target.structure is not None and action < 0.6:
        return target.structure(rng, data, mutate)
    if action > 0.95:
        data = splice(rng, data, rng.choice(target.seeds))
    return mutate(rng, data)


def campaign(
    targets: list[Target], folder: Path, *, seed: int, seconds: float | None = None, inputs: int | None = None
) -> Result:
    """Read mutated files, one target after the other, until the time or the number of inputs is used up."""
    result = Result()
    start = time.monotonic()
    with _quiet():
        for target in targets:  # what is imported or compiled on first use is not held against an input
            for data in target.seeds:
                _write(target, folder, data)
                target.read(folder / target.file)
        for number in count() if inputs is None else range(inputs):
            if seconds is not None and time.monotonic() - start > seconds:
                break
            target = targets[number % len(targets)]
            judge(target, folder, number, input_of(target, seed, number), result)
    return result


def judge(target: Target, folder: Path, number: int, data: bytes, result: Result) -> None:
    """Read one input, and note in `result` how that ended."""
    _write(target, folder, data)
    (folder / CURRENT).write_text(f"{number}")
    before = _reset_peak()
    what, details = "", ""
    try:
        with _limited(target.seconds):
            target.read(folder / target.file)
        tally = result.values
    except GpunetError as error:
        tally = result.errors
        if not str(error).strip():
            what = f"{type(error).__name__} without a message"
    except _Hang:
        what, details = f"takes more than {target.seconds:g} s", traceback.format_exc()
    except Exception as error:
        what, details = _place(error), traceback.format_exc()
    taken = _peak() - before
    if not what and taken > target.memory:
        what = f"takes much memory: limit {target.memory >> 20} MiB"
        details = f"{taken >> 20} MiB"
    if not what:
        tally[target.name] = tally.get(target.name, 0) + 1
        return
    known = result.findings.setdefault((target.name, what), Finding(target, number, what, data, details, 0))
    known.count += 1


def _write(target: Target, folder: Path, data: bytes) -> None:
    (folder / target.file).write_bytes(data)


def _place(error: Exception) -> str:
    """The type of `error`, and the last function of gpunet, or of a test, that it came through."""
    frames = traceback.extract_tb(error.__traceback__)[1:]  # without that of judge
    own = [frame for frame in frames if {"gpunet", "tests"} & {*Path(frame.filename).parts}]
    last = (own or frames)[-1]
    return f"{type(error).__name__} in {Path(last.filename).name}, {last.name}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings that many files deserve."""
    logger = logging.getLogger("gpunet")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raise :class:`_Hang` in a block that takes too much CPU time; the time of the day would judge a busy machine."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise _Hang

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _reset_peak() -> int:
    """Let the peak of the memory start from here; returns the memory now, in bytes."""
    ctypes.CDLL(None).malloc_trim(0)  # gpunet keeps freed memory for the next step: it would hide what is taken again
    try:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM
    except OSError:
        return _status("VmHWM")  # then only inputs above all others are seen
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(name: str) -> int:
    with open("/proc/self/status", encoding="utf-8") as file:  # noqa: PTH123 - twice for each input
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))
