"""Parallel transformers of several sizes and transforms; networks that look at one image and sample another."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from architectures import ParallelSTN, SerialSTN, parameter_groups
from stn_triton import SpatialTransformer, identity_theta, st_sample
from support.transformers import FEATURES, localisation

N, C, H, W, K = 3, 2, 8, 10, 3
CLASSES = 4
SIZES = [(4, 5), None, (3, 6)]
TRANSFORMS = ["attention", "affine", "tps"]


def network(
    *,
    localisations: bool = False,
    streams: nn.Module | list[nn.Module] | None = None,
    **options: Any,
) -> ParallelSTN:
    made = ParallelSTN(
        [localisation() for _ in range(K)] if localisations else localisation(),
        streams or nn.Sequential(nn.Conv2d(C, 4, 3), nn.AdaptiveAvgPool2d(1)),
        nn.LazyLinear(CLASSES),
        **{"in_features": FEATURES, "num_transformers": K, **options},
    )  # fmt: skip
    for transformer in made.transformers:
        nn.init.normal_(transformer.regression.weight, std=0.2)
    return made


def unbound(found: Tensor | list[Tensor]) -> list[Tensor]:
    return list(found.unbind(1)) if isinstance(found, Tensor) else found


LISTS: dict[str, dict[str, Any]] = {
    "sizes": {"out_size": SIZES},
    "transforms": {"transform": TRANSFORMS, "out_size": (4, 5)},
    "scales": {"transform": "attention", "fixed_scale": [0.5, None, 0.25], "out_size": (4, 5)},
    "antialias": {"antialias": [False, True, 2], "out_size": (4, 5)},
    "all": {
        "out_size": SIZES, "transform": TRANSFORMS, "fixed_scale": [0.5, None, None],
        "antialias": [True, 1, False], "padding_mode": "border",
    },
}  # fmt: skip


@pytest.mark.parametrize("localisations", [False, True], ids=["one localisation", "K"])
@pytest.mark.parametrize("name", LISTS)
def test_each_transformer_samples_by_its_own_options(name: str, localisations: bool) -> None:
    options = LISTS[name]
    model = network(localisations=localisations, **options)
    x = torch.rand(N, C, H, W)
    theta = model.localise(x)
    maps = model.sample(x, theta)
    assert isinstance(theta, list) == (
        "transform" in options and isinstance(options["transform"], list)
    )
    assert isinstance(maps, list) == (name in ("sizes", "antialias", "all"))
    for k, (own, seen) in enumerate(zip(unbound(theta), unbound(maps), strict=True)):
        its = {
            key: value[k] if isinstance(value, list) else value for key, value in options.items()
        }
        scale = its.pop("fixed_scale", None)
        size = its.pop("out_size", None) or (H, W)
        assert scale is None or torch.equal(own[:, 0], torch.full((N,), scale))
        assert own.std(0).max() > 1e-4, "of x"
        torch.testing.assert_close(seen, st_sample(x, own, size, **its), rtol=1e-4, atol=1e-5)
    streams = [model.streams[0](seen).flatten(1) for seen in unbound(maps)]
    logits, again = model(x, return_theta=True)
    torch.testing.assert_close(logits, model.head(torch.cat(streams, 1)))
    torch.testing.assert_close(again, theta)
    assert torch.equal(model(x), logits)


def test_each_stream_takes_the_size_of_its_own_map() -> None:
    streams = [
        nn.Sequential(nn.ReLU(True), nn.Flatten(), nn.Linear(C * h * w, 7))
        for h, w in ((4, 5), (8, 10), (3, 6))
    ]
    model = network(streams=streams, out_size=SIZES)
    x = torch.rand(N, C, H, W, requires_grad=True)
    model(x).square().sum().backward()
    assert x.grad is not None and bool(x.grad.any())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.any()), name


@pytest.mark.parametrize(
    ("options", "launches"),
    [
        ({"out_size": (4, 5)}, 1),
        ({}, 1),
        ({"out_size": [(4, 5)] * K}, 1),
        ({"transform": ["affine"] * K}, 1),
        ({"out_size": [(4, 5), (3, 3), [4, 5]]}, 2),
        ({"antialias": [1, True, 1], "out_size": (4, 5)}, 2),
        ({"transform": ["affine", "tps", "affine"], "out_size": (4, 5)}, 2),
        ({"transform": "attention", "fixed_scale": [0.5, 0.6, None]}, 1),
        ({"out_size": SIZES}, 3),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("localisations", [False, True], ids=["one localisation", "K"])
def test_those_that_agree_sample_in_one_launch(
    options: dict[str, Any], launches: int, localisations: bool
) -> None:
    model = network(localisations=localisations, **options)
    x = torch.rand(N, C, H, W)
    with patch("stn_triton.modules.st_sample", side_effect=st_sample) as sampler:
        model(x)
    assert sampler.call_count == launches


def test_initial_thetas() -> None:
    starts = [[0.5, 0.1, 0.2], 0.3 * identity_theta("affine"), None]
    model = network(transform=TRANSFORMS, initial_theta=starts)
    for transformer in model.transformers:
        transformer.reset_parameters()
    thetas = model.localise(torch.rand(N, C, H, W))
    wanted = [torch.tensor(starts[0]), starts[1], identity_theta("tps")]
    for theta, start in zip(thetas, wanted, strict=True):
        torch.testing.assert_close(theta, start.expand(N, *start.shape))
    tiles = torch.tensor([[1.0, -0.5, 0.0], [1.0, 0.0, 0.0], [1.0, 0.5, 0.0]])
    model = network(
        transform="attention", fixed_scale=[0.25, 0.5, None], initial_theta=tiles, out_size=SIZES
    )
    for transformer in model.transformers:
        transformer.reset_parameters()
    tiles[:, 0] = torch.tensor([0.25, 0.5, 1.0])
    torch.testing.assert_close(model.localise(torch.rand(N, C, H, W)), tiles.expand(N, K, 3))


def test_volumes_of_several_sizes() -> None:
    look = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten())
    model = ParallelSTN(
        look, nn.AdaptiveAvgPool3d(1), nn.Identity(),
        in_features=C, out_size=[(3, 4, 5), None], num_transformers=2,
    )  # fmt: skip
    x = torch.rand(N, C, 4, 6, 5)
    first, second = model.sample(x, model.localise(x))
    assert first.shape == (N, C, 3, 4, 5)
    torch.testing.assert_close(second, x)
    assert model(x).shape == (N, 2 * C)


def test_a_shared_localisation_is_run_once_and_learns_as_one() -> None:
    model = network(out_size=SIZES)
    runs: list[int] = []
    assert model.localisation is not None
    model.localisation.register_forward_hook(lambda *_: runs.append(1))
    model(torch.rand(N, C, H, W))
    assert len(runs) == 1
    groups = {group["name"]: group["params"] for group in parameter_groups(model, lr=1.0)}
    assert set(groups["localisation"]) == set(model.localisation.parameters())
    assert len(groups["regression"]) == 2 * K
    assert len({name.split(".")[0] for name in model.state_dict()}) == 4, "nothing is saved twice"


def test_one_value_leaves_the_names_of_the_weights_as_they_were() -> None:
    names = set(network(out_size=(4, 5)).state_dict())
    assert {"transformers.0.localisation.2.weight", "transformers.0.regression.weight"} <= names
    assert not any(name.startswith(("localisation", "transformers.1")) for name in names)
    names = set(network(localisations=True, out_size=(4, 5)).state_dict())
    assert {f"transformers.{k}.localisation.2.weight" for k in range(K)} <= names
    assert not any(name.startswith("localisation") for name in names)


WRONG: dict[str, tuple[dict[str, Any], type[Exception], list[str]]] = {
    "sizes": ({"out_size": [(4, 5), None]}, ValueError, ["out_size", "num_transformers = 3", "got 2"]),
    "transforms": ({"transform": ["affine"] * 4}, ValueError, ["transform", "= 3", "got 4"]),
    "scales": (
        {"transform": "attention", "fixed_scale": [0.5]}, ValueError, ["fixed_scale", "= 3", "got 1"],
    ),
    "antialias": ({"antialias": ()}, ValueError, ["antialias", "= 3", "got 0"]),
    "sizes of K localisations": (
        {"out_size": [(4, 5)] * 2, "localisations": True}, ValueError, ["out_size", "got 2"],
    ),
    "an unknown transform": ({"transform": ["affine", "tps", "afine"]}, ValueError, ["'afine'"]),
    "a scale of another transform": (
        {"transform": TRANSFORMS, "fixed_scale": 0.5}, ValueError, ["fixed_scale", "'affine'"],
    ),
    "one initial theta for several transforms": (
        {"transform": TRANSFORMS, "initial_theta": identity_theta("affine")}, ValueError,
        ["initial_theta", "list", "= 3"],
    ),
    "too few initial thetas": (
        {"transform": TRANSFORMS, "initial_theta": [None]}, ValueError, ["initial_theta", "= 3"],
    ),
    "an initial theta of another transform": (
        {"transform": TRANSFORMS, "initial_theta": [[1.0, 0, 0], [1.0, 0, 0], None]}, ValueError,
        ["initial_theta", "(2, 3)", "'affine'", "got shape (3,)"],
    ),
    "initial thetas of another transform": (
        {"out_size": SIZES, "initial_theta": [[1.0, 0, 0]] * 3}, ValueError,
        ["initial_theta", "(3, 2, 3)", "'affine'", "got shape (3, 3)"],
    ),
    "images and volumes": ({"out_size": [(4, 5), (4, 5, 6), (4, 5)]}, ValueError, ["images", "volumes", "[2, 3, 2]"]),
    "a size that is a number": ({"out_size": [4, None, (3, 3)]}, TypeError, ["out_size", "4"]),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_lists_that_are_refused(case: str) -> None:
    changes, error, parts = WRONG[case]
    with pytest.raises(error) as raised:
        network(**changes)
    assert all(part in str(raised.value) for part in parts), raised.value


def test_other_than_k_thetas_or_maps_are_refused() -> None:
    model = network(out_size=(4, 5))
    x = torch.rand(N, C, H, W)
    with pytest.raises(ValueError, match="thetas must be one for each of 3 transformers, got 4"):
        model.sample(x, [identity_theta("affine", (N,))] * 4)
    with pytest.raises(ValueError, match="maps must be one for each of 3 transformers, got 2"):
        model.classify([x, x])


@pytest.mark.parametrize("localisations", [False, True], ids=["one localisation", "K"])
@pytest.mark.parametrize(
    "shape", [(N, 2, 2, 3), (N, K, 3), (N, 2, 3), (N, K, 3, 2), (N, K), (N,), (N, K, 1, 2, 3)], ids=str
)  # fmt: skip
def test_thetas_of_another_shape_are_refused(shape: tuple[int, ...], localisations: bool) -> None:
    """The error names the shape that was passed, not one that became of it on the way."""
    model = network(localisations=localisations, out_size=(4, 5))
    wanted = f"theta must be (N, 3, 2, 3), one for each of 3 transformers, got shape {shape}"
    with pytest.raises(ValueError, match=f"^{re.escape(wanted)}$"):
        model.sample(torch.rand(N, C, H, W), torch.zeros(shape))


def test_one_theta_for_each_image_is_not_taken_for_those_of_two_transformers() -> None:
    model = ParallelSTN(
        localisation(), nn.Flatten(), nn.Identity(), in_features=FEATURES, num_transformers=2
    )
    with pytest.raises(ValueError, match=r"theta must be \(N, 2, 2, 3\).*got shape \(3, 2, 3\)$"):
        model.sample(torch.rand(N, C, H, W), identity_theta("affine", (N,)))


def test_a_theta_of_another_shape_in_a_list_is_named() -> None:
    x = torch.rand(N, C, H, W)
    model = network(transform=TRANSFORMS, out_size=(4, 5))
    thetas = model.localise(x)
    assert isinstance(thetas, list)
    swapped = [thetas[1], thetas[0], thetas[2]]
    with pytest.raises(
        ValueError,
        match=r"^thetas\[0\] must be \(N, 3\), for transform 'attention', got shape \(3, 2, 3\)$",
    ):
        model.sample(x, swapped)
    with pytest.raises(TypeError, match=r"^thetas\[2\] must be a tensor, got list$"):
        model.sample(x, [*thetas[:2], [0.0]])
    with pytest.raises(
        TypeError, match="theta must be a list of 3 tensors where transforms differ"
    ):
        model.sample(x, identity_theta("affine", (N, K)))
    row = SerialSTN([transformer(), transformer(transform="attention")], nn.Flatten())
    for sample in (row.sample, lambda _, given: row.composed_theta(given)):
        with pytest.raises(
            ValueError, match=r"^thetas\[1\] must be \(N, 3\), .*got shape \(3, 2, 3\)$"
        ):
            sample(x, [identity_theta("affine", (N,))] * 2)


# Localise on one image, sample another


def large() -> tuple[Tensor, Tensor]:
    """A small image, and a large one with another number of channels."""
    return torch.rand(N, C, H, W), torch.rand(N, C + 1, 3 * H, 2 * W)


@pytest.mark.parametrize("options", [{"out_size": (4, 5)}, {}, LISTS["all"]], ids=str)
def test_parallel_samples_the_source(options: dict[str, Any]) -> None:
    stream = nn.Sequential(nn.Conv2d(C + 1, 4, 3), nn.AdaptiveAvgPool2d(1))
    model = network(streams=stream, **options)
    x, source = large()
    logits, theta = model(x, source=source, return_theta=True)
    torch.testing.assert_close(theta, model.localise(x), rtol=0, atol=0)
    assert torch.equal(logits, model.classify(model.sample(source, theta)))
    if "out_size" not in options:
        assert model.sample(source, theta).shape[-2:] == source.shape[-2:]


def transformer(size: tuple[int, int] | None = None, **options: Any) -> SpatialTransformer:
    made = SpatialTransformer(localisation(), size, in_features=FEATURES, **options)
    nn.init.normal_(made.regression.weight, std=0.2)
    return made


ROWS: dict[str, Callable[[], list[SpatialTransformer]]] = {
    "sizes kept": lambda: [transformer(), transformer(transform="attention")],
    "sizes of their own": lambda: [transformer((6, 7)), transformer(), transformer((5, 4))],
    "one": lambda: [transformer((6, 7))],
}


@pytest.mark.parametrize("compose", [False, True])
@pytest.mark.parametrize("name", ROWS)
def test_serial_samples_the_source(name: str, compose: bool) -> None:
    """The thetas depend on x alone; the source is sampled by the same thetas, one after the other."""
    row = ROWS[name]()
    model = SerialSTN(row, nn.Flatten(), compose=compose)
    x, source = large()
    expected = model(x, return_theta=True)[1]
    found, thetas = model(x, source=source, return_theta=True)
    torch.testing.assert_close(thetas, expected, rtol=0, atol=0)
    seen = source
    for one, theta in zip(row, thetas, strict=True):
        seen = one.sample(seen, theta)
    if compose:
        frame = model.composed_theta(thetas)[-1]
        wanted = st_sample(source, frame, tuple(seen.shape[2:]))
    else:
        wanted = seen
    torch.testing.assert_close(found, wanted.flatten(1))
    assert torch.equal(model(x, source=source), found)


@pytest.mark.parametrize("compose", [False, True])
def test_serial_on_itself_as_source(compose: bool) -> None:
    model = SerialSTN(ROWS["sizes of their own"](), nn.Flatten(), compose=compose)
    x, _ = large()
    assert torch.equal(model(x, source=x), model(x))
    parts = model.classify(model.sample(x, model.localise(x)))
    assert torch.equal(parts, model(x))
    with pytest.raises(ValueError, match="one for each of 3 transformers, got 2"):
        model.sample(x, model.localise(x)[:2])


def test_nothing_is_sampled_in_vain() -> None:
    """With a source, nothing reads the last map of x, and so it is not computed."""
    x, source = large()
    for compose, launches in ((False, 2 + 3), (True, 2 + 1)):
        model = SerialSTN(ROWS["sizes of their own"](), nn.Flatten(), compose=compose)
        with patch("stn_triton.modules.st_sample", side_effect=st_sample) as sampler:
            model(x, source=source)
        assert sampler.call_count == launches


@pytest.mark.slow
@pytest.mark.parametrize("build", [
    lambda: network(out_size=SIZES),
    lambda: network(transform=["affine", "affine", "attention"], out_size=(4, 5)),
    lambda: SerialSTN([transformer(), transformer(transform="attention")], nn.Flatten(), compose=True),
])  # fmt: skip
def test_compiled_and_exported(build: Callable[[], nn.Module]) -> None:
    model = build().eval()
    x = torch.rand(N, C, H, W)
    wanted = model(x)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, source=x), wanted)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("n", min=2)},))
    torch.testing.assert_close(program.module()(x[:2]), wanted[:2])
