"""Error handling and exit codes, shared by the commands of the study."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

from gpunet.cli.console import logging_on_stderr
from gpunet.errors import EXIT_INTERRUPTED, GpunetError


def run(main: Callable[[], object]) -> NoReturn:
    """Call `main`, with gpunet's log on stderr, and exit.

    A gpunet error is reported in one line, with its exit code (see :mod:`gpunet.errors`).
    """
    try:
        with logging_on_stderr(0):
            main()
    except KeyboardInterrupt:
        print("interrupted; completed work is kept", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except GpunetError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    sys.exit()
