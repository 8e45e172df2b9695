# SPDX-License-Identifier: Apache-2.0
"""The latency harness: records, regimes, taking turns, and a gate against wrong bytes."""

from __future__ import annotations

import json
import mmap
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shira_runtime import bench
from shira_runtime.bench import regimes
from shira_runtime.bench.context import machine_context

QUIET = bench.Regime("quiet", "nothing is done")


def record(arm: str = "overwrite", **changes: object) -> bench.Record:
    made = bench.Record(
        suite="tensor",
        case={"shape": "4096x4096", "dtype": "f16", "density": 0.01},
        arm=arm,
        role="shira",
        regime="all warm",
        threads=1,
        samples=(30, 10, 20),
        stages={"check": (3, 1, 2)},
        counts={"entries": 167772, "private_bytes": 4096},
        notes=("a note",),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def suite_of(*cases: bench.Case) -> bench.Suite:
    return bench.Suite("suite", "for tests", lambda: iter(cases))


# --- records


def test_a_run_reads_back_as_it_was_written(tmp_path: Path) -> None:
    run = bench.RunFile({"cpu": "x", "run": {"seed": 3}}, (record(), record("other")))
    run.write(tmp_path / "new" / "run.json")
    assert bench.RunFile.read(tmp_path / "new" / "run.json") == run
    text = (tmp_path / "new" / "run.json").read_text()
    assert json.loads(text)["schema_version"] == bench.SCHEMA_VERSION
    assert json.loads(text) == json.loads(json.dumps(run.to_json()))
    assert max(map(len, text.splitlines())) > 100 > min(map(len, text.splitlines()))
    assert len([line for line in text.splitlines() if '"arm"' in line]) == 2  # a line per record


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda run: run.update(schema_version=1), "schema version 1, expected 2"),
        (lambda run: run.pop("schema_version"), "no schema_version"),
        (lambda run: run.pop("context"), "context"),
        (lambda run: run["records"].append(run["records"][0]), "two records of tensor"),
        (lambda run: run["records"][0].pop("samples"), "samples"),
        (lambda run: run["records"][0].update(samples=[]), "no samples"),
        (lambda run: run["records"][0].update(unit="ms"), "expected ns"),
        (lambda run: run["records"][0].update(role="winner"), "unknown role 'winner'"),
        (lambda run: run["records"][0].update(stages={"check": [1]}), "expected 3"),
        (lambda run: run["records"][0].update(speed=1), "speed"),
    ],
)
def test_a_malformed_run_is_refused(
    tmp_path: Path, spoil: Callable[[dict[str, object]], object], words: str
) -> None:
    document = json.loads(bench.RunFile({}, (record(),)).dumps())
    spoil(document)
    (tmp_path / "run.json").write_text(json.dumps(document))
    with pytest.raises(bench.BenchmarkError, match=words) as refused:
        bench.RunFile.read(tmp_path / "run.json")
    assert str(tmp_path / "run.json") in str(refused.value)


def test_what_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes(b"\xff{")
    with pytest.raises(bench.BenchmarkError, match="no JSON"):
        bench.RunFile.read(tmp_path / "run.json")


def test_the_context_says_what_a_reader_needs() -> None:
    context = machine_context()
    json.dumps(context)
    assert {"cpu", "governor", "caches", "page_bytes", "build", "commit", "versions"} <= set(
        context
    )
    assert context["page_bytes"] == mmap.PAGESIZE
    assert context["versions"]["numpy"] == np.__version__
    assert all(context[name] != "" for name in context)


# --- taking turns


def turns(rounds: int, seed: int, warmup_rounds: int = 1) -> list[str]:
    """The order in which four arms had their turns."""
    order: list[str] = []

    def arm(name: str) -> bench.Arm:
        return bench.Arm(name, lambda: order.append(name))

    case = bench.Case({}, [arm(name) for name in "abcd"], (QUIET,), rounds, warmup_rounds)
    records = bench.run_case("suite", case, seed)
    assert [len(each.samples) for each in records] == [rounds] * 4
    return order


def test_each_round_has_every_arm_once_in_an_order_of_its_own() -> None:
    order = turns(rounds=200, seed=1)
    by_round = ["".join(order[start : start + 4]) for start in range(0, len(order), 4)]
    assert len(by_round) == 201
    assert {"".join(sorted(each)) for each in by_round} == {"abcd"}
    # All 24 orders come, and no arm has a place of its own.
    assert len(set(by_round)) == 24
    for place in range(4):
        for name in "abcd":
            assert 25 < sum(each[place] == name for each in by_round) < 80


def test_the_order_follows_from_the_seed() -> None:
    assert turns(10, seed=1) == turns(10, seed=1)
    assert turns(10, seed=1) != turns(10, seed=2)


def test_only_run_is_on_the_clock() -> None:
    calls: list[str] = []

    def slow(name: str) -> Callable[[], None]:
        def call() -> None:
            calls.append(name)
            time.sleep(0.01)

        return call

    arm = bench.Arm(
        "arm",
        lambda: calls.append("run"),
        prepare=slow("prepare"),
        check=slow("check"),
        finish=slow("finish"),
    )
    (kept,) = bench.run_case("suite", bench.Case({}, [arm], (QUIET,), rounds=3))
    assert max(kept.samples) < 5e6
    # Two rounds to warm up; the first and the last of all are checked.
    plain = ["prepare", "run", "finish"]
    checked = ["prepare", "run", "check", "finish"]
    assert calls == [*checked, *plain, *plain, *plain, *checked]


def test_stages_and_counts_reach_the_record() -> None:
    left = iter(range(100))
    arm = bench.Arm(
        "arm", lambda: {"check": next(left), "store": 7}, counts=lambda: {"entries": next(left)}
    )
    (kept,) = bench.run_case("suite", bench.Case({"dtype": "f32"}, [arm], (QUIET,), rounds=3))
    assert kept.stages == {"check": (2, 3, 4), "store": (7, 7, 7)}
    assert kept.counts == {"entries": 5}
    assert kept.case == {"dtype": "f32"}


def test_a_warm_arm_is_rehearsed_and_others_are_not() -> None:
    calls: list[str] = []
    arm = bench.Arm("arm", lambda: calls.append("run"), prepare=lambda: calls.append("prepare"))
    bench.run_case("suite", bench.Case({}, [arm], (bench.ALL_WARM,), rounds=1, warmup_rounds=1))
    assert calls == ["prepare", "run"] * 4
    calls.clear()
    bench.run_case("suite", bench.Case({}, [arm], (QUIET,), rounds=1, warmup_rounds=1))
    assert calls == ["prepare", "run"] * 2


def test_fresh_memory_is_asked_for_before_each_sample() -> None:
    calls: list[str] = []
    arm = bench.Arm(
        "arm",
        lambda: calls.append("run"),
        renew=lambda: calls.append("renew"),
        prepare=lambda: calls.append("prepare"),
    )
    case = bench.Case({}, [arm], (bench.FIRST_TOUCH,), rounds=2, warmup_rounds=1)
    bench.run_case("suite", case)
    assert calls == ["renew", "prepare", "run"] * 3


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (bench.Case({}, [bench.Arm("a", lambda: None)] * 2), "one name among: a, a"),
        (bench.Case({}, [bench.Arm("a", lambda: None)], (bench.FIRST_TOUCH,)), "no renew"),
        (bench.Case({}, [bench.Arm("a", lambda: None)], (bench.COLD_FILE,)), "no files"),
        (bench.Case({}, [bench.Arm("a", lambda: None)], warmup_rounds=0), "at least one round"),
    ],
)
def test_a_case_that_makes_no_sense_is_refused(case: bench.Case, words: str) -> None:
    with pytest.raises(bench.BenchmarkError, match=words):
        bench.run_case("suite", case, rounds=1)


# --- the gate


def spoiling_arm(spoils_at: int) -> bench.Arm:
    """Copies an array; in its call number `spoils_at`, counted from 0, one byte goes wrong."""
    wanted, weights = np.arange(100, dtype=np.uint8), np.zeros(100, np.uint8)
    calls = iter(range(1000))

    def run() -> None:
        weights[:] = wanted
        if next(calls) == spoils_at:
            weights[57] += 1

    def check() -> None:
        if not np.array_equal(weights, wanted):
            raise bench.WrongBytes("the weights differ")

    return bench.Arm("copy", run, check=check)


@pytest.mark.parametrize(("spoils_at", "is_found"), [(0, True), (6, True), (7, False)])
def test_wrong_bytes_end_the_run(spoils_at: int, is_found: bool) -> None:
    case = bench.Case({}, [spoiling_arm(spoils_at)], (QUIET,), rounds=5, warmup_rounds=2)
    if is_found:
        with pytest.raises(bench.WrongBytes, match="arm 'copy': the weights differ"):
            bench.run_suite(suite_of(case))
    else:
        assert len(bench.run_suite(suite_of(case)).records) == 1


def test_a_suite_gives_its_context_and_all_records() -> None:
    def cases() -> Iterator[bench.Case]:
        for dtype in ("f32", "f16"):
            arms = [bench.Arm("a", lambda: None), bench.Arm("b", lambda: None, role="roofline")]
            yield bench.Case({"dtype": dtype}, arms, (QUIET, bench.ALL_WARM), rounds=4)

    lines: list[str] = []
    suite = bench.Suite("suite", "for tests", cases)
    run = bench.run_suite(suite, seed=5, rounds=2, progress=lines.append, settings={"more": 1})
    assert [(each.case["dtype"], each.regime, each.arm) for each in run.records] == [
        (dtype, regime, arm)
        for dtype in ("f32", "f16")
        for regime in ("quiet", "all warm")
        for arm in "ab"
    ]
    assert {len(each.samples) for each in run.records} == {2}
    assert run.context["run"] == {
        "suite": "suite",
        "about": "for tests",
        "seed": 5,
        "rounds": 2,
        "more": 1,
    }
    assert lines == ["suite: dtype f32", "suite: dtype f16"]


# --- regimes


def test_a_file_is_made_cold_and_warm(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"x" * (3 * mmap.PAGESIZE + 1))
    assert regimes.resident_pages(path) == (4, 4)
    where, *notes = bench.COLD_FILE.settle([path])
    assert where == f"cold files are read from {regimes.device_of(path)}"
    resident, total = regimes.resident_pages(path)
    assert total == 4
    # Where the file system does not let go, the record has to say so; nothing else is true.
    assert (resident == 0) == (notes == [])
    assert bench.COLD_CACHE.settle([path]) == []
    assert regimes.resident_pages(path) == (4, 4)


def test_a_file_that_stays_warm_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"x" * 10_000)
    monkeypatch.setattr(regimes, "evict", lambda path: None)
    arm = bench.Arm("read", lambda: None, files=(path,))
    (kept,) = bench.run_case("suite", bench.Case({}, [arm], (bench.COLD_FILE,), rounds=2))
    assert kept.notes == (
        f"cold files are read from {regimes.device_of(path)}",
        "not cold: weights could not be dropped from the page cache",
    )


def test_an_empty_file_has_no_pages(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert regimes.resident_pages(tmp_path / "empty") == (0, 0)


def test_the_sweep_reads_memory_that_was_written() -> None:
    assert regimes.sweep() == regimes.SWEEP_BYTES // 8


def test_regimes_go_by_their_names() -> None:
    assert list(regimes.REGIMES) == [
        "cold file",
        "warm file, cold cache",
        "all warm",
        "first touch",
    ]
