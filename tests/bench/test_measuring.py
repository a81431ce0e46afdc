"""What prepares a measurement on a GPU: processes that share the work, the order of the plan, other blocks to try."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from architectures import create_model
from bench import cases, check_matrix, device, networks, providers, results, workers
from support import works


@pytest.mark.slow
def test_processes_share_the_work_and_outlive_one_that_dies() -> None:
    # More names than a pipe holds.
    names = [f"{number:0100}" for number in range(3000)]
    until = time.monotonic() + 120
    work = ["a", "dies", *names]
    found = list(workers.in_processes(works.length, work, jobs=2, device="cpu", until=until))
    assert sorted(found) == [*((name, 100) for name in names), ("a", 1)]


@pytest.mark.slow
def test_processes_begin_nothing_when_time_is_up() -> None:
    before = time.monotonic() - 1
    assert not list(workers.in_processes(works.slow, ["a"], jobs=2, device="cpu", until=before))
    assert not list(workers.in_processes(works.slow, [], jobs=2, device="cpu", until=before + 100))


def test_the_plan_has_everything_once_and_ours_beside_eager_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on_gpus = [each for each in providers.PROVIDERS if "cuda" in each.devices]
    monkeypatch.setattr(device, "present", lambda _: on_gpus)
    before, after = device.plan("cuda", cases.BASE_CASES, cases.OPTION_CASES)
    planned = [*before, *after]
    assert len({each.name for each in planned}) == len(planned)
    every = [*cases.expand((*cases.BASE_CASES, *cases.OPTION_CASES))]
    for name in ("stn_triton", "torch_eager"):
        found = [each for each in planned if each.provider.name == name]
        assert len(found) == sum(len(case.passes) for case in every)
    formats = [each.case.memory_format for each in before]
    assert formats == sorted(formats, reverse=True)  # contiguous first
    peers = {each.provider.name for each in before if each.case.memory_format == "contiguous"}
    assert peers == {each.name for each in on_gpus} - {"flaggems"}  # which may take the GPU down
    assert {each.case.dtype for each in before} == {torch.float32}
    names = [each.provider.name for each in after]
    assert set(names[: names.index("flaggems")]) == {"stn_triton", "torch_eager"}


def test_networks_have_their_turn_before_bfloat16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def order(ago: float, left: float, jobs: int = 1) -> tuple[bool, list[str]]:
        seen: list[str] = []
        monkeypatch.setattr(device, "_one", lambda _, each, *rest: seen.append(each.name))
        monkeypatch.setattr(device, "measure_networks", lambda *_: seen.append("networks") or True)
        now = time.monotonic()
        session = device.Session("cpu", found, tmp_path, now + left, now - ago, jobs)
        return device.measure_all(session, cases.TINY_CASES[:2], (), ()), seen

    found = results.environment(1.0)
    done, seen = order(0, 100)
    assert done
    (at,) = (number for number, name in enumerate(seen) if name == "networks")
    assert all("/float32/" in name for name in seen[:at])
    assert seen[at + 1].startswith("tiny-4x1x12/bfloat16/contiguous stn_triton")
    first = cases.TINY_CASES[0]
    found.records = [results.make_record(first, "stn_triton", None, None, 1.0, "cpu")]
    assert order(0, 100) == (True, seen[1:])
    assert order(90, 10) == (False, seen[at:])
    assert order(100, -1) == (False, ["networks"])
    # What takes long to compile waits for the next run where there was no time to do so beforehand.
    monkeypatch.setattr(device, "present", lambda _: (providers.named("torch_compile"),))
    monkeypatch.setattr(device, "in_processes", lambda *_, **__: ())
    assert order(50, 50, jobs=2) == (False, ["networks"])


def test_a_short_run_of_the_checks_sees_every_pair_of_options() -> None:
    matrix = check_matrix._matrix()
    first = matrix[: len(matrix) // 4]

    def pairs(some: list[cases.Case]) -> set[object]:
        found: set[object] = set()
        for case in some:
            options = check_matrix._options(case)
            found |= {frozenset((a, b)) for a in options for b in options}
        return found

    assert pairs(first) == pairs(matrix)
    assert len({case.key for case in matrix}) == len(matrix)


def test_every_candidate_launches_something_else() -> None:
    pytest.importorskip("triton")
    from bench import tune
    from bench.launches import KINDS, launches, variant_of

    passes = ("svhn-128x3x64", "svhn-128x48x32:bf16:channels_last", "reflection-128x3x64")
    shown: dict[tuple[str, str], list[str]] = {}
    for text, kind, candidate in tune.planned(passes, KINDS):
        with tune.applied(candidate):
            found = launches(variant_of(cases.parse_case(text), kind))
        facts = [(each.grid, each.keywords(9), each.args[-8:]) for each in found]
        shown.setdefault((text, kind), []).append(repr(facts))
    for (text, kind), group in shown.items():
        # One candidate may be what the pass uses without tuning.
        assert len(set(group)) >= len(group) - 1 > 5, (text, kind)
    with pytest.raises(ValueError, match="no case"):
        list(tune.planned(("nothing",), KINDS))


def test_tuning_needs_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("triton")
    from bench import tune

    for arguments, said in ((["nothing"], "no case"), ([], "no GPU")):
        if said == "no GPU" and torch.cuda.is_available():
            continue
        with pytest.raises(SystemExit):
            tune.main([*arguments, "--out", str(tmp_path / "rows.json")])
        assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_was_measured_at_another_commit_is_not_continued(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = results.environment(1.0, "0123456789ab")
    found.gpu = None
    path = tmp_path / results.file_name(None)
    results.save(found, path)
    before = path.read_text()
    with pytest.raises(SystemExit):
        device.main(["--out", str(tmp_path), "--device", "cpu", "--resume", "--commit", "other"])
    assert "commit 0123456789ab, this is other" in capsys.readouterr().err
    assert path.read_text() == before


@pytest.mark.slow
@pytest.mark.parametrize("setting", networks.SETTINGS, ids=lambda setting: setting.name)
def test_every_network_reads_images_of_the_size_it_is_measured_at(
    setting: networks.Setting,
) -> None:
    model = create_model(setting.name, image_size=setting.image_size).eval()
    with torch.no_grad():
        scores = model(torch.zeros(1, setting.channels, setting.image_size, setting.image_size))
    assert scores.shape[0] == 1
