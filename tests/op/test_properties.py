"""What holds for any shapes, dtypes, layouts and thetas, on inputs that Hypothesis picks."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench.layouts import LAYOUTS
from stn_triton import st_sample
from support.checks import (
    BACKENDS,
    DTYPES,
    SLOW_TRITON,
    check,
    distance_to_kinks,
    make_input,
    with_gradients,
)

pytestmark = pytest.mark.usefixtures("poisoned_memory")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
EXAMPLES = {"torch": 60, "native": 60, "triton": 6}
side = st.integers(1, 5)
entry = st.floats(-2, 2, width=32)
options = st.fixed_dictionaries(
    {
        "transform": st.sampled_from(["affine", "attention"]),
        "mode": st.sampled_from(["bilinear", "nearest"]),
        "padding_mode": st.sampled_from(["zeros", "border"]),
        "align_corners": st.booleans(),
    }
)


@st.composite
def problems(draw: st.DrawFn, *, most_k: int = 2) -> dict[str, Any]:
    """Sizes, dtypes, layout and options of one call, and a seed for its tensors."""
    return {
        "shape": (draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(side), draw(side)),
        "out_size": (draw(side), draw(side)),
        "k": draw(st.none() | st.integers(1, most_k)),
        "dtype": draw(st.sampled_from(DTYPES)),
        "theta_dtype": draw(st.sampled_from(DTYPES)),
        "layout": draw(st.sampled_from(LAYOUTS)),
        "options": draw(options),
        "entries": draw(st.lists(entry, min_size=6, max_size=6)),
        "seed": draw(st.integers(0, 2**16)),
    }


def tensors(problem: dict[str, Any], dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    torch.manual_seed(problem["seed"])
    shape, k = problem["shape"], problem["k"]
    u = make_input(shape, dtype or problem["dtype"], problem["layout"], DEVICE)
    count, trailing = (6, (2, 3)) if problem["options"]["transform"] == "affine" else (3, (3,))
    first = torch.tensor(problem["entries"][:count], dtype=torch.float64).view(trailing)
    outer = (shape[0],) if k is None else (shape[0], k)
    # The first theta is Hypothesis's, the others are near it.
    noise = 0.3 * torch.randn(*outer, *trailing, dtype=torch.float64)
    noise.view(-1, *trailing)[0] = 0
    theta = (first + noise).to(DEVICE, dtype or problem["theta_dtype"])
    return u, theta


@pytest.mark.parametrize("backend", BACKENDS)
def test_any_call_agrees_with_the_definition(backend: str) -> None:
    @settings(max_examples=EXAMPLES[backend])
    @given(problem=problems())
    def agrees(problem: dict[str, Any]) -> None:
        u, theta = tensors(problem)
        o, in_size, out_size = problem["options"], problem["shape"][2:], problem["out_size"]
        sizes = (in_size, out_size, o["transform"], o["mode"], o["align_corners"])
        assume(distance_to_kinks(theta, *sizes) > 1e-3)
        check(partial(st_sample, backend=backend), u, theta, out_size, **o)

    agrees()


@pytest.mark.parametrize("backend", BACKENDS)
def test_linear_in_the_input(backend: str) -> None:
    @settings(max_examples=EXAMPLES[backend])
    @given(problem=problems(), factor=st.floats(-3, 3))
    def linear(problem: dict[str, Any], factor: float) -> None:
        u, theta = tensors(problem, torch.float64)
        other = torch.randn_like(u)
        run = partial(
            st_sample, out_size=problem["out_size"], backend=backend, **problem["options"]
        )
        together, apart = run(u + factor * other, theta), run(u, theta) + factor * run(other, theta)
        torch.testing.assert_close(together, apart, rtol=1e-13, atol=1e-13)

    linear()


@pytest.mark.parametrize("backend", SLOW_TRITON)
def test_k_transformers_are_one_after_the_other(backend: str) -> None:
    @settings(max_examples=EXAMPLES[backend] // 2)
    @given(problem=problems().filter(lambda p: p["k"] is not None))
    def equal(problem: dict[str, Any]) -> None:
        u, theta = tensors(problem, torch.float64)
        run = partial(st_sample, out_size=problem["out_size"], backend=backend)

        def one_by_one(u: Tensor, theta: Tensor, **options: Any) -> Tensor:
            return torch.stack([run(u, each, **options) for each in theta.unbind(1)], 1)

        g = torch.randn(*theta.shape[:2], u.shape[1], *problem["out_size"], dtype=u.dtype)
        g = g.to(DEVICE)
        together = with_gradients(run, u, theta, g, **problem["options"])
        apart = with_gradients(one_by_one, u, theta, g, **problem["options"])
        for name in together:
            torch.testing.assert_close(together[name], apart[name], rtol=1e-12, atol=1e-12)

    equal()


@pytest.mark.parametrize("backend", SLOW_TRITON)
def test_images_of_a_batch_do_not_meet(backend: str) -> None:
    @settings(max_examples=EXAMPLES[backend] // 2)
    @given(problem=problems(most_k=1).filter(lambda p: p["shape"][0] == 2))
    def independent(problem: dict[str, Any]) -> None:
        u, theta = tensors(problem)
        outer = theta.shape[: theta.dim() - (2 if theta.shape[-2:] == (2, 3) else 1)]
        if problem["options"]["transform"] == "attention":
            outer = theta.shape[:-1]
        g = torch.randn(*outer, u.shape[1], *problem["out_size"]).to(DEVICE, u.dtype)
        run = partial(st_sample, out_size=problem["out_size"], backend=backend)
        both = with_gradients(run, u, theta, g, **problem["options"])
        # The other image turns to NaN, its theta too: nothing of it may reach this one.
        u, theta = u.clone(), theta.clone()
        u[1], theta[1] = torch.nan, torch.nan
        spoilt = with_gradients(run, u, theta, g, **problem["options"])
        alone = with_gradients(run, u[:1], theta[:1], g[:1], **problem["options"])
        for name in both:
            assert torch.equal(both[name][0], spoilt[name][0]), name
            torch.testing.assert_close(both[name][:1], alone[name])

    independent()
