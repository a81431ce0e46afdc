"""The command `data`: fetch data, make them up, look at them, and check that all of them can be read."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from architectures.data.download import MNIST_URL
from architectures.training.experiments import EXPERIMENTS

from .arguments import add_command, add_option, add_tasks, count, path, seed, writable_file

_SPLITS = ("train", "test", "extra")


def add_commands(commands: Any) -> None:
    """Add the command of this file, with its tasks."""
    text = "download, generate, preview or check the data that networks train on"
    data = commands.add_parser("data", help=text, description=text)
    tasks = add_tasks(data, "TASK")

    download = add_command(
        tasks, "download", _download, "fetch MNIST, 12 MB, and keep each file if its checksum fits"
    )
    download.add_argument("folder", type=path, metavar="DIR", help="made if it is not there")
    download.add_argument(
        "--url", default=MNIST_URL, help="of a folder with MNIST's four files (%(default)s)"
    )

    text = "make up data in the layout of SVHN or CUB-200-2011, to try training on"
    generate = tasks.add_parser("generate", help=text, description=text)
    _add_generate(add_tasks(generate, "KIND"))

    preview = add_command(tasks, "preview", _preview, "a picture of what a network trains on")
    preview.add_argument(
        "experiment", choices=EXPERIMENTS, metavar="EXPERIMENT", help=", ".join(EXPERIMENTS)
    )
    preview.add_argument("--out", type=writable_file(".png"), required=True, metavar="PNG")
    preview.add_argument(
        "--data-dir", type=path, metavar="DIR",
        help="MNIST's IDX files (default: 5,000 embedded digits), or the folder of SVHN or CUB",
    )  # fmt: skip
    preview.add_argument("--examples", type=count, default=24, help="images in it (%(default)s)")
    preview.add_argument("--seed", type=seed, default=0, help="of the training (%(default)s)")
    preview.add_argument("--image-size", type=count, help="64 or 128 for svhn, 224 or 448 for cub")
    add_option(preview, "data")

    check = add_command(
        tasks, "check", _check, "list every picture of a folder that cannot be read"
    )
    check.add_argument("folder", type=path, metavar="DIR", help="of MNIST, SVHN or CUB-200-2011")


def _add_generate(kinds: Any) -> None:
    svhn = add_command(kinds, "svhn", _generate_svhn, "house numbers, made of MNIST's digits")
    svhn.add_argument("folder", type=path, metavar="DIR", help="new or empty")
    svhn.add_argument(
        "--images", type=count, default=100, help="pictures for each split (%(default)s)"
    )
    svhn.add_argument(
        "--splits", nargs="+", choices=_SPLITS, default=_SPLITS, help="which of them (default: all)"
    )
    svhn.add_argument(
        "--data-dir", type=path, metavar="DIR",
        help="MNIST's IDX files, to take digits from (default: 5,000 embedded digits)",
    )  # fmt: skip
    cub = add_command(kinds, "cub", _generate_cub, "birds of a few shapes and colours")
    cub.add_argument("folder", type=path, metavar="DIR", help="new or empty")
    cub.add_argument("--images", type=count, default=20, help="of each species (%(default)s)")
    cub.add_argument("--species", type=count, default=5, help="how many (%(default)s)")
    for parser in (svhn, cub):
        parser.add_argument("--seed", type=seed, default=0, help="of the pictures (%(default)s)")


def _download(chosen: argparse.Namespace) -> int:
    from architectures.data import download_mnist

    download_mnist(chosen.folder, base_url=chosen.url)
    print(chosen.folder)
    return 0


def _generate_svhn(chosen: argparse.Namespace) -> int:
    from architectures.data import generate_svhn, load_digits

    digits = None if chosen.data_dir is None else load_digits(chosen.data_dir)
    splits = [name for name in _SPLITS if name in chosen.splits]
    generate_svhn(chosen.folder, chosen.images, chosen.seed, splits=splits, digits=digits)
    print(chosen.folder)
    return 0


def _generate_cub(chosen: argparse.Namespace) -> int:
    from architectures.data import generate_cub

    generate_cub(chosen.folder, chosen.species, chosen.images, chosen.seed)
    print(chosen.folder)
    return 0


def _preview(chosen: argparse.Namespace) -> int:
    from architectures.training.preview import preview
    from architectures.training.run import Run

    run = Run(
        experiment=chosen.experiment,
        data_dir=chosen.data_dir,
        batch_size=chosen.examples,
        seed=chosen.seed,
        image_size=chosen.image_size,
        data_options=dict(chosen.data_option),
    )
    preview(run, chosen.out)
    print(chosen.out)
    return 0


def _check(chosen: argparse.Namespace) -> int:
    from architectures.data import check_folder

    what, bad = check_folder(chosen.folder)
    for line in bad:
        print(line)
    print(f"{chosen.folder}: {what}, {len(bad) or 'none'} that cannot be read", file=sys.stderr)
    return 1 if bad else 0
