"""Every error that gpunet raises on purpose, each with the exit code that the command line ends with.

========  ============================================================================
exit code meaning
========  ============================================================================
0         success
1         anything else: a full or read-only disk, a bug
2         usage or configuration: an option, a shape, a dtype, a checkpoint that does not fit
3         data missing, damaged or not usable (data sets and images)
4         the requested device is not available
5         training diverged: a loss or a gradient became NaN or infinite
130       interrupted (Ctrl-C)
========  ============================================================================
"""

from __future__ import annotations

EXIT_INTERRUPTED = 130


class GpunetError(Exception):
    """Base of all of gpunet's own errors; the message says what was given, what was expected, what to do."""

    exit_code = 1


class ConfigError(GpunetError, ValueError):
    """An option or an argument has a value that cannot work."""

    exit_code = 2


class ShapeError(GpunetError, ValueError):
    """An array's rank or sizes do not fit the operation."""

    exit_code = 2


class DTypeError(GpunetError, TypeError):
    """An array's dtype does not fit the operation."""

    exit_code = 2


class CheckpointError(GpunetError):
    """A checkpoint or run folder is missing, damaged, or belongs to another architecture."""

    exit_code = 2


class DataError(GpunetError):
    """A data set or an image is missing, damaged, or not what it should be."""

    exit_code = 3


class DeviceError(GpunetError, RuntimeError):
    """A device is not available, or arrays of two devices were mixed."""

    exit_code = 4


class DivergedError(GpunetError, ArithmeticError):
    """Training produced a value that is not finite."""

    exit_code = 5


class OutputError(GpunetError, OSError):
    """A result could not be written: disk full, folder read-only or not there."""

    exit_code = 1
