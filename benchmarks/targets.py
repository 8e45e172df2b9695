# SPDX-License-Identifier: Apache-2.0
"""The project's own targets, and whether the records of a run hold them.

Each target says which arms it compares, in every case that fits; it is held only if it is held in
all of them. Arms and values of case fields are given as patterns of `fnmatch`. Of several arms that
fit, the fastest counts: that is the harder comparison where others are meant, and a roofline's
prefetch distance is chosen the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

from shira_runtime.bench import Record
from shira_runtime.bench.statistics import median, ratio_of_medians

Verdict = Literal["held", "missed", "not measured"]
Kind = Literal["ratio", "speedup", "seconds", "per entry", "equal", "no slower"]

#: Two times are equal if the 95 % interval of their ratio contains 1, or the ratio is off by no
#: more than this; one is no slower than another if they are equal or it is faster.
NOISE = 0.02


@dataclass(frozen=True)
class Target:
    """What one comparison has to give.

    Attributes:
        what: in words.
        kind: "ratio": median of `arm` / median of `against`, at most `limit`. "speedup": median of
            `against` / median of `arm`, at least `limit`. "seconds": median of `arm`, at most
            `limit`. "per entry": nanoseconds for each entry, at most `limit`. "equal": the ratio
            is 1 within noise. "no slower": it is that or less.
        suite: name of the suite.
        arm: pattern of the arm that has to be fast.
        against: pattern of what it is compared with, in the same case and regime.
        limit: see `kind`.
        case: patterns of case fields; fields that are not named may be anything.
        regime: pattern of the regime.
        other_case: fields of the case that `against` is looked for in, where they differ.
        per_entry: both medians are divided by their counts of entries first.
        stage: take this stage instead of the whole sample, on both sides, where a record has it.
            "library" is all of a switch but Python's call, which has to come back from memory after
            the caches were cleared, as nothing else here has.
        alternative: another pattern and limit of a "ratio"; to hold one of the two is enough.
    """

    what: str
    kind: Kind
    suite: str
    arm: str
    against: str = ""
    limit: float = 1.0
    case: Mapping[str, str] = field(default_factory=dict)
    regime: str = "*"
    other_case: Mapping[str, str] = field(default_factory=dict)
    per_entry: bool = False
    stage: str = ""
    alternative: tuple[str, float] | None = None


@dataclass(frozen=True)
class Outcome:
    """What the records say about a target.

    Attributes:
        target: the target.
        verdict: "missed" if any case misses it.
        value: ratio, speedup or seconds of the worst case.
        other_value: ratio of the worst case to the target's alternative, if it has one.
        where: the worst case in words.
        case_count: cases that were looked at.
    """

    target: Target
    verdict: Verdict
    value: float = float("nan")
    other_value: float = float("nan")
    where: str = ""
    case_count: int = 0

    @property
    def limit_text(self) -> str:
        """The limit as tables have it."""
        limit, ratio = self.target.limit, f"<= {self.target.limit:g} x"
        if self.target.alternative is not None:
            pattern, other_limit = self.target.alternative
            ratio += f" {self.target.against}, or <= {other_limit:g} x {pattern}"
        return {
            "ratio": ratio,
            "speedup": f">= {limit:g} x",
            "seconds": f"<= {limit:g} s",
            "per entry": f"<= {limit:g} ns an entry",
            "equal": f"1.00 within noise ({NOISE:.0%})",
            "no slower": f"<= 1.00 within noise ({NOISE:.0%})",
        }[self.target.kind]

    @property
    def value_text(self) -> str:
        """The worst value as tables have it."""
        if self.verdict == "not measured":
            return ""
        if self.target.kind == "seconds":
            return f"{self.value:.3f} s"
        if self.target.kind == "per entry":
            return f"{self.value:.1f} ns"
        either = f", {self.other_value:.2f} x" if self.target.alternative else ""
        return f"{self.value:.2f} x{either}"


def evaluate(targets: Iterable[Target], records: Sequence[Record]) -> list[Outcome]:
    """Judge each target by the records."""
    return [_evaluate(target, records) for target in targets]


@dataclass(frozen=True)
class _Finding:
    """One case: what was found, and whether it is enough."""

    value: float
    is_held: bool
    record: Record
    other_value: float = float("nan")


def _evaluate(target: Target, records: Sequence[Record]) -> Outcome:
    fitting = _fastest_of_each_case(target, records)
    found = [each for record in fitting if (each := _judge(target, record, records)) is not None]
    if not found:
        return Outcome(target, "not measured")
    # Of cases that hold and cases that miss the worst is one that misses.
    worst = max(found, key=lambda each: (not each.is_held, _badness(target, each.value)))
    verdict: Verdict = "held" if worst.is_held else "missed"
    where = ", ".join(str(value) for value in worst.record.case.values())
    return Outcome(target, verdict, worst.value, worst.other_value, where, len(found))


def _judge(target: Target, record: Record, records: Sequence[Record]) -> _Finding | None:
    """Compare one case; nothing where what it is compared with was not measured."""
    if target.kind == "seconds":
        seconds = median(_samples(target, record)) / 1e9
        return _Finding(seconds, seconds <= target.limit, record)
    if target.kind == "per entry":
        nanoseconds = median(record.samples) / record.counts["entries"]
        return _Finding(nanoseconds, nanoseconds <= target.limit, record)
    other = _compared_with(target, target.against, record, records)
    if other is None:
        return None
    ratio = _time(target, record) / _time(target, other)
    if target.kind == "speedup":
        return _Finding(1.0 / ratio, 1.0 / ratio >= target.limit, record)
    if target.kind in ("equal", "no slower"):
        interval = ratio_of_medians(_samples(target, record), _samples(target, other))
        # How far the interval is from the ratio of medians is the same per entry.
        off = ratio / interval.estimate
        is_equal = interval.low * off <= 1.0 <= interval.high * off or abs(ratio - 1.0) <= NOISE
        return _Finding(ratio, is_equal or (target.kind == "no slower" and ratio < 1.0), record)
    is_held, alternative = ratio <= target.limit, float("nan")
    if target.alternative is not None:
        pattern, limit = target.alternative
        second = _compared_with(target, pattern, record, records)
        if second is not None:
            alternative = _time(target, record) / _time(target, second)
            is_held = is_held or alternative <= limit
    return _Finding(ratio, is_held, record, alternative)


def _badness(target: Target, value: float) -> float:
    if target.kind == "speedup":
        return -value
    return abs(value - 1.0) if target.kind == "equal" else value


def _time(target: Target, record: Record) -> float:
    return median(_samples(target, record)) / (record.counts["entries"] if target.per_entry else 1)


def _samples(target: Target, record: Record) -> Sequence[int]:
    return record.stages.get(target.stage, record.samples)


def _fastest_of_each_case(target: Target, records: Sequence[Record]) -> Iterator[Record]:
    fastest: dict[tuple[object, ...], Record] = {}
    for record in records:
        if (
            record.suite != target.suite
            or not fnmatchcase(record.arm, target.arm)
            or not fnmatchcase(record.regime, target.regime)
            or not _fits(record, target.case)
        ):
            continue
        place = (*sorted(record.case.items()), record.regime)
        best = fastest.get(place)
        if best is None or median(record.samples) < median(best.samples):
            fastest[place] = record
    yield from fastest.values()


def _compared_with(
    target: Target, pattern: str, record: Record, records: Sequence[Record]
) -> Record | None:
    case = {**record.case, **target.other_case}
    fitting = [
        other
        for other in records
        if other.suite == record.suite
        and other.case == case
        and other.regime == record.regime
        and fnmatchcase(other.arm, pattern)
        and other is not record
    ]
    return min(fitting, key=lambda other: median(other.samples), default=None)


def _fits(record: Record, patterns: Mapping[str, str]) -> bool:
    return all(
        fnmatchcase(str(record.case.get(name, "")), pattern) for name, pattern in patterns.items()
    )


_RANDOM = {"what": "switch", "mask": "random", "pages": "4 KiB"}
_F32 = {"what": "exchange*", "dtype": "f32", "pages": "4 KiB"}
_TOUCH = "touch roofline, prefetch *"
_TOUCH_BOTH = "touch roofline of both masks, prefetch *"
_COPY = "memcpy of the touched bytes"
_COLD = "warm file, cold cache"

# What a target says of an overwrite is about the pass over the weights. Whole switches, which also
# compare the base and plan, are in the tables beside the same rooflines.
TARGETS = (
    Target(
        "overwrite with originals held, 1 % random: of touching each line",
        "ratio",
        "micro",
        "kernel store*",
        _TOUCH,
        0.9,
        _RANDOM,
        _COLD,
    ),
    Target(
        "first overwrite, saving originals, 1 % random: of touching each line",
        "ratio",
        "micro",
        "kernel swap*",
        _TOUCH,
        1.25,
        _RANDOM,
        _COLD,
    ),
    Target(
        "overwrite, rows, pages and blocks, 1 %: of memcpy of the touched bytes",
        "ratio",
        "micro",
        "kernel store*",
        _COPY,
        1.3,
        {"what": "switch", "pages": "4 KiB"},
        _COLD,
    ),
    Target(
        "A -> B, distinct random masks, whole switch: of touching each line of both",
        "ratio",
        "micro",
        "switch A -> B, distinct masks",
        _TOUCH_BOTH,
        1.15,
        _RANDOM,
        _COLD,
        stage="library",
    ),
    Target(
        "A -> B, distinct masks: of reverting, then applying",
        "no slower",
        "micro",
        "switch A -> B, distinct masks",
        "switch A -> base, base -> B",
        1.0,
        {"what": "switch"},
        _COLD,
        stage="library",
    ),
    Target(
        "A -> B, shared positions: of one overwrite (a revert)",
        "ratio",
        "micro",
        "switch A -> C, shared mask",
        "switch A -> base",
        1.1,
        {"what": "switch"},
        _COLD,
        stage="library",
    ),
    *(
        Target(
            f"A -> B, {what}, f32: against {whose}, equal parameters",
            "speedup",
            "micro",
            arm,
            against,
            limit,
            _F32,
            _COLD,
            stage="library",
        )
        for what, arm, limits in (
            ("random", "random: switch A -> B, distinct masks", (10.0, 60.0)),
            ("rows of one mask", "rows: switch A -> C, shared mask", (150.0, 1000.0)),
            ("rows of distinct masks", "rows: switch A -> B, distinct masks", (150.0, 1000.0)),
        )
        for (whose, against), limit in zip(
            (
                ("torch addmm_", "torch addmm_, unfuse + fuse, rank *"),
                ("PEFT LoRA", "PEFT LoRA, unmerge + merge, rank *"),
            ),
            limits,
            strict=True,
        )
    ),
    Target(
        "overwrite in 16 bits: per entry, of f32",
        "no slower",
        "micro",
        "switch base -> A",
        "switch base -> A",
        1.0,
        {"what": "switch", "dtype": "*16", "pages": "4 KiB"},
        _COLD,
        {"dtype": "f32"},
        per_entry=True,
        stage="library",
    ),
    Target(
        "LLaMA2-7B, f16, 13 GB in memory: from a warm file to ready weights, 1 % random",
        "seconds",
        "llama7b",
        "open to ready, random",
        limit=0.40,
        regime=_COLD,
    ),
    Target(
        "LLaMA2-7B, f16, 13 GB in memory: from a warm file to ready weights, 1 % rows",
        "seconds",
        "llama7b",
        "open to ready, rows",
        limit=0.12,
        regime=_COLD,
    ),
    Target(
        "first switch on a copy-on-write mapping, making pages private: of copying as many",
        "ratio",
        "llama1b_mapped",
        "first switch base -> A",
        "memcpy into fresh 4 KiB pages",
        1.1,
        {"what": "first switch"},
        "first touch",
        stage="pages",
        alternative=("memcpy into resident 4 KiB pages", 2.5),
    ),
    Target(
        "forward pass after a switch: of the base's",
        "equal",
        "program",
        "forward in A",
        "forward in base",
        case={"what": "forward passes"},
    ),
    Target(
        "a weight that XNNPACK has packed, while its program is loaded: finding out how, comparing",
        "seconds",
        "packed",
        "load the program",
        limit=0.03,
        regime=_COLD,
        stage="compare",
    ),
    Target(
        "floats as XNNPACK packs them, first overwrite, saving originals: of plain ones",
        "ratio",
        "packed",
        "switch base -> A, first",
        "plain: switch base -> A, first",
        2.0,
        {"kind": "f*"},
        _COLD,
    ),
    Target(
        "int8 as XNNPACK packs them, first overwrite, saving originals, with sums",
        "per entry",
        "packed",
        "switch base -> A, first",
        limit=12.0,
        case={"kind": "int8"},
        regime=_COLD,
    ),
    Target(
        "int4 as XNNPACK packs them, first overwrite, saving originals, with sums",
        "per entry",
        "packed",
        "switch base -> A, first",
        limit=16.0,
        case={"kind": "int4*"},
        regime=_COLD,
    ),
)
