"""The benchmarks' cases, providers and checks; nothing here asserts a time."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import stn_triton
from bench import (
    cases,
    check,
    check_matrix,
    cpu,
    definition,
    networks,
    providers,
    results,
    timing,
    traffic,
)
from bench.cases import Case
from bench.grids import parameters, sample_groups
from bench.inputs import clear_of_kinks, make_inputs, make_theta
from bench.providers.provider import Provider
from stn_triton.transforms import TRANSFORMS

TINY = cases.TINY_CASES
EAGER = providers.named("torch_eager")


def test_case_names_are_unique() -> None:
    for group in ((*cases.BASE_CASES, *cases.OPTION_CASES), cases.TINY_CASES, cases.CPU_CASES):
        keys = [case.key for case in cases.expand(group)]
        assert len(keys) == len(set(keys))


@pytest.mark.parametrize("case", TINY, ids=lambda case: case.name)
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
def test_reach_is_what_autograd_touches(case: Case, padding_mode: str) -> None:
    case = replace(case, padding_mode=padding_mode)
    x = torch.ones(case.shape, dtype=torch.float64, requires_grad=True)
    out = check.reference(case, x, make_theta(case).double())
    out.sum().backward()
    assert x.grad is not None
    one_channel = (slice(None), 0)
    # Border and reflection move outputs onto one end pixel; the other taps of those outputs have no weight.
    touched = int((x.grad[one_channel] != 0).sum())
    reach = traffic.reach(case)
    assert touched <= reach.source <= case.shape[0] * math.prod(case.shape[2:])
    if padding_mode == "zeros":
        assert reach.source == touched
        first_channel = out[:, 0] if case.k is None else out[:, :, 0]
        assert reach.outputs == int((first_channel != 0).sum())
    else:
        assert reach.source <= touched + 2 * sum(case.shape[2:]) * case.shape[0]
        assert reach.outputs == case.maps * math.prod(case.out_size)


def test_bytes_of_the_identity() -> None:
    # Attention crops of scale 0.5 at half size: every output pixel lies between four source pixels.
    case = Case(name="", shape=(2, 3, 8, 8), out_size=(4, 4), dtype=torch.bfloat16)
    reach = traffic.reach(case)
    source, out, whole = reach.source * 3 * 2, 2 * 3 * 16 * 2, 2 * 3 * 64 * 2
    passed_on = reach.outputs * 3 * 2
    assert traffic.min_bytes(case, None) == source + out
    assert traffic.min_bytes(case, "theta") == 2 * source + out + passed_on
    assert traffic.min_bytes(case, "input") == source + out + passed_on + whole
    assert traffic.min_bytes(case, "both") == 2 * source + out + passed_on + whole
    assert traffic.least_peak_bytes(case, "both") == out + whole + 2 * 6 * 4


def test_antialiasing_by_theta_takes_several_numbers_of_samples() -> None:
    (case,) = (c for c in cases.OPTION_CASES if c.antialias is True)
    groups = sample_groups(case, parameters(case, make_theta(case)))
    assert {samples for _, samples in groups} == {2, 3, 4}
    assert sorted(torch.cat([maps for maps, _ in groups]).tolist()) == [*range(case.maps)]


def test_volumes_and_samples_count_in_bytes() -> None:
    case = Case(name="", shape=(2, 3, 8, 8, 8), out_size=(4, 4, 4), antialias=2)
    reach = traffic.reach(case)
    assert traffic.min_bytes(case, None) == (reach.source + 2 * 64) * 12
    whole = traffic.min_bytes(case, "input") - traffic.min_bytes(case, None)
    assert whole == (reach.outputs + 2 * 512) * 12
    # Twice as fine in the output reads more of the source, never less.
    assert traffic.reach(replace(case, antialias=False)).source < reach.source


def test_inputs_repeat_and_keep_clear_of_kinks() -> None:
    case = replace(TINY[1], memory_format="channels_last", dtype=torch.bfloat16)
    first, again = make_inputs(case), make_inputs(case)
    for name in ("input", "theta", "grad"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert first.input.is_contiguous(memory_format=torch.channels_last)
    assert first.theta.dtype is torch.float32
    clear = clear_of_kinks(case, first.theta)
    assert 0.9 < clear.double().mean() <= 1
    assert not first.grad[(~clear).expand_as(first.grad)].any()


@pytest.mark.parametrize("name", [p.name for p in providers.present("cpu")])
@pytest.mark.parametrize("case", [*cases.expand(TINY)], ids=lambda case: case.key)
def test_providers_agree_with_the_definition(name: str, case: Case) -> None:
    (provider,) = providers.present("cpu", [name])
    inputs = make_inputs(case)
    for grads in case.passes:
        if provider.can(case, grads):
            actual = check.run(provider.on_theta(case), inputs, grads)
            expected = check.expect(case, inputs, grads)
            assert check.verdict(case, actual, expected, provider.rounding) is None


@pytest.mark.parametrize("case", TINY, ids=lambda case: case.name)
def test_the_reference_of_the_check_is_the_definition(case: Case) -> None:
    inputs = make_inputs(replace(case, dtype=torch.float64))
    options = {
        name: getattr(case, name)
        for name in (
            "transform", "mode", "padding_mode", "align_corners", "antialias", "control_points",
        )
    }  # fmt: skip

    def defined(x: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
        return definition.sample(x, theta, case.out_size, index=inputs.index, **options)

    inputs = replace(inputs, theta=inputs.theta.double())
    true = check.run(defined, inputs, "both")
    found = check.run(partial(check.reference, case), inputs, "both")
    for name in ("output", "grad_input", "grad_theta"):
        torch.testing.assert_close(getattr(found, name), getattr(true, name), rtol=0, atol=1e-10)


def test_torch_compile_takes_every_kind_of_case(monkeypatch: pytest.MonkeyPatch) -> None:
    # By Dynamo and autograd alone, since Inductor takes seconds for a case; all in one process, as they are timed.
    from bench.providers import torch_compile

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    torch_compile._compiled.cache_clear()
    provider, wrong = providers.named("torch_compile"), {}
    for number, case in enumerate(TINY):
        case = replace(case, dtype=(torch.float32, torch.bfloat16)[number % 2])
        if provider.can(case, case.grads[0]):
            inputs = make_inputs(case)
            actual = check.run(provider.on_theta(case), inputs, case.grads[0])
            expected = check.expect(case, inputs, case.grads[0])
            wrong[case.key] = check.verdict(case, actual, expected, provider.rounding)
    torch_compile._compiled.cache_clear()
    assert len(wrong) == len(TINY) - 1
    assert not any(wrong.values()), wrong


def test_the_check_finds_errors() -> None:
    case = TINY[1]
    inputs = make_inputs(case)
    expected = check.expect(case, inputs, "both")
    right = check.run(lambda x, theta: check.reference(case, x, theta), inputs, "both")
    assert check.verdict(case, right, expected) is None
    assert right.grad_theta is not None
    wrong = {
        "output": replace(right, output=right.output * 1.001),
        "grad_theta": replace(right, grad_theta=right.grad_theta * 1.01),
        "finite": replace(right, output=right.output / 0),
        "float16": replace(right, output=right.output.half()),
        "shape": replace(right, grad_theta=right.grad_theta[:1]),
        "order": replace(right, output=right.output.contiguous(memory_format=torch.channels_last)),
    }
    for word, actual in wrong.items():
        assert word in str(check.verdict(case, actual, expected))


def test_the_correctness_part_on_a_cpu() -> None:
    every = list(check_matrix.checks("cpu"))
    assert len({name for name, _ in every}) == len(every)
    for name, wrong in every[::60]:
        assert wrong() is None, name


def test_a_provider_is_one_class() -> None:
    folder = Path(providers.__file__).parent
    files = {path.stem for path in folder.glob("*.py")} - {"__init__", "provider"}
    assert {type(each).__module__.rsplit(".", 1)[-1] for each in providers.PROVIDERS} == files
    assert [each.name for each in providers.PROVIDERS][:2] == ["stn_triton", "torch_eager"]
    assert providers.PROVIDERS[-1].name == "flaggems"


def test_the_peer_in_the_newcomers_guide_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("scipy")
    text = (results.ROOT / "CONTRIBUTING.md").read_text()
    start = text.index('"""SciPy')
    monkeypatch.setattr(Provider, "kinds", [])
    namespace: dict[str, object] = {
        "__package__": "bench.providers",
        "__name__": "bench.providers.scipy",
    }
    exec(text[start : text.index("```", start)], namespace)
    ((kind,), compared) = Provider.kinds, 0
    for case in cases.expand(TINY):
        if kind().can(case, None):
            compared += 1
            inputs = make_inputs(case)
            actual = check.run(kind().on_theta(case), inputs, None)
            assert check.verdict(case, actual, check.expect(case, inputs, None)) is None
    assert compared >= 3
    assert not any(kind().can(case, "theta") for case in TINY)


def test_unknown_providers_are_named() -> None:
    with pytest.raises(ValueError, match="no_such"):
        providers.present("cpu", ["no_such"])


def test_peers_take_only_their_own_cases() -> None:
    by_name = {p.name: p for p in providers.PROVIDERS}
    every = (*cases.BASE_CASES, *cases.OPTION_CASES)
    able = {name: {c.name for c in every if p.can(c, None)} for name, p in by_name.items()}
    assert able["stn_triton"] == able["torch_eager"] == {c.name for c in every}
    assert able["torch_compile"] == able["torch_eager"] - {"antialias-true-32x3x448-k2"}
    assert able["cudnn"] == {"corners-8x3x1234x1345", "corners-8x64x56"}
    assert able["torchvision_roi_align"] == {
        "crops-32x3x448-k2", "crops-32x3x448-k4", "antialias-4-32x3x448-k2", "antialias-true-32x3x448-k2",
        "ragged-2x256x100x152-512",
    }  # fmt: skip
    left = {name.split("-")[0] for name in able["torch_eager"] - able["kornia"]}
    assert left == {"volume", "antialias", "bicubic", "piecewise", "ragged"}
    assert not by_name["flaggems"].can(cases.BASE_CASES[0], "both")
    assert not by_name["torchvision_roi_align"].can(cases.BASE_CASES[-1], "theta")


def test_flaggems_without_a_sampler_is_no_peer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    operators = tmp_path / "flag_gems" / "ops"
    operators.mkdir(parents=True)
    (tmp_path / "flag_gems" / "__init__.py").write_text("raise RuntimeError('needs a GPU')")
    monkeypatch.syspath_prepend(tmp_path)
    provider = providers.named("flaggems")
    assert not provider.available("cuda")
    (operators / "grid_sample.py").touch()
    assert provider.available("cuda")
    assert not provider.available("cpu")


def test_cpu_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = list(cpu.comparisons(TINY[:1], (torch.float32,), seconds=0.0))
    assert [row.grads for row in rows] == [None, "both", "theta"]
    assert all(row.wrong is None for row in rows)
    fixed = [replace(rows[0], ratio=2.0), replace(rows[0], ratio=0.5)]
    monkeypatch.setattr(cpu, "RESULTS", tmp_path)
    path = cpu.save(rows, 1)
    content = json.loads(path.read_text())
    assert content["processor"]
    assert [row["direction"] for row in content["rows"]] == ["fwd", "fwd+bwd", "fwd+bwd"]
    assert cpu.load(path)[1] == rows
    text = cpu.summary(fixed)
    assert "fwd 1.00x in the geometric mean (aim 4.8x), lowest 0.50x of 2 cases" in text
    assert content["rows"][0]["peer"] == "torch_eager"
    assert text.endswith("missed")
    fast = [replace(row, ratio=5.0) for row in rows]
    assert cpu.summary(fast).endswith("reached")
    assert cpu.summary([*fast, replace(rows[0], ratio=None)]).endswith("missed")
    wrong = replace(rows[0], ratio=None, peer_ms=None, ours_ms=None, wrong="off by one")
    assert "not timed: off by one" in cpu.line(wrong)
    assert "1 not passing the check" in cpu.summary([fixed[0], wrong])


def test_interleaving_takes_both_in_turn() -> None:
    order: list[str] = []
    pair = timing.interleaved(lambda: order.append("a"), lambda: order.append("b"), seconds=0.0)
    assert order.count("a") == order.count("b") == 2 + 11
    assert pair.ratio > 0


@pytest.mark.parametrize("size", [((6, 6),), ()], ids=["a size", "the input's size"])
def test_networks_use_the_sampler_that_is_asked_for(size: tuple[tuple[int, int], ...]) -> None:
    x, theta = torch.randn(2, 3, 6, 6), torch.eye(2, 3).repeat(2, 1, 1)
    seen: list[Case] = []
    original = stn_triton.st_sample
    with networks.sampler_replaced(networks._as_sampler("torch_eager", seen, original)):
        assert stn_triton.st_sample is not original
        got = stn_triton.st_sample(x.requires_grad_(), theta, *size)
    assert stn_triton.st_sample is original
    torch.testing.assert_close(got, x, atol=1e-5, rtol=0)
    assert [(case.shape, case.k, case.grads) for case in seen] == [((2, 3, 6, 6), None, ("input",))]


@pytest.mark.parametrize("transform", [*TRANSFORMS, "projective 3x3"])
@pytest.mark.parametrize("lead", [(2,), (2, 3)], ids=str)
def test_networks_may_sample_by_any_transform(transform: str, lead: tuple[int, ...]) -> None:
    transform, *whole = transform.split()
    theta = stn_triton.identity_theta(transform, lead) + 0.1
    if whole:
        theta = F.pad(theta, (0, 1), value=1.0).unflatten(-1, (3, 3))
    x, seen = torch.randn(2, 3, 6, 6), []
    original = stn_triton.st_sample
    got = networks._as_sampler("torch_eager", seen, original)(x, theta, (6, 6), transform=transform)
    torch.testing.assert_close(got, original(x, theta, (6, 6), transform=transform))
    assert seen[0].k == (lead[1] if len(lead) > 1 else None)


def collected(*arguments: str) -> str:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "--collect-only",
            "-q",
            "-p",
            "no:cacheprovider",
            *arguments,
        ],
        cwd=results.ROOT,
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("PYTEST")},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_benchmark_option_chooses_what_is_collected() -> None:
    pytest.importorskip("pytest_benchmark")
    everything = collected("--benchmark")
    assert "benchmark_sampler.py::test_throughput" in everything
    assert "tests/" not in everything
    providers_in_order = [
        line.rsplit("-", 1)[-1].rstrip("]")
        for line in everything.splitlines()
        if "cpu-64x1x42" in line
    ]
    assert providers_in_order[:2] == ["stn_triton", "torch_eager"]
    here = str(Path(__file__).relative_to(results.ROOT))
    only = collected("--benchmark", f"{here}::test_case_names_are_unique")
    assert "test_case_names_are_unique" in only
    assert "test_throughput" not in only
    assert "test_throughput" not in collected(here)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_timing_on_a_gpu() -> None:
    case = TINY[1]
    took = timing.measure(EAGER, case, "both", timing.rotating_inputs(case, "cuda"))
    assert 0 < took.ms_p20 <= took.ms <= took.ms_p80
    assert took.host_us > 0
    assert took.launches is not None
    assert took.launches > 5
    assert took.peak_bytes is not None
    assert took.peak_bytes >= traffic.least_peak_bytes(case, "both")
    json.dumps(asdict(took))
