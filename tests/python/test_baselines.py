# SPDX-License-Identifier: Apache-2.0
"""Suites of the benchmarks: every arm runs, and an arm that does nothing is found out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytest.importorskip("_models", exc_type=ImportError)  # imports torch and executorch quietly
pytest.importorskip("peft")

from shira_runtime.bench import Record, WrongBytes, run_case  # noqa: E402

SUITES = ("micro", "sweep", "opening", "llama7b", "llama1b_mapped", "program", "packed")

#: They store nothing.
NOTHING_TO_CHECK = {"read everything", "read all weights"}


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The modules of the checkout that these tests are about."""
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import native, suites, targets

    try:
        native.native()
    except RuntimeError as error:
        if "Eigen3" not in str(error):
            raise
        pytest.skip("the benchmarks' extension needs Eigen (libeigen3-dev)")
    return SimpleNamespace(suites=suites.SUITES, targets=targets)


def run_with_planted_bugs(benchmarks: SimpleNamespace, name: str) -> Iterator[Record]:
    """Runs a suite's quick form, and before each case every arm with its work taken out."""
    for case in benchmarks.suites[f"{name}-quick"].cases():
        for arm in case.arms:
            if arm.name in NOTHING_TO_CHECK:
                continue
            idle = replace(case, arms=[replace(arm, run=lambda: None)], regimes=case.regimes[:1])
            with pytest.raises(WrongBytes, match=r"^arm "):
                run_case(name, idle)
        yield from run_case(name, case)


@pytest.mark.parametrize("name", SUITES)
def test_every_arm_runs_and_a_lazy_one_is_found_out(benchmarks: SimpleNamespace, name: str) -> None:
    records = list(run_with_planted_bugs(benchmarks, name))
    assert {record.role for record in records} >= {"shira"}
    evaluated = benchmarks.targets.evaluate(
        [target for target in benchmarks.targets.TARGETS if target.suite == name], records
    )
    assert [o.target.what for o in evaluated if o.verdict == "not measured"] == []


def test_each_suite_has_a_quick_form(benchmarks: SimpleNamespace) -> None:
    assert set(benchmarks.suites) == {name + form for name in SUITES for form in ("", "-quick")}
