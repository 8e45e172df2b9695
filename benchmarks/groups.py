# SPDX-License-Identifier: Apache-2.0
"""Records of one case under one regime, and what the tables of docs/RESULTS.md make of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from shira_runtime.bench import Record
from shira_runtime.bench.statistics import median


@dataclass(frozen=True)
class Group:
    """The records of one case under one regime."""

    case: Mapping[str, object]
    regime: str
    records: tuple[Record, ...]

    @property
    def title(self) -> str:
        """The case and the regime, in words."""
        words = [f"{name} {value}" for name, value in self.case.items()]
        return ", ".join([*words, self.regime])

    def of(self, *roles: str) -> list[Record]:
        """The records of arms with these roles."""
        return [record for record in self.records if record.role in roles]


def groups_of(records: Iterable[Record]) -> Iterator[Group]:
    """The groups, in order of appearance."""
    found: dict[tuple[object, ...], list[Record]] = {}
    for record in records:
        found.setdefault((*record.case.items(), record.regime), []).append(record)
    for members in found.values():
        yield Group(members[0].case, members[0].regime, tuple(members))


def best_rooflines(records: Iterable[Record]) -> dict[str, float]:
    """Medians of the limits by name; of one with several prefetch distances the best."""
    best: dict[str, float] = {}
    for record in records:
        name = re.sub(r", prefetch \d+$", "", record.arm)
        best[name] = min(best.get(name, float("inf")), median(record.samples))
    return best


def digits(milliseconds: float) -> str:
    """Three digits or more."""
    if milliseconds >= 100:
        return f"{milliseconds:,.0f}"
    return f"{milliseconds:.3f}" if milliseconds < 10 else f"{milliseconds:.1f}"
