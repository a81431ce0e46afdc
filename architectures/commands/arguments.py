"""The kinds of arguments that commands take. Each of them refuses what is not of its kind, before any work begins."""

from __future__ import annotations

import argparse
import ast
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from architectures.training.files import check_writable

Command = Callable[[argparse.Namespace], int]


class OneLine(argparse.ArgumentParser):
    """A parser that tells an error in one line, without the usage before it."""

    def error(self, message: str) -> Any:
        self.exit(2, f"{self.prog}: {message}\n")


def add_command(commands: Any, name: str, run: Command, text: str) -> argparse.ArgumentParser:
    """Add a command, or the task of a command, which `run` carries out."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run, prog=parser.prog)
    return parser


def add_tasks(parser: argparse.ArgumentParser, metavar: str) -> Any:
    """The object that the tasks of a command are added to; the user must give one of them."""
    return parser.add_subparsers(dest=metavar.lower(), required=True, metavar=metavar)


def _number(
    kind: Callable[[str], float], least: float, what: str, below: float = math.inf
) -> Callable[[str], Any]:
    def convert(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not least <= value < below:
            raise argparse.ArgumentTypeError(f"wanted {what}, got {text!r}")
        return value

    return convert


count = _number(int, 1, "a whole number, at least 1")
workers = _number(int, 0, "a whole number, at least 0")
seed = _number(int, 0, "a whole number from 0 to 2^63 - 1", 2**63)
positive = _number(float, 1e-30, "a number above 0")


def seeds(text: str) -> tuple[int, ...]:
    """Seeds with commas between them."""
    return tuple(seed(part) for part in text.split(","))


def option(text: str) -> tuple[str, Any]:
    """NAME=VALUE, where the value is one of Python's literals, or else text."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"wanted NAME=VALUE, got {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return name, value


def path(text: str) -> Path:
    """A path. An empty one, as a shell variable without a value gives, is refused: it would mean the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("wanted a path, got ''")
    return Path(text)


def writable_file(suffix: str | None = None) -> Callable[[str], Path]:
    """A file that can be written, of a name that ends in `suffix` if there is one."""
    return partial(_writable_file, suffix=suffix)


def _writable_file(text: str, *, suffix: str | None) -> Path:
    file = path(text)
    try:
        if file.is_dir():
            raise argparse.ArgumentTypeError(f"wanted a file, got the folder {text!r}")
        if suffix and file.suffix.lower() != suffix:
            raise argparse.ArgumentTypeError(f"wanted a name that ends in {suffix}, got {text!r}")
        check_writable(file.parent)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written: {error}") from error
    return file


def add_data_dir(parser: argparse.ArgumentParser) -> None:
    """--data-dir and --num-workers."""
    parser.add_argument(
        "--data-dir", type=path, metavar="DIR",
        help="MNIST's IDX files (default: 5,000 embedded digits), or the folder of SVHN or CUB",
    )  # fmt: skip
    parser.add_argument(
        "--num-workers", type=workers, metavar="N",
        help="processes that read the pictures of SVHN or CUB (default: 2)",
    )  # fmt: skip


def add_schedule(parser: argparse.ArgumentParser, schedules: Sequence[str]) -> None:
    """--schedule, and --fast for one of the schedules."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--schedule", choices=schedules, help="the paper's, or one of minutes (default: paper)"
    )
    which.add_argument(
        "--fast",
        dest="schedule",
        action="store_const",
        const="fast",
        help="the same as --schedule fast",
    )


def add_option(parser: argparse.ArgumentParser, what: str) -> None:
    """--model-option or --data-option."""
    parser.add_argument(
        f"--{what}-option", type=option, action="append", default=[], metavar="NAME=VALUE",
        help=f"an option of the {'network' if what == 'model' else what}; may be given again",
    )  # fmt: skip
