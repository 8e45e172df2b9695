# SPDX-License-Identifier: Apache-2.0
"""The main job, end to end: one live ExecuTorch program, adapters switched in place.

``make demo`` (or ``shira demo`` in a checkout) exports the base and the trained adapters, loads the
program in ExecuTorch, switches base -> de -> fr -> half of each -> base, and shows retrieval
answers and scores from the program itself, proof of a byte-identical revert, and switch times
beside LoRA fusion. It writes ``demo.json`` (raw samples included) and ``demo.png``.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import shira_runtime
from benchmarks import lora_fusion
from examples.minilm import export_program, figure, pairs
from examples.minilm.model import load_encoder, load_tokenizer, tokenize
from shira_runtime.bench import ALL_WARM, Arm, Case, Record, RunFile, run_case, stages_of
from shira_runtime.bench.context import machine_context
from shira_runtime.bench.expected import ExpectedWeights
from shira_runtime.bench.statistics import median, percentile
from shira_runtime.export import export_adapter

HERE = Path(__file__).resolve().parent
LANGUAGES = ("de", "fr")  # Russian is in `make eval`: its base is too weak for this small text
ADAPTERS = {
    "de": "minilm-de",
    "fr": "minilm-fr",
    "de-random": "minilm-de-random",
}
LORA_TARGETS = r"encoder\.layer\.\d+\..*(query|key|value|dense)"
LORA_RANK = 2  # as many parameters as the adapters have entries
SWITCH_ROUNDS = 200
FORWARD_ROUNDS = 40

SUITE = "demo"
SWITCHES, FORWARDS = "exchange", "forward"  # "what" of the two cases in the records

State = Mapping[str, float] | str | None
STATES: dict[str, State] = {
    "base": None,
    "de": "de",
    "fr": "fr",
    "de/2 + fr/2": {"de": 0.5, "fr": 0.5},
    "base again": None,
}


@dataclass
class Demo:
    """Everything the steps share; ``results`` and ``records`` become demo.json."""

    console: Console
    folder: Path
    program: Any
    delegated: Any  # the same encoder, delegated to XNNPACK
    base_path: Path
    tokenizer: Any
    corpora: dict[str, list[pairs.Pair]]
    adapter_files: dict[str, Path]
    results: dict[str, Any] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)

    def time(self, what: str, arms: Sequence[Arm], rounds: int) -> list[Record]:
        """Times arms in turns, keeps the records, and gives them back."""
        case = Case({"model": "minilm", "what": what}, arms, (ALL_WARM,), rounds)
        records = run_case(SUITE, case)
        self.records += records
        return records

    def embed(self, sentences: Sequence[str]) -> Tensor:
        """(len(sentences), 384) unit-length embeddings, computed by the ExecuTorch program."""
        # Sorted by length, a batch carries little padding.
        order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))
        embeddings = torch.empty(len(sentences), 384)
        for start in range(0, len(order), export_program.MAX_BATCH):
            chosen = order[start : start + export_program.MAX_BATCH]
            batch = tokenize(self.tokenizer, [sentences[i] for i in chosen])
            embeddings[chosen] = torch.from_numpy(self.program.forward(*batch)[0])
        return embeddings


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def reciprocal_ranks(queries: Tensor, answers: Tensor) -> Tensor:
    """(n,) reciprocal rank of answer i for query i, by cosine among all answers."""
    scores = queries @ answers.T
    return 1.0 / (1 + (scores > scores.diagonal()[:, None]).sum(dim=1)).float()


def prepare(console: Console, folder: Path) -> Demo:
    """Exports base and adapters into ``folder`` and loads the program."""
    folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    base_path, delegated_path = folder / "minilm.pte", folder / "minilm-xnnpack.pte"
    export_program.export_minilm(base_path, force=True)
    export_program.export_minilm(delegated_path, backend="xnnpack", force=True)
    adapter_files = {}
    for name, source in ADAPTERS.items():
        adapter_files[name] = folder / f"{name}.shb"
        export_adapter(
            HERE / "adapters" / source, adapter_files[name], base=base_path, name=name, force=True
        )
    console.print(
        f"Exported the base program, portable and delegated, and {len(adapter_files)} adapters "
        f"in {time.perf_counter() - start:.1f} s."
    )
    program = shira_runtime.load_program(base_path)
    demo = Demo(
        console=console,
        folder=folder,
        program=program,
        delegated=shira_runtime.load_program(delegated_path),
        base_path=base_path,
        tokenizer=load_tokenizer(),
        corpora={language: pairs.load_pairs(language) for language in LANGUAGES},
        adapter_files=adapter_files,
    )
    table = Table("adapter", "entries", "file bytes", "bytes per entry", title="Adapters")
    rows = {}
    for name, path in adapter_files.items():
        adapter = shira_runtime.Adapter.open(path)
        program.add_adapter(adapter)
        demo.delegated.add_adapter(adapter)
        size = path.stat().st_size
        rows[name] = {"entries": adapter.entry_count, "file_bytes": size}
        table.add_row(
            name, f"{adapter.entry_count:,}", f"{size:,}", f"{size / adapter.entry_count:.2f}"
        )
    console.print(table)
    demo.results["adapters"] = rows
    return demo


def show_retrieval(demo: Demo) -> None:
    """Switches through all states; scores and answers come from the live program."""
    program, console = demo.program, demo.console
    sha256_before = file_sha256(demo.base_path)
    # The English sentences are the same for all languages.
    english_sentences = [pair.english for pair in next(iter(demo.corpora.values()))]
    headers = [f"MRR {language} -> en" for language in demo.corpora]
    scores = Table("state", *headers, "switch", "pages")
    answers = Table("state", "question", "answer", "", title="Nearest English sentence")
    embeddings: dict[str, dict[str, Tensor]] = {}
    rows = {}
    for state, members in STATES.items():
        report = program.switch(members)
        english = demo.embed(english_sentences)
        embeddings[state] = {"en": english}
        row: dict[str, Any] = {"mrr": {}, "switch": report.to_dict()}
        for language, corpus in demo.corpora.items():
            foreign = demo.embed([pair.foreign for pair in corpus])
            embeddings[state][language] = foreign
            row["mrr"][language] = reciprocal_ranks(foreign, english).mean().item()
            for pair in pairs.demo_queries(language):
                if state not in ("base", language):
                    continue
                position = corpus.index(pair)
                best = int((english @ foreign[position]).argmax())
                mark = "[green]right[/]" if best == position else "[red]wrong[/]"
                answers.add_row(state, pair.foreign, corpus[best].english, mark)
        rows[state] = row
        scores.add_row(
            state,
            *(f"{row['mrr'][language]:.3f}" for language in demo.corpora),
            f"{report.total_ns / 1e6:.2f} ms",
            f"{report.pages_touched:,}",
        )
    scores.title = "Retrieval by the ExecuTorch program, state after state"
    console.print(answers, scores)
    verified = program.verify_base()
    identical = all(
        torch.equal(embeddings["base"][language], embeddings["base again"][language])
        for language in embeddings["base"]
    )
    unchanged = file_sha256(demo.base_path) == sha256_before
    console.print(
        f"Revert: {verified.bytes_checked:,} bytes of {verified.tensors_checked} live tensors are "
        f"byte-identical to the model file; all base embeddings are bit-equal: {identical}; "
        f"the model file is unchanged: {unchanged}."
    )
    if not (identical and unchanged):
        raise SystemExit("error: the base did not come back")
    demo.results["states"] = rows
    demo.results["revert"] = {
        "bytes_checked": verified.bytes_checked,
        "tensors_checked": verified.tensors_checked,
        "embeddings_bit_equal": identical,
        "file_unchanged": unchanged,
    }


def time_switches(demo: Demo) -> None:
    """Times later switches de <-> fr, interleaved with the LoRA exchanges, on one thread."""
    torch.set_num_threads(1)
    encoder = load_encoder()
    weights = [
        weight.detach().clone()
        for name, weight in encoder.named_parameters()
        if name.startswith("encoder.") and weight.dim() == 2
    ]
    entries = demo.results["adapters"]["de"]["entries"]
    baselines = [
        lora_fusion.peft_unmerge_merge(copy.deepcopy(encoder), LORA_TARGETS, LORA_RANK),
        lora_fusion.addmm_unfuse_fuse(weights, LORA_RANK),
    ]

    if any(baseline.parameters != entries for baseline in baselines):
        raise SystemExit("error: the LoRA baselines do not have as many parameters as entries")

    adapters = {name: shira_runtime.Adapter.open(demo.adapter_files[name]) for name in ADAPTERS}

    def alternate(program: Any, first: str, second: str, note: str) -> Arm:
        expected = ExpectedWeights(program, adapters)
        return Arm(
            f"SHiRA {first} -> {second} ({note})",
            lambda: stages_of(program.switch(second)),
            prepare=lambda: program.switch(first),
            check=lambda: expected.check_all(program, second),
        )

    records = demo.time(
        SWITCHES,
        [
            alternate(demo.program, "de", "fr", "1x16 blocks"),
            alternate(demo.program, "fr", "de-random", "random mask"),
            alternate(demo.delegated, "de", "fr", "1x16 blocks, packed by XNNPACK"),
            *(
                Arm(
                    baseline.name,
                    baseline.switch,
                    role="baseline",
                    counts={"parameters": baseline.parameters, "rank": LORA_RANK},
                )
                for baseline in baselines
            ),
        ],
        SWITCH_ROUNDS,
    )
    for program in (demo.program, demo.delegated):
        program.switch(None)

    ours = median(records[0].samples)
    table = Table(
        "what", "median ms", "p95 ms", "x", title="Exchange adapter A for B (later switches)"
    )
    for record in records:
        middle = median(record.samples)
        table.add_row(
            record.arm,
            f"{middle / 1e6:.3f}",
            f"{percentile(record.samples, 95) / 1e6:.3f}",
            f"{middle / ours:.1f}",
        )
    demo.console.print(table)
    first = demo.results["states"]["de"]["switch"]["total_ns"] / 1e6
    demo.console.print(
        f"1 thread, warm, {SWITCH_ROUNDS} shuffled rounds; both LoRAs have rank {LORA_RANK} and "
        f"{baselines[0].parameters:,} parameters. The first switch of all, which pays the "
        f"copy-on-write page faults, took {first:.2f} ms."
    )


def time_forwards(demo: Demo) -> None:
    """Times the forward pass after a switch against the base's, portable and delegated."""
    sentences = [pair.english for pair in demo.corpora["de"][: export_program.DELEGATED_BATCH]]
    batch = tokenize(demo.tokenizer, sentences)

    def after(name: str, program: Any, state: State) -> Arm:
        return Arm(
            name,
            lambda: run(program.forward, *batch),
            role="forward",
            prepare=lambda: program.switch(state),
        )

    def run(forward: Callable[..., object], *inputs: object) -> None:
        forward(*inputs)

    programs = (demo.program, demo.delegated)
    for state in (None, "de"):
        first, second = (embed_after(program, state, batch) for program in programs)
        if not torch.allclose(first, second, atol=1e-5):
            raise SystemExit(f"error: after switching to {state} the two programs do not agree")
    records = demo.time(
        FORWARDS,
        [
            after("base", demo.program, None),
            after("adapter de", demo.program, "de"),
            after("base, delegated to XNNPACK", demo.delegated, None),
            after("adapter de, delegated to XNNPACK", demo.delegated, "de"),
        ],
        FORWARD_ROUNDS,
    )
    for program in programs:
        program.switch(None)
    base = median(records[0].samples)
    table = Table("program", "median ms", "x base", title="One forward pass")
    for record in records:
        middle = median(record.samples)
        table.add_row(record.arm, f"{middle / 1e6:.2f}", f"{middle / base:.2f}")
    demo.console.print(table)
    demo.console.print(
        f"Batch of {batch[0].shape[0]} x {batch[0].shape[1]} tokens. The same adapter files serve "
        "both programs. All rows use ExecuTorch's own thread pool as it is set up by default."
    )


def embed_after(program: Any, state: State, batch: Sequence[Tensor]) -> Tensor:
    """What a program computes for a batch after a switch."""
    program.switch(state)
    return torch.from_numpy(program.forward(*batch)[0])


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demo; returns the exit code."""
    parser = argparse.ArgumentParser(prog="shira demo", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("build/demo"), help="output folder")
    options = parser.parse_args(arguments)
    console = Console(width=120 if not sys.stdout.isatty() else None)
    demo = prepare(console, options.output)
    context = machine_context()
    show_retrieval(demo)
    time_switches(demo)
    time_forwards(demo)
    demo.results["bench"] = RunFile(context, tuple(demo.records)).to_json()
    json_path, plot_path = options.output / "demo.json", options.output / "demo.png"
    sections = (f" {json.dumps(name)}: {json.dumps(part)}" for name, part in demo.results.items())
    json_path.write_text("{\n" + ",\n".join(sections) + "\n}\n")
    figure.draw(demo.results, plot_path)
    console.print(f"Wrote {json_path} and {plot_path}.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
