# SPDX-License-Identifier: Apache-2.0
"""How far below its limit a target could be met at all: two ways to reckon it, from the same run.

An overwrite has to bring every line that it touches into the processor, however it is written: so
it takes at least as long as reading one element of each line and changing nothing. And whatever it
does has to pass between memory and processor: a changed line comes in and goes out again, which at
the rate of STREAM, whose accesses are in the best order there is, takes so long.

A switch between masks of rows has to write both: the originals of one, the values of the other. It
takes at least as long as copying these bytes to their places, and as moving them at that rate: what
is copied comes in, and each changed line comes in and goes out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from shira_runtime.bench import Record
from shira_runtime.bench.statistics import median

from .masks import LINE_BYTES


@dataclass(frozen=True)
class Floor:
    """The least that one target's ratio, or the most that its speedup, can be in one case.

    Attributes:
        what: the target, in words.
        where: the case, in words.
        asked: what the target asks for, as tables have it.
        measured: by a loop that does less than what the target is about.
        reckoned: from bytes and STREAM's rate.
    """

    what: str
    where: str
    asked: str
    measured: float
    reckoned: float


def floors(records: Sequence[Record]) -> Iterator[Floor]:
    """The floors of what was measured in the suite "micro"."""
    micro = [record for record in records if record.suite == "micro"]
    rate = _stream_rate(micro)
    if rate is None:
        return
    for case in _cases(micro, "switch"):
        touch, read = _least(case, "touch roofline, "), _least(case, "read roofline, ")
        if touch is None or read is None or case[0].case["mask"] != "random":
            continue
        moved_bytes = 2 * LINE_BYTES * touch.counts["lines"]
        yield Floor(
            "overwrite with originals held, of touching each line",
            _words(touch, "dtype", "pages"),
            "<= 0.9 x",
            _time(read) / _time(touch),
            moved_bytes / rate / _time(touch),
        )
    for case in _cases(micro, "exchange A -> B"):
        copy = _least(case, "memcpy of the touched bytes of both masks")
        for whose, limit in (("torch addmm_, unfuse", 150), ("PEFT LoRA, unmerge", 1000)):
            lora = _least(case, whose)
            if copy is None or lora is None or copy.case["dtype"] != "f32":
                continue
            yield Floor(
                f"A -> B, rows of distinct masks: against {lora.arm}",
                _words(copy, "dtype"),
                f">= {limit} x",
                _time(lora) / _time(copy),
                _time(lora) / (3 * copy.counts["bytes"] / rate),
            )


def _stream_rate(records: Sequence[Record]) -> float | None:
    """Bytes that memory moves in a nanosecond, with the lines that STREAM's stores bring in."""
    rates = [
        bytes_moved / _time(record)
        for name, streams, stores in (("STREAM copy", 2, 1), ("STREAM triad", 3, 1))
        for record in records
        if record.arm == name
        for bytes_moved in (record.counts["bytes"] * (streams + stores) / streams,)
    ]
    return max(rates, default=None)


def _cases(records: Sequence[Record], what: str) -> Iterator[list[Record]]:
    found: dict[tuple[tuple[str, object], ...], list[Record]] = {}
    for record in records:
        if record.case.get("what") == what:
            found.setdefault(tuple(record.case.items()), []).append(record)
    yield from found.values()


def _least(records: Sequence[Record], arm: str) -> Record | None:
    fitting = [record for record in records if record.arm.startswith(arm)]
    return min(fitting, key=_time, default=None)


def _time(record: Record) -> float:
    return median(record.samples)


def _words(record: Record, *fields: str) -> str:
    return ", ".join(str(record.case[name]) for name in fields)
