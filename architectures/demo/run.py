"""`make demo`: two spatial transformers learn to find two digits, from nothing but the digits' sum.

Trains the network with transformers and the same one without on real digits, prints both accuracies, draws what the
transformers look at, and ends with the throughput of the operation on this machine.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from architectures.blocks.optim import parameter_groups
from architectures.commands import arguments
from architectures.data import DataError, Digits, load_digits
from architectures.errors import first_line
from architectures.pictures.calls import recorded_calls
from architectures.pictures.strips import calls_figure
from architectures.training.errors import Diverged
from architectures.training.files import replacing
from architectures.training.scores import class_titles

from .sums import sum_batch, with_transformers, without_transformers
from .throughput import throughput_table


def train(
    name: str,
    model: nn.Module,
    digits: Digits,
    *,
    steps: int,
    batch_size: int,
    lr: float,
    seed: int,
) -> None:
    """Train on fresh batches, with a progress bar; the same seed draws the same batches.

    The digits start in the middle of their halves and spread over them between 15 % and 40 % of the steps: a network
    that has learned to read the digits can then learn to follow them.
    """
    device = digits.images.device
    generator = torch.Generator(device).manual_seed(seed)
    optimiser = torch.optim.AdamW(parameter_groups(model, lr=lr), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, steps, pct_start=0.15)
    average = 0.0
    # Seconds between lines; a log keeps all of them.
    interval = 0.1 if sys.stderr.isatty() else 10.0
    bar = tqdm(
        range(1, steps + 1), desc=name, unit="step", dynamic_ncols=True,
        mininterval=interval, maxinterval=interval, miniters=1,
    )  # fmt: skip
    with bar:
        for step in bar:
            spread = min(max((step / steps - 0.15) / 0.25, 0.0), 1.0)
            images, sums = sum_batch(digits, batch_size, generator=generator, spread=spread)
            loss = F.nll_loss(model(images), sums)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            if step % 10 == 0 or step == steps:  # reading the loss waits for the device
                value = loss.item()
                if not math.isfinite(value):
                    raise Diverged(
                        f"step {step}: the loss is {value}; try a smaller --lr than {lr:g}"
                    )
                decay = 0.8 if step > 10 else 0.0
                average = decay * average + (1 - decay) * value
                bar.set_postfix(loss=f"{average:.3f}", refresh=False)


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, sums: Tensor) -> float:
    """The share of right sums, in percent."""
    guesses = torch.cat([model(part).argmax(1) for part in images.split(500)])
    return 100 * (guesses == sums).double().mean().item()


def draw(network: nn.Module, images: Tensor, sums: Tensor, path: Path) -> None:
    """Draw each image with the frames of all transformers, and beside it what each of them sampled, into a PNG."""
    calls, logits = recorded_calls(network, images)
    heading = "Two transformers find two digits, told nothing but the sum"
    figure = calls_figure(images, calls, heading=heading, titles=class_titles(logits, sums))
    with replacing(path) as part:
        figure.savefig(part, format="png")


def parse(given: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = arguments.OneLine(prog="python -m architectures.demo", description=__doc__)
    parser.add_argument(
        "--data-dir",
        type=arguments.path,
        help="folder of MNIST's IDX files; else 5,000 embedded digits",
    )
    parser.add_argument(
        "--out",
        type=arguments.writable_file(),
        default=Path("out/demo.png"),
        help="the picture (%(default)s)",
    )
    for name, usual, text in (
        ("--steps", 500, "training steps of each network"),
        ("--batch-size", 64, "images a step"),
        ("--test-size", 4000, "test images"),
    ):
        parser.add_argument(name, type=arguments.count, default=usual, help=f"{text} (%(default)s)")
    parser.add_argument(
        "--lr", type=arguments.positive, default=3e-3, help="peak learning rate (%(default)s)"
    )
    parser.add_argument(
        "--seed", type=arguments.seed, default=0, help="of weights and data (%(default)s)"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    chosen = parser.parse_args(given)
    try:
        torch.empty(0, device=chosen.device)
    except (AssertionError, RuntimeError) as error:
        parser.error(f"--device {chosen.device}: {first_line(error)}")
    return chosen


def main(given: Sequence[str] | None = None) -> int:
    """Run the demo; the exit status is 1 where data are missing or broken, or the picture cannot be written."""
    chosen = parse(given)
    try:
        run(chosen)
    except (DataError, Diverged, OSError) as error:
        print(f"demo: {first_line(error)}", file=sys.stderr)
        return 1
    return 0


def run(chosen: argparse.Namespace) -> None:
    """Train both networks, print what they reach, and draw."""
    train_digits, test_digits = load_digits(chosen.data_dir)
    device = torch.device(chosen.device)
    train_digits, test_digits = train_digits.to(device), test_digits.to(device)
    generator = torch.Generator(device).manual_seed(10_000 + chosen.seed)
    images, sums = sum_batch(test_digits, chosen.test_size, generator=generator)
    print(
        f"{len(train_digits):,} digits to learn from, {len(test_digits):,} others to test with, on {device.type}.\n"
        "Two digits on a 64 x 64 canvas; the label is their sum, and no one says where the digits are.\n"
    )
    makers: dict[str, Callable[[], nn.Module]] = {
        "2 transformers": with_transformers,
        "no transformers": without_transformers,
    }
    models: dict[str, nn.Module] = {}
    lines = []
    for name, make in makers.items():
        torch.manual_seed(chosen.seed)
        model = models[name] = make().to(device)
        start = time.perf_counter()
        train(
            name, model, train_digits,
            steps=chosen.steps, batch_size=chosen.batch_size, lr=chosen.lr, seed=chosen.seed,
        )  # fmt: skip
        seconds = time.perf_counter() - start
        right = accuracy(model.eval(), images, sums)
        parameters = sum(p.numel() for p in model.parameters())
        lines.append(f"{name:16s} {right:5.1f} %   {parameters:9,d} parameters   {seconds:5.0f} s")
    print(
        f"\nright sums on {len(sums):,} test images ({chosen.steps} steps each)\n"
        + "\n".join(lines)
    )

    draw(models["2 transformers"], images[:6], sums[:6], chosen.out)
    print(f"\nwhat the transformers look at: {chosen.out}\n")
    print(throughput_table(device))
