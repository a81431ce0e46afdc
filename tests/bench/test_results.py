"""Result files: what a measurement writes, that it is read back whole, and the tables made from it."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest

from bench import cases, device, report, results, timing

TINY = cases.TINY_CASES
RECORD_KEYS = [
    "case", "provider", "direction", "grads", "transform", "mode", "padding_mode", "shape",
    "out_size", "k", "dtype", "memory_format", "checked", "ms", "ms_p20", "ms_p80",
    "host_us", "launches", "min_bytes", "gb_s",
    "fraction_of_copy", "peak_bytes", "least_peak_bytes",
]  # fmt: skip


def dry_run(folder: Path, *arguments: str) -> dict[str, object]:
    status = device.main(
        [
            "--out",
            str(folder),
            "--device",
            "cpu",
            "--skip-correctness",
            "--minutes",
            "3",
            *arguments,
        ]
    )
    assert status == 0
    content: dict[str, object] = json.loads((folder / results.file_name(None)).read_text())
    return content


@pytest.mark.slow
def test_dry_run_and_resume(tmp_path: Path) -> None:
    content = dry_run(tmp_path)
    assert list(content) == [
        "gpu", "torch", "triton", "commit", "date", "copy_gb_s", "records", "networks",
    ]  # fmt: skip
    assert content["gpu"] is None
    records = content["records"]
    assert isinstance(records, list)
    assert records
    assert all(list(record) == RECORD_KEYS for record in records)
    ours = [record for record in records if record["provider"] == "stn_triton"]
    assert len(ours) == sum(len([*case.directions()]) for case in cases.expand(TINY))
    assert all(record["checked"] and record["ms"] > 0 for record in ours)
    assert results.file_name(None).startswith("cpu-torch")
    assert "no figures" in (tmp_path / results.file_name(None)).with_suffix(".md").read_text()
    shorter = {**content, "records": records[1:]}
    (tmp_path / results.file_name(None)).write_text(json.dumps(shorter))
    resumed = dry_run(tmp_path, "--resume")["records"]
    assert isinstance(resumed, list)
    assert resumed[:-1] == records[1:]
    assert {k: resumed[-1][k] for k in RECORD_KEYS[:12]} == {
        k: records[0][k] for k in RECORD_KEYS[:12]
    }


def test_a_dry_run_is_no_result(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        device.main(["--out", str(results.RESULTS / "x"), "--device", "cpu"])
    assert "no result" in capsys.readouterr().err
    assert not (results.RESULTS / "x").exists()


def test_committed_results_come_from_gpus() -> None:
    for path in results.result_files():
        content = results.load(path)
        assert content.gpu
        assert content.copy_gb_s > 0
        machine = results.file_name(content.gpu).split("-torch")[0]
        assert path.name == f"{machine}-torch{content.torch.split('+')[0]}.json"


def example(provider: str, ms: float | None) -> results.Record:
    took = None if ms is None else timing.Timing(ms, ms, ms, 5.0, 1, 3 * 10**4)
    return results.make_record(TINY[0], provider, "fwd", None, took, 100.0, "cpu")


def test_result_files_round_trip(tmp_path: Path) -> None:
    made = results.environment(100.0)
    made.gpu = "Some GPU 3000"
    made.records = [example("stn_triton", 0.5), example("flaggems", None)]
    made.networks = [
        results.Network(
            name="n", image_size=1, batch=2, dtype="float32", provider="stn_triton",
            ms=1.0, images_s=2000.0, sampler_share=0.01,
        )
    ]  # fmt: skip
    path = tmp_path / "deep" / results.file_name(made.gpu)
    results.save(made, path)
    assert results.load(path) == made
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert [f.name for f in fields(results.Record)] == RECORD_KEYS
    first = made.records[0]
    assert first.gb_s == pytest.approx(first.min_bytes / 0.5e-3 / 1e9)
    assert first.fraction_of_copy == pytest.approx(first.gb_s / 100)
    assert not made.records[1].checked
    path.write_text('{"records": [], "networks": [], "other": 1}')
    with pytest.raises(ValueError, match="not a result file"):
        results.load(path)


def test_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = results.environment(100.0)
    made.records = [
        example("stn_triton", 0.5),
        example("torch_eager", 2.0),
        example("flaggems", None),
    ]
    path = tmp_path / "r.json"
    results.save(made, path)
    assert report.main([str(path)]) == 0
    text = capsys.readouterr().out
    assert "| `torch_eager`, fwd | 4.00x | 4.00x | 4.00x | 1 |" in text
    assert "wrong" in text
    assert report.main([str(tmp_path / "missing.json")]) == 1
