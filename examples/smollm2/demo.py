# SPDX-License-Identifier: Apache-2.0
"""Switches adapters of a language model on a live ExecuTorch program, without a reload.

``make demo-llm`` (or ``python examples/llm_switch.py``) exports SmolLM2-135M-Instruct and its
adapters if they are not there, with 4-bit weights and in float32. With each it generates with the
base, each adapter and both, and measures switch times, tokens per second and memory. In 4 bits it
also shows why the key-value cache belongs to an epoch, switches between the tokens of one answer,
and has unfused LoRA beside the adapters. It writes ``llm.json``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import shira_runtime
from examples.smollm2 import memory, tasks, weights
from examples.smollm2.files import KINDS, Files, Kind, prepare
from examples.smollm2.generate import Model, Session, continue_session, generate
from shira_runtime.bench import ALL_WARM, Arm, Case, Record, RunFile, run_case, stages_of
from shira_runtime.bench.context import machine_context
from shira_runtime.bench.statistics import median, percentile

State = Mapping[str, float] | str | None
STATES: dict[str, State] = {
    "base": None,
    "json": "json",
    "telegram": "telegram",
    "json + telegram": {"json": 1.0, "telegram": 1.0},
    "base again": None,
}
RECORD_PROMPT = tasks.json_check()[2].prompt
QUESTION_PROMPT = tasks.telegram_check()[0].prompt
SWITCH_ROUNDS, TOKEN_ROUNDS = 30, 8
CONTEXT_TOKENS, TIMED_TOKENS = 32, 16
SHOWN_TOKENS, SEGMENT_TOKENS = 40, 9
SUITE = "llm"


@dataclass
class Demo:
    """What the steps of one kind share; ``results`` and ``records`` go into llm.json."""

    console: Console
    kind: Kind
    files: Files
    program: shira_runtime.Program
    results: dict[str, Any] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)

    def time(self, what: str, arms: Sequence[Arm], rounds: int) -> list[Record]:
        """Times arms in turns, keeps the records, and gives them back."""
        case = Case({"model": f"smollm2-{self.kind}", "what": what}, arms, (ALL_WARM,), rounds)
        records = run_case(SUITE, case)
        self.records += records
        return records


def show_answers(demo: Demo) -> None:
    """Answers two prompts in every state of the one loaded program."""
    table = Table(
        "state",
        "switch",
        RECORD_PROMPT,
        QUESTION_PROMPT,
        title=f"{demo.kind}: one program, no reload",
    )
    rows: dict[str, Any] = {}
    for state, members in STATES.items():
        report = demo.program.switch(members)
        texts = [
            generate(demo.program, prompt, SHOWN_TOKENS).text
            for prompt in (RECORD_PROMPT, QUESTION_PROMPT)
        ]
        rows[state] = {"switch": report.to_dict(), "answers": texts}
        table.add_row(state, f"{report.total_ns / 1e6:.1f} ms", *texts)
    demo.console.print(table)
    verified = demo.program.verify_base()
    is_back = rows["base"]["answers"] == rows["base again"]["answers"]
    demo.console.print(
        f"Back at the base: {verified.bytes_checked:,} bytes of {verified.tensors_checked} live"
        f" weights are those of the file; the same answers as before: {is_back}.\n"
    )
    if not is_back:
        raise SystemExit("error: the base did not come back")
    demo.results["states"] = rows


def show_cache(demo: Demo) -> None:
    """Switches in the middle of an answer, with a cache keyed on the epoch and with a stale one."""
    texts, logits = {}, {}
    for kind, is_stale in (("cache of this epoch", False), ("stale cache (wrong)", True)):
        demo.program.switch(None)
        session = Session(demo.program, keep_stale_cache=is_stale)
        session.append(weights.chat_tokens(RECORD_PROMPT))
        session.logits()
        demo.program.switch("json")
        logits[kind] = session.logits()
        answer, _ = continue_session(session, SHOWN_TOKENS)
        texts[kind] = weights.load_tokenizer().decode(answer)
    fresh = Session(demo.program)
    fresh.append(weights.chat_tokens(RECORD_PROMPT))
    expected = fresh.logits()
    errors = {kind: float(np.abs(found - expected).max()) for kind, found in logits.items()}
    table = Table("after the prompt was read, base -> json", "answer", "largest error of a logit")
    for kind, text in texts.items():
        table.add_row(kind, text, f"{errors[kind]:.3g}")
    demo.console.print(table)
    demo.results["cache"] = {"answers": texts, "largest_errors": errors}
    if min(errors.values()) != 0 or max(errors.values()) == 0:
        raise SystemExit("error: the epoch did not tell which cache is right")


def show_token_switches(demo: Demo) -> None:
    """Changes the adapter between tokens of one answer."""
    program = demo.program
    program.switch(None)
    session = Session(program)
    session.append(weights.chat_tokens(QUESTION_PROMPT))
    table = Table("tokens", "adapter", "switch", "read again", "text", title=QUESTION_PROMPT)
    rows = []
    for adapter in ("telegram", None, "telegram"):
        report = program.switch(adapter)
        started, before = time.perf_counter(), session.reread_count
        session.logits()
        seconds = time.perf_counter() - started
        answer, _ = continue_session(session, SEGMENT_TOKENS)
        text = weights.load_tokenizer().decode(answer)
        reread = session.reread_count - before
        rows.append(
            {
                "adapter": adapter,
                "switch_ns": report.total_ns,
                "reread_tokens": reread,
                "reread_seconds": seconds,
                "text": text,
            }
        )
        table.add_row(
            str(len(answer)),
            adapter or "base",
            f"{report.total_ns / 1e6:.1f} ms",
            f"{reread} tokens, {seconds * 1e3:.0f} ms",
            text,
        )
    demo.console.print(table)
    demo.results["token_switches"] = rows


def time_switches(demo: Demo) -> None:
    """Times every kind of change that the states above need."""
    program = demo.program
    changes: list[tuple[str, State, str, State]] = [
        ("base", None, "json", "json"),
        ("json", "json", "telegram", "telegram"),
        ("telegram", "telegram", "json + telegram", STATES["json + telegram"]),
        ("json", "json", "base", None),
        ("base", None, "random 1 %", "random"),
        ("random 1 %", "random", "json", "json"),
    ]

    def change(before: str, old: State, after: str, new: State) -> Arm:
        return Arm(
            f"{before} -> {after}",
            lambda: stages_of(program.switch(new)),
            prepare=lambda: program.switch(old),
        )

    records = demo.time("switch", [change(*names) for names in changes], SWITCH_ROUNDS)
    program.switch(None)
    table = Table("change", "median ms", "p95 ms", title=f"{demo.kind}: later switches")
    for record in records:
        middle, late = median(record.samples), percentile(record.samples, 95)
        table.add_row(record.arm, f"{middle / 1e6:.1f}", f"{late / 1e6:.1f}")
    demo.console.print(table)


def time_tokens(demo: Demo) -> None:
    """Times generation: base, adapter, and a program that computes LoRA in every pass."""
    program = demo.program
    tokens = (weights.chat_tokens(RECORD_PROMPT) * 2)[: CONTEXT_TOKENS + TIMED_TOKENS]

    def read(model: Model, first: int, end: int) -> None:
        model.forward(np.array([tokens[first:end]]), np.arange(first, end))

    def arm(name: str, model: shira_runtime.Program, state: State) -> Arm:
        def ready() -> None:
            model.switch(state)
            read(model, 0, CONTEXT_TOKENS)

        def run() -> None:
            for position in range(CONTEXT_TOKENS, CONTEXT_TOKENS + TIMED_TOKENS):
                read(model, position, position + 1)

        return Arm(name, run, role="forward", prepare=ready, counts={"tokens": TIMED_TOKENS})

    arms = [arm("base", program, None), arm("adapter json", program, "json")]
    if demo.files.lora_program:
        lora = shira_runtime.load_program(demo.files.lora_program)
        arms.append(arm("unfused LoRA", lora, None))
    records = demo.time("generate", arms, TOKEN_ROUNDS)
    program.switch(None)
    table = Table("weights", "tokens/s", "ms per token", title=f"{demo.kind}: one token a pass")
    for record in records:
        nanoseconds = median(record.samples) / TIMED_TOKENS
        table.add_row(record.arm, f"{1e9 / nanoseconds:.1f}", f"{nanoseconds / 1e6:.1f}")
    demo.console.print(table)


def measure_memory(demo: Demo) -> None:
    """Measures base, adapter and LoRA, each in a process of its own."""
    files, tokens = demo.files, weights.chat_tokens(RECORD_PROMPT)
    figures = {
        "base": memory.measure(files.program, tokens),
        "adapter json": memory.measure(files.program, tokens, files.adapters, "json"),
    }
    if files.lora_program:
        figures["unfused LoRA"] = memory.measure(files.lora_program, tokens)
    table = Table("weights", *next(iter(figures.values())), title=f"{demo.kind}: a process, MB")
    for name, row in figures.items():
        table.add_row(name, *(f"{value / 1e6:.0f}" for value in row.values()))
    demo.console.print(table)
    demo.results["memory"] = figures


def run(console: Console, kind: Kind, files: Files) -> Demo:
    """Does everything with the program of one kind."""
    program = shira_runtime.load_program(files.program)
    demo = Demo(console, kind, files, program)
    demo.results["adapters"] = {}
    for name, path in {**files.adapters, "random": files.random}.items():
        adapter = shira_runtime.Adapter.open(path)
        program.add_adapter(adapter, name)
        size = path.stat().st_size
        demo.results["adapters"][name] = {"entries": adapter.entry_count, "file_bytes": size}
        console.print(f"{kind}, {name}: {adapter.entry_count:,} entries, {size:,} bytes")
    show_answers(demo)
    if kind == "8da4w":
        show_cache(demo)
        show_token_switches(demo)
    time_switches(demo)
    time_tokens(demo)
    measure_memory(demo)
    return demo


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demo; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("build/llm"), help="output folder")
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=KINDS, help="by default both")
    parser.add_argument(
        "--without-lora", action="store_true", help="leave out the comparison, and its long export"
    )
    options = parser.parse_args(arguments)
    console = Console()
    found = prepare(options.output, options.kind, with_lora=not options.without_lora)
    context = machine_context()
    results: dict[str, Any] = {}
    records: list[Record] = []
    for kind, files in found.items():
        demo = run(console, kind, files)
        results[kind] = demo.results
        records += demo.records
    results["bench"] = RunFile(context, tuple(records)).to_json()
    path = options.output / "llm.json"
    sections = (f" {json.dumps(name)}: {json.dumps(part)}" for name, part in results.items())
    path.write_text("{\n" + ",\n".join(sections) + "\n}\n", encoding="utf-8")
    console.print(f"Wrote {path}.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
