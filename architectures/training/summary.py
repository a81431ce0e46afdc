"""What a training says before its first step and after its last."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .curves import read_metrics
from .experiment_data import ExperimentData
from .provenance import device_name, sizes

if TYPE_CHECKING:
    from .framework import L
    from .module import Classification

_PROGRAM = "python -m architectures"


def beginning(
    trainer: L.Trainer,
    module: Classification,
    data: ExperimentData,
    data_dir: Path | None,
    done: int,
) -> str:
    """A block of lines: data, device, network and schedule. done: the steps that the run has behind it."""
    counts = sizes(data, test=False)
    source = "the embedded digits" if data.origin().embedded else f"files in {data_dir}"
    test = f", {counts['test']:,} to test" if "test" in counts else ""
    where = trainer.strategy.root_device
    machine = device_name(where)
    if where.type == "cpu":
        threads = torch.get_num_threads()
        machine += f", {threads} thread{'s' * (threads != 1)}"
    if trainer.world_size > 1:
        machine += f", {trainer.world_size} processes"
    numbers = sum(each.numel() for each in module.network.parameters())
    settings, schedule = module.hparams, module.schedule
    resumed = f", {done:,} of them done" if done else ""
    lines = {
        "data": f"{source}: {counts['train']:,} to train on, {counts['validation']:,} for validation{test}",
        "device": machine,
        "network": f"{settings['model']}: {numbers:,} parameters",
        "schedule": f"{settings['schedule_name']}: {schedule.steps:,} steps{resumed}, of {schedule.in_words()}",
    }
    if trainer.num_nodes > 1:
        lines["waiting"] = (
            f"until all {trainer.num_nodes} machines have joined; unless torchrun or a scheduler starts them, "
            "each wants the same MASTER_ADDR and MASTER_PORT and its own NODE_RANK"
        )
    return "\n".join(f"{title:9s} {text}" for title, text in lines.items())


def ending(out: Path, data_dir: Path | None) -> str:
    """A block of lines: the error that a run found, if it validated, and commands that go on from its checkpoint."""
    errors = read_metrics(out).get("val_error", [])
    lines = []
    if errors:
        # Steps are counted from 0 in the table, and a validation has the number of the last one.
        (step, last), (best_step, best) = errors[-1], min(errors, key=lambda point: point[1])
        lowest = f" (lowest: {best:.2f} % after {best_step + 1:,}, in best.ckpt)"
        lines.append(
            f"validation error {last:.2f} % after {step + 1:,} steps{lowest if best < last else ''}"
        )
    checkpoint = str(out / "last.ckpt")
    data = [] if data_dir is None else ["--data-dir", str(data_dir)]
    for command in (
        ["evaluate", checkpoint, *data],
        ["show", checkpoint, *data, "--out", str(out / "show.png")],
        ["export", checkpoint, *data, "--onnx", str(out / "network.onnx")],
    ):
        lines.append(f"  {_PROGRAM} {shlex.join(command)}")
    return "\n".join(lines)
