# SPDX-License-Identifier: Apache-2.0
"""`shira bench`: times a user's own program and adapters, or a suite of a checkout."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer

from shira_runtime import Program, load_program
from shira_runtime.bench import Record, RunFile, Suite, run_suite
from shira_runtime.bench.model import ModelBench
from shira_runtime.bench.statistics import median, percentile
from shira_runtime.bench.timing import DEFAULT_SEED
from shira_runtime.commands.adapters import (
    IndexFrom,
    Names,
    Tiers,
    by_name,
    open_adapters,
    open_file,
)
from shira_runtime.commands.checkout import Checkout, import_from_checkout
from shira_runtime.commands.inputs import Inputs, read_inputs
from shira_runtime.commands.output import Json, Misuse, note, print_json, print_table
from shira_runtime.commands.pages import (
    FirstTouch,
    FirstTouches,
    MaxDirty,
    Originals,
    OriginalsIn,
    set_pages,
)

_WHAT_DEMO_LEFT = Path("build", "demo")
_OUTPUT = Path("build", "bench", "runs")


def bench(
    model: Annotated[
        Path | None,
        typer.Argument(help="A .pte file; without one, what `shira demo` left in build/demo."),
    ] = None,
    adapters: Annotated[
        list[Path] | None,
        typer.Argument(
            help=".shb files; of a pack --adapter names one or two. One alternates with the base."
        ),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Run a suite of the checkout instead of a model."),
    ] = None,
    folder: Checkout = None,
    names: Names = None,
    tiers: Tiers = None,
    index_from: IndexFrom = None,
    data: Annotated[Path | None, typer.Option(help="The program's .ptd file.")] = None,
    inputs: Inputs = None,
    rounds: Annotated[
        int | None,
        typer.Option(min=1, help="Switches in each direction, 100; of a suite all samples."),
    ] = None,
    forward_rounds: Annotated[int, typer.Option(min=0, help="Forward passes per state.")] = 20,
    first_rounds: Annotated[int, typer.Option(min=1, help="First switches, cold openings.")] = 10,
    threads: Annotated[int, typer.Option(min=1, max=64, help="Threads that store weights.")] = 1,
    max_dirty_mb: MaxDirty = None,
    first_touch: FirstTouches = FirstTouch.AUTO,
    originals: OriginalsIn = Originals.MEMORY,
    seed: Annotated[int, typer.Option(help="Of the order in which the arms take turns.")] = (
        DEFAULT_SEED
    ),
    allow_unverified_base: Annotated[
        bool,
        typer.Option("--allow-unverified-base", help="Accept files without base fingerprints."),
    ] = False,
    assert_p95_ms: Annotated[
        float | None,
        typer.Option(metavar="MS", help="Exit with 1 if a 95th percentile is above."),
    ] = None,
    assert_arm: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help='Arms meant by --assert-p95-ms: "switch *" for a model, all of SHiRA in a suite.',
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where to write the records, samples included."),
    ] = None,
    json: Json = False,
) -> int:
    """Time opening, first and later switches, and forward passes; or a suite.

    Bytes are checked outside the clock; where they are wrong, nothing is written.
    """
    settings: dict[str, Any] = {}
    if suite is not None:
        if model is not None:
            raise Misuse("name a model or a --suite, not both")
        chosen = _suite(suite, folder)
        output = output or _OUTPUT / f"{suite}.json"
        pattern = assert_arm or "*"
    else:
        if model is None:
            model, adapters = _what_demo_left()
            output = output or _OUTPUT / "model.json"
        opened = by_name(open_adapters(adapters or (), names, tiers, index_from))
        if not 1 <= len(opened) <= 2:
            raise Misuse("name one or two adapters to switch between")

        def load() -> Program:
            program = load_program(model, data)
            set_pages(program, max_dirty_mb, first_touch, originals)
            return program

        chosen = ModelBench(
            load=load,
            adapters=opened,
            open_file=lambda path: open_file(path, tiers, index_from),
            inputs=lambda program: read_inputs(inputs, program),
            label=model.name,
            threads=threads,
            rounds=rounds or 100,
            first_rounds=first_rounds,
            forward_rounds=forward_rounds,
            allow_unverified_base=allow_unverified_base,
        ).suite()
        # Names only: a stored run should not tell where somebody keeps files.
        settings = {
            "model": model.name,
            "adapters": [path.name for path in adapters or ()],
            "first_touch": first_touch.value,
            "originals": originals.value,
        }
        rounds = None
        pattern = assert_arm or "switch *"
    run = run_suite(chosen, seed, rounds, note, settings)
    if output is not None:
        run.write(output)
        note(f"wrote {output}")
    if json:
        print_json(run.to_json())
    else:
        show(run.records)
    return 0 if assert_p95_ms is None else _assert_p95(run, assert_p95_ms, pattern)


def _suite(name: str, folder: Path | None) -> Suite:
    suites: dict[str, Suite] = import_from_checkout("benchmarks.suites", folder).SUITES
    if name not in suites:
        known = "; ".join(f"{each.name}: {each.about}" for each in suites.values())
        raise Misuse(f"no suite {name!r}; there are: {known}")
    return suites[name]


def _what_demo_left() -> tuple[Path, list[Path]]:
    model = _WHAT_DEMO_LEFT / "minilm.pte"
    adapters = [_WHAT_DEMO_LEFT / f"{name}.shb" for name in ("de", "fr")]
    if missing := [path for path in (model, *adapters) if not path.is_file()]:
        raise Misuse(f"{missing[0]} is not there: run `shira demo` first, or name a model")
    return model, adapters


def _assert_p95(run: RunFile, limit_ms: float, pattern: str) -> int:
    """Say which arms of this project are above the limit; returns the exit code."""
    meant = [
        record
        for record in run.records
        if record.role == "shira" and fnmatch.fnmatchcase(record.arm, pattern)
    ]
    if not meant:
        raise Misuse(f"no arm of SHiRA matches {pattern!r}: there is nothing to hold to a limit")
    code = 0
    for record in meant:
        p95_ms = percentile(record.samples, 95) / 1e6
        if p95_ms > limit_ms:
            note(
                f"error: {record.arm} ({record.regime}): p95 {p95_ms:.4g} ms is above the limit"
                f" of {limit_ms:g} ms"
            )
            code = 1
    return code


def show(records: Sequence[Record]) -> None:
    """Print a table per case."""
    for case, group in groupby(records, key=lambda record: record.case):
        members = list(group)
        stages = list(dict.fromkeys(stage for record in members for stage in record.stages))
        print_table(
            ("arm", "regime", "median ms", "p95 ms", *(f"{s} ms" for s in stages), "entries"),
            [
                (
                    record.arm,
                    record.regime,
                    median(record.samples) / 1e6,
                    percentile(record.samples, 95) / 1e6,
                    *(
                        median(record.stages[stage]) / 1e6 if stage in record.stages else ""
                        for stage in stages
                    ),
                    record.counts.get("entries", ""),
                )
                for record in members
            ],
            title=", ".join(f"{name} {value}" for name, value in case.items()),
        )
        for line in dict.fromkeys(line for record in members for line in record.notes):
            note(line)
