# SPDX-License-Identifier: Apache-2.0
"""`shira bench`: times switches on a live ExecuTorch program, and forward passes around them."""

from __future__ import annotations

import json as json_format
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from shira_runtime import Program, SwitchReport, __version__, _core, load_program
from shira_runtime.commands.adapters import IndexFrom, Names, Tiers, by_name, open_adapters
from shira_runtime.commands.inputs import Inputs, read_inputs
from shira_runtime.commands.output import Json, Misuse, note, print_json, print_table

_STAGES = ("wait_ns", "check_ns", "plan_ns", "store_ns", "total_ns")
_WHAT_DEMO_LEFT = Path("build", "demo")
_DEFAULT_OUTPUT = Path("build", "bench", "switch.json")


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
    names: Names = None,
    tiers: Tiers = None,
    index_from: IndexFrom = None,
    data: Annotated[Path | None, typer.Option(help="The program's .ptd file.")] = None,
    inputs: Inputs = None,
    rounds: Annotated[int, typer.Option(min=1, help="Switches in each direction.")] = 200,
    forward_rounds: Annotated[int, typer.Option(min=0, help="Forward passes per state.")] = 20,
    threads: Annotated[int, typer.Option(min=1, max=64, help="Threads that store weights.")] = 1,
    allow_unverified_base: Annotated[
        bool,
        typer.Option("--allow-unverified-base", help="Accept files without base fingerprints."),
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write the JSON, samples included.")
    ] = None,
    json: Json = False,
) -> None:
    """Time first and later switches, and forward passes around them."""
    if model is None:
        model, adapters = _what_demo_left()
        output = output or _DEFAULT_OUTPUT
    opened_adapters = by_name(open_adapters(adapters or (), names, tiers, index_from))
    if not 1 <= len(opened_adapters) <= 2:
        raise Misuse("name one or two adapters to switch between")
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
    program = load_program(model, data)
    program.threads = threads
    added = [
        program.add_adapter(adapter, allow_unverified_base=allow_unverified_base)
        for adapter in opened_adapters.values()
    ]
    states: tuple[str, str | None] = (added[0], added[1] if len(added) > 1 else None)
    first = program.switch(states[0])
    switches: dict[str, tuple[str | None, list[dict[str, int]]]] = {
        f"{states[0]} -> {states[1] or 'base'}": (states[1], []),
        f"{states[1] or 'base'} -> {states[0]}": (states[0], []),
    }
    program.switch(states[1])
    program.switch(states[0])
    for _ in range(rounds):
        for target, samples in switches.values():
            samples.append(_timed_switch(program, target))
    program.switch(None)
    result = {
        "schema_version": 1,
        "context": _context(model, adapters or [], threads, rounds),
        "first_switch": {f"base -> {states[0]}": first.to_dict()},
        "later_switches": {name: _summary(samples) for name, (_, samples) in switches.items()},
        "forward_ns": _time_forwards(program, states[0], inputs, forward_rounds),
    }
    if output is not None:
        output.write_text(json_format.dumps(result, indent=1) + "\n")
        note(f"wrote {output}")
    if json:
        print_json(result)
    else:
        _show(result)


def _timed_switch(program: Program, target: str | None) -> dict[str, int]:
    started = time.perf_counter_ns()
    report: SwitchReport = program.switch(target)
    return report.to_dict() | {"python_ns": time.perf_counter_ns() - started}


def _summary(samples: list[dict[str, int]]) -> dict[str, Any]:
    """Median and 95th percentile of every time, the counts of the last switch, the raw samples."""
    stages = (*_STAGES, "python_ns")
    return {
        "median": {stage: _percentile(samples, stage, 50) for stage in stages},
        "p95": {stage: _percentile(samples, stage, 95) for stage in stages},
        "counts": {key: value for key, value in samples[-1].items() if key not in stages},
        "samples": {stage: [sample[stage] for sample in samples] for stage in stages},
    }


def _percentile(samples: list[dict[str, int]], stage: str, percent: int) -> int:
    ordered = sorted(sample[stage] for sample in samples)
    return ordered[min(len(ordered) - 1, round(percent / 100 * (len(ordered) - 1)))]


def _time_forwards(
    program: Program, adapter: str, paths: list[Path] | None, rounds: int
) -> dict[str, Any]:
    """Alternate base and adapter, so that a drift of the machine meets both alike."""
    inputs = read_inputs(paths, program) if rounds else []
    times: dict[str, list[int]] = {"base": [], adapter: []}
    for _ in range(rounds):
        for state, samples in times.items():
            program.switch(None if state == "base" else adapter)
            program.forward(*inputs)  # the first pass meets cold caches
            started = time.perf_counter_ns()
            program.forward(*inputs)
            samples.append(time.perf_counter_ns() - started)
    program.switch(None)
    return {
        state: {"median": round(statistics.median(samples)), "samples": samples}
        for state, samples in times.items()
        if samples
    }


def _context(model: Path, adapters: list[Path], threads: int, rounds: int) -> dict[str, Any]:
    return {
        "shira_runtime": __version__,
        "kernel": next(name for name, _, chosen in _core.kernels() if chosen),
        "machine": platform.machine(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "cpu_count": os.cpu_count(),
        "threads": threads,
        "rounds": rounds,
        "model": str(model),
        "adapters": [str(path) for path in adapters],
    }


def _what_demo_left() -> tuple[Path, list[Path]]:
    model = _WHAT_DEMO_LEFT / "minilm.pte"
    adapters = [_WHAT_DEMO_LEFT / f"{name}.shb" for name in ("de", "fr")]
    if missing := [path for path in (model, *adapters) if not path.is_file()]:
        raise Misuse(f"{missing[0]} is not there: run `shira demo` first, or name a model")
    return model, adapters


def _show(result: dict[str, Any]) -> None:
    rows: list[tuple[object, ...]] = []
    for name, report in result["first_switch"].items():
        rows.append((f"{name} (first)", *_cells(report, report), report["total_ns"] / 1e6))
    for name, summary in result["later_switches"].items():
        cells = _cells(summary["median"], summary["counts"])
        rows.append((name, *cells, summary["p95"]["total_ns"] / 1e6))
    print_table(
        ("switch", "weights", "pages", "check ms", "plan ms", "store ms", "total ms", "p95 ms"),
        rows,
        title="Median times",
    )
    forwards = result["forward_ns"]
    if forwards:
        base = forwards["base"]["median"]
        print_table(
            ("forward pass", "median ms", "x base"),
            [(n, t["median"] / 1e6, t["median"] / base) for n, t in forwards.items()],
        )


def _cells(times: dict[str, int], counts: dict[str, int]) -> tuple[object, ...]:
    return (
        counts["elements_written"],
        counts["pages_touched"],
        *(times[f"{stage}_ns"] / 1e6 for stage in ("check", "plan", "store", "total")),
    )
