# SPDX-License-Identifier: Apache-2.0
"""Writes docs/RESULTS.md and its plots from the runs stored in docs/runs.

Run from the repository's root: ``python -m benchmarks.report [RUN.json ...]``. Runs that are named
are stored first, each as ``docs/runs/bench_<suite>.json``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import get_args

from shira_runtime.bench import Record, Role, RunFile
from shira_runtime.bench.statistics import median, percentile

from .doc_tables import markdown_table
from .floors import Floor, floors
from .groups import Group, best_rooflines, digits, groups_of
from .summaries import size_tables, summary_tables, trends
from .targets import TARGETS, Outcome, Target, evaluate

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "docs" / "runs"
RESULTS = ROOT / "docs" / "RESULTS.md"

_MANY_CASES = 4
"""So many cases with the same arms share one table, with a line for each of them."""

_TOO_MANY_CASES = 40
"""From so many cases on only a summary is shown, over the fields with most values."""

_HEAD = """\
# Results

Made from the runs in [runs](runs/) by `make bench-store`; nothing here is typed. How it was
measured, what the words mean and what the numbers cannot tell: [BENCHMARKING.md](BENCHMARKING.md).
"""
_CONTEXT_FIELDS = {
    "cpu": "CPU",
    "usable_cores": "cores",
    "virtual_machine": "virtual machine",
    "governor": "governor",
    "caches": "caches",
    "memory_bytes": "memory",
    "page_bytes": "page size",
    "transparent_huge_pages": "huge pages",
    "system": "system",
    "build": "build",
    "kernels": "kernels",
    "versions": "versions",
    "commit": "commit",
    "load_average": "load before",
    "load_average_after": "load after",
    "run": "run",
}


def stored_runs() -> dict[str, RunFile]:
    """The stored runs by suite, in the order of their names."""
    return {
        path.stem.removeprefix("bench_"): RunFile.read(path)
        for path in sorted(RUNS.glob("bench_*.json"))
    }


def results(runs: Mapping[str, RunFile], targets: Sequence[Target] = TARGETS) -> str:
    """The page: targets, a section per suite, and the contexts."""
    records = [record for run in runs.values() for record in run.records]
    parts = [_HEAD, "## Targets\n", *_target_table(evaluate(targets, records))]
    parts += _floor_table(list(floors(records)))
    for suite, run in runs.items():
        parts += [f"## {suite}\n", *_suite_section(suite, run)]
    parts += ["## Where the runs were taken\n", _context_table(runs)]
    return "\n".join(parts)


def _target_table(outcomes: Sequence[Outcome]) -> Iterator[str]:
    rows = [
        [
            outcome.target.what,
            outcome.limit_text,
            outcome.value_text,
            outcome.where,
            str(outcome.case_count),
            f"**{outcome.verdict}**" if outcome.verdict == "missed" else outcome.verdict,
        ]
        for outcome in outcomes
    ]
    yield markdown_table(["target", "limit", "worst case", "which", "cases", ""], rows)
    counts = [
        f"{sum(outcome.verdict == verdict for outcome in outcomes)} {verdict}"
        for verdict in ("held", "missed", "not measured")
    ]
    yield (
        f"{', '.join(counts)}. Ratios and speedups of medians within one run; a target is held only"
        " if every case holds it.\n"
    )


# --- one suite


def _floor_table(found: Sequence[Floor]) -> Iterator[str]:
    if not found:
        return
    yield "## Floors\n"
    yield (
        "What no program can go below on this machine, by two methods; why is in"
        " [BENCHMARKING.md](BENCHMARKING.md), section 5.\n"
    )
    rows = [
        [floor.what, floor.where, floor.asked, f"{floor.measured:.2f} x", f"{floor.reckoned:.2f} x"]
        for floor in found
    ]
    yield markdown_table(["of", "case", "asked for", "measured", "from bytes and STREAM"], rows)


def _suite_section(suite: str, run: RunFile) -> Iterator[str]:
    groups = list(groups_of(run.records))
    about = run.context.get("run", {}).get("about")
    if about:
        yield f"{about[0].upper()}{about[1:]}. Milliseconds.\n"
    yield f"Raw samples: [runs/bench_{suite}.json](runs/bench_{suite}.json).\n"
    for alike in _alike(groups):
        if _is_swept(groups):
            yield from summary_tables(alike)
            continue
        if len(alike) >= _MANY_CASES:
            yield from _shared_tables(alike)
            continue
        for group in alike:
            yield f"### {group.title}\n"
            yield _arm_table(group)
            yield from _baseline_table(group)
    if _is_swept(groups):
        yield from size_tables(groups)
        yield f"![Time for each entry by entries](runs/bench_{suite}.svg)\n"
    else:
        yield f"![Medians and percentiles of each arm](runs/bench_{suite}.svg)\n"
    yield from _notes(run.records)


def _is_swept(groups: Sequence[Group]) -> bool:
    """Whether a table and a panel for each case would be too many to be read."""
    return len(groups) > _TOO_MANY_CASES


def _notes(records: Iterable[Record]) -> Iterator[str]:
    arms: dict[str, dict[str, None]] = {}
    for record in records:
        for note in record.notes:
            arms.setdefault(note, {})[record.arm] = None
    if arms:
        yield "".join(f"- {note} ({'; '.join(names)})\n" for note, names in arms.items())


def _alike(groups: Iterable[Group]) -> Iterator[list[Group]]:
    """Groups whose arms and case fields have the same names, together, in order of appearance."""
    found: dict[tuple[object, ...], list[Group]] = {}
    for group in groups:
        arms = tuple(record.arm for record in group.records)
        key = (tuple(group.case), group.case.get("what"), arms)
        found.setdefault(key, []).append(group)
    yield from found.values()


def _shared_tables(groups: Sequence[Group]) -> Iterator[str]:
    """Cases with the same arms: medians and 95th percentiles, then how far from each limit."""
    case, regimes = groups[0].case, list(dict.fromkeys(group.regime for group in groups))
    varying = [name for name in case if len({str(group.case[name]) for group in groups}) > 1]
    fixed = [f"{name} {value}" for name, value in case.items() if name not in varying]
    labels = [
        ", ".join(
            [*(str(group.case[name]) for name in varying), *[group.regime][: len(regimes) - 1]]
        )
        for group in groups
    ]
    yield f"### {', '.join(fixed + regimes[: len(regimes) == 1])}\n\nMedian (p95).\n"
    yield _across(labels, groups, lambda _, record: f"{_ms(record, 50)} ({_ms(record, 95)})")
    limits = {id(group): best_rooflines(group.of("roofline")) for group in groups}
    for name in limits[id(groups[0])]:

        def times_as_long(group: Group, record: Record, name: str = name) -> str:
            return f"{median(record.samples) / limits[id(group)][name]:.2f}"

        yield f"Times as long as {name}.\n"
        yield _across(labels, groups, times_as_long, ("shira", "baseline"))
    stages = [
        [
            f"{record.arm}: {stage}",
            *(digits(median(group.records[place].stages[stage]) / 1e6) for group in groups),
        ]
        for place, record in enumerate(groups[0].records)
        for stage in record.stages
    ]
    if stages:
        yield "Medians of the stages.\n"
        yield markdown_table(["", *labels], stages)


def _across(
    labels: Sequence[str],
    groups: Sequence[Group],
    cell: Callable[[Group, Record], str],
    roles: Sequence[str] = get_args(Role),
) -> str:
    """A table of arms by cases; the longer of the two goes down."""
    columns = [[cell(group, record) for record in group.of(*roles)] for group in groups]
    arms = [record.arm for record in groups[0].of(*roles)]
    if len(labels) > len(arms):
        rows = [[label, *column] for label, column in zip(labels, columns, strict=True)]
        return markdown_table(["", *arms], rows)
    rows = [[arm, *cells] for arm, cells in zip(arms, zip(*columns, strict=True), strict=True)]
    return markdown_table(["", *labels], rows)


def _arm_table(group: Group) -> str:
    """Every arm with its stages, and how far it is from each limit of the machine."""
    judged = group.of("shira", "baseline")
    limits = best_rooflines(group.of("roofline")) if judged else {}
    stages = list(dict.fromkeys(stage for record in group.records for stage in record.stages))
    counts = [
        name
        for name in ("entries", "pages", "private_bytes", "parameters", "rank")
        if any(name in record.counts for record in group.records)
    ]
    rows = []
    for record in group.records:
        ours = median(record.samples)
        rows.append(
            [
                record.arm,
                record.role,
                _ms(record, 50),
                _ms(record, 95),
                *(f"{ours / limit:.2f}" for limit in limits.values()),
                *(
                    digits(median(record.stages[stage]) / 1e6) if stage in record.stages else ""
                    for stage in stages
                ),
                *(f"{record.counts[name]:,}" if name in record.counts else "" for name in counts),
            ]
        )
    header = ["arm", "", "median", "p95", *(f"x {name}" for name in limits), *stages, *counts]
    return markdown_table(header, rows)


def _baseline_table(group: Group) -> Iterator[str]:
    """How many times as long as each of ours each baseline takes."""
    ours, baselines = group.of("shira"), group.of("baseline")
    if not ours or not baselines:
        return
    rows = [
        [
            baseline.arm,
            *(f"{median(baseline.samples) / median(record.samples):.1f}" for record in ours),
        ]
        for baseline in baselines
    ]
    yield markdown_table(["takes so many times as long as", *(r.arm for r in ours)], rows)


def _ms(record: Record, percent: float) -> str:
    value = median(record.samples) if percent == 50 else percentile(record.samples, percent)
    return digits(value / 1e6)


# --- contexts


def _context_table(runs: Mapping[str, RunFile]) -> str:
    """A line per fact that all runs share, and a column per suite for the others."""
    rows = []
    for name, title in _CONTEXT_FIELDS.items():
        values = [_text(run.context.get(name, "not recorded")) for run in runs.values()]
        if name.endswith("_bytes"):
            values = [f"{int(value):,} bytes" if value.isdigit() else value for value in values]
        if len(set(values)) == 1:
            rows.append([title, values[0], "all"])
        else:
            rows += [[title, value, suite] for suite, value in zip(runs, values, strict=True)]
    return markdown_table(["", "", "suite"], rows)


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(each)}" for name, each in value.items() if name != "about")
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " ".join(_text(each) for each in value)
    return str(value)


def plotted(run: RunFile, panels: int = 4) -> dict[str, list[Record]]:
    """What the plot of a run shows: the cases that compare most, arms by the panels' titles."""
    groups = sorted(
        groups_of(run.records),
        key=lambda group: (len({record.role for record in group.records}), len(group.records)),
        reverse=True,
    )
    return {group.title: list(group.records) for group in groups[:panels]}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    from . import plots

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*", type=Path, help="JSON of new runs to store")
    for path in parser.parse_args(arguments).runs:
        run = RunFile.read(path)
        for suite in dict.fromkeys(record.suite for record in run.records):
            kept = tuple(record for record in run.records if record.suite == suite)
            RunFile(run.context, kept).write(RUNS / f"bench_{suite}.json")
    runs = stored_runs()
    RESULTS.write_text(results(runs))
    for suite, run in runs.items():
        path = RUNS / f"bench_{suite}.svg"
        groups = list(groups_of(run.records))
        if _is_swept(groups):
            plots.draw_trends(trends(groups), path)
        else:
            plots.draw(plotted(run), path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
