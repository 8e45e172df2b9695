# SPDX-License-Identifier: Apache-2.0
"""docs/RESULTS.md: what it says follows from the records, and it is that of the stored runs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shira_runtime.bench import SCHEMA_VERSION, Record, Role, RunFile

ROOT = Path(__file__).resolve().parents[2]
TOUCH = "touch roofline, prefetch {}"


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The modules of the checkout's folder, which is no installed package."""
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import report, targets

    return SimpleNamespace(report=report, targets=targets)


def record(
    arm: str,
    milliseconds: float,
    role: Role = "shira",
    case: dict[str, Any] | None = None,
    **changes: Any,
) -> Record:
    """Eleven samples around a median."""
    samples = tuple(int(milliseconds * 1e6 * (0.95 + 0.01 * step)) for step in range(11))
    fields: dict[str, Any] = {"regime": "all warm", "threads": 1, "samples": samples, **changes}
    return Record("micro", case or {"mask": "random", "dtype": "f32"}, arm, role, **fields)


def judged(
    benchmarks: SimpleNamespace, records: list[Record], **fields: Any
) -> tuple[str, str, int]:
    target = benchmarks.targets.Target("what", **{"suite": "micro", "arm": "ours", **fields})
    (outcome,) = benchmarks.targets.evaluate([target], records)
    return outcome.verdict, outcome.value_text, outcome.case_count


def test_a_ratio_is_of_the_fastest_of_those_meant(benchmarks: SimpleNamespace) -> None:
    records = [
        record("ours", 1.8),
        record(TOUCH.format(0), 3.0, "roofline"),
        record(TOUCH.format(64), 2.0, "roofline"),
    ]
    against = {"kind": "ratio", "against": TOUCH.format("*")}
    assert judged(benchmarks, records, **against, limit=0.91) == ("held", "0.90 x", 1)
    assert judged(benchmarks, records, **against, limit=0.89) == ("missed", "0.90 x", 1)


def test_a_speedup_is_against_the_fastest_baseline(benchmarks: SimpleNamespace) -> None:
    records = [
        record("ours", 2.0),
        record("LoRA, rank 64", 90.0, "baseline"),
        record("LoRA, rank 20", 30.0, "baseline"),
    ]
    against = {"kind": "speedup", "against": "LoRA*"}
    assert judged(benchmarks, records, **against, limit=15) == ("held", "15.00 x", 1)
    assert judged(benchmarks, records, **against, limit=15.1) == ("missed", "15.00 x", 1)


def test_one_case_that_misses_is_the_one_shown(benchmarks: SimpleNamespace) -> None:
    records = []
    for dtype, ours in (("f32", 1.0), ("f16", 2.2), ("bf16", 1.2)):
        case = {"mask": "random", "dtype": dtype}
        records += [record("ours", ours, case=case), record("limit", 2.0, "roofline", case)]
    target = benchmarks.targets.Target("what", "ratio", "micro", "ours", "limit", 1.0)
    (outcome,) = benchmarks.targets.evaluate([target], records)
    assert (outcome.verdict, outcome.value_text, outcome.where) == (
        "missed",
        "1.10 x",
        "random, f16",
    )
    only = {"kind": "ratio", "against": "limit", "case": {"dtype": "*32"}}
    assert judged(benchmarks, records, **only) == ("held", "0.50 x", 1)


def test_seconds_are_absolute(benchmarks: SimpleNamespace) -> None:
    records = [record("ours", 399.0)]
    assert judged(benchmarks, records, kind="seconds", limit=0.40) == ("held", "0.399 s", 1)
    assert judged(benchmarks, records, kind="seconds", limit=0.39)[0] == "missed"
    part = record("ours", 399.0, stages={"compare": (30_000_000,) * 11})
    found = judged(benchmarks, [part], kind="seconds", limit=0.03, stage="compare")
    assert found == ("held", "0.030 s", 1)


def test_nanoseconds_for_each_entry(benchmarks: SimpleNamespace) -> None:
    records = [record("ours", 2.0, counts={"entries": 160_000})]
    assert judged(benchmarks, records, kind="per entry", limit=12.5) == ("held", "12.5 ns", 1)
    assert judged(benchmarks, records, kind="per entry", limit=12.4)[0] == "missed"


def test_times_per_entry_are_compared_across_cases(benchmarks: SimpleNamespace) -> None:
    half = {"mask": "random", "dtype": "f16"}
    records = [
        record("ours", 1.0, counts={"entries": 1000}),
        record("ours", 1.5, case=half, counts={"entries": 2000}),
    ]
    fields = {
        "kind": "ratio",
        "against": "ours",
        "case": {"dtype": "f16"},
        "other_case": {"dtype": "f32"},
        "per_entry": True,
    }
    assert judged(benchmarks, records, **fields) == ("held", "0.75 x", 1)


@pytest.mark.parametrize(
    ("milliseconds", "verdict"), [(10.0, "held"), (10.15, "held"), (11.5, "missed"), (8, "missed")]
)
def test_equal_is_within_noise(
    benchmarks: SimpleNamespace, milliseconds: float, verdict: str
) -> None:
    records = [record("ours", milliseconds), record("base", 10.0)]
    assert judged(benchmarks, records, kind="equal", against="base")[0] == verdict


def test_one_of_two_limits_is_enough(benchmarks: SimpleNamespace) -> None:
    records = [record("ours", 2.0), record("fresh", 1.0, "roofline")]
    limits = {"kind": "ratio", "against": "fresh", "limit": 1.5, "alternative": ("resident", 2.5)}
    assert judged(benchmarks, records, **limits) == ("missed", "2.00 x, nan x", 1)
    resident = [*records, record("resident", 0.8, "roofline")]
    assert judged(benchmarks, resident, **limits) == ("held", "2.00 x, 2.50 x", 1)
    slower = [*records, record("resident", 0.7, "roofline")]
    assert judged(benchmarks, slower, **limits) == ("missed", "2.00 x, 2.86 x", 1)


def test_what_was_not_measured_is_not_held(benchmarks: SimpleNamespace) -> None:
    alone = [record("ours", 1.0)]
    other_regime = [*alone, record("limit", 2.0, "roofline", regime="cold file")]
    for records in ([], alone, other_regime):
        result = judged(benchmarks, records, kind="ratio", against="limit")
        assert result == ("not measured", "", 0)


def run_of_one_case() -> RunFile:
    ours = record(
        "switch base -> A",
        1.5,
        stages={"check": (200_000,) * 11, "store": (1_100_000,) * 11},
        counts={"entries": 1234, "pages": 77},
        notes=("not cold: x.shb could not be dropped from the page cache",),
    )
    limits = [record(TOUCH.format(d), t, "roofline") for d, t in ((0, 4.0), (16, 3.0))]
    fused = record("torch addmm_, unfuse + fuse, rank 20", 30.0, "baseline")
    context = {"cpu": "x", "run": {"about": "all there is", "seed": 1}}
    return RunFile(context, (ours, *limits, fused))


def test_the_page_has_every_number_of_a_case(benchmarks: SimpleNamespace) -> None:
    target = benchmarks.targets.Target(
        "overwrite", "ratio", "micro", "switch base -> A", TOUCH.format("*"), 0.4
    )
    page = benchmarks.report.results({"micro": run_of_one_case()}, [target])
    assert "| overwrite | <= 0.4 x | 0.50 x | random, f32 | 1 | **missed** |" in page
    assert "0 held, 1 missed, 0 not measured" in page
    assert "All there is." in page
    # median, p95, times the best touch, stages, counts
    assert (
        "| switch base -> A | shira | 1.500 | 1.575 | 0.50 | 0.200 | 1.100 | 1,234 | 77 |" in page
    )
    assert "| torch addmm_, unfuse + fuse, rank 20 | 20.0 |" in page
    assert "- not cold: x.shb could not be dropped from the page cache (switch base -> A)" in page
    assert "![" in page
    assert "(runs/bench_micro.svg)" in page


def test_cases_with_the_same_arms_share_a_table(benchmarks: SimpleNamespace) -> None:
    records = []
    for number, dtype in enumerate(("f32", "f16", "bf16", "x")):
        case = {"mask": "random", "dtype": dtype}
        records += [
            record("ours", 1.0 + number, case=case, stages={"store": (10**6 * (number + 1),) * 11}),
            record("limit", 2.0, "roofline", case),
        ]
    page = benchmarks.report.results({"micro": RunFile({}, tuple(records))}, [])
    assert "### mask random, all warm" in page
    assert "|  | ours | limit |" in page  # more cases than arms: cases go down
    assert "| f16 | 2.000 (2.100) | 2.000 (2.100) |" in page
    assert "Times as long as limit." in page
    assert "| bf16 | 1.50 |" in page
    assert "| ours: store | 1.000 | 2.000 | 3.000 | 4.000 |" in page


def run_of_many_cases() -> tuple[Record, ...]:
    records = []
    for number in range(25):
        for dtype, density in (("f32", 0.01), ("f16", 0.01), ("f32", 0.02), ("f16", 0.02)):
            if density > 0.01 and number > 3:
                continue
            case = {"shape": f"{number}x1", "dtype": dtype, "density": density}
            ours = (1.0 if dtype == "f32" else 3.0) + number
            stages = {"library": (9_000_000,) * 11}
            records += [
                record("ours", ours, case=case, counts={"entries": 1000}, stages=stages),
                record("limit", 2.0, "roofline", case),
            ]
    return tuple(records)


def test_a_sweep_is_summed_up(benchmarks: SimpleNamespace) -> None:
    records = run_of_many_cases()
    page = benchmarks.report.results({"micro": RunFile({}, records)}, [])
    assert "### all warm" in page
    assert "Over all of shape: median (least to greatest)." in page
    assert "| f32 | 0.01 | 25 | 13000.00 (1000.00 to 25000.00) |" in page
    assert "| f16 | 0.01 | 25 | 7.50 (1.50 to 13.50) |" in page
    # f16 and f32 are as usual as each other, but one density is the most usual one
    assert "### ours, density 0.01\n" in page
    assert "| shape | f32 | f16 |" in page
    assert "| 17x1 | 18.0 (9.000) | 20.0 (9.000) |" in page


def test_a_sweep_is_plotted_by_size(benchmarks: SimpleNamespace, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks import plots

    trends = benchmarks.report.trends(list(benchmarks.report.groups_of(run_of_many_cases())))
    assert list(trends) == ["ours"]
    assert list(trends["ours"]) == ["f32", "f16"]
    assert trends["ours"]["f16"][:2] == [(1000.0, 3000.0), (1000.0, 4000.0)]
    plots.draw_trends(trends, tmp_path / "a.svg")
    assert "nanoseconds for each entry" in (tmp_path / "a.svg").read_text()


def test_a_plot_is_the_same_for_the_same_records(
    benchmarks: SimpleNamespace, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks import plots

    shown = benchmarks.report.plotted(run_of_one_case())
    for name in ("a.svg", "b.svg"):
        plots.draw(shown, tmp_path / name)
    text = (tmp_path / "a.svg").read_text()
    assert text == (tmp_path / "b.svg").read_text()
    assert "switch base -&gt; A" in text
    assert len(text) < 40_000


def test_the_results_are_those_of_the_stored_runs(benchmarks: SimpleNamespace) -> None:
    runs = benchmarks.report.stored_runs()
    for suite, run in runs.items():
        assert {each.suite for each in run.records} == {suite}
        assert (ROOT / "docs" / "runs" / f"bench_{suite}.svg").is_file()
    assert (ROOT / "docs" / "RESULTS.md").read_text() == benchmarks.report.results(runs)


def test_storing_a_run_writes_page_and_plots(
    benchmarks: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(benchmarks.report, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(benchmarks.report, "RESULTS", tmp_path / "RESULTS.md")
    run_of_one_case().write(tmp_path / "new.json")
    assert benchmarks.report.main([str(tmp_path / "new.json")]) == 0
    stored = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert stored == ["bench_micro.json", "bench_micro.svg"]
    assert "switch base -> A" in (tmp_path / "RESULTS.md").read_text()


def test_the_protocol_names_the_schema_and_every_regime() -> None:
    from shira_runtime.bench.regimes import REGIMES

    page = (ROOT / "docs" / "BENCHMARKING.md").read_text()
    assert f"version {SCHEMA_VERSION}" in page
    for name in REGIMES:
        assert f"**{name}**" in page
