"""The ``gpunet`` command: runs the subcommand and turns every error into one line and an exit code."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from gpunet.cli.console import logging_on_stderr, print_json, printable_stdout
from gpunet.cli.parser import Parser, UsageError, common_options, json_option
from gpunet.errors import EXIT_INTERRUPTED, GpunetError, Interrupted, raise_interrupted
from gpunet.text import printable

COMMANDS = {
    "train": "train a model",
    "evaluate": "evaluate a trained model",
    "predict": "classify image files",
    "sweep": "train the configurations declared in a file, and compare them",
    "features": "compare the features of a CNN's layers",
    "reproduce": "reproduce the published results",
    "export": "write a trained model as an ONNX file",
    "import": "read an ONNX file as a model",
    "report": "write an HTML report of a run, or compare several",
    "doctor": "check the installation, the device and the data set",
    "warmup": "compile all kernels ahead of time",
    "data": "fetch, verify or locate the Fashion-MNIST files",
    "completion": "print a script that completes the command line in a shell",
}
"""The commands. Each is a module of the same name with ``add_arguments(parser)``, imported only when it is called."""

_MODULES = {"import": "import_model"}  # a word of Python cannot be the name of a module


def entry_point() -> NoReturn:
    """Run the command line and exit with its exit code."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the caller, as in `gpunet doctor >&-`
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - lives as long as the process
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file name may not be valid text
    for name in ("SIGTERM", "SIGHUP"):  # as Ctrl-C: what is open is closed, and temporary files are removed
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:  # ignored under nohup
            signal.signal(number, raise_interrupted)
    sys.exit(main())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`, by default ``sys.argv[1:]``; returns the exit code, see :mod:`gpunet.errors`."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    try:
        code = _run(words)
        sys.stdout.flush()  # a full disk or a closed pipe must raise here, not when Python exits
        return code
    except KeyboardInterrupt as interrupt:
        code = interrupt.exit_code if isinstance(interrupt, Interrupted) else EXIT_INTERRUPTED
        return _fail(f"interrupted{f'; {interrupt}' if str(interrupt) else ''}", code, debug, "")
    except BrokenPipeError:
        _drop_stdout()
        return 1
    except GpunetError as error:
        return _fail(str(error), error.exit_code, debug)
    except OSError as error:
        _drop_stdout()
        where = f"cannot read or write {error.filename}" if error.filename else "cannot write the output"
        return _fail(f"{where}: {error.strerror or error}", 1, debug)
    except MemoryError:
        return _fail("out of memory; a smaller --batch-size or model may fit", 1, debug)
    except Exception as error:
        hint = "" if debug else "; run again with --debug for the traceback"
        message = " ".join(str(error).split())
        return _fail(f"unexpected {type(error).__name__}: {message}{hint}", 1, debug)


def _run(words: Sequence[str]) -> int:
    parser = build_parser()
    try:
        args = parser.parse(words)
    except SystemExit as stop:  # --help
        return int(stop.code or 0)
    if args.version:
        _print_version(args.json)
        return 0
    if "run" not in args:
        if args.json:
            raise UsageError("--json needs a command, or --version (see gpunet --help)")
        parser.print_help()
        return 0
    with logging_on_stderr(args.verbosity), printable_stdout():
        code: int | None = args.run(args)
    return code or 0


def build_parser() -> Parser:
    """The parser of the whole command line."""
    parser = Parser(prog="gpunet", description="Train small neural networks from scratch on NumPy and CuPy arrays.")
    parser.set_defaults(verbosity=0, version=False, json=False)
    parser.add_argument(
        "--version", action="store_true", help="show the version and exit; with --json, also Python's and NumPy's"
    )
    json_option(parser)
    common_options(parser)
    add_command = parser.with_commands("command")
    for command, text in COMMANDS.items():
        add_command(command, functools.partial(_fill, command), help=text)
    return parser


def _fill(command: str, parser: Parser) -> None:
    importlib.import_module(f"gpunet.cli.{_MODULES.get(command, command)}").add_arguments(parser)


def _print_version(as_json: bool) -> None:
    from gpunet import __version__

    if not as_json:
        print(f"gpunet {__version__}")
        return
    from gpunet.training.description import versions

    print_json(versions())


def _fail(message: str, code: int, debug: bool, label: str = "error: ") -> int:
    """Print `message` on stderr, after the traceback if `debug`; returns `code`."""
    if debug:
        print(printable(traceback.format_exc(), lines=True), end="", file=sys.stderr)
    with contextlib.suppress(OSError):
        print(f"gpunet: {label}{printable(message, lines=True)}", file=sys.stderr)
    return code


def _drop_stdout() -> None:
    """Discard what is left in stdout's buffer: flushing it again at exit would fail a second time."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
