# SPDX-License-Identifier: Apache-2.0
"""The suite that `shira bench MODEL ADAPTERS...` runs: a user's own program and adapters."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shira_runtime.adapter import Adapter, AdapterFile
from shira_runtime.bench.expected import ExpectedWeights
from shira_runtime.bench.record import Scalar
from shira_runtime.bench.regimes import ALL_WARM, COLD_CACHE, COLD_FILE, FIRST_TOUCH
from shira_runtime.bench.timing import Arm, Case, Suite, stages_of
from shira_runtime.errors import UsageError
from shira_runtime.program import Program
from shira_runtime.reports import SwitchReport

__all__ = ["MODEL_SUITE", "ModelBench"]

MODEL_SUITE = "model"
"""Name of this suite in records."""


@dataclass
class ModelBench:
    """A program, one or two adapters, and how often to measure what.

    Attributes:
        load: loads the program anew, with nothing added to it.
        adapters: one or two by name; one alternates with the base.
        open_file: opens an adapter's file again, as it was opened.
        inputs: makes inputs for a forward pass, or None to leave those out.
        label: name of the model in records.
        threads: that store weights.
        rounds: switches in each direction, per regime.
        first_rounds: programs loaded anew for a first switch, and cold files opened.
        forward_rounds: forward passes per state; 0 leaves them out.
        allow_unverified_base: accept adapters without base fingerprints.
    """

    load: Callable[[], Program]
    adapters: Mapping[str, Adapter]
    open_file: Callable[[Path], AdapterFile]
    inputs: Callable[[Program], Sequence[Any]]
    label: str
    threads: int = 1
    rounds: int = 100
    first_rounds: int = 10
    forward_rounds: int = 20
    allow_unverified_base: bool = False
    _counts: dict[str, dict[str, int]] = field(default_factory=dict)

    def suite(self) -> Suite:
        """The cases: opening, first and later switches, giving memory back, forward passes."""
        about = "opening, first and later switches, and forward passes of a user's own program"
        return Suite(MODEL_SUITE, about, self._cases)

    def _cases(self) -> Iterator[Case]:
        program = self._program()
        expected = ExpectedWeights(program, self.adapters)
        yield self._opening()
        yield self._first_switch(expected)
        yield self._later_switches(program, expected)
        if _has_pages(program):
            yield self._giving_back(program, expected)
        if self.forward_rounds:
            yield self._forwards(program, expected)
        program.switch(None)

    def _program(self) -> Program:
        program = self.load()
        program.threads = self.threads
        for name, adapter in self.adapters.items():
            program.add_adapter(adapter, name, allow_unverified_base=self.allow_unverified_base)
        return program

    def _fields(self, what: str) -> dict[str, Scalar]:
        return {"model": self.label, "adapters": ", ".join(self.adapters), "what": what}

    def _opening(self) -> Case:
        """The adapters' files, cold and warm; adapters of one file are opened together."""
        paths = {adapter.path: adapter for adapter in self.adapters.values()}
        return Case(
            self._fields("opening"),
            [self._open_arm(Path(path)) for path in paths],
            regimes=(COLD_FILE, ALL_WARM),
            rounds=self.first_rounds,
        )

    def _open_arm(self, path: Path) -> Arm:
        def run() -> None:
            self.open_file(path)

        return Arm(
            f"open {path.name}",
            run,
            files=(path,),
            counts={"bytes": path.stat().st_size},
        )

    def _first_switch(self, expected: ExpectedWeights) -> Case:
        """A program loaded anew each time: its first switch saves originals and pays the pages."""
        target = next(iter(self.adapters))
        programs: list[Program] = []

        def renew() -> None:
            programs[:] = [self._program()]

        def run() -> dict[str, int]:
            return self._switch(programs[0], arm.name, target)

        arm = Arm(
            f"first switch base -> {target}",
            run,
            renew=renew,
            check=lambda: expected.check_all(programs[0], target),
            finish=programs.clear,
            counts=lambda: self._counts[arm.name],
            threads=self.threads,
        )
        return Case(
            self._fields("first switch"),
            [arm],
            regimes=(FIRST_TOUCH,),
            rounds=self.first_rounds,
            warmup_rounds=1,
        )

    def _directions(self) -> list[tuple[str | None, str | None]]:
        first, other = (*self.adapters, None)[:2]
        return [(first, other), (other, first)]

    def _later_switches(self, program: Program, expected: ExpectedWeights) -> Case:
        return Case(
            self._fields("later switches"),
            [
                self._switch_arm(program, expected, source, target)
                for source, target in self._directions()
            ],
            regimes=(COLD_CACHE, ALL_WARM),
            rounds=self.rounds,
        )

    def _switch_arm(
        self, program: Program, expected: ExpectedWeights, source: str | None, target: str | None
    ) -> Arm:
        name = f"switch {source or 'base'} -> {target or 'base'}"
        return Arm(
            name,
            lambda: self._switch(program, name, target),
            prepare=lambda: program.switch(source),
            check=lambda: expected.check_all(program, target),
            counts=lambda: self._counts[name],
            threads=self.threads,
        )

    def _giving_back(self, program: Program, expected: ExpectedWeights) -> Case:
        """The two ways to the base that leave no private page behind."""
        source = next(iter(self.adapters))
        hard = f"hard revert {source} -> base"
        soft = f"revert {source} -> base, release pages"

        def switch_and_release() -> dict[str, int]:
            stages = self._switch(program, soft, None)
            started = time.perf_counter_ns()
            released_bytes = program.release_pages()
            stages["release"] = time.perf_counter_ns() - started
            self._counts[soft]["released_bytes"] = released_bytes
            return stages

        ways: dict[str, Callable[[], dict[str, int]]] = {
            hard: lambda: self._noted(hard, program.hard_revert()),
            soft: switch_and_release,
        }
        arms = [
            Arm(
                name,
                run,
                prepare=lambda: program.switch(source),
                check=lambda: expected.check_all(program, None),
                counts=lambda name=name: self._counts[name],  # type: ignore[misc]
                threads=self.threads,
            )
            for name, run in ways.items()
        ]
        fields = self._fields("giving memory back")
        return Case(fields, arms, regimes=(COLD_CACHE,), rounds=self.first_rounds)

    def _forwards(self, program: Program, expected: ExpectedWeights) -> Case:
        """Forward passes in either state, and a switch with the first forward pass after it."""
        inputs = self.inputs(program)
        source, target = self._directions()[1]
        first = f"first forward after {source or 'base'} -> {target or 'base'}"

        def steady(state: str | None) -> Arm:
            return Arm(
                f"forward in {state or 'base'}",
                lambda: _forward(program, inputs),
                role="forward",
                prepare=lambda: program.switch(state),
                check=lambda: expected.check(program, state),
            )

        def from_source() -> None:
            program.switch(source)
            _forward(program, inputs)

        def switch_and_forward() -> dict[str, int]:
            stages = self._switch(program, first, target)
            started = time.perf_counter_ns()
            _forward(program, inputs)
            return stages | {"forward": time.perf_counter_ns() - started}

        arms = [
            steady(None),
            steady(next(iter(self.adapters))),
            Arm(
                first,
                switch_and_forward,
                prepare=from_source,
                check=lambda: expected.check(program, target),
                counts=lambda: self._counts[first],
                threads=self.threads,
            ),
        ]
        fields = self._fields("forward passes")
        return Case(fields, arms, regimes=(ALL_WARM,), rounds=self.forward_rounds)

    def _switch(self, program: Program, arm: str, target: str | None) -> dict[str, int]:
        """Switch, keep what the report counts, and return its stages."""
        return self._noted(arm, program.switch(target))

    def _noted(self, arm: str, report: SwitchReport) -> dict[str, int]:
        self._counts[arm] = {
            "entries": report.elements_written,
            "changed": report.elements_changed,
            "bytes": report.bytes_written,
            "pages": report.pages_touched,
            "tensors": report.tensors_matched,
        }
        if report.source_read_bytes:
            self._counts[arm]["source_read_bytes"] = report.source_read_bytes
            self._counts[arm]["source_cold_bytes"] = report.source_cold_bytes
        return stages_of(report)


def _has_pages(program: Program) -> bool:
    """Whether weights come from mapped files; the program is at the base afterwards."""
    try:
        program.hard_revert()
    except UsageError as error:
        if error.status != "NOT_SUPPORTED":
            raise
        return False
    return True


def _forward(program: Program, inputs: Sequence[Any]) -> None:
    program.forward(*inputs)
