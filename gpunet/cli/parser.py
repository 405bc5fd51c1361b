"""argparse with gpunet's conventions: errors are raised, not printed, and unknown words get a suggestion."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from gpunet.errors import GpunetError
from gpunet.machine import MAX_THREADS
from gpunet.options import did_you_mean

if TYPE_CHECKING:
    from _typeshed import SupportsWrite


class UsageError(GpunetError):
    """The command line is invalid. Not a ValueError: argparse would swallow it."""

    exit_code = 2


_NEGATIVE = re.compile(r"-(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$")


class Parser(argparse.ArgumentParser):
    """A parser whose options have no defaults other than ``set_defaults``, so that they may be given at any level.

    ``gpunet -v train --device cpu cnn -q``: each level adds the options given there to those of the levels above.
    """

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("formatter_class", _Help)
        super().__init__(allow_abbrev=False, argument_default=argparse.SUPPRESS, **settings)
        self._negative_number_matcher = _NEGATIVE  # argparse's own takes -1e-3 for an option
        self.commands: dict[str, Parser] = {}
        self.noun = "command"
        self.explain_unknown: Callable[[str], str] = lambda name: ""
        """Returns a hint for an unknown option; if empty, the closest known option is suggested."""
        self._fill: Callable[[Parser], None] | None = None

    def with_commands(self, noun: str) -> Callable[..., None]:
        """Enable subcommands, called `noun` in messages; returns a function that adds one: ``add(name, fill, ...)``.

        ``fill(parser)`` adds the subcommand's arguments; it is called only if that subcommand is used.
        """
        self.noun = noun
        actions = self.add_subparsers(title=f"{noun}s", metavar=noun.upper(), parser_class=Parser)

        def add(name: str, fill: Callable[[Parser], None], **settings: Any) -> None:
            settings.setdefault("description", settings.get("help"))
            self.commands[name] = actions.add_parser(name, **settings)
            self.commands[name]._fill = fill

        return add

    def print_help(self, file: SupportsWrite[str] | None = None) -> None:
        """Print the help; unlike argparse, do not ignore an OSError."""
        print(self.format_help(), end="", file=file)

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        if arg_strings == ["--"] and action.option_strings and action.nargs is None:
            return self._get_value(action, "--")  # of --name=--, from which argparse (before Python 3.13) takes it away
        return super()._get_values(action, arg_strings)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message.removeprefix('argument ')} (see {self.prog} --help)")

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """The parsed command line.

        Raises:
            UsageError: it is invalid.
        """
        self._prepare(words)
        return self.parse_args(words)

    def fill(self) -> None:
        """Add the arguments of all subcommands, which otherwise happens only for the one that is used."""
        self._fill_own()
        for command in self.commands.values():
            command.fill()

    def _fill_own(self) -> None:
        if self._fill is not None:
            self._fill(self)
            self._fill = None

    def _prepare(self, words: Sequence[str]) -> None:
        """Fill this parser and the subcommand's, and raise a UsageError with a hint for an unknown option or command.

        argparse itself would first report errors that are mere consequences of the misspelt word.
        """
        self._fill_own()
        known = self._option_string_actions
        position = 0
        while position < len(words) and words[position] != "--":
            word = words[position]
            name, equals, _ = word.partition("=")
            if name in known:
                takes_value = known[name].nargs is None and not equals
                position += takes_value and bool(self.commands)  # the value is not a command
            elif word.startswith("--"):
                hint = self.explain_unknown(name) or did_you_mean(name, known)
                raise UsageError(f"unknown option {name} of {self.prog}{hint}")
            elif not word.startswith("-") and self.commands:
                if word not in self.commands:
                    hint = did_you_mean(word, self.commands)
                    raise UsageError(f"unknown {self.noun} {word!r:.80}: expected {', '.join(self.commands)}{hint}")
                self.commands[word]._prepare(words[position + 1 :])
                return
            position += 1


class _Help(argparse.HelpFormatter):
    """Help with an option column wide enough for ``--validation-fraction``."""

    def __init__(self, prog: str, **settings: Any) -> None:
        super().__init__(prog, max_help_position=30, **settings)


def number(flag: str, low: int, high: int) -> Callable[[str], int]:
    """An argparse type: a whole number from `low` to `high`, with a clear error message."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise UsageError(f"{flag} must be a whole number, got {text!r:.80}") from None
        if not low <= value <= high:
            raise UsageError(f"{flag} must be at least {low} and at most {high}, got {text:.80}")
        return value

    return read


def decimal(flag: str, low: float) -> Callable[[str], float]:
    """An argparse type: a finite number from `low`, with a clear error message."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value < math.inf:
            raise UsageError(f"{flag} must be a number of at least {low:g}, got {text!r:.80}")
        return value

    return read


def choice(flag: str, choices: Sequence[str]) -> Callable[[str], str]:
    """An argparse type: one of `choices`, with an error message that suggests the closest."""

    def read(text: str) -> str:
        if text not in choices:
            hint = did_you_mean(text, choices)
            raise UsageError(f"{flag} must be one of {', '.join(choices)}; got {text!r:.80}{hint}")
        return text

    return read


def common_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every command has."""
    group = parser.add_argument_group("output")
    group.add_argument(
        "-q",
        "--quiet",
        dest="verbosity",
        action="store_const",
        const=-1,
        help="show only warnings and errors, no progress",
    )
    group.add_argument("-v", "--verbose", dest="verbosity", action="store_const", const=1, help="show more messages")
    group.add_argument("--debug", action="store_true", help="show the Python traceback of an error")


def json_option(parser: argparse._ActionsContainer) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help="print the result as one line of JSON")


def device_option(parser: argparse._ActionsContainer) -> None:
    """Add ``--device``."""
    parser.add_argument(
        "--device",
        metavar="D",
        help="auto, cpu, cuda or cuda:N (default: the environment variable GPUNET_DEVICE, else auto)",
    )


def compute_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that computes: ``--device`` and ``--threads``."""
    group = parser.add_argument_group("device")
    device_option(group)
    group.add_argument(
        "--threads",
        metavar="N",
        type=number("--threads", 1, MAX_THREADS),
        help="number of CPU threads (default: one per core)",
    )
