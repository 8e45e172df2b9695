# SPDX-License-Identifier: Apache-2.0
"""Compares two stored runs of the same cases, arm by arm, with a stated test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from shira_runtime.bench.record import BenchmarkError, Key, Record, RunFile, describe
from shira_runtime.bench.statistics import (
    Interval,
    holm,
    mann_whitney,
    ratio_of_medians,
)

__all__ = ["ALPHA", "THRESHOLD", "Change", "Verdict", "compare_runs", "context_differences"]

ALPHA = 0.01
"""Probability of flagging anything at all where nothing has changed; intervals cover 1 - ALPHA."""

THRESHOLD = 0.05
"""A change of the median that is smaller is not flagged, however certain it is."""

Verdict = Literal["slower", "faster", "same"]

# These differ between any two runs, or are what is being compared.
_MAY_DIFFER = {"commit", "load_average", "load_average_after", "run"}


@dataclass(frozen=True)
class Change:
    """One arm in both runs.

    Attributes:
        old, new: its records.
        ratio: of the medians, new / old, with its bootstrap interval.
        p_value: of the Mann-Whitney U test, two-sided, adjusted by Holm over all arms.
        verdict: "slower" or "faster" only where test and interval agree, and the ratio is beyond
            the threshold.
    """

    old: Record
    new: Record
    ratio: Interval
    p_value: float
    verdict: Verdict


def compare_runs(
    old: RunFile, new: RunFile, threshold: float = THRESHOLD, common_only: bool = False
) -> list[Change]:
    """Compare what both runs have measured.

    Args:
        old: the earlier run.
        new: the later run.
        threshold: least change of the median that counts, such as 0.05 for 5 %.
        common_only: leave out what only one of them has, instead of refusing.

    Returns:
        A change per record, in the order of `new`.

    Raises:
        BenchmarkError: they measured different things, or nothing in common.
    """
    before, after = old.by_key(), new.by_key()
    if not common_only:
        _require_same(before, after)
    keys = [key for key in after if key in before]
    if not keys:
        raise BenchmarkError("the runs have no measurement in common")
    pairs = [(before[key], after[key]) for key in keys]
    for first, second in pairs:
        if first.clock != second.clock:
            raise BenchmarkError(
                f"{describe(first.key)}: {first.clock} time and {second.clock} time"
            )
    p_values = holm([mann_whitney(second.samples, first.samples) for first, second in pairs])
    changes = []
    for (first, second), p_value in zip(pairs, p_values, strict=True):
        ratio = ratio_of_medians(second.samples, first.samples, 1.0 - ALPHA)
        changes.append(Change(first, second, ratio, p_value, _verdict(ratio, p_value, threshold)))
    return changes


def _require_same(before: Mapping[Key, Record], after: Mapping[Key, Record]) -> None:
    lacking = [f"only the old run has {describe(key)}" for key in before if key not in after]
    lacking += [f"only the new run has {describe(key)}" for key in after if key not in before]
    if lacking:
        more = f"; and {len(lacking) - 1} more differences" if len(lacking) > 1 else ""
        raise BenchmarkError(f"the runs did not measure the same: {lacking[0]}{more}")


def _verdict(ratio: Interval, p_value: float, threshold: float) -> Verdict:
    if p_value >= ALPHA:
        return "same"
    if ratio.low > 1.0 and ratio.estimate > 1.0 + threshold:
        return "slower"
    if ratio.high < 1.0 and ratio.estimate < 1.0 / (1.0 + threshold):
        return "faster"
    return "same"


def context_differences(old: RunFile, new: RunFile) -> list[str]:
    """What differs between the machines, systems and builds of two runs, one line each."""
    before, after = _flat(old.context), _flat(new.context)
    return [
        f"{name}: {before.get(name, 'not recorded')} -> {after.get(name, 'not recorded')}"
        for name in sorted(before.keys() | after.keys())
        if name.partition(".")[0] not in _MAY_DIFFER and before.get(name) != after.get(name)
    ]


def _flat(context: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in context.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
