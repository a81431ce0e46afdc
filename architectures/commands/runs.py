"""The commands that train: `list`, `train` and `reproduce`."""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from architectures.training.experiments import EXPERIMENTS, SCHEDULES
from architectures.training.tables import TABLES

from .arguments import (
    add_command,
    add_data_dir,
    add_option,
    add_schedule,
    count,
    path,
    positive,
    seed,
    seeds,
)


def add_commands(commands: Any) -> None:
    """Add the commands of this file."""
    add_command(
        commands,
        "list",
        _list,
        "the networks, with parameters and input sizes, and the experiments",
    )
    train = add_command(commands, "train", _train, "train a network on an experiment")
    train.add_argument(
        "experiment", choices=EXPERIMENTS, metavar="EXPERIMENT", help=", ".join(EXPERIMENTS)
    )
    _add_learning(train)
    _add_machine(train)
    _add_reproduce(commands)


def _add_learning(train: argparse.ArgumentParser) -> None:
    """Options that say what is learned, from which data, how long, and where the result is kept."""
    train.add_argument("--model", help="its network (default: the experiment's; see list)")
    add_data_dir(train)
    add_schedule(train, SCHEDULES)
    train.add_argument(
        "--max-steps",
        type=count,
        help="number of steps; the schedule of the learning rate is shortened to fit",
    )
    train.add_argument(
        "--max-minutes",
        type=positive,
        help="stop after so many, including those of the runs before --resume",
    )
    train.add_argument("--batch-size", type=count, help="images a step, of all processes together")
    train.add_argument("--lr", type=positive, help="the highest learning rate")
    train.add_argument("--seed", type=seed, help="of weights and data (default: 0)")
    train.add_argument("--image-size", type=count, help="64 or 128 for svhn, 224 or 448 for cub")
    add_option(train, "model")
    add_option(train, "data")
    train.add_argument(
        "--resume", nargs="?", const=True, default=False, type=path, metavar="PATH",
        help="go on from this checkpoint, or from last.ckpt in the run's folder",
    )  # fmt: skip
    train.add_argument("--out", type=path, help="folder of the run (default: out/train/NAME)")
    train.add_argument(
        "--checkpoint-every",
        type=count,
        metavar="STEPS",
        help="steps between checkpoints and validations",
    )


def _add_machine(train: argparse.ArgumentParser) -> None:
    """Options of the machine that trains."""
    train.add_argument(
        "--precision",
        default="32-true",
        help="as Lightning names it: bf16-mixed, ... (%(default)s)",
    )
    train.add_argument("--devices", help="their number, or auto, or a list: 0,1 (default: 1)")
    train.add_argument("--num-nodes", type=count, default=1, help="machines (%(default)s)")
    train.add_argument(
        "--strategy", default="auto", help="as Lightning names it: ddp, ... (%(default)s)"
    )
    train.add_argument("--compile", action="store_true", help="torch.compile the network")


def _add_reproduce(commands: Any) -> None:
    reproduce = add_command(
        commands, "reproduce", _reproduce, "train and evaluate a whole table of the paper"
    )
    reproduce.add_argument("table", choices=TABLES, metavar="TABLE", help=", ".join(TABLES))
    add_data_dir(reproduce)
    add_schedule(reproduce, SCHEDULES)
    reproduce.add_argument("--max-steps", type=count, help="steps of each run")
    reproduce.add_argument("--max-minutes", type=positive, help="minutes of each run")
    reproduce.add_argument(
        "--seeds", type=seeds, default=(0,), metavar="0,1,2", help="one run each (0)"
    )
    reproduce.add_argument("--model", default="*", metavar="PATTERN", help="only these networks")
    add_option(reproduce, "data")
    reproduce.add_argument(
        "--jobs",
        type=count,
        default=1,
        help="runs at once, each a process of its own (%(default)s)",
    )
    reproduce.add_argument(
        "--runs", type=path, metavar="DIR",
        help="take the runs of train that lie in or below it and belong to the table; what is missing is trained",
    )  # fmt: skip
    reproduce.add_argument(
        "--out", type=path, default=Path("out/reproduce"), help="folder (%(default)s)"
    )


def _list(chosen: argparse.Namespace) -> int:
    from architectures.training.listing import listing

    print(listing())
    return 0


def _train(chosen: argparse.Namespace) -> int:
    from architectures.training.run import Run
    from architectures.training.summary import ending
    from architectures.training.train import train

    options = {
        name: value for name, value in vars(chosen).items() if name in Run.__dataclass_fields__
    }
    options |= {
        f"{what}_options": dict(getattr(chosen, f"{what}_option")) for what in ("model", "data")
    }
    out, signal = train(Run(**options))
    if signal:
        with suppress(OSError):  # the signal may have come from a terminal that was closed
            print(f"stopped; go on with --resume {out / 'last.ckpt'}", file=sys.stderr)
        return 128 + signal
    print(ending(out, chosen.data_dir))
    print(out / "last.ckpt")
    return 0


def _reproduce(chosen: argparse.Namespace) -> int:
    from architectures.training.jobs import Stopped
    from architectures.training.reproduce import reproduce

    try:
        table, failed = reproduce(
            chosen.table, chosen.data_dir, chosen.out, schedule=chosen.schedule or "paper", seeds=chosen.seeds,
            max_steps=chosen.max_steps, max_minutes=chosen.max_minutes, models=chosen.model,
            num_workers=chosen.num_workers, jobs=chosen.jobs, runs=chosen.runs,
            data_options=dict(chosen.data_option),
        )  # fmt: skip
    except Stopped as stopped:
        with suppress(OSError):  # the signal may have come from a terminal that was closed
            so_far = f" ({stopped.so_far})" if stopped.so_far else ""
            print(f"stopped; the same command goes on{so_far}", file=sys.stderr)
        return 128 + int(stopped.args[0])
    print(table)
    for key, reason in failed.items():
        print(f"{chosen.prog}: {key}: {reason}", file=sys.stderr)
    return 1 if failed else 0
