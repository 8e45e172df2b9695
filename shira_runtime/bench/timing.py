# SPDX-License-Identifier: Apache-2.0
"""Interleaved timing: arms take turns in shuffled order, and are checked outside the clock.

Whatever drifts on the machine then hits all arms alike.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shira_runtime.bench.context import machine_context
from shira_runtime.bench.record import BenchmarkError, Record, Role, RunFile, Scalar
from shira_runtime.bench.regimes import COLD_CACHE, Regime

__all__ = ["Arm", "Case", "Suite", "WrongBytes", "run_case", "run_suite", "stages_of"]

DEFAULT_SEED = 20261122
DEFAULT_WARMUP_ROUNDS = 2


class WrongBytes(Exception):  # noqa: N818 - it says what was found
    """An arm did not leave the bytes that it has to leave; the run ends and writes nothing."""


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Arm:
    """One thing to time.

    For every sample the runner calls, in this order: `renew` (regime "first touch" only),
    `prepare`, what the regime does to files and caches, **`run`, the only call inside the clock**,
    `check` (in the first and the last round), `finish`. Under "all warm" a `prepare`, `run`,
    `finish` without clock come before.

    Attributes:
        name: in words that tables print; says rank or variant where there are several.
        run: the thing itself, which leaves the state that `check` expects. May return the
            nanoseconds of its stages by name (see `stages_of`), as parts of the sample: the sample
            itself is always the wall clock around the call, for every arm alike.
        role: "shira", "baseline", "roofline" or "forward".
        prepare: brings the state from which `run` starts, such as the other adapter.
        check: raises WrongBytes if `run` did not leave the right bytes. Give every arm one that
            stores weights; a roofline has nothing to check.
        finish: gives up what the next arm should not find, such as mappings and memory.
        renew: gives `run` freshly mapped weights. Needed for the regime "first touch".
        files: that `run` reads; dropped or read in by the regime.
        counts: sizes that explain the time, or a function that is asked after the last round.
            Use these names where they fit: entries, lines, pages, bytes, parameters, rank,
            private_bytes.
        threads: that `run` may use.
        notes: for the record.
    """

    name: str
    run: Callable[[], Mapping[str, int] | None]
    role: Role = "shira"
    prepare: Callable[[], object] = _nothing
    check: Callable[[], object] = _nothing
    finish: Callable[[], object] = _nothing
    renew: Callable[[], object] | None = None
    files: Sequence[Path] = ()
    counts: Mapping[str, int | float] | Callable[[], Mapping[str, int | float]] = field(
        default_factory=dict
    )
    threads: int = 1
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Case:
    """Arms that are timed in turns, on the same data.

    Attributes:
        fields: what they are measured on, as scalars; the same in every record. Use these names
            where they fit: model, shape ("4096x4096"), dtype, mask, density.
        arms: with different names.
        regimes: one after the other; within each, the arms take turns.
        rounds: samples per arm and regime.
        warmup_rounds: rounds before the first sample is kept, at least one.
    """

    fields: Mapping[str, Scalar]
    arms: Sequence[Arm]
    regimes: Sequence[Regime] = (COLD_CACHE,)
    rounds: int = 30
    warmup_rounds: int = DEFAULT_WARMUP_ROUNDS


@dataclass(frozen=True)
class Suite:
    """A named series of cases. Those of a checkout are in ``benchmarks.suites.SUITES``, by name.

    Attributes:
        name: as records and ``shira bench --suite`` have it.
        about: one sentence on what it answers.
        cases: makes the cases one by one. A generator function fits: what a case holds can be
            given up when the next one is asked for.
    """

    name: str
    about: str
    cases: Callable[[], Iterator[Case]]


def run_suite(
    suite: Suite,
    seed: int = DEFAULT_SEED,
    rounds: int | None = None,
    progress: Callable[[str], object] = lambda line: None,
    settings: Mapping[str, Any] | None = None,
) -> RunFile:
    """Time every case of a suite.

    Args:
        suite: what to run.
        seed: of the shuffling.
        rounds: instead of the cases' own; for a quick look.
        progress: called with a line per case and regime.
        settings: more for the context, such as the command's options.

    Raises:
        WrongBytes: from an arm's check.
        BenchmarkError: see `run_case`.
    """
    started = machine_context()
    records: list[Record] = []
    for case in suite.cases():
        progress(f"{suite.name}: {', '.join(f'{n} {v}' for n, v in case.fields.items())}")
        records += run_case(suite.name, case, seed, rounds)
    run: dict[str, Any] = {
        "suite": suite.name,
        "about": suite.about,
        "seed": seed,
        "rounds": rounds or "per case",
    }
    context = started | {
        "load_average_after": machine_context()["load_average"],
        "run": run | dict(settings or {}),
    }
    return RunFile(context, tuple(records))


def run_case(
    suite: str, case: Case, seed: int = DEFAULT_SEED, rounds: int | None = None
) -> list[Record]:
    """Time the arms of one case in turns, under each of its regimes.

    Args:
        suite: name for the records.
        case: what to run.
        seed: of the shuffling, with the case's fields mixed in.
        rounds: instead of the case's own.

    Returns:
        A record per regime and arm, in that order.

    Raises:
        WrongBytes: from an arm's check, with the arm's name.
        BenchmarkError: two arms of one name, no round to warm up, or a regime that an arm lacks
            something for.
    """
    names = [arm.name for arm in case.arms]
    if len(set(names)) != len(names):
        raise BenchmarkError(f"two arms of one name among: {', '.join(names)}")
    if case.warmup_rounds < 1:
        raise BenchmarkError("at least one round has to be there to warm up")
    records = []
    for regime in case.regimes:
        shuffler = random.Random(f"{seed}|{suite}|{sorted(case.fields.items())}|{regime.name}")
        tallies = [_Tally(arm, regime) for arm in case.arms]
        last = case.warmup_rounds + (rounds or case.rounds) - 1
        for round_number in range(last + 1):
            for tally in shuffler.sample(tallies, len(tallies)):
                tally.take(
                    keep=round_number >= case.warmup_rounds,
                    check=round_number in (0, last),
                )
        records += [tally.record(suite, case.fields) for tally in tallies]
    return records


class _Tally:
    """Runs one arm under one regime, and keeps what comes out."""

    def __init__(self, arm: Arm, regime: Regime) -> None:
        if regime.renews_memory and arm.renew is None:
            raise BenchmarkError(f"arm {arm.name!r} cannot give fresh memory: it has no renew()")
        if regime.evicts_files and not arm.files:
            raise BenchmarkError(f"arm {arm.name!r} has no files that could be cold")
        self._arm = arm
        self._regime = regime
        self._samples: list[int] = []
        self._stages: dict[str, list[int]] = {}
        self._notes = dict.fromkeys(arm.notes)  # an ordered set

    def take(self, keep: bool, check: bool) -> None:
        """One sample; `check` says whether the bytes are looked at after it."""
        arm, regime = self._arm, self._regime
        if regime.rehearses:
            arm.prepare()
            arm.run()
            arm.finish()
        if regime.renews_memory and arm.renew is not None:
            arm.renew()
        arm.prepare()
        notes = regime.settle(arm.files)
        elapsed, stages = _clocked(arm.run)
        if check:
            try:
                arm.check()
            except WrongBytes as error:
                raise WrongBytes(f"arm {arm.name!r}: {error}") from error
        arm.finish()
        if keep:
            self._notes.update(dict.fromkeys(notes))
            self._samples.append(elapsed)
            for name, nanoseconds in (stages or {}).items():
                self._stages.setdefault(name, []).append(int(nanoseconds))

    def record(self, suite: str, case: Mapping[str, Scalar]) -> Record:
        """Everything kept."""
        counts = self._arm.counts
        return Record(
            suite=suite,
            case=dict(case),
            arm=self._arm.name,
            role=self._arm.role,
            regime=self._regime.name,
            threads=self._arm.threads,
            samples=tuple(self._samples),
            stages={name: tuple(samples) for name, samples in self._stages.items()},
            counts=dict(counts() if callable(counts) else counts),
            notes=tuple(self._notes),
        )


def _clocked(
    run: Callable[[], Mapping[str, int] | None],
) -> tuple[int, Mapping[str, int] | None]:
    """Wall-clock nanoseconds of one call, with the garbage collector held back."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        start = time.perf_counter_ns()
        stages = run()
        return time.perf_counter_ns() - start, stages
    finally:
        if was_enabled:
            gc.enable()


def stages_of(report: Any) -> dict[str, int]:
    """The stages of a `SwitchReport` or `LoadReport` by name, such as plan, in nanoseconds.

    And library, which is all of them by the library's own clock.
    """
    return {
        "library" if name == "total_ns" else name.removesuffix("_ns"): value
        for name, value in report.to_dict().items()
        if name.endswith("_ns")
    }
