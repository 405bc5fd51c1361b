"""``gpunet data``: fetch, verify and locate the data set."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from pathlib import Path

from gpunet.cli.parser import Parser, UsageError, common_options
from gpunet.errors import DataError


def add_arguments(parser: Parser) -> None:
    """Add the command's three actions to its parser."""
    parser.set_defaults(run=_no_action, data=None)
    add_action = parser.with_commands("action")
    for name, action, text in (
        ("fetch", _fetch, "find the files, or download them if they are missing"),
        ("verify", _verify, "check the files against their known SHA-256 checksums"),
        ("path", _path, "print the folder that contains the files"),
    ):
        add_action(name, functools.partial(_add_action_arguments, action), help=text)


def _add_action_arguments(action: Callable[[argparse.Namespace], None], parser: Parser) -> None:
    parser.set_defaults(run=action)
    parser.add_argument("--data", metavar="PATH", help="folder of the files (default: search the usual locations)")
    common_options(parser)


def _no_action(args: argparse.Namespace) -> None:
    raise UsageError("no action given: expected gpunet data fetch, verify or path")


def _fetch(args: argparse.Namespace) -> None:
    from gpunet import data

    print(data.fetch(_given(args)))


def _verify(args: argparse.Namespace) -> None:
    from gpunet import data

    for name, digest in data.verify(_given(args)).items():
        print(f"{digest}  {name}")


def _path(args: argparse.Namespace) -> None:
    from gpunet import data

    given = _given(args)
    found = data.find(given)
    if found is None:
        where = f"in {given}" if given else "in any of the usual locations"
        raise DataError(f"the Fashion-MNIST files are not {where}; download them with: gpunet data fetch")
    print(found)


def _given(args: argparse.Namespace) -> Path | None:
    return None if args.data is None else Path(args.data)
