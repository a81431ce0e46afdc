"""Calls of `st_sample` that can be: drawn, run and judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bench import definition

from .drawing import DTYPES, Draw, Size, thetas, with_pixels_not_finite
from .guards import Memory, bits, is_dense
from .truth import RANGE, Where, clear_samples, tolerances, where

Run = Callable[..., dict[str, Tensor]]
"""From a call and a cotangent to `output`, `input gradient` and `theta gradient`."""


@dataclass
class Call:
    """The arguments of `st_sample`, and how they were drawn."""

    input: Any
    theta: Any
    out_size: Any
    options: dict[str, Any] = field(default_factory=dict)
    about: str = ""

    def __str__(self) -> str:
        tensors = ", ".join(
            f"{name} {tuple(value.shape)} {value.dtype}"
            if isinstance(value, Tensor)
            else f"{name} {value!r}"
            for name, value in (("input", self.input), ("theta", self.theta))
        )
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        return (
            f"st_sample({tensors}, out_size {self.out_size!r}, {options}) [{self.about}]".replace(
                "torch.", ""
            )
        )


def _points(draw: Draw, transform: str) -> tuple[Any, int]:
    """(control_points, how many they are)."""
    if draw.chance(0.5):
        side = draw.one((2, 3, 4))
        return draw.one((None, side)), side**2
    if transform == "tps" and draw.chance(0.4):
        count = draw.one((3, 4, 7))
        found = draw.normal(count, 2) * draw.one((0.5, 1.0, 3.0))
        return found if draw.chance(0.5) else tuple(map(tuple, found.tolist())), count
    rows, columns = draw.one((2, 3, 5)), draw.one((2, 3, 4))
    return (rows, columns), rows * columns


def _options(draw: Draw, ndim: int) -> tuple[dict[str, Any], Size]:
    """(options, the shape of one theta)."""
    names = ["affine", "affine", "attention", "projective", "tps", "piecewise_affine"]
    transform = draw.one(names[:3] if ndim == 3 else names)
    options: dict[str, Any] = {"transform": transform}
    form: Size = {"affine": (ndim, ndim + 1), "attention": (1 + ndim,)}.get(transform, ())
    if transform == "projective":
        form = draw.one(((8,), (3, 3)))
    elif not form:
        points, count = _points(draw, transform)
        form = (count, 2)
        if points is not None:
            options["control_points"] = points
    options["mode"] = draw.one(
        ("bilinear", "bilinear", "nearest", "bicubic")[: 3 if ndim == 3 else 4]
    )
    options["padding_mode"] = draw.one(("zeros", "zeros", "border", "reflection"))
    if options["padding_mode"] == "zeros" and draw.chance(0.3):
        options["padding_value"] = draw.one((1, -0.5, 3.25, 1e-30, 1e4))
    if draw.chance(0.3):
        options["align_corners"] = True
    elif draw.chance(0.3):
        free = transform in ("affine", "attention") and draw.chance(0.4)
        options["antialias"] = True if free else draw.one((1, 2, 3))
    return options, form


def drawn(draw: Draw) -> Call:
    """A call that st_sample can do."""
    ndim = 3 if draw.chance(0.15) else 2
    options, form = _options(draw, ndim)
    in_size, out_size = draw.size(ndim), draw.size(ndim)
    if draw.chance(0.01):
        out_size = (*out_size[:-1], 2000)
    n, channels = draw.one((0, 1, 1, 2, 2, 3)), draw.one((0, 1, 1, 2, 3, 4, 5, 8, 9, 16))
    lead: Size = (n,) if draw.chance(0.7) else (n, draw.one((0, 1, 2, 3)))
    u, layout = draw.tensor((n, channels, *in_size), draw.one(DTYPES), last=True)
    if n and draw.chance(0.15):
        lead = (draw.one((0, 1, 3, 5)),)
        options["index"] = torch.tensor([draw.random.randrange(n) for _ in range(lead[0])]).long()
    start = definition.identity(options["transform"], ndim, form, options.get("control_points"))
    dtype = u.dtype if draw.chance(0.6) else draw.one(DTYPES)
    theta, about = thetas(draw, lead, start, dtype)
    if draw.chance(0.08):
        u = with_pixels_not_finite(draw, u)
        layout += ", pixels not finite"
    return Call(u, theta, out_size, options, f"input {layout}; theta {about}")


def by_backend(backend: str) -> Run:
    """`st_sample` and its gradients, as anybody calls it."""
    from stn_triton import st_sample

    def run(call: Call, cotangent: Tensor) -> dict[str, Tensor]:
        u, theta = (each.detach().requires_grad_() for each in (call.input, call.theta))
        output = st_sample(u, theta, call.out_size, backend=backend, **call.options)
        grads = torch.autograd.grad(output, (u, theta), cotangent, materialize_grads=True)
        return {"output": output.detach(), "input gradient": grads[0], "theta gradient": grads[1]}

    return run


def judged(call: Call, run: Run, draw: Draw, *, guard: bool = False) -> list[str]:
    """What is wrong with a call that can be."""
    memory = Memory()
    if guard:
        if is_dense(call.input):
            call.input = memory.guarded(call.input)
        if is_dense(call.theta):
            call.theta = memory.guarded(call.theta)
    expected = _Expected(call, draw)
    before = [bits(each) for each in (call.input, call.theta)]
    wrong = []
    for name, cotangent in (("", expected.cotangent), ("full gradient, ", expected.full)):
        if guard:
            with memory.of_native_results():
                found = run(call, cotangent)
        else:
            found = run(call, cotangent)
        judge = expected.mistakes if not name else expected.not_finite
        wrong += [f"{name}{mistake}" for mistake in judge(found)]
        if not memory.is_whole():
            wrong.append(f"{name}bytes beside a tensor were written")
        if name == "" and torch.equal(bits(expected.cotangent), bits(expected.full)):
            break
    after = [bits(each) for each in (call.input, call.theta)]
    if not all(map(torch.equal, before, after)):
        wrong.append("an argument was changed")
    return wrong


class _Expected:
    """What the definition gives, and within which bounds."""

    def __init__(self, call: Call, draw: Draw) -> None:
        self.call, options = call, call.options
        u, theta = call.input.double(), call.theta.double()
        transform = options["transform"]
        self.index = options.get("index")
        self.finite_pixels = bool(call.input.isfinite().all())
        trailing = definition.theta_dims(theta, transform)
        outer = theta.shape[: theta.dim() - trailing]
        shape = (*outer, u.shape[1], *call.out_size)
        self.empty = 0 in shape
        self.full = draw.normal(*shape).to(call.input.dtype)
        self.cotangent, self.true = self.full, {}
        self.tolerance: dict[str, Tensor] = {}
        self.wide = (
            torch.float64
            if torch.float64 in (call.input.dtype, call.theta.dtype)
            else torch.float32
        )
        self.largest = _largest(u, options)
        if self.empty:
            zero = {
                "input gradient": torch.zeros_like(u),
                "theta gradient": torch.zeros_like(theta),
            }
            self.true = {"output": torch.empty(shape, dtype=torch.float64), **zero}
            self.tolerance = {name: torch.zeros(()) for name in self.true}
            self.steady = torch.ones(shape, dtype=torch.bool)
            self.all_clear = True
            return
        self._bound(u, theta, len(outer), trailing)
        self.true = _gradients(u, theta, call, self.cotangent.double())
        if options["mode"] == "nearest":  # also beside a pixel that is not finite
            self.true["theta gradient"] = torch.zeros_like(theta)

    def _bound(self, u: Tensor, theta: Tensor, leading: int, trailing: int) -> None:
        """Which pixels are clear, and how far each result may be off."""
        options, in_size, out_size = self.call.options, tuple(u.shape[2:]), self.call.out_size
        mode, padding_mode = options["mode"], options.get("padding_mode", "zeros")
        outer = theta.shape[:leading]
        full = self.full.double().flatten(0, leading - 1)
        steady, clear, values, of_input, of_theta = [], [], [], torch.zeros(()), []
        for number, each in enumerate(theta.flatten(0, leading - 1)):
            found, samples, certain = self._where(each.unsqueeze(0), in_size, out_size)
            surely = clear_samples(found, in_size, mode, padding_mode)
            known, even = (_of_pixels(s & certain, samples, torch.amin) for s in surely)
            grad = full[number : number + 1] * even.unsqueeze(1)
            finer = grad / samples ** len(out_size)
            for axis in range(2, grad.dim()):
                finer = finer.repeat_interleave(samples, axis)
            value, for_input, for_theta = tolerances(found, finer, self.largest, in_size, mode)
            steady.append(known)
            clear.append(even)
            values.append(_of_pixels(value, samples, torch.mean))
            of_input = of_input + for_input
            of_theta.append(for_theta)
        channel = [
            tensor.unflatten(0, outer).unsqueeze(leading)
            for tensor in map(torch.cat, (steady, clear, values))
        ]
        self.steady = channel[0] if self.finite_pixels else channel[1]
        self.all_clear = bool(channel[1].all()) or self.finite_pixels
        self.cotangent = torch.where(channel[1], self.full, 0.0)
        self.tolerance = {
            "output": channel[2],
            "input gradient": of_input,
            "theta gradient": torch.cat(of_theta).view(theta.shape),
        }

    def _where(self, theta: Tensor, in_size: Size, out_size: Size) -> tuple[Where, int, bool]:
        """(the samples, how many along each axis of a pixel, whether that number is certain)."""
        options = self.call.options
        transform, samples, certain = (
            options["transform"],
            options.get("antialias", False) or 1,
            True,
        )
        if options.get("antialias") is True:
            counts = {
                definition.samples((theta * factor)[0], in_size, out_size, transform)
                for factor in (1 - 1e-5, 1, 1 + 1e-5)
            }
            samples = definition.samples(theta[0], in_size, out_size, transform)
            certain = len(counts) == 1 and bool((theta.abs().nan_to_num(0, 0, 0) < 1e30).all())
        finer = tuple(samples * length for length in out_size)
        align, points = options.get("align_corners", False), options.get("control_points")
        return where(theta, in_size, finer, transform, align, points, self.wide), samples, certain

    def mistakes(self, found: dict[str, Tensor]) -> list[str]:
        """What is wrong where the cotangent is 0 at every pixel that is not clear."""
        dtypes = {"output": self.call.input.dtype, "input gradient": self.call.input.dtype}
        wrong = []
        for name, true in self.true.items():
            got, dtype = found[name], dtypes.get(name, self.call.theta.dtype)
            if got.shape != true.shape or got.dtype != dtype:
                wrong.append(
                    f"{name}: {tuple(got.shape)} {got.dtype}, not {tuple(true.shape)} {dtype}"
                )
                continue
            if name == "theta gradient" and not self._has_comparable_theta(true):
                continue
            compared = (
                self.steady.expand(true.shape)
                if name == "output"
                else torch.ones_like(true, dtype=torch.bool)
            )
            if name == "theta gradient" and self.call.options["transform"] == "piecewise_affine":
                # Of a control point that weighs 0, which then counts as 0 times NaN.
                touched = true.isnan().flatten(-2).any(-1)[..., None, None]
                compared = compared & ~touched
            if why := _difference(got, true, self.tolerance[name], compared):
                wrong.append(f"{name}: {why}")
        return wrong + self.not_finite(found)

    def _has_comparable_theta(self, true: Tensor) -> bool:
        """Whether theta's gradient is neither 0 times NaN nor beyond what its sums can hold on the way."""
        # Theta does not move coordinates along an axis of one pixel.
        flat = self.call.options.get("align_corners", False) and 1 in self.call.input.shape[2:]
        if flat and not self.finite_pixels:
            return False
        largest = float(true.abs().nan_to_num(0.0, 0.0).max()) if true.numel() else 0.0
        return self.all_clear and largest < 1e-3 * torch.finfo(self.wide).max

    def not_finite(self, found: dict[str, Tensor]) -> list[str]:
        """What is not finite, or out of range, without a reason."""
        if not self.finite_pixels:
            return []
        wrong = []
        for name, got in found.items():
            limit = torch.finfo(got.dtype).max
            if not got.isfinite().all() and not self._overflows(name, limit):
                wrong.append(f"{name}: not finite")
        most = self.largest * RANGE[self.call.options["mode"]] ** len(self.call.out_size) * 1.01
        output = found["output"]
        if (
            output.numel()
            and most < torch.finfo(output.dtype).max
            and float(output.abs().max()) > most
        ):
            wrong.append(
                f"output: {float(output.abs().max()):.3g} of numbers up to {self.largest:.3g}"
            )
        return wrong

    def _overflows(self, name: str, limit: float) -> bool:
        """Whether a finite truth may leave the range of its dtype."""
        if name != "theta gradient":
            return False
        scale = (
            float(self.full.double().abs().sum())
            * self.largest
            * 64
            * max(self.call.input.shape[2:], default=1)
        )
        if self.call.options["transform"] == "projective":
            return True  # a divisor near 0
        return scale * 1e3 > limit


def _largest(u: Tensor, options: dict[str, Any]) -> float:
    finite = u.abs()[u.isfinite()]
    most = float(finite.max()) if finite.numel() else 0.0
    return max(most, abs(options.get("padding_value", 0.0)))


def _of_pixels(samples: Tensor, count: int, reduce: Callable[..., Tensor]) -> Tensor:
    """The least or the mean of the samples of each pixel: (T, *finer) -> (T, *out_size)."""
    for axis in range(1, samples.dim()):
        samples = reduce(samples.unflatten(axis, (-1, count)), axis + 1)
    return samples


def _gradients(u: Tensor, theta: Tensor, call: Call, cotangent: Tensor) -> dict[str, Tensor]:
    u, theta = u.detach().requires_grad_(), theta.detach().requires_grad_()
    options = dict(call.options)
    output = definition.sample(u, theta, call.out_size, **options)
    grads = torch.autograd.grad(output, (u, theta), cotangent, materialize_grads=True)
    return {"output": output.detach(), "input gradient": grads[0], "theta gradient": grads[1]}


def _difference(got: Tensor, true: Tensor, tolerance: Tensor, compared: Tensor) -> str | None:
    info = torch.finfo(got.dtype)
    wide = got.double()
    allowed = tolerance + 2 * info.eps * true.abs() + 4 * info.tiny
    finite = true.isfinite()
    off = (wide - true).abs()
    off = torch.where(finite, off, torch.where(wide.isfinite(), torch.inf, 0.0))
    off = torch.where(true.abs() + allowed > 0.99 * info.max, 0.0, off)
    bad = compared & ~(off <= allowed.expand(true.shape).nan_to_num(torch.inf, torch.inf))
    if not bad.any():
        return None
    at = tuple(int(each) for each in bad.nonzero()[0])
    allowance = float(allowed.expand(true.shape)[at])
    return (
        f"{int(bad.sum())} of {bad.numel()} wrong, at {at}: {float(got[at]):.9g}, not {float(true[at]):.9g}; "
        f"{float(off[at]):.3g} off, allowed {allowance:.3g}"
    )
