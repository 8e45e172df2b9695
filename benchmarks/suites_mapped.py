# SPDX-License-Identifier: Apache-2.0
"""Suite "llama1b_mapped": Llama 3.2 1B in f16, a .ptd of 2.5 GB mapped copy-on-write."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shira_runtime import AdapterFile, SwitchReport
from shira_runtime.bench import (
    ALL_WARM,
    COLD_CACHE,
    COLD_FILE,
    FIRST_TOUCH,
    Arm,
    Case,
    Scalar,
    Suite,
    stages_of,
)

from .mapped import MappedModel, write_ptd
from .masks import Kind
from .native import scratch_folder
from .resident import DTYPE, layouts, make_plans
from .rooflines import page_copies

_DENSITY = 0.01


@dataclass(frozen=True)
class _Size:
    model: str
    layers: int | None
    embeddings: bool
    first_rounds: int
    rounds: int


def llama1b_mapped(quick: bool) -> Suite:
    """The suite."""
    if quick:
        size = _Size("smollm2-135m", 1, False, 1, 1)
    else:
        size = _Size("llama-3.2-1b", None, True, 4, 10)

    def cases() -> Iterator[Case]:
        with scratch_folder("mapped") as folder:
            bench = _Bench(size, folder)
            yield bench.first_case("rows")
            yield bench.first_case("random")
            yield bench.cold_case("rows")
            yield bench.cold_case("random")
            yield bench.later_case("rows")
            yield bench.later_case("random")
            yield bench.giving_back_case("rows")
            yield bench.giving_back_case("random")
            bench.close()

    return Suite(
        "llama1b_mapped-quick" if quick else "llama1b_mapped",
        "Llama 3.2 1B in f16, mapped copy-on-write: milliseconds and private memory",
        cases,
    )


class _Bench:
    """The file, adapters for it, and at most one mapping at a time."""

    def __init__(self, size: _Size, folder: Path) -> None:
        self._size = size
        self._model = layouts(size.model, size.layers, size.embeddings)
        self._path = folder / "weights.ptd"
        write_ptd(self._path, self._model)
        kinds: tuple[Kind, ...] = ("rows", "random")
        keys = [(kind, letter) for kind in kinds for letter in "AB"]
        paths = {(k, 11 + n): folder / f"{k}-{letter}.shb" for n, (k, letter) in enumerate(keys)}
        self._base, plans = make_plans(self._model, _DENSITY, paths, threads=2)
        self._plans = dict(zip(keys, plans, strict=True))
        self._mapped: MappedModel | None = None
        self._fresh = False
        self._counts: dict[str, dict[str, int]] = {}
        self._pages: dict[Kind, int] = {}

    # --- first switches: a mapping of their own for every sample ---

    def first_case(self, kind: Kind) -> Case:
        """Opening and switching on a mapping that nobody has touched; its file is in memory."""
        arms = [self._first(kind), self._open_to_ready(kind)]
        # The first switch says how many pages it touches, which the rooflines copy.
        arms += page_copies(self._page_count(kind), only_small=True)
        return Case(
            self._fields("first switch", kind),
            arms,
            regimes=(FIRST_TOUCH,),
            rounds=self._size.first_rounds,
            warmup_rounds=1,
        )

    def cold_case(self, kind: Kind) -> Case:
        """The same, with the model's file on disk only."""
        return Case(
            self._fields("first switch", kind),
            [self._first(kind), self._open_to_ready(kind)],
            regimes=(COLD_FILE,),
            rounds=self._size.first_rounds,
            warmup_rounds=1,
        )

    def _first(self, kind: Kind) -> Arm:
        plan = self._plans[kind, "A"]

        def renew() -> None:
            self._remap()
            self._add(kind, "A")

        def run() -> Mapping[str, int]:
            return self._noted(name, self._live.program.switch("A"))

        name = "first switch base -> A"
        return self._arm(name, run, renew, plan.digests, close=True)

    def _open_to_ready(self, kind: Kind) -> Arm:
        plan = self._plans[kind, "A"]

        def run() -> Mapping[str, int]:
            started = time.perf_counter_ns()
            file = AdapterFile.open(plan.path, keep_content=False)
            opened = time.perf_counter_ns()
            self._live.program.add_adapter(file, "A")
            bound = time.perf_counter_ns()
            stages = self._noted(name, self._live.program.switch("A"))
            return {"open": opened - started, "bind": bound - opened, **stages}

        name = "open to ready"
        return self._arm(name, run, self._remap, plan.digests, close=True, files=[plan.path])

    def _page_count(self, kind: Kind) -> int:
        self._remap()
        self._add(kind, "A")
        count = self._live.program.switch("A").pages_touched
        self._unmap()
        return count

    # --- later switches: one mapping for all ---

    def later_case(self, kind: Kind) -> Case:
        """Switching to and fro when pages and originals are there already."""
        self._remap()
        for letter in "AB":
            self._add(kind, letter)
        arms = [
            self._later("switch base -> A", kind, None, "A"),
            self._later("switch A -> base", kind, "A", None),
            self._later("switch A -> B, distinct masks", kind, "A", "B"),
        ]
        return Case(
            self._fields("later switches", kind),
            arms,
            regimes=(COLD_CACHE, ALL_WARM),
            rounds=self._size.rounds,
            warmup_rounds=1,
        )

    def _later(self, name: str, kind: Kind, start: str | None, target: str | None) -> Arm:
        def prepare() -> None:
            self._live.program.switch(target)
            self._live.program.switch(start)

        def run() -> Mapping[str, int]:
            return self._noted(name, self._live.program.switch(target))

        digests = self._base if target is None else self._plans[kind, target].digests
        return self._arm(name, run, prepare, digests, close=False)

    # --- giving private pages back ---

    def giving_back_case(self, kind: Kind) -> Case:
        """The two ways to the base that leave no private page behind, and the switch after them."""
        self._remap()
        self._add(kind, "A")
        release = "revert A -> base, release pages"
        hard = "hard revert A -> base"
        again = "switch base -> A, pages given back before"

        def active() -> None:
            self._live.program.switch(None)
            self._live.program.switch("A")

        def given_back() -> None:
            active()
            self._live.program.hard_revert()

        def revert_and_release() -> Mapping[str, int]:
            stages = self._noted(release, self._live.program.switch(None))
            started = time.perf_counter_ns()
            released_bytes = self._live.program.release_pages()
            self._counts[release]["released_bytes"] = released_bytes
            return {**stages, "release": time.perf_counter_ns() - started}

        def revert_hard() -> Mapping[str, int]:
            return self._noted(hard, self._live.program.hard_revert())

        def switch_again() -> Mapping[str, int]:
            return self._noted(again, self._live.program.switch("A"))

        digests = self._plans[kind, "A"].digests
        arms = [
            self._arm(release, revert_and_release, active, self._base, close=False),
            self._arm(hard, revert_hard, active, self._base, close=False),
            self._arm(again, switch_again, given_back, digests, close=False),
        ]
        return Case(
            self._fields("giving pages back", kind),
            arms,
            regimes=(COLD_CACHE,),
            rounds=self._size.first_rounds,
            warmup_rounds=1,
        )

    # --- what they share ---

    def _arm(
        self,
        name: str,
        run: Callable[[], Mapping[str, int]],
        prepare: Callable[[], None],
        digests: dict[str, bytes],
        close: bool,
        files: Sequence[Path] = (),
    ) -> Arm:
        def finish() -> None:
            # Reading smaps takes long, so it is done once, outside the clock.
            if "private_bytes" not in self._counts[name]:
                self._counts[name]["private_bytes"] = self._live.private_bytes()
            if close:
                self._unmap()

        return Arm(
            name,
            run,
            prepare=prepare,
            renew=lambda: None,
            check=lambda: self._live.check(digests),
            finish=finish,
            files=[self._path, *files],
            counts=lambda: self._counts[name],
        )

    def _noted(self, name: str, report: SwitchReport) -> dict[str, int]:
        counts = self._counts.setdefault(name, {})
        counts["entries"] = report.elements_written
        counts["bytes"] = report.bytes_written
        counts["pages"] = report.pages_touched
        return stages_of(report)

    def _fields(self, what: str, kind: Kind) -> dict[str, Scalar]:
        self._counts = {}
        return {
            "model": self._size.model,
            "what": what,
            "dtype": DTYPE,
            "mask": kind,
            "density": _DENSITY,
            "file_bytes": self._path.stat().st_size,
        }

    @property
    def _live(self) -> MappedModel:
        assert self._mapped is not None
        return self._mapped

    def _remap(self) -> None:
        self._unmap()
        self._mapped = MappedModel(self._path, self._model)

    def _unmap(self) -> None:
        if self._mapped is not None:
            self._mapped.close()
        self._mapped = None

    def _add(self, kind: Kind, letter: str) -> None:
        self._live.program.add_adapter(str(self._plans[kind, letter].path), letter)

    def close(self) -> None:
        """Give the last mapping back."""
        self._unmap()
