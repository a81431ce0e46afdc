"""The command line: `python -m architectures list | train | reproduce | evaluate | show | export | data`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from architectures.checkpoint import CheckpointError
from architectures.data import DataError
from architectures.errors import first_line, machine_trouble, missing_package
from architectures.training.errors import Diverged, ExportError, UsageError

from . import checkpoints, data, runs
from .arguments import OneLine, add_tasks

PROGRAM = "python -m architectures"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Exit status: 0; 1 bad data or checkpoint; 2 bad arguments; 128 + the signal that stopped it."""
    chosen = _parser().parse_args(arguments)
    try:
        status = int(chosen.run(chosen))
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader of the output, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13  # SIGPIPE, which Windows does not name
    except UsageError as error:
        return _fail(chosen, first_line(error), 2)
    except (CheckpointError, DataError, Diverged, ExportError, OSError) as error:
        if isinstance(error, Diverged) and not error.args:
            return 1
        return _fail(chosen, first_line(error), 1)
    except ModuleNotFoundError as error:
        return _fail(chosen, missing_package(error), 1)
    except KeyboardInterrupt:
        return 130
    except (MemoryError, RuntimeError) as error:
        trouble = machine_trouble(error)
        if trouble is None:
            raise
        if chosen.command == "train" and trouble.startswith("out of memory"):
            trouble += "; try a smaller --batch-size"
        return _fail(chosen, trouble, 1)


def _parser() -> argparse.ArgumentParser:
    parser = OneLine(
        prog=PROGRAM, description="Train, evaluate, draw and export the networks of the STN paper."
    )
    commands = add_tasks(parser, "COMMAND")
    for group in (runs, checkpoints, data):
        group.add_commands(commands)
    return parser


def _fail(chosen: argparse.Namespace, line: str, status: int) -> int:
    print(f"{chosen.prog}: {line}", file=sys.stderr)
    return status
