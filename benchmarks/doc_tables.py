# SPDX-License-Identifier: Apache-2.0
"""Writes the tables in README.md and docs from stored runs, so that no number in them is typed.

Run from the repository's root: ``python -m benchmarks.doc_tables [demo.json] [--llm llm.json]
[--fuzz fuzz.json] [--opening open_speed.json]``. With a file, that run of the demo, of ``make
demo-llm``, ``make fuzz`` or ``make bench-open`` is stored in ``docs/runs`` first.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shira_runtime.bench import Record, RunFile
from shira_runtime.bench.statistics import median, percentile

ROOT = Path(__file__).resolve().parents[1]
STORED_RUN = ROOT / "docs" / "runs" / "demo.json"
LLM_RUN = ROOT / "docs" / "runs" / "llm.json"
LLM_SCORES = ROOT / "examples" / "smollm2" / "eval_results.json"
README = ROOT / "README.md"
FORMAT_RUN = ROOT / "docs" / "runs" / "format.json"
FORMAT_SIZES = ROOT / "docs" / "FORMAT_SIZES.md"
OPENING_RUN = ROOT / "docs" / "runs" / "open_speed.json"
PACKED_RUN = ROOT / "docs" / "runs" / "bench_packed.json"
EXECUTORCH = ROOT / "docs" / "EXECUTORCH.md"
FUZZ_RUN = ROOT / "docs" / "runs" / "fuzz.json"
FUZZING = ROOT / "docs" / "FUZZING.md"


def replace_block(text: str, name: str, content: str) -> str:
    """Puts ``content`` between ``<!-- begin: name -->`` and ``<!-- end: name -->``.

    Raises:
        ValueError: the text does not have exactly one such block.
    """
    pattern = rf"(<!-- begin: {re.escape(name)} -->\n).*?(<!-- end: {re.escape(name)} -->)"
    replaced, count = re.subn(
        pattern, lambda match: match[1] + content + match[2], text, flags=re.DOTALL
    )
    if count != 1:
        raise ValueError(f"expected one block named {name!r}, found {count}")
    return replaced


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A GitHub table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _records(bench: RunFile, what: str) -> list[Record]:
    return [record for record in bench.records if record.case["what"] == what]


def _times_table(title: str, records: Sequence[Record], decimals: int) -> str:
    """Median and 95th percentile of each arm."""

    def milliseconds(nanoseconds: float) -> str:
        return f"{nanoseconds / 1e6:.{decimals}f}"

    return markdown_table(
        [title, "median ms", "p95 ms"],
        [
            [
                record.arm,
                milliseconds(median(record.samples)),
                milliseconds(percentile(record.samples, 95)),
            ]
            for record in records
        ],
    )


def demo_tables(run: dict[str, Any]) -> str:
    """The three tables and the context line of a demo run."""
    states = run["states"]
    languages = list(next(iter(states.values()))["mrr"])
    retrieval = markdown_table(
        ["state", *(f"MRR {language} to en" for language in languages)],
        [
            [name, *(f"{state['mrr'][language]:.3f}" for language in languages)]
            for name, state in states.items()
        ],
    )
    bench = RunFile.from_json(run["bench"], "demo.json")
    switches = _times_table(
        "exchange adapter A for B, one thread", _records(bench, "exchange"), decimals=3
    )
    forwards = markdown_table(
        ["one forward pass", "median ms"],
        [
            [record.arm, f"{median(record.samples) / 1e6:.2f}"]
            for record in _records(bench, "forward")
        ],
    )
    context = bench.context
    first = run["states"]["de"]["switch"]["total_ns"] / 1e6
    note = (
        f"The first switch of all, which pays the copy-on-write page faults, took {first:.2f} ms. "
        f"Measured on {context['cpu']} ({context['machine']}, {context['cores']} cores), "
        f"torch {context['versions']['torch']}; both LoRAs have as many parameters as the adapters"
        f" have entries. Raw samples: [docs/runs/demo.json](docs/runs/demo.json).\n"
    )
    return "\n".join([retrieval, switches, forwards, note])


def llm_tables(run: dict[str, Any], scores: dict[str, Any]) -> str:
    """The tables and the context line of a run of the language model's demo.

    Args:
        run: llm.json.
        scores: the evaluation's results, of which the rows of the 4-bit program are taken.
    """
    checks = {"record": "strict JSON", "question": "strict telegram"}
    passed = {
        (row["state"], row["check"]): f"{row['passed']} of {row['count']}"
        for row in scores["scores"]
        if row["weights"] == "8da4w" and checks.get(row["prompts"]) == row["check"]
    }
    states = markdown_table(
        ["state", *(f"{check}, held out" for check in checks.values()), "how an answer begins"],
        [
            [
                name,
                *(passed.get((name, check), "") for check in checks.values()),
                f"`{' '.join(state['answers'][-1 if name == 'telegram' else 0].split()):.70}`",
            ]
            for name, state in run["8da4w"]["states"].items()
            if name in scores["states"]
        ],
    )
    bench = RunFile.from_json(run["bench"], "llm.json")
    kinds = [name for name in run if name != "bench"]
    changes: dict[str, list[str]] = {}
    for record in _records(bench, "switch"):
        milliseconds = (median(record.samples) / 1e6, percentile(record.samples, 95) / 1e6)
        changes.setdefault(record.arm, []).extend(f"{value:.1f}" for value in milliseconds)
    switches = markdown_table(
        ["change", *(f"{kind}, {what} ms" for kind in kinds for what in ("median", "p95"))],
        [[change, *cells] for change, cells in changes.items()],
    )
    sizes = ("resident", "proportional", "private")
    generation = []
    for record in _records(bench, "generate"):
        kind = str(record.case["model"]).removeprefix("smollm2-")
        memory = run[kind]["memory"][record.arm]
        speed = 1e9 * record.counts["tokens"] / median(record.samples)
        cells = [f"{memory[size] / 1e6:.0f}" for size in sizes]
        generation.append([f"{kind}, {record.arm}", f"{speed:.1f}", *cells])
    tokens = markdown_table(
        ["weights", "tokens/s", *(f"{size} memory, MB" for size in sizes)], generation
    )
    context = bench.context
    codes = run["8da4w"]
    entries = ", ".join(f"{name} {a['entries']:,}" for name, a in codes["adapters"].items())
    changed = codes["states"]["json"]["switch"]["elements_changed"]
    right, stale = sorted(codes["cache"]["largest_errors"].values())
    note = (
        "8da4w: weights of 4 bits, activations of 8. Resident memory counts a page once for every"
        " place where it is mapped (packed weights have two), proportional memory once. Entries in"
        f" 8da4w: {entries}; of json's {changed:,} change a code. With a cache of the base, json's"
        f" first logits were off by up to {stale:.1f}; with what was read again, by {right:.1f}."
        f" Measured on {context['cpu']} ({context['machine']}, {context['cores']} cores)."
        " Raw samples: [docs/runs/llm.json](docs/runs/llm.json).\n"
    )
    return "\n".join([states, switches, tokens, note])


def format_tables(run: dict[str, Any]) -> str:
    """The two tables of file sizes: masks of every kind, and the trained adapters."""
    values = list(run["masks"][0]["bytes_per_entry"])
    rows, columns = run["shape"]

    def sizes(record: dict[str, Any]) -> list[str]:
        return [f"{record['bytes_per_entry'][codec]:.3f}" for codec in values]

    masks = markdown_table(
        ["mask", "index codec", "index bits", *(f"file, {codec}" for codec in values)],
        [
            [
                mask["mask"],
                mask["index_codec"],
                f"{mask['index_bits_per_entry']:.3f}",
                *sizes(mask),
            ]
            for mask in run["masks"]
        ],
    )
    entropy = run["random_mask_entropy_bits_per_entry"]
    note = (
        f"One {rows} x {columns} tensor at {run['density']:.0%}; bits and bytes per entry, those of"
        f" the file with everything in it. Entropy allows no fewer than {entropy:.3f} index bits"
        f" for random entries and {run['block_mask_entropy_bits_per_entry']:.3f} for random 1 x 16"
        f" blocks. PEFT stores {run['peft_bytes_per_entry']} bytes per entry.\n"
    )
    trained = markdown_table(
        ["trained adapter", "mask", "entries", "index bits", *(f"file, {c}" for c in values)],
        [
            [
                adapter["adapter"],
                adapter["mask"],
                f"{adapter['entry_count']:,}",
                f"{adapter['index_bits_per_entry']:.3f}",
                *sizes(adapter),
            ]
            for adapter in run["minilm"]
        ],
    )
    return "\n".join([masks, note, trained])


def opening_table(run: dict[str, Any]) -> str:
    """The table of how fast files are opened, and its context line."""
    table = markdown_table(
        ["file", "bytes per entry", "M entries/s", "positions alone, M entries/s", "peak / plan"],
        [
            [
                file["file"],
                f"{file['file_bytes'] / file['entry_count']:.2f}",
                f"{1e3 / file['open_ns_per_entry']:,.0f}",
                f"{1e3 / file['index_ns_per_entry']:,.0f}",
                f"{file['peak_bytes'] / file['plan_bytes']:.3f}",
            ]
            for file in run["files"]
        ],
    )
    rows, columns = run["shape"]
    machine = run["machine"]
    note = (
        f"{run['tensor_count']} tensors of {rows} x {columns} at {run['density']:.0%}, medians of"
        f" {run['repeats']}, processor time of one thread on {machine['cpu']}"
        f" ({machine['machine']}); the file is in the page cache, the memory is new each time.\n"
    )
    return f"{table}\n{note}"


def packed_table(run: RunFile | None) -> str:
    """The table of one layer that XNNPACK has packed, of each kind, from a run of suite packed."""
    if run is None:
        return "No run with packed weights is stored yet.\n"
    kinds: dict[str, dict[str, Record]] = {}
    for record in run.records:
        kinds.setdefault(str(record.case["kind"]), {})[record.arm] = record

    def switch(records: dict[str, Record], arm: str) -> str:
        if arm not in records:
            return ""
        nanoseconds = median(records[arm].samples)
        return f"{nanoseconds / 1e6:.2f} ({nanoseconds / records[arm].counts['entries']:.1f})"

    table = markdown_table(
        [
            "weights",
            "load, ms",
            "of that compared with the file",
            "first switch, ms (ns an entry)",
            "of plain weights",
            "switch",
            "of plain weights",
            "revert",
        ],
        [
            [
                kind,
                f"{median(records['load the program'].samples) / 1e6:.1f}",
                f"{median(records['load the program'].stages['compare']) / 1e6:.1f}",
                switch(records, "switch base -> A, first"),
                switch(records, "plain: switch base -> A, first"),
                switch(records, "switch base -> A"),
                switch(records, "plain: switch base -> A"),
                switch(records, "switch A -> base"),
            ]
            for kind, records in kinds.items()
        ],
    )
    case, context = run.records[0].case, run.context
    note = (
        f"One layer of {case['shape']}, {case['density']:.0%} of it at random positions, one"
        f" thread; medians, {run.records[0].regime}. Loading packs the layer, finds out how, and"
        " compares every number of it. The first switch saves originals. Measured on"
        f" {context['cpu']} ({context['machine']}, {context['cores']} cores).\n"
    )
    return f"{table}\n{note}"


def stored_packed_run() -> RunFile | None:
    """The stored run of suite packed, or None."""
    return RunFile.read(PACKED_RUN) if PACKED_RUN.exists() else None


def fuzz_table(run: dict[str, Any]) -> str:
    """The table of the targets of a run of tests/fuzz/run.py."""
    table = markdown_table(
        ["target", "minutes", "executions", "per second", "inputs", "findings"],
        [
            [
                f"`{record['target']}`",
                f"{record['seconds'] / 60:.1f}",
                f"{record['executions']:,}",
                f"{record['executions_per_second']:,}",
                f"{record['corpus_files']:,}",
                f"{len(record['findings'])}",
            ]
            for record in run["targets"]
        ],
    )
    context = run["context"]
    note = (
        f"Commit {run['commit']}, {context['cpu']} ({context['machine']}), {context['jobs']}"
        " targets at a time, with both sanitizers. Inputs are those that each cover something of"
        " their own; for `differential`, those compared as they are before they are changed.\n"
    )
    return f"{table}\n{note}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Regenerates README.md and the pages with tables; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", type=Path, help="demo.json of a new run to store")
    parser.add_argument("--llm", type=Path, help="llm.json of a new run to store")
    parser.add_argument("--fuzz", type=Path, help="fuzz.json of a new run to store")
    parser.add_argument("--opening", type=Path, help="open_speed.json of a new run to store")
    options = parser.parse_args(arguments)
    if options.fuzz:
        shutil.copyfile(options.fuzz, FUZZ_RUN)
    if options.opening:
        shutil.copyfile(options.opening, OPENING_RUN)
    if options.llm:
        shutil.copyfile(options.llm, LLM_RUN)
    if options.run:
        STORED_RUN.parent.mkdir(parents=True, exist_ok=True)
        for suffix in (".json", ".png"):
            shutil.copyfile(options.run.with_suffix(suffix), STORED_RUN.with_suffix(suffix))
    tables = demo_tables(json.loads(STORED_RUN.read_text()))
    README.write_text(replace_block(README.read_text(), "demo", tables))
    tables = llm_tables(json.loads(LLM_RUN.read_text()), json.loads(LLM_SCORES.read_text()))
    README.write_text(replace_block(README.read_text(), "llm", tables))
    tables = format_tables(json.loads(FORMAT_RUN.read_text()))
    FORMAT_SIZES.write_text(replace_block(FORMAT_SIZES.read_text(), "sizes", tables))
    tables = opening_table(json.loads(OPENING_RUN.read_text()))
    FORMAT_SIZES.write_text(replace_block(FORMAT_SIZES.read_text(), "opening", tables))
    tables = packed_table(stored_packed_run())
    EXECUTORCH.write_text(replace_block(EXECUTORCH.read_text(), "packed", tables))
    tables = fuzz_table(json.loads(FUZZ_RUN.read_text()))
    FUZZING.write_text(replace_block(FUZZING.read_text(), "fuzz", tables))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
