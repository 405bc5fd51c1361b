"""``gpunet completion``: a script for a shell that completes commands, options and their choices."""

from __future__ import annotations

import argparse

from gpunet.cli.parser import Parser, choice, common_options
from gpunet.errors import ConfigError

SHELLS = ("bash", "zsh", "tcsh")


def add_arguments(parser: Parser) -> None:
    """Add the command's arguments to its parser."""
    parser.description = (
        "Print a script that completes gpunet's command line. For bash, write it to "
        "~/.local/share/bash-completion/completions/gpunet; for zsh, to a file _gpunet in a folder of $fpath."
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "shell", metavar=f"{{{','.join(SHELLS)}}}", type=choice("SHELL", SHELLS), help="the shell to complete in"
    )
    common_options(parser)


def _name_choices(parser: Parser) -> None:
    """Where the values of an option are listed in its help as {a,b}, have them completed."""
    for action in parser._actions:
        if action.choices is None and str(action.metavar).startswith("{"):
            action.choices = str(action.metavar).strip("{}").split(",")
    for command in parser.commands.values():
        _name_choices(command)


def run(args: argparse.Namespace) -> None:
    """Print the script."""
    from gpunet.cli.main import build_parser

    try:
        import shtab
    except ImportError as error:
        raise ConfigError(f"completion needs the package shtab: pip install shtab ({error})") from error
    parser = build_parser()
    parser.fill()
    _name_choices(parser)
    print(shtab.complete(parser, shell=args.shell))
