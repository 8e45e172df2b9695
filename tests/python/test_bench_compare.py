# SPDX-License-Identifier: Apache-2.0
"""Statistics of measurements, against scipy, and what is flagged between two runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("typer")
stats = pytest.importorskip("scipy.stats")

from shira_runtime import cli  # noqa: E402
from shira_runtime.bench import BenchmarkError, Record, Role, RunFile, statistics  # noqa: E402
from shira_runtime.bench.compare import compare_runs, context_differences  # noqa: E402

CONTEXT: dict[str, Any] = {"cpu": "x", "commit": "a", "load_average": [1.0], "run": {"seed": 1}}


def noisy(generator: np.random.Generator, median_ns: float, count: int = 60) -> NDArray[np.int64]:
    """Samples as a machine gives them: skewed, now and then far off."""
    samples = median_ns * (1 + 0.02 * generator.gamma(2.0, 1.0, count))
    samples[:: count // 10] *= 3
    generator.shuffle(samples)
    return samples.astype(np.int64)


def run_of(arms: dict[str, NDArray[np.int64]], role: Role = "shira", **context: Any) -> RunFile:
    records = [
        Record("s", {"dtype": "f16"}, name, role, "all warm", 1, tuple(int(x) for x in samples))
        for name, samples in arms.items()
    ]
    return RunFile(CONTEXT | context, tuple(records))


# --- statistics


@pytest.mark.parametrize("count", [1, 2, 19, 20, 21, 100])
def test_a_percentile_is_a_sample_that_so_many_do_not_exceed(count: int) -> None:
    samples = np.random.default_rng(count).permutation(count) + 1
    p95 = statistics.percentile(samples, 95)
    assert p95 in samples
    assert p95 == -(-count * 95 // 100)


def test_the_median_is_that_of_numpy_and_scipy() -> None:
    samples = noisy(np.random.default_rng(1), 1000)
    assert statistics.median(samples) == stats.scoreatpercentile(samples, 50)


def test_the_interval_of_the_ratio_is_that_of_scipy() -> None:
    generator = np.random.default_rng(2)
    first, second = (1000 + generator.gamma(4.0, 100.0, 301) for _ in range(2))

    def ratio(x: NDArray[np.float64], y: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        return np.median(x, axis=axis) / np.median(y, axis=axis)

    interval = statistics.ratio_of_medians(first, second)
    wanted = stats.bootstrap(
        (first, second), ratio, method="percentile", rng=3, vectorized=True
    ).confidence_interval
    assert interval.estimate == np.median(first) / np.median(second)
    width = wanted.high - wanted.low
    assert interval.low == pytest.approx(wanted.low, abs=0.05 * width)
    assert interval.high == pytest.approx(wanted.high, abs=0.05 * width)
    wider = statistics.ratio_of_medians(first, second, 0.999)
    assert wider.low < interval.low < interval.estimate < interval.high < wider.high


def test_the_interval_covers_the_ratio_as_often_as_it_says() -> None:
    generator = np.random.default_rng(4)
    covered = 0
    for _ in range(300):
        first, second = generator.gamma(9.0, 1.0, (2, 40))
        interval = statistics.ratio_of_medians(first, second, 0.9)
        covered += interval.low <= 1.0 <= interval.high
    assert 0.85 < covered / 300 < 0.97


def test_the_test_is_two_sided() -> None:
    generator = np.random.default_rng(5)
    fast, slow = noisy(generator, 1000), noisy(generator, 1100)
    wanted = stats.mannwhitneyu(fast, slow, alternative="two-sided").pvalue
    assert statistics.mann_whitney(fast, slow) == pytest.approx(wanted)
    assert statistics.mann_whitney(slow, fast) == pytest.approx(wanted)
    assert statistics.mann_whitney(fast, fast) > 0.9


def test_holm_steps_down() -> None:
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.6, 0.7]) == [1.0, 1.0]
    assert statistics.holm([]) == []


# --- comparing


def test_only_what_changed_is_flagged() -> None:
    generator = np.random.default_rng(6)
    names = [f"arm {number}" for number in range(20)]
    old = run_of({name: noisy(generator, 1000) for name in names})
    medians = {"arm 3": 1150.0, "arm 7": 870.0, "arm 9": 1035.0}
    new = run_of({name: noisy(generator, medians.get(name, 1000)) for name in names})
    changes = {change.new.arm: change for change in compare_runs(old, new)}
    assert {name: c.verdict for name, c in changes.items() if c.verdict != "same"} == {
        "arm 3": "slower",
        "arm 7": "faster",
    }
    assert changes["arm 3"].ratio.estimate == pytest.approx(1.15, abs=0.04)
    # A small change is certain enough, but below the threshold until that is lowered.
    assert changes["arm 9"].p_value < 0.01
    lower = {change.new.arm: change for change in compare_runs(old, new, threshold=0.01)}
    assert lower["arm 9"].verdict == "slower"


def test_a_large_but_uncertain_change_is_not_flagged() -> None:
    old = run_of({"a": np.array([1000, 1010, 1020])})
    new = run_of({"a": np.array([1200, 1210, 1220])})
    (change,) = compare_runs(old, new)
    assert change.ratio.low > 1.1  # the bootstrap of three samples is sure of itself
    assert change.verdict == "same"  # the rank test is not


def test_ranks_that_differ_with_equal_medians_are_not_flagged() -> None:
    old = run_of({"a": np.array([1000] * 60 + [900] * 40)})
    new = run_of({"a": np.array([1000] * 60 + [5000] * 40)})
    (change,) = compare_runs(old, new)
    assert change.p_value < 0.01
    assert change.verdict == "same"


def test_a_median_that_may_jump_either_way_is_not_flagged() -> None:
    old = run_of({"a": np.array([1000] * 224 + [1100] * 176)})
    new = run_of({"a": np.array([1000] * 180 + [1100] * 220)})
    (change,) = compare_runs(old, new)
    assert (change.p_value < 0.01, change.ratio.estimate) == (True, 1.1)
    assert change.ratio.low <= 1.0
    assert change.verdict == "same"


def test_nothing_is_flagged_where_nothing_changed() -> None:
    generator = np.random.default_rng(7)
    flagged = 0
    for _ in range(20):
        old, new = (run_of({str(n): noisy(generator, 1000) for n in range(10)}) for _ in range(2))
        flagged += sum(c.verdict != "same" for c in compare_runs(old, new, threshold=0.0))
    assert flagged <= 2


def test_other_cases_are_refused_or_left_out() -> None:
    samples = np.arange(100, 130)
    old, new = run_of({"a": samples, "b": samples}), run_of({"b": samples, "c": samples})
    with pytest.raises(BenchmarkError, match=r"only the old run has .*'a'.*1 more difference"):
        compare_runs(old, new)
    assert [c.new.arm for c in compare_runs(old, new, common_only=True)] == ["b"]
    with pytest.raises(BenchmarkError, match="no measurement in common"):
        compare_runs(run_of({"a": samples}), run_of({"c": samples}), common_only=True)


def test_times_of_other_clocks_are_refused() -> None:
    run = run_of({"a": np.arange(100, 130)})
    other = RunFile(run.context, tuple(replace(each, clock="thread") for each in run.records))
    with pytest.raises(BenchmarkError, match="wall time and thread time"):
        compare_runs(run, other)


def test_contexts_are_compared_but_for_what_always_differs() -> None:
    old = run_of({"a": np.arange(9)}, versions={"torch": "1", "numpy": "2"})
    new = run_of(
        {"a": np.arange(9)},
        versions={"torch": "2", "numpy": "2"},
        commit="b",
        load_average=[9.0],
        run={"seed": 2},
        governor="powersave",
    )
    assert context_differences(old, new) == [
        "governor: not recorded -> powersave",
        "versions.torch: 1 -> 2",
    ]


# --- the command


def compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: RunFile, new: RunFile, *options: str
) -> tuple[int, str, str]:
    old.write(tmp_path / "old.json")
    new.write(tmp_path / "new.json")
    capsys.readouterr()
    code = cli.main(["bench-compare", f"{tmp_path}/old.json", f"{tmp_path}/new.json", *options])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_the_command_fails_only_when_it_is_told_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = np.random.default_rng(8)
    old = run_of({"overwrite": noisy(generator, 1000)})
    new = run_of({"overwrite": noisy(generator, 1200)}, cpu="y")
    code, out, err = compared(tmp_path, capsys, old, new)
    assert code == 0
    assert "slower" in out
    assert "WARNING: the runs were not taken alike: cpu: x -> y" in err
    code, _, err = compared(tmp_path, capsys, old, new, "--fail-if-slower", "5%")
    assert code == 1
    assert "overwrite (all warm) is" in err
    assert "the limit is 5.0%" in err
    assert compared(tmp_path, capsys, old, new, "--fail-if-slower", "40%")[0] == 0
    assert compared(tmp_path, capsys, new, old, "--fail-if-slower", "5%")[0] == 0


def test_a_slower_baseline_fails_nothing_and_a_slower_machine_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = np.random.default_rng(9)
    old = run_of({"touch": noisy(generator, 1000)}, "roofline")
    new = run_of({"touch": noisy(generator, 1300)}, "roofline")
    code, _, err = compared(tmp_path, capsys, old, new, "--fail-if-slower", "5%")
    assert code == 0
    assert "limits of the machine changed too" in err


def test_the_command_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of({"a": np.arange(1000, 1030)})
    code, out, _ = compared(tmp_path, capsys, run, run, "--json", "--threshold", "3%")
    document = json.loads(out)
    assert (code, document["threshold"]) == (0, 0.03)
    (change,) = document["changes"]
    assert (change["arm"], change["ratio"], change["verdict"]) == ("a", 1.0, "same")


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--threshold", "much"), 2, "no percentage"),
        (("--fail-if-slower", "-3%"), 2, "no percentage"),
    ],
)
def test_the_command_refuses_what_is_no_percentage(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    code: int,
    words: str,
) -> None:
    run = run_of({"a": np.arange(1000, 1030)})
    ran = compared(tmp_path, capsys, run, run, *options)
    assert ran[0] == code
    assert words in ran[2]


def test_the_command_refuses_another_schema(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of({"a": np.arange(1000, 1030)})
    run.write(tmp_path / "new.json")
    document = run.to_json() | {"schema_version": 1}
    (tmp_path / "old.json").write_text(json.dumps(document))
    assert cli.main(["bench-compare", f"{tmp_path}/old.json", f"{tmp_path}/new.json"]) == 1
    assert "schema version 1, expected 2" in capsys.readouterr().err
