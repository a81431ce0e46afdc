"""The command line: `python -m architectures list | train | evaluate | show | export | reproduce | data`."""

from __future__ import annotations

import argparse
import ast
import math
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from architectures.checkpoint import CheckpointError
from architectures.data import DataError
from architectures.errors import first_line, machine_trouble
from architectures.training.errors import Diverged, ExportError, UsageError
from architectures.training.experiments import EXPERIMENTS, SCHEDULES
from architectures.training.files import check_writable, path_argument
from architectures.training.tables import TABLES

PROGRAM = "python -m architectures"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Exit status: 0; 1 bad data or checkpoint; 2 bad arguments; 128 + the signal that stopped it."""
    chosen = _parser().parse_args(arguments)
    command = " ".join([chosen.command, *filter(None, [getattr(chosen, "task", None)])])
    try:
        return int(chosen.run(chosen))
    except UsageError as error:
        return _fail(command, error, 2)
    except (CheckpointError, DataError, Diverged, ExportError, OSError) as error:
        if isinstance(error, Diverged) and not error.args:
            return 1
        return _fail(command, error, 1)
    except ModuleNotFoundError as error:
        return _fail(command, f"{error.name} is not installed: {_install(error.name)}", 1)
    except KeyboardInterrupt:
        return 130
    except (MemoryError, RuntimeError) as error:
        trouble = machine_trouble(error)
        if trouble is None:
            raise
        if chosen.command == "train" and trouble.startswith("out of memory"):
            trouble += "; try a smaller --batch-size"
        return _fail(command, trouble, 1)


def _install(name: str | None) -> str:
    """How to get a package that is missing."""
    extra = "onnx" if (name or "").startswith("onnx") else "train"
    return f"pip install 'stn-triton[{extra}]'"


def _fail(command: str, error: object, status: int) -> int:
    line = first_line(error) if isinstance(error, Exception) else str(error)
    print(f"{PROGRAM} {command}: {line}", file=sys.stderr)
    return status


class _OneLine(argparse.ArgumentParser):
    """Errors as one line, without the usage before them."""

    def error(self, message: str) -> Any:
        self.exit(2, f"{self.prog}: {message}\n")


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


_count = _number(int, 1, "a whole number, at least 1")
_workers = _number(int, 0, "a whole number, at least 0")
_seed = _number(int, 0, "a whole number from 0 to 2^63 - 1", 2**63)
_positive = _number(float, 1e-30, "a number above 0")


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"wanted NAME=VALUE, got {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return name, value


def _file(text: str, *, suffix: str | None = None) -> Path:
    """A file that can be written: told before the work whose result it shall hold."""
    path = path_argument(text)
    try:
        if path.is_dir():
            raise argparse.ArgumentTypeError(f"wanted a file, got the folder {text!r}")
        if suffix and path.suffix.lower() != suffix:
            raise argparse.ArgumentTypeError(f"wanted a name that ends in {suffix}, got {text!r}")
        check_writable(path.parent)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written: {error}") from error
    return path


def _seeds(text: str) -> tuple[int, ...]:
    return tuple(_seed(part) for part in text.split(","))


def _parser() -> argparse.ArgumentParser:
    parser = _OneLine(
        prog=PROGRAM, description="Train, evaluate, draw and export the networks of the STN paper."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add = partial(_add_command, commands)

    add("list", _list, "the networks, with parameters and input sizes, and the experiments")

    _add_train(add("train", _train, "train a network on an experiment"))

    evaluate = add("evaluate", _evaluate, "the error of a checkpoint on the test set")
    evaluate.add_argument("checkpoint", type=path_argument, metavar="CHECKPOINT")
    _add_data_dir(evaluate)
    evaluate.add_argument(
        "--embedded",
        action="store_true",
        help="test on the embedded digits also what was trained on files, among which they may be",
    )
    evaluate.add_argument("--json", type=_file, metavar="FILE", help="write it there, too")

    show = add("show", _show, "a picture of what a network's transformers look at")
    show.add_argument("checkpoint", type=path_argument, metavar="CHECKPOINT")
    show.add_argument("--out", type=partial(_file, suffix=".png"), required=True, metavar="PNG")
    _add_data_dir(show)
    show.add_argument("--examples", type=_count, default=6, help="images in it (%(default)s)")

    export = add("export", _export, "a trained network as an ONNX model or an AOTInductor package")
    export.add_argument("checkpoint", type=path_argument, metavar="CHECKPOINT")
    form = export.add_mutually_exclusive_group(required=True)
    form.add_argument(
        "--onnx", type=partial(_file, suffix=".onnx"), metavar="FILE", help="as an ONNX model"
    )
    form.add_argument(
        "--aoti", type=partial(_file, suffix=".pt2"), metavar="FILE",
        help="as a package that AOTInductor compiles; needs a C++ compiler",
    )  # fmt: skip
    export.add_argument(
        "--dynamic-batch", action="store_true", help="for any number of images (default: one)"
    )
    _add_data_dir(export)

    reproduce = add("reproduce", _reproduce, "train and evaluate a whole table of the paper")
    reproduce.add_argument("table", choices=TABLES, metavar="TABLE", help=", ".join(TABLES))
    _add_data_dir(reproduce)
    _add_schedule(reproduce)
    reproduce.add_argument("--max-steps", type=_count, help="steps of each run")
    reproduce.add_argument("--max-minutes", type=_positive, help="minutes of each run")
    reproduce.add_argument(
        "--seeds", type=_seeds, default=(0,), metavar="0,1,2", help="one run each (0)"
    )
    reproduce.add_argument("--model", default="*", metavar="PATTERN", help="only these networks")
    reproduce.add_argument(
        "--out", type=path_argument, default=Path("out/reproduce"), help="folder (%(default)s)"
    )

    data = add("data", _check, "folders of data")
    tasks = data.add_subparsers(dest="task", required=True, metavar="TASK")
    check = _add_command(
        tasks, "check", _check, "list every picture of a folder that cannot be read"
    )
    check.add_argument(
        "folder", type=path_argument, metavar="DIR", help="of MNIST, SVHN or CUB-200-2011"
    )
    return parser


def _add_train(train: argparse.ArgumentParser) -> None:
    train.add_argument(
        "experiment", choices=EXPERIMENTS, metavar="EXPERIMENT", help=", ".join(EXPERIMENTS)
    )
    train.add_argument("--model", help="its network (default: the experiment's; see list)")
    _add_data_dir(train)
    _add_schedule(train)
    train.add_argument(
        "--max-steps",
        type=_count,
        help="steps, also of an encoder before; the learning rate falls as fast as they are few",
    )
    train.add_argument(
        "--max-minutes", type=_positive, help="stop after as many, resumed runs counted together"
    )
    train.add_argument("--batch-size", type=_count, help="images a step, of all processes together")
    train.add_argument("--lr", type=_positive, help="the highest learning rate")
    train.add_argument("--seed", type=_seed, help="of weights and data (default: 0)")
    train.add_argument("--image-size", type=_count, help="64 or 128 for svhn, 224 or 448 for cub")
    for what in ("model", "data"):
        train.add_argument(
            f"--{what}-option", type=_option, action="append", default=[], metavar="NAME=VALUE",
            help=f"an option of the {'network' if what == 'model' else 'data'}; may be given again",
        )  # fmt: skip
    train.add_argument(
        "--precision",
        default="32-true",
        help="as Lightning names it: bf16-mixed, ... (%(default)s)",
    )
    train.add_argument("--devices", help="how many, or auto, or which: 0,1 (default: 1)")
    train.add_argument("--num-nodes", type=_count, default=1, help="machines (%(default)s)")
    train.add_argument(
        "--strategy", default="auto", help="as Lightning names it: ddp, ... (%(default)s)"
    )
    train.add_argument("--compile", action="store_true", help="torch.compile the network")
    train.add_argument(
        "--resume", nargs="?", const=True, default=False, type=path_argument, metavar="PATH",
        help="go on from this checkpoint, or from last.ckpt in the run's folder",
    )  # fmt: skip
    train.add_argument(
        "--out", type=path_argument, help="folder of the run (default: out/train/NAME)"
    )
    train.add_argument(
        "--checkpoint-every",
        type=_count,
        metavar="STEPS",
        help="steps between checkpoints and validations",
    )


def _add_command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], text: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run)
    return parser


def _add_data_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data-dir", type=path_argument, metavar="DIR",
        help="MNIST's IDX files (default: 5,000 embedded digits), or the folder of SVHN or CUB",
    )  # fmt: skip
    parser.add_argument(
        "--num-workers", type=_workers, metavar="N",
        help="processes that read the pictures of SVHN or CUB (default: 2)",
    )  # fmt: skip


def _add_schedule(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--schedule", choices=SCHEDULES, help="the paper's, or one of minutes (default: paper)"
    )
    which.add_argument(
        "--fast",
        dest="schedule",
        action="store_const",
        const="fast",
        help="the same as --schedule fast",
    )


def _list(chosen: argparse.Namespace) -> int:
    from architectures.training.listing import listing

    print(listing())
    return 0


def _train(chosen: argparse.Namespace) -> int:
    from architectures.training.train import Run, train

    options = {
        name: value for name, value in vars(chosen).items() if name in Run.__dataclass_fields__
    }
    options |= {
        f"{what}_options": dict(getattr(chosen, f"{what}_option")) for what in ("model", "data")
    }
    out, signal = train(Run(**options))
    if signal:
        with suppress(OSError):  # the terminal may be what was closed
            print(f"stopped; go on with --resume {out / 'last.ckpt'}", file=sys.stderr)
        return 128 + signal
    print(out / "last.ckpt")
    return 0


def _evaluate(chosen: argparse.Namespace) -> int:
    from architectures.training.evaluate import evaluate
    from architectures.training.files import write_json

    found = evaluate(
        chosen.checkpoint,
        chosen.data_dir,
        embedded=chosen.embedded,
        num_workers=chosen.num_workers,
    )
    _note(chosen.command, found.get("data"))
    print("\n".join(f"{name:14s} {value}" for name, value in found.items()))
    if chosen.json:
        write_json(chosen.json, found)
    return 0


def _show(chosen: argparse.Namespace) -> int:
    from architectures.training.show import show

    note = show(
        chosen.checkpoint,
        chosen.out,
        chosen.data_dir,
        chosen.examples,
        num_workers=chosen.num_workers,
    )
    _note(chosen.command, note)
    print(chosen.out)
    return 0


def _export(chosen: argparse.Namespace) -> int:
    from architectures.training.export import export_aoti, export_onnx

    export = export_onnx if chosen.onnx else export_aoti
    print(
        export(
            chosen.checkpoint,
            chosen.onnx or chosen.aoti,
            chosen.data_dir,
            dynamic_batch=chosen.dynamic_batch,
            workers=chosen.num_workers,
        )
    )
    return 0


def _note(command: str, note: str | None) -> None:
    if note is not None:
        print(f"{PROGRAM} {command}: {note}", file=sys.stderr)


def _check(chosen: argparse.Namespace) -> int:
    from architectures.data import check_folder

    what, bad = check_folder(chosen.folder)
    for line in bad:
        print(line)
    print(f"{chosen.folder}: {what}, {len(bad) or 'none'} that cannot be read", file=sys.stderr)
    return 1 if bad else 0


def _reproduce(chosen: argparse.Namespace) -> int:
    from architectures.training.reproduce import reproduce

    print(
        reproduce(
            chosen.table,
            chosen.data_dir,
            chosen.out,
            schedule=chosen.schedule or "paper",
            seeds=chosen.seeds,
            max_steps=chosen.max_steps,
            max_minutes=chosen.max_minutes,
            models=chosen.model,
            num_workers=chosen.num_workers,
        )
    )
    return 0
