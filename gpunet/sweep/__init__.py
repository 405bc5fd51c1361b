"""Sweeps: many training runs, declared in one file, that answer one question on the validation images."""

from gpunet.sweep.declaration import Axis, Choice, Range, Sweep, load_sweep
from gpunet.sweep.run import SweepResult, run_sweep
from gpunet.sweep.summary import Effect, effects
from gpunet.sweep.table import Row, read_table, write_table

__all__ = [
    "Axis",
    "Choice",
    "Effect",
    "Range",
    "Row",
    "Sweep",
    "SweepResult",
    "effects",
    "load_sweep",
    "read_table",
    "run_sweep",
    "write_table",
]
