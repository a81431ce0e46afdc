"""What to train and how, and the settings of a network that follow from it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from .errors import UsageError
from .experiments import EXPERIMENTS


@dataclass(frozen=True, kw_only=True)
class Run:
    """What to train and how. None stands for the value of the experiment's schedule, or of the checkpoint to resume.

    resume: the path of a checkpoint, or True for last.ckpt in `out`.
    """

    experiment: str
    model: str | None = None
    data_dir: Path | None = None
    schedule: str | None = None
    max_steps: int | None = None
    max_minutes: float | None = None
    batch_size: int | None = None
    lr: float | None = None
    seed: int | None = None
    image_size: int | None = None
    model_options: dict[str, Any] = field(default_factory=dict)
    data_options: dict[str, Any] = field(default_factory=dict)
    precision: str = "32-true"
    devices: str | None = None
    num_nodes: int = 1
    strategy: str = "auto"
    compile: bool = False
    resume: bool | Path = False
    out: Path | None = None
    checkpoint_every: int | None = None
    num_workers: int | None = None
    quiet: bool = False


def fresh_settings(run: Run) -> dict[str, Any]:
    """`Classification`'s hyperparameters of a new run.

    Raises:
        UsageError: a network or an image size that is not for the experiment.
    """
    entry = EXPERIMENTS[run.experiment]
    model = run.model or entry.default
    if model not in entry.networks():
        raise UsageError(
            f"--model {model!r} is not for {run.experiment}; wanted one of {', '.join(entry.networks())}"
        )
    if "pretrained" in run.model_options:
        raise UsageError("--model-option pretrained: training begins with random weights")
    image_size = run.image_size or entry.image_sizes[0]
    if image_size not in entry.image_sizes:
        sizes = " or ".join(map(str, entry.image_sizes))
        raise UsageError(f"--image-size must be {sizes} for {run.experiment}, got {image_size}")
    name = run.schedule or "paper"
    changes: dict[str, Any] = {"steps": run.max_steps, "batch_size": run.batch_size, "lr": run.lr}
    schedule = replace(entry.schedule(name), **{k: v for k, v in changes.items() if v is not None})
    return {
        "experiment": run.experiment,
        "model": model,
        "model_options": {"image_size": image_size, **entry.model_options, **run.model_options},
        "data_options": dict(entry.data_options) | run.data_options,
        "image_size": image_size,
        "schedule_name": name,
        "schedule": asdict(schedule),
        "seed": run.seed or 0,
    }
