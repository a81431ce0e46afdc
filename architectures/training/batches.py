"""Batches of an experiment. The number of a step decides its batch, so that training can stop and go on anywhere.

Each process trains on its own part of a batch. Of files it reads only that part. Batches of digits each process draws
whole, on its own device, and then takes its part: several processes together learn from the same images as one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Subset

from architectures.data import CUB, SVHN, DataError, Digits, check, load_digits
from architectures.data.cub import INDEX, cub_root
from architectures.data.distort import bend_digits
from architectures.options import check_kinds, check_known, free_keywords

from .errors import UsageError
from .experiment_data import Batch, ExperimentData
from .experiments import EXPERIMENTS, Schedule
from .origin import Origin, digest_of_digits, digest_of_files
from .streams import Streams, stream_seed

_CHUNK = 250
"""Images that are evaluated together. Another number would draw another test set, since each chunk has its own seed."""
_HELD_OUT = 12
"""Every twelfth training example is kept for validation: 5,000 of MNIST's 60,000."""
_VALIDATED = 2_000
"""The most examples of a validation."""
_WORKERS = 2
_TEST_SEED = 0
"""The seed of the validation and test sets, whatever the seed of the training."""
_SET_BY_TRAINING = {"generator", "difficulty", "image_size", "train"}
"""Keywords of data functions that are no options, since training sets them itself."""
_FILE_SETS: dict[str, tuple[type, str]] = {"svhn": (SVHN, check.SVHN), "cub": (CUB, check.CUB)}
"""For each experiment whose data are files: the data set, and the kind of folder that it reads."""


class _Drawn:
    """A loader that draws a batch for each number; `numbers` is called anew in each pass."""

    def __init__(self, draw: Callable[[int], Batch], numbers: Callable[[], Iterable[int]]) -> None:
        self._draw = draw
        self._numbers = numbers

    def __iter__(self) -> Iterator[Batch]:
        return map(self._draw, self._numbers())


class DigitData(ExperimentData):
    """Digits, distorted on the training device as they are needed."""

    def __init__(
        self,
        draw: Callable[..., Batch],
        digits: tuple[Digits, Digits],
        schedule: Schedule,
        seed: int,
        *,
        embedded: bool,
        classes: int | None,
        test_examples: int | None,
        options: dict[str, Any],
    ) -> None:
        super().__init__(schedule, seed, options)
        train, test = digits
        self._origin = Origin(digest=digest_of_digits(train), embedded=embedded)
        self._classes = classes
        held_out = torch.arange(len(train)) % _HELD_OUT == 0
        self.digits = {
            "train": Digits(images=train.images[~held_out], labels=train.labels[~held_out]),
            "validation": Digits(images=train.images[held_out], labels=train.labels[held_out]),
            "test": test,
        }
        if len(self.digits["validation"]) < 2:
            least = _HELD_OUT + 1
            raise DataError(f"wanted {least} training digits at least, got {len(train)}")
        self._examples = {
            "validation": min(_VALIDATED, test_examples or _VALIDATED),
            "test": test_examples or len(test),
        }
        self._draw = draw
        self._streams = Streams()
        self._bent: tuple[int, Digits] | None = None  # the epoch, and its training digits

    def draw(self, split: str, number: int, device: torch.device) -> Batch:
        """Batch `number` of the training stream, or chunk `number` of a fixed set."""
        if self.digits[split].images.device != device:
            self.digits[split] = self.digits[split].to(device)
        options = dict(self.options)
        if split == "train":
            n, seed, digits = self.batch_size, self.seed, self._training_digits(number, device)
            if self.schedule.easy:
                options["difficulty"] = self.schedule.difficulty(number)
        else:
            n, seed = min(_CHUNK, self._examples[split] - number * _CHUNK), _TEST_SEED
            digits = self.digits[split]
        # After the digits: they are bent by the same generator, seeded otherwise.
        generator = self._streams(device, split, seed, number)
        return self._draw(digits, n, generator=generator, **options)

    def _training_digits(self, number: int, device: torch.device) -> Digits:
        """The training digits of a step: all of them, bent as the schedule says, alike in an epoch."""
        digits = self.digits["train"]
        if not self.schedule.bend:
            return digits
        epoch = number * self.batch_size // len(digits)
        if self._bent is None or self._bent[0] != epoch or self._bent[1].images.device != device:
            generator = self._streams(device, "bend", self.seed, epoch)
            bent = bend_digits(digits, generator=generator, std=self.schedule.bend)
            self._bent = epoch, bent
        return self._bent[1]

    def _first_batch(self, n: int) -> Batch:
        images, labels = self.draw("train", 0, torch.device("cpu"))
        return images[:n], labels[:n]

    def origin(self) -> Origin:
        return self._origin

    def classes(self) -> int | None:
        return self._classes

    def _chunks(self, split: str) -> range:
        return range(-(-self._examples[split] // _CHUNK))

    def train_batches(self) -> Iterable[Batch]:
        return _Drawn(partial(self._own_part, "train"), lambda: itertools.count(self._step()))

    def validation_batches(self) -> Iterable[Batch]:
        return _Drawn(partial(self._own_part, "validation"), lambda: self._chunks("validation"))

    def _own_part(self, split: str, number: int) -> Batch:
        """The part of a batch, or of a chunk of the validation set, that is this process's, on its device."""
        assert self.trainer is not None
        rank, world = self._rank_and_world()
        images, labels = self.draw(split, number, self.trainer.strategy.root_device)
        return images.tensor_split(world)[rank], labels.tensor_split(world)[rank]

    def on_device(self, batch: Any, device: torch.device) -> Batch:
        images, labels = batch
        return images.to(device), labels.to(device)

    def test_batches(self, device: torch.device) -> Iterator[Batch]:
        for number in self._chunks("test"):
            yield self.draw("test", number, device)


class SetOfDigits(DigitData):
    """One fixed set of examples for training and test. A step learns from a random part of it; the test uses all."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._set: Batch | None = None

    def draw(self, split: str, number: int, device: torch.device) -> Batch:
        if self._set is None:
            generator = self._streams(torch.device("cpu"), "set", self.seed)
            n = self._examples["test"]
            self._set = self._draw(self.digits["train"], n, generator=generator, **self.options)
        images, labels = (part.to(device) for part in self._set)
        if split == "train":
            generator = self._streams(device, "train", self.seed, number)
            order = torch.randperm(len(images), generator=generator, device=device)
            chosen = order[: self.batch_size]
        else:
            chosen = torch.arange(
                number * _CHUNK, min((number + 1) * _CHUNK, len(images)), device=device
            )
        return images[chosen], labels[chosen]


class _Seeded(Dataset[Any]):
    """A data set of which each item's random augmentation is seeded by the item's position in the training."""

    def __init__(self, examples: Dataset[Any], seed: int) -> None:
        self.examples = examples
        self.seed = seed

    def __getitem__(self, place: tuple[int, int]) -> Any:
        position, index = place
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed("augment", self.seed, position))
            return self.examples[index]


class _BatchSampler:
    """The part of each batch that is this process's, from step `start()` on, in a new order in every epoch.

    A batch is a list of (position in the training, index of the item), as `_Seeded` reads them.
    """

    def __init__(
        self,
        examples: int,
        batch_size: int,
        seed: int,
        rank: tuple[int, int],
        start: Callable[[], int],
    ) -> None:
        self.examples, self.batch_size, self.seed, self.rank, self.start = (
            examples,
            batch_size,
            seed,
            rank,
            start,
        )

    def _order(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(stream_seed("order", self.seed, epoch))
        return torch.randperm(self.examples, generator=generator).tolist()

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        rank, world = self.rank
        part = self.batch_size // world
        epoch, order = -1, list[int]()
        for step in itertools.count(self.start()):
            batch = []
            for position in range(
                step * self.batch_size + rank * part, step * self.batch_size + (rank + 1) * part
            ):
                wanted, place = divmod(position, self.examples)
                if wanted != epoch:
                    epoch, order = wanted, self._order(wanted)
                batch.append((position, order[place]))
            yield batch


class FileData(ExperimentData):
    """Data sets of files, whose items are (uint8 image, labels).

    part: gives the data set of "train", "validation" or "test". digest: gives that of the training data's index.
    """

    def __init__(
        self,
        part: Callable[[str], Any],
        digest: Callable[[], str],
        classes: int | None,
        schedule: Schedule,
        seed: int,
        *,
        workers: int,
        options: dict[str, Any],
    ) -> None:
        super().__init__(schedule, seed, options)
        self._part = cache(part)
        self._digest = digest
        self._classes = classes
        self._workers = workers

    def origin(self) -> Origin:
        return Origin(digest=self._digest())

    def classes(self) -> int:
        return self._classes or len(self._part("test").classes)

    def _first_batch(self, n: int) -> Batch:
        examples = self._part("train")
        if not len(examples):
            raise DataError("wanted pictures to train on, got none beside those for validation")
        places = next(
            iter(_BatchSampler(len(examples), min(n, len(examples)), self.seed, (0, 1), int))
        )
        items = [_Seeded(examples, self.seed)[place] for place in places]
        images, labels = (torch.stack(part) for part in zip(*items, strict=True))
        return images.float() / 255, labels

    def train_batches(self) -> Iterable[Any]:
        steps = _BatchSampler(
            len(self._part("train")),
            self.batch_size,
            self.seed,
            self._rank_and_world(),
            self._step,
        )
        return DataLoader(
            _Seeded(self._part("train"), self.seed),
            batch_sampler=steps,
            num_workers=self._workers,
            persistent_workers=self._workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def validation_batches(self) -> Iterable[Any]:
        rank, world = self._rank_and_world()
        own = range(min(len(self._part("validation")), _VALIDATED))[rank::world]
        return DataLoader(
            _Seeded(self._part("validation"), _TEST_SEED),
            batch_size=_CHUNK // 5,
            sampler=[(index, index) for index in own],
            num_workers=self._workers,
        )

    def test_batches(self, device: torch.device) -> Iterator[Batch]:
        for images, labels in DataLoader(
            self._part("test"), batch_size=_CHUNK // 5, num_workers=self._workers
        ):
            yield images.to(device).float() / 255, labels.to(device)

    def on_device(self, batch: Any, device: torch.device) -> Batch:
        """Images in [0, 1]. They go to the device as bytes, a quarter of the size, and are converted there.

        Their dtype is that of the trainer's precision, which Lightning gives only to images that are floats already.
        """
        images, labels = (part.to(device, non_blocking=True) for part in batch)
        assert self.trainer is not None
        return self.trainer.precision_plugin.convert_input(images.float() / 255), labels


def make_data(
    settings: dict[str, Any], data_dir: Path | None, *, num_workers: int | None = None
) -> ExperimentData:
    """The data of an experiment, from the hyperparameters of `Classification`.

    num_workers: processes that read pictures; None: 2.

    Raises:
        DataError: data that are missing or broken.
        UsageError: no `data_dir` where data are files, or `num_workers` where they are digits; an option that its data
            do not have, or a value of another kind.
    """
    experiment, options = settings["experiment"], settings["data_options"]
    schedule, seed = Schedule(**settings["schedule"]), settings["seed"]
    entry = EXPERIMENTS[experiment]
    source = entry.batch or _FILE_SETS[experiment][0]
    try:
        known = [name for name in free_keywords(source) if name not in _SET_BY_TRAINING]
        check_known(f"the data of {experiment}", options, known)
        check_kinds(source, options)
    except TypeError as error:
        raise UsageError(f"--data-option: {error}") from error
    if entry.batch is not None:
        if num_workers is not None:
            raise UsageError(
                f"--num-workers: {experiment} draws its images where it trains and reads no pictures"
            )
        if data_dir is not None:
            check.check_holds(data_dir, check.MNIST)
        kind = SetOfDigits if entry.one_set else DigitData
        return kind(
            entry.batch, load_digits(data_dir), schedule, seed,
            embedded=data_dir is None, classes=entry.classes, test_examples=entry.test_examples, options=options,
        )  # fmt: skip
    if data_dir is None:
        raise UsageError(f"{experiment} needs --data-dir: its pictures come from files")
    check.check_holds(data_dir, _FILE_SETS[experiment][1])
    return _file_data(settings, data_dir, _WORKERS if num_workers is None else num_workers)


def _file_data(settings: dict[str, Any], data_dir: Path, workers: int) -> FileData:
    """The data of svhn or cub from their folder."""
    experiment, options, size = (
        settings[name] for name in ("experiment", "data_options", "image_size")
    )
    extra = ("extra",) if experiment == "svhn" and (data_dir / "extra").is_dir() else ()

    def part(name: str) -> Any:
        if experiment == "svhn":
            train = "+".join(("train", *extra))
            split = {"train": train, "validation": "valid", "test": "test"}[name]
            return SVHN(data_dir, split, image_size=size, **options)
        pictures = CUB(data_dir, train=name != "test", image_size=size, **options)
        if name == "test":
            return pictures
        held_out = name == "validation"
        return Subset(
            pictures, [i for i in range(len(pictures)) if (i % _HELD_OUT == 0) == held_out]
        )

    def digest() -> str:
        if experiment == "svhn":
            return digest_of_files(
                data_dir, [f"{name}/digitStruct.mat" for name in ("train", *extra)]
            )
        return digest_of_files(cub_root(data_dir), INDEX)

    return FileData(
        part, digest, EXPERIMENTS[experiment].classes, Schedule(**settings["schedule"]), settings["seed"],
        workers=workers, options=options,
    )  # fmt: skip
