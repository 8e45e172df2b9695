# SPDX-License-Identifier: Apache-2.0
"""Counts how many answers of base and adapters pass the strict checks, in float32 and in 4 bits.

Run from the repository's root: ``python -m examples.smollm2.evaluate``. The float32 rows are the
PyTorch module with merged weights; the 4-bit ones are the live ExecuTorch program, switched from
state to state. Writes eval_results.json and puts the tables of MODEL_CARD.md in step with it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import shira_runtime
from benchmarks.doc_tables import replace_block
from examples.smollm2 import adapters, batch, tasks, weights
from examples.smollm2.files import prepare
from examples.smollm2.generate import CACHE_LENGTH, generate
from examples.smollm2.model import Decoder

FOLDER = Path(__file__).parent
RESULTS_PATH = FOLDER / "eval_results.json"
TRAIN_RESULTS_PATH = adapters.ADAPTERS_FOLDER / "train_results.json"
CARD_PATH = FOLDER / "MODEL_CARD.md"
MOST_TOKENS = 64
KINDS = ("float32", "8da4w")

STATES: dict[str, dict[str, float]] = {
    "base": {},
    "json": {"json": 1.0},
    "telegram": {"telegram": 1.0},
    "json + telegram": {"json": 1.0, "telegram": 1.0},
}
"""Active adapters with their scales, by the name of the state."""


@dataclass(frozen=True)
class PromptSet:
    """Prompts, the checks that each answer to them is put to, and the states that are asked."""

    name: str
    examples: Sequence[tasks.Example]
    checks: Mapping[str, Callable[[tasks.Example, str], bool]]
    states: Sequence[str] = tuple(STATES)


def prompt_sets() -> list[PromptSet]:
    """The held-out prompts of both tasks, and those of telegrams with the request spelled out."""
    telegrams = tasks.telegram_check()
    requested = [tasks.Example(tasks.TELEGRAM_REQUEST + example.prompt) for example in telegrams]
    in_json = {"strict JSON": tasks.json_is_strict, "strict and right": tasks.json_is_right}
    is_telegram = {"strict telegram": tasks.telegram_is_strict}
    return [
        PromptSet("record", tasks.json_check(), in_json),
        PromptSet("question", telegrams, is_telegram),
        PromptSet("question, telegram asked for", requested, is_telegram, ("base",)),
    ]


def score(
    weights_name: str, state: str, prompts: PromptSet, answers: Sequence[str]
) -> list[dict[str, Any]]:
    """One row for each check: how many answers pass it."""
    pairs = list(zip(prompts.examples, answers, strict=True))
    return [
        {
            "weights": weights_name,
            "state": state,
            "prompts": prompts.name,
            "check": check,
            "passed": sum(passes(example, answer) for example, answer in pairs),
            "count": len(pairs),
        }
        for check, passes in prompts.checks.items()
    ]


def evaluate_float() -> list[dict[str, Any]]:
    """Scores the PyTorch module in every state."""
    published = weights.load_state_dict()
    rows = []
    for state, members in STATES.items():
        decoder = Decoder(weights.load_config(CACHE_LENGTH))
        decoder.load_state_dict(adapters.merged(published, members))
        decoder.eval().requires_grad_(False)
        for prompts in (each for each in prompt_sets() if state in each.states):
            texts = [example.prompt for example in prompts.examples]
            rows += score("float32", state, prompts, batch.answers(decoder, texts, MOST_TOKENS))
            report(rows, prompts)
    return rows


def evaluate_program(folder: Path) -> list[dict[str, Any]]:
    """Scores the 4-bit ExecuTorch program, switched to every state."""
    files = prepare(folder, ["8da4w"])["8da4w"]
    program = shira_runtime.load_program(files.program)
    for name, path in files.adapters.items():
        program.add_adapter(path, name)
    rows = []
    for state, members in STATES.items():
        program.switch(members)
        for prompts in (each for each in prompt_sets() if state in each.states):
            answers = [
                generate(program, example.prompt, MOST_TOKENS).text for example in prompts.examples
            ]
            rows += score("8da4w", state, prompts, answers)
            report(rows, prompts)
    return rows


def report(rows: Sequence[Mapping[str, Any]], prompts: PromptSet) -> None:
    """Prints the last prompt set's rows."""
    for row in rows[-len(prompts.checks) :]:
        print(
            f"{row['weights']}, {row['state']}: {row['prompts']}: {row['passed']} of {row['count']}"
            f" {row['check']}",
            flush=True,
        )


def render_scores(results: Mapping[str, Any]) -> str:
    """A Markdown table: a row per check, columns per state and kind of weights."""
    rows = results["scores"]
    kinds = list(dict.fromkeys(row["weights"] for row in rows))
    states = list(dict.fromkeys(row["state"] for row in rows))
    found = {(r["prompts"], r["check"], r["weights"], r["state"]): r for r in rows}
    lines = [
        f"| prompts, check | weights | {' | '.join(states)} |",
        "|---" * (len(states) + 2) + "|",
    ]
    for prompts, check in dict.fromkeys((row["prompts"], row["check"]) for row in rows):
        for kind in kinds:
            cells = [found.get((prompts, check, kind, state)) for state in states]
            counts = [f"{cell['passed']}/{cell['count']}" if cell else "" for cell in cells]
            lines.append(f"| {prompts}: {check} | {kind} | {' | '.join(counts)} |")
    return "\n".join(lines) + "\n"


def render_training(records: Mapping[str, Any]) -> str:
    """What each adapter was trained with, as Markdown."""
    lines = [
        "| adapter | seed | weights trained | share | steps | batch | rate | loss | wall seconds |",
        "|---" * 9 + "|",
    ]
    for name, record in sorted(records.items()):
        settings = record["settings"]
        share = record["trained_entry_count"] / record["target_weight_count"]
        lines.append(
            f"| {name} | {record['seed']} | {record['trained_entry_count']:,} | {share:.2%} "
            f"| {settings['steps']} | {settings['batch_examples']} | {settings['learning_rate']} "
            f"| {record['final_loss']:.4f} | {record['seconds']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Evaluates every state; rows of weights that are left out stay as they are in the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("build/llm"), help="of the program")
    parser.add_argument("--output", type=Path, default=RESULTS_PATH, help="where to write JSON")
    parser.add_argument("--weights", nargs="*", choices=KINDS, default=KINDS)
    arguments = parser.parse_args()
    known = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    rows = {
        kind: [row for row in known.get("scores", []) if row["weights"] == kind] for kind in KINDS
    }
    if "float32" in arguments.weights:
        rows["float32"] = evaluate_float()
    if "8da4w" in arguments.weights:
        rows["8da4w"] = evaluate_program(arguments.folder)
    results = {
        "schema_version": 1,
        "states": STATES,
        "scores": [row for kind in KINDS for row in rows[kind]],
        "most_tokens": MOST_TOKENS,
        "versions": {"torch": torch.__version__},
    }
    arguments.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if arguments.output == RESULTS_PATH:
        records = json.loads(TRAIN_RESULTS_PATH.read_text(encoding="utf-8"))
        card = CARD_PATH.read_text(encoding="utf-8")
        card = replace_block(card, "scores", render_scores(results))
        card = replace_block(card, "training", render_training(records))
        CARD_PATH.write_text(card, encoding="utf-8")


if __name__ == "__main__":
    main()
