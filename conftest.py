"""`pytest --benchmark`: the throughput comparisons of `bench` instead of the tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--benchmark`."""
    parser.addoption(
        "--benchmark",
        action="store_true",
        help="run the throughput comparisons in bench/ (ours beside each peer) instead of tests",
    )


def pytest_configure(config: pytest.Config) -> None:
    """With `--benchmark` and no paths on the command line, collect `bench` instead of the tests."""
    if not config.getoption("--benchmark"):
        return
    if not config.pluginmanager.hasplugin("benchmark"):
        raise pytest.UsageError("--benchmark needs pytest-benchmark: pip install pytest-benchmark")
    config.addinivalue_line("python_files", "benchmark_*.py")
    if config.args_source is not pytest.Config.ArgsSource.ARGS:
        config.args = [str(config.rootpath / "bench")]


def _cpu_comparison() -> Iterator[str]:
    from bench import cpu

    yield cpu.HEADING
    rows = []
    for row in cpu.comparisons():
        rows.append(row)
        yield cpu.line(row)
    yield cpu.summary(rows, "float32")
    yield cpu.summary(rows, "bfloat16")


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """After the benchmarks: ours against eager PyTorch on the CPU, call by call in turn."""
    if config.getoption("--benchmark") and not config.getoption("--collect-only"):
        terminalreporter.section("CPU, timed in turn: speed of stn_triton as a multiple of eager's")
        for text in _cpu_comparison():
            terminalreporter.write_line(text)
