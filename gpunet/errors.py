"""All of gpunet's own exceptions, each with the exit code of the command line.

=========  ============================================================================
exit code  meaning
=========  ============================================================================
0          success
1          anything else: a full or read-only disk, a bug
2          usage or configuration: an option, a shape, a dtype, a checkpoint that does not fit
3          data missing, damaged or unusable (data sets and images)
4          the requested device is not available, or has too little memory
5          training diverged: a loss or a gradient became NaN or infinite
130        interrupted (Ctrl-C, SIGINT)
143, 129   terminated (SIGTERM), or the terminal was closed (SIGHUP)
=========  ============================================================================
"""

from __future__ import annotations

import signal

EXIT_INTERRUPTED = 130


class Interrupted(KeyboardInterrupt):
    """A signal ended the work: after the running step, once it has arrived in a training.

    Args:
        number: of the signal; the exit code is 128 + number, as in a shell.
        hint: how to go on; the message.
    """

    def __init__(self, number: int = signal.SIGINT, hint: str = "") -> None:
        super().__init__(hint)
        self.number, self.exit_code = number, 128 + number


def raise_interrupted(number: int, frame: object) -> None:
    """A handler of signals that ends the work at once.

    Raises:
        Interrupted: always.
    """
    raise Interrupted(number)


class GpunetError(Exception):
    """Base class of gpunet's exceptions; the message says what was given, what was expected and what to do."""

    exit_code = 1


class ConfigError(GpunetError, ValueError):
    """An option or argument has an invalid value."""

    exit_code = 2


class ShapeError(GpunetError, ValueError):
    """An array's rank or sizes do not fit the operation."""

    exit_code = 2


class DTypeError(GpunetError, TypeError):
    """An array's dtype does not fit the operation."""

    exit_code = 2


class CheckpointError(GpunetError):
    """A checkpoint or run folder is missing, damaged, or for a different architecture."""

    exit_code = 2


class OtherTrainingError(CheckpointError):
    """A checkpoint is of another training: of other data, settings or starting weights."""


class DataError(GpunetError):
    """A data set or image is missing, damaged or not as expected."""

    exit_code = 3


class DeviceError(GpunetError, RuntimeError):
    """A device is not available, or arrays on different devices were mixed."""

    exit_code = 4


class DeviceMemoryError(GpunetError, MemoryError):
    """A device has too little memory."""

    exit_code = 4

    def __init__(self, device: str, wanted: int | None, free: int, total: int, advice: str = "") -> None:
        self.device, self.wanted, self.free, self.total = device, wanted, free, total
        what = "more was wanted" if wanted is None else f"{wanted:,} bytes were wanted"
        advice = advice or "use fewer images, a smaller model or smaller batches"
        super().__init__(
            f"{device} has too little memory: {what}, {free:,} of its {total:,} bytes are free. Close other programs "
            f"that use it (nvidia-smi lists them), or {advice}"
        )

    def advised(self, advice: str) -> DeviceMemoryError:
        """The same error with other words on what to do, and without the stack, which holds arrays."""
        return DeviceMemoryError(self.device, self.wanted, self.free, self.total, advice)


class DivergedError(GpunetError, ArithmeticError):
    """Training produced a non-finite value."""

    exit_code = 5


class OutputError(GpunetError, OSError):
    """A result could not be written: disk full, folder read-only or missing."""

    exit_code = 1
