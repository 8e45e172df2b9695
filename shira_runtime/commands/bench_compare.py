# SPDX-License-Identifier: Apache-2.0
"""`shira bench-compare`: which arms became slower or faster between two stored runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shira_runtime.bench import RunFile
from shira_runtime.bench.compare import (
    ALPHA,
    THRESHOLD,
    Change,
    compare_runs,
    context_differences,
)
from shira_runtime.bench.statistics import median
from shira_runtime.commands.output import Json, Misuse, note, print_json, print_table, say


def bench_compare(
    old: Annotated[Path, typer.Argument(help="JSON of the earlier run.")],
    new: Annotated[Path, typer.Argument(help="JSON of the later run.")],
    threshold: Annotated[
        str, typer.Option(metavar="PERCENT", help="Smaller changes are not flagged.")
    ] = f"{THRESHOLD:.0%}",
    fail_if_slower: Annotated[
        str | None,
        typer.Option(
            metavar="PERCENT", help="Exit with 1 if an arm of SHiRA is slower by more than this."
        ),
    ] = None,
    common_only: Annotated[
        bool, typer.Option("--common-only", help="Leave out what only one run has measured.")
    ] = False,
    json: Json = False,
) -> int:
    """Compare two runs of the same cases, arm by arm.

    A change is flagged where the Mann-Whitney U test (two-sided, Holm's correction over all arms,
    1 %) and the 99 % bootstrap interval of the ratio of medians agree, and the ratio is beyond the
    threshold.
    """
    least = _fraction(fail_if_slower if fail_if_slower is not None else threshold)
    before, after = RunFile.read(old), RunFile.read(new)
    changes = compare_runs(before, after, least, common_only)
    differences = context_differences(before, after)
    for line in differences:
        note(f"WARNING: the runs were not taken alike: {line}")
    if any(change.verdict != "same" and change.old.role == "roofline" for change in changes):
        note("WARNING: limits of the machine changed too: it was not in the same state")
    if json:
        print_json(
            {
                "threshold": least,
                "alpha": ALPHA,
                "context_differences": differences,
                "changes": [_row(change) for change in changes],
            }
        )
    else:
        print_table(
            ("suite", "case", "arm", "regime", "old ms", "new ms", "x", "99 % interval", "p", ""),
            [tuple(_cells(change)) for change in changes],
        )
        flagged = [change for change in changes if change.verdict != "same"]
        beyond = f"certainly and by more than {least:.1%}"
        say(f"{len(flagged)} of {len(changes)} medians changed, {beyond}")
    slower = [c for c in changes if c.verdict == "slower" and c.new.role == "shira"]
    if fail_if_slower is None or not slower:
        return 0
    for change in slower:
        note(
            f"error: {change.new.arm} ({change.new.regime}) is {change.ratio.estimate - 1:.1%}"
            f" slower; the limit is {least:.1%}"
        )
    return 1


def _fraction(text: str) -> float:
    """Read "5%" or "5" as 0.05."""
    try:
        percent = float(text.removesuffix("%"))
    except ValueError:
        percent = -1.0
    if not 0.0 <= percent < 1000.0:
        raise Misuse(f"{text!r} is no percentage such as 5%")
    return percent / 100.0


def _row(change: Change) -> dict[str, object]:
    return {
        "suite": change.new.suite,
        "case": change.new.case,
        "arm": change.new.arm,
        "role": change.new.role,
        "regime": change.new.regime,
        "threads": change.new.threads,
        "old_median_ns": median(change.old.samples),
        "new_median_ns": median(change.new.samples),
        "ratio": change.ratio.estimate,
        "interval": [change.ratio.low, change.ratio.high],
        "p_value": change.p_value,
        "verdict": change.verdict,
    }


def _cells(change: Change) -> list[object]:
    return [
        change.new.suite,
        ", ".join(str(value) for value in change.new.case.values()),
        change.new.arm,
        change.new.regime,
        median(change.old.samples) / 1e6,
        median(change.new.samples) / 1e6,
        change.ratio.estimate,
        f"{change.ratio.low:.3f} to {change.ratio.high:.3f}",
        change.p_value,
        "" if change.verdict == "same" else change.verdict,
    ]
