# SPDX-License-Identifier: Apache-2.0
"""Tables and plotted lines for suites with more cases than anybody would read one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import get_args

from shira_runtime.bench import Record, Role
from shira_runtime.bench.statistics import median

from .doc_tables import markdown_table
from .groups import Group, best_rooflines, digits

_FEW_VALUES = 6
"""A field with more values is one that summaries are made over, such as the shape."""

Points = list[tuple[float, float]]


def summary_tables(groups: Sequence[Group]) -> Iterator[str]:
    """A line per value of the fields with few values; medians over all cases that have it."""
    case = groups[0].case
    values = {name: {str(group.case[name]) for group in groups} for name in case}
    shown = [name for name in case if 1 < len(values[name]) <= _FEW_VALUES]
    over = [name for name in case if len(values[name]) > _FEW_VALUES]
    fixed = [f"{name} {case[name]}" for name in case if len(values[name]) == 1]
    lines: dict[tuple[str, ...], list[Group]] = {}
    for group in groups:
        lines.setdefault(tuple(str(group.case[name]) for name in shown), []).append(group)

    def table(roles: Sequence[str], value: Callable[[Group, Record], float]) -> str:
        arms = [record.arm for record in groups[0].of(*roles)]
        rows = []
        for names, members in lines.items():
            across = [[value(each, record) for record in each.of(*roles)] for each in members]
            spreads = [
                f"{median(column):.2f} ({min(column):.2f} to {max(column):.2f})"
                for column in zip(*across, strict=True)
            ]
            rows.append([*names, str(len(members)), *spreads])
        return markdown_table([*shown, "cases", *arms], rows)

    yield f"### {', '.join([*fixed, groups[0].regime])}\n"
    yield f"Over all of {' and '.join(over)}: median (least to greatest).\n"
    yield "Nanoseconds for each entry of the mask.\n"
    yield table(get_args(Role), _per_entry)
    limits = {id(group): best_rooflines(group.of("roofline")) for group in groups}
    for name in limits[id(groups[0])]:

        def times_as_long(group: Group, record: Record, name: str = name) -> float:
            return median(record.samples) / limits[id(group)][name]

        yield f"Times as long as {name}.\n"
        yield table(("shira", "baseline"), times_as_long)


def size_tables(groups: Sequence[Group]) -> Iterator[str]:
    """A line per value of the fields with many values, at the most usual value of all others."""
    kept, usual, columns = _usual_cases(groups)
    case = kept[0].case
    over = [name for name in case if name not in usual and name not in columns]
    lines: dict[tuple[str, ...], dict[tuple[str, ...], Group]] = {}
    for group in kept:
        line = lines.setdefault(tuple(str(group.case[name]) for name in over), {})
        line[tuple(str(group.case[name]) for name in columns)] = group
    heads = list(dict.fromkeys(column for line in lines.values() for column in line))
    fixed = ", ".join(f"{name} {value}" for name, value in usual.items())
    for arm in _arms(kept):
        yield f"### {arm}, {fixed}\n"
        yield "Median (and by the library's own clock, where it has one).\n"
        rows = [
            [*names, *(_time_of(line[head], arm) if head in line else "" for head in heads)]
            for names, line in lines.items()
        ]
        yield markdown_table([*over, *(", ".join(head) for head in heads)], rows)


def trends(groups: Sequence[Group]) -> dict[str, dict[str, Points]]:
    """For each arm the same cases as points of a plot: entries, and nanoseconds for each of them.

    Returns:
        Lines by arm, then by the value of the fields that have no most usual value.
    """
    kept, _, columns = _usual_cases(groups)
    panels: dict[str, dict[str, Points]] = {}
    for arm in _arms(kept):
        lines: dict[str, Points] = {}
        for group in kept:
            label = ", ".join(str(group.case[name]) for name in columns)
            point = (float(_entries(group)), _per_entry(group, _record_of(group, arm)))
            lines.setdefault(label, []).append(point)
        panels[arm] = {label: sorted(points) for label, points in lines.items()}
    return panels


def _usual_cases(groups: Sequence[Group]) -> tuple[list[Group], dict[str, str], list[str]]:
    """The cases with the most usual value of each field with few values.

    Returns:
        The cases; those values by field; and the fields of which no value is the most usual one.
    """
    usual: dict[str, str] = {}
    columns = []
    for name in groups[0].case:
        tally = Counter(str(group.case[name]) for group in groups).most_common()
        if len(tally) > _FEW_VALUES:
            continue
        if len(tally) == 1 or tally[0][1] > tally[1][1]:
            usual[name] = tally[0][0]
        else:
            columns.append(name)
    kept = [
        group
        for group in groups
        if all(str(group.case[name]) == value for name, value in usual.items())
    ]
    return kept, usual, columns


def _arms(groups: Sequence[Group]) -> list[str]:
    """What all of them have, rooflines apart."""
    names = [[record.arm for record in group.of("shira", "baseline")] for group in groups]
    return [arm for arm in names[0] if all(arm in others for others in names)]


def _record_of(group: Group, arm: str) -> Record:
    return next(record for record in group.records if record.arm == arm)


def _time_of(group: Group, arm: str) -> str:
    record = _record_of(group, arm)
    whole = digits(median(record.samples) / 1e6)
    library = record.stages.get("library")
    return f"{whole} ({digits(median(library) / 1e6)})" if library else whole


def _entries(group: Group) -> float:
    """Of the mask; an exchange of two stores more."""
    counts = [record.counts["entries"] for record in group.records if record.counts.get("entries")]
    return min(counts, default=1)


def _per_entry(group: Group, record: Record) -> float:
    return median(record.samples) / _entries(group)
