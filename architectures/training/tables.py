"""The paper's tables: which runs make them, and the figures printed there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, overload

_TRANSFORMS = ("affine", "projective", "tps")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One figure: a row and a column of the table, what is trained for it, and the paper's error in percent.

    paper: None where the paper gives no figure. shows_found: its table has the percentage that is right instead.
    """

    row: str
    column: str
    experiment: str
    model: str
    paper: float | None
    image_size: int | None = None
    data_options: Mapping[str, Any] = field(default_factory=dict)
    shows_found: bool = False

    @property
    def name(self) -> str:
        """What the names of its runs, and of their folders, begin with."""
        return f"{self.experiment}-{self.column}-{self.row}"

    @overload
    def shown(self, error: float) -> float: ...

    @overload
    def shown(self, error: float | None) -> float | None: ...

    def shown(self, error: float | None) -> float | None:
        """An error in percent as the table tells it."""
        return 100 - error if self.shows_found and error is not None else error


def _table1() -> Iterator[Cell]:
    columns = {"R": "mnist_r", "RTS": "mnist_rts", "P": "mnist_p", "E": "mnist_e"}
    figures = {
        "fcn": (2.1, 5.2, 3.1, 3.2),
        "cnn": (1.2, 0.8, 1.5, 1.4),
        "st_fcn_affine": (1.2, 0.8, 1.5, 2.7),
        "st_fcn_projective": (1.3, 0.9, 1.4, 2.6),
        "st_fcn_tps": (1.1, 0.8, 1.4, 2.4),
        "st_cnn_affine": (0.7, 0.5, 0.8, 1.2),
        "st_cnn_projective": (0.8, 0.6, 0.8, 1.3),
        "st_cnn_tps": (0.7, 0.5, 0.8, 1.1),
    }
    for model, errors in figures.items():
        for (column, experiment), error in zip(columns.items(), errors, strict=True):
            yield Cell(
                row=model, column=column, experiment=experiment, model=f"mnist_{model}", paper=error
            )
    # From the text of section 4.1, which does not say which transform these are for.
    cluttered = {"fcn": 13.2, "cnn": 3.5, "st_fcn_affine": 2.0, "st_cnn_affine": 1.7}
    for model, error in cluttered.items():
        yield Cell(
            row=model, column="TC", experiment="mnist_tc", model=f"mnist_{model}", paper=error
        )


def _table2() -> Iterator[Cell]:
    figures = {"cnn": (4.0, 5.6), "st_cnn_single": (3.7, 3.9), "st_cnn_multi": (3.6, 3.9)}
    for model, errors in figures.items():
        for size, error in zip((64, 128), errors, strict=True):
            yield Cell(
                row=model,
                column=f"{size}px",
                experiment="svhn",
                model=f"svhn_{model}",
                paper=error,
                image_size=size,
            )


def _table3() -> Iterator[Cell]:
    # The paper prints accuracies.
    for model, size, accuracy in (
        ("cnn", 224, 82.3),
        ("2st_cnn", 224, 83.1),
        ("2st_cnn", 448, 83.9),
        ("4st_cnn", 448, 84.1),
    ):
        yield Cell(
            row=model, column=f"{size}px", experiment="cub", model=f"cub_{model}", paper=round(100 - accuracy, 1),
            image_size=size,
        )  # fmt: skip


def _table4() -> Iterator[Cell]:
    figures = {"fcn": 47.7, "cnn": 14.7}
    figures |= dict(zip([f"st_fcn_{t}" for t in _TRANSFORMS], (22.6, 18.5, 19.1), strict=True))
    figures |= dict(zip([f"2st_fcn_{t}" for t in _TRANSFORMS], (9.0, 5.9, 5.8), strict=True))
    for model, error in figures.items():
        yield Cell(
            row=model,
            column="error",
            experiment="mnist_addition",
            model=f"mnist_addition_{model}",
            paper=error,
        )


def _table5() -> Iterator[Cell]:
    # The paper prints the percentage that is found. Its text repeats the figures of T, but not those of TC.
    found = {"T": (100,) * 10, "TC": (81, 82, 88, 75, 94, 84, 93, 85, 89, 87)}
    for row, figures in found.items():
        for digit, right in enumerate(figures):
            yield Cell(
                row=row, column=str(digit), experiment="colocalisation", model="colocalisation", paper=100.0 - right,
                data_options={"digit": digit, "clutter": row == "TC"}, shows_found=True,
            )  # fmt: skip


def _volumes() -> Iterator[Cell]:
    # The paper gives no figure. The networks without a transformer show what it adds.
    for model in ("st_cnn", "cnn", "projected_cnn"):
        yield Cell(
            row=model, column="error", experiment="mnist3d", model=f"mnist3d_{model}", paper=None
        )


TABLES: dict[str, tuple[Cell, ...]] = {
    "table1": tuple(_table1()),
    "table2": tuple(_table2()),
    "table3": tuple(_table3()),
    "table4": tuple(_table4()),
    "table5": tuple(_table5()),
    "volumes": tuple(_volumes()),
}
