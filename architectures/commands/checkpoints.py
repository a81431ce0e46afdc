"""The commands that read a checkpoint: `evaluate`, `show` and `export`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from architectures.pretrained import WEIGHTS
from architectures.training.errors import UsageError

from .arguments import Command, add_command, add_data_dir, count, path, writable_file


def add_commands(commands: Any) -> None:
    """Add the commands of this file."""
    evaluate = _add(commands, "evaluate", _evaluate, "the error of a checkpoint on the test set")
    evaluate.add_argument(
        "--embedded",
        action="store_true",
        help="test on the embedded digits even a network trained on files, which may contain them",
    )
    evaluate.add_argument(
        "--json", type=writable_file(), metavar="FILE", help="write it there as JSON, too"
    )

    show = _add(commands, "show", _show, "a picture of what a network's transformers look at")
    show.add_argument("--out", type=writable_file(".png"), required=True, metavar="PNG")
    show.add_argument("--examples", type=count, default=6, help="images in it (%(default)s)")

    export = _add(
        commands, "export", _export,
        "a trained network as an ONNX model, an AOTInductor package or a file of weights",
    )  # fmt: skip
    form = export.add_mutually_exclusive_group(required=True)
    form.add_argument(
        "--onnx", type=writable_file(".onnx"), metavar="FILE", help="as an ONNX model"
    )
    form.add_argument(
        "--aoti", type=writable_file(".pt2"), metavar="FILE",
        help="as a package that AOTInductor compiles; needs a C++ compiler",
    )  # fmt: skip
    form.add_argument(
        "--weights", type=path, nargs="?", const=WEIGHTS, metavar="DIR",
        help="as weights for create_model(pretrained=), with their provenance (default DIR: the package's)",
    )  # fmt: skip
    export.add_argument(
        "--dynamic-batch", action="store_true", help="for any number of images (default: one)"
    )


def _add(commands: Any, name: str, run: Command, text: str) -> argparse.ArgumentParser:
    parser = add_command(commands, name, run, text)
    parser.add_argument("checkpoint", type=path, metavar="CHECKPOINT")
    add_data_dir(parser)
    return parser


def _evaluate(chosen: argparse.Namespace) -> int:
    from architectures.training.evaluate import evaluate
    from architectures.training.files import write_json

    found = evaluate(
        chosen.checkpoint,
        chosen.data_dir,
        embedded=chosen.embedded,
        num_workers=chosen.num_workers,
    )
    _note(chosen, found.get("data"))
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
    _note(chosen, note)
    print(chosen.out)
    return 0


def _export(chosen: argparse.Namespace) -> int:
    if chosen.weights:
        from architectures.training.export_weights import export_weights

        if chosen.dynamic_batch:
            raise UsageError("--dynamic-batch: wanted --onnx or --aoti beside it, got --weights")
        print(export_weights(chosen.checkpoint, chosen.weights, chosen.data_dir))
        return 0
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


def _note(chosen: argparse.Namespace, note: str | None) -> None:
    if note is not None:
        print(f"{chosen.prog}: {note}", file=sys.stderr)
