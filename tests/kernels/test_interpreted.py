"""The interpreter of Triton 3.6 is mended where it differs from compiled code; a later one is left alone."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("triton")

import numpy as np
from triton import language as tl
from triton.runtime import interpreter

from stn_triton.kernels.interpreted import mend

BUILDER = type(interpreter.interpreter_builder)
NAMES = ("create_maxnumf", "create_minnumf", "create_fma")


def given(name: str, *values: float) -> np.ndarray:
    handles = [interpreter.TensorHandle(np.array([x], np.float32), tl.float32) for x in values]
    return getattr(interpreter.interpreter_builder, name)(*handles).data


def old_fma(self: object, x: Any, y: Any, z: Any) -> Any:
    return interpreter.TensorHandle(x.data * y.data + z.data, z.dtype.scalar)


def test_an_old_interpreter_is_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    old = {
        "create_maxnumf": lambda self, left, right: self.binary_op(left, right, np.maximum),
        "create_minnumf": lambda self, left, right: self.binary_op(left, right, np.minimum),
        "create_fma": old_fma,
    }
    for name in NAMES:
        monkeypatch.setattr(BUILDER, name, old[name])
    assert np.isnan(given("create_maxnumf", np.nan, 1))
    mend()
    for left, right in ((np.nan, 1), (1, np.nan), (1, 1)):
        assert given("create_maxnumf", left, right) == given("create_minnumf", left, right) == 1
    assert given("create_maxnumf", 1, 2) == 2 and given("create_minnumf", 1, 2) == 1
    assert given("create_fma", 1 + 2**-23, 1 + 2**-23, -1 - 2**-22) == 2**-46
    assert given("create_fma", 2, 3, 4).dtype == np.float32


def test_an_interpreter_that_is_right_stays_as_it_is() -> None:
    mend()
    before = [getattr(BUILDER, name) for name in NAMES]
    mend()
    assert [getattr(BUILDER, name) for name in NAMES] == before
