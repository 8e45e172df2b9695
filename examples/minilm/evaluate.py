# SPDX-License-Identifier: Apache-2.0
"""Measures cross-lingual retrieval of base and adapters on a Debian manual and the shipped pairs.

Run from the repository's root: ``python -m examples.minilm.evaluate``. It fetches the manual,
writes eval_results.json and puts the tables of MODEL_CARD.md in step with it.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import peft
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from examples.minilm import manuals
from examples.minilm.model import SentenceEncoder, load_encoder, load_tokenizer, tokenize
from examples.minilm.pairs import LANGUAGES, load_pairs

FOLDER = Path(__file__).parent
RESULTS_PATH = FOLDER / "eval_results.json"
TRAIN_RESULTS_PATH = FOLDER / "adapters" / "train_results.json"
CARD_PATH = FOLDER / "MODEL_CARD.md"

STATES: dict[str, dict[str, float]] = {
    "base": {},
    "minilm-de": {"minilm-de": 1.0},
    "minilm-de-random": {"minilm-de-random": 1.0},
    "minilm-fr": {"minilm-fr": 1.0},
    "minilm-ru": {"minilm-ru": 1.0},
    "half de + half fr": {"minilm-de": 0.5, "minilm-fr": 0.5},
}
"""Active adapters with their scales, by the name of the state."""

_SHORTEST_HALVED_WORDS = 16
_BATCH_SENTENCES = 32
_BOOTSTRAP_DRAWS = 1000


@dataclass(frozen=True)
class Task:
    """Retrieval of each document by its own query among all documents."""

    name: str
    queries: list[str]
    documents: list[str]


def merged_encoder(scales: dict[str, float]) -> SentenceEncoder:
    """Builds the encoder with shipped adapters merged by PEFT at the given scales."""
    encoder = load_encoder()
    if not scales:
        return encoder
    first, *others = scales
    model = peft.PeftModel.from_pretrained(encoder, FOLDER / "adapters" / first, adapter_name=first)
    for name in others:
        model.load_adapter(FOLDER / "adapters" / name, adapter_name=name)
    for module in model.modules():
        if hasattr(module, "shira_weight"):
            for name, scale in scales.items():
                module.set_scale(name, scale)
    # PEFT's deltas are sparse tensors; torch warns where nobody says whether to check them.
    with torch.sparse.check_sparse_tensor_invariants(enable=True):
        merged: SentenceEncoder = model.merge_and_unload(adapter_names=list(scales))
    return merged


def load_tasks(cache: Path) -> list[Task]:
    """Reads the manual in three languages, the shipped pairs and an English-only control."""
    tasks = []
    for language in LANGUAGES:
        pairs = manuals.aligned_pairs(manuals.FAQ, language, cache)
        tasks.append(
            Task(
                f"debian-faq {language} -> en",
                [pair.foreign for pair in pairs],
                [pair.english for pair in pairs],
            )
        )
    for language in LANGUAGES:
        shipped = load_pairs(language)
        tasks.append(
            Task(
                f"shipped pairs {language} -> en",
                [pair.foreign for pair in shipped],
                [pair.english for pair in shipped],
            )
        )
    # The control: what an adapter costs in English. First halves look for their second halves.
    split = [text.split() for text in tasks[0].documents]
    long = [words for words in split if len(words) >= _SHORTEST_HALVED_WORDS]
    tasks.append(
        Task(
            "debian-faq en halves",
            [" ".join(words[: len(words) // 2]) for words in long],
            [" ".join(words[len(words) // 2 :]) for words in long],
        )
    )
    return tasks


def embed(encoder: SentenceEncoder, sentences: list[str]) -> NDArray[numpy.float32]:
    """Embeds sentences as (len(sentences), 384) unit-length float32 rows."""
    tokenizer = load_tokenizer()
    # Sentences of like length share a batch, so that little padding is computed.
    order = sorted(range(len(sentences)), key=lambda index: len(sentences[index]))
    rows = numpy.empty((len(sentences), encoder.config.hidden_size), dtype=numpy.float32)
    with torch.inference_mode():
        for start in range(0, len(order), _BATCH_SENTENCES):
            chosen = order[start : start + _BATCH_SENTENCES]
            batch = tokenize(tokenizer, [sentences[index] for index in chosen])
            rows[chosen] = encoder(*batch).numpy()
    return rows


def find_ranks(
    queries: NDArray[numpy.float32], documents: NDArray[numpy.float32]
) -> NDArray[numpy.int64]:
    """Finds the place of each query's own document among all, 1 being the best.

    Args:
        queries: (count, features) unit-length embeddings.
        documents: (count, features) unit-length embeddings; row i belongs to query i.

    Returns:
        (count,) ranks by cosine similarity.
    """
    similarity = queries @ documents.T
    own = numpy.diagonal(similarity)[:, None]
    better: NDArray[numpy.int64] = (similarity > own).sum(axis=1, dtype=numpy.int64)
    return better + 1


def measure(state: str, task: Task, encoder: SentenceEncoder) -> dict[str, Any]:
    """Scores one state on one task: mean reciprocal rank with its standard error, and recall."""
    found = find_ranks(embed(encoder, task.queries), embed(encoder, task.documents))
    reciprocal = 1.0 / found
    draws = numpy.random.default_rng(0).integers(len(found), size=(_BOOTSTRAP_DRAWS, len(found)))
    return {
        "state": state,
        "task": task.name,
        "query_count": len(found),
        "mrr": round(float(reciprocal.mean()), 4),
        "mrr_standard_error": round(float(reciprocal[draws].mean(axis=1).std()), 4),
        "recall_at_1": round(float(numpy.mean(found <= 1)), 4),
        "recall_at_10": round(float(numpy.mean(found <= 10)), 4),
    }


def render_scores(results: dict[str, Any]) -> str:
    """Writes the scores as a Markdown table: a row per task, a column per state."""
    lines = [
        "| MRR (R@1) | queries | " + " | ".join(STATES) + " |",
        "|---" * (len(STATES) + 2) + "|",
    ]
    for task in dict.fromkeys(row["task"] for row in results["scores"]):
        rows = {row["state"]: row for row in results["scores"] if row["task"] == task}
        cells = [f"{rows[name]['mrr']:.3f} ({rows[name]['recall_at_1']:.3f})" for name in STATES]
        lines.append(f"| {task} | {rows['base']['query_count']} | " + " | ".join(cells) + " |")
    errors = [row["mrr_standard_error"] for row in results["scores"]]
    lines += ["", f"Standard errors of the MRRs: {min(errors):.3f} to {max(errors):.3f}."]
    packages = ", ".join(f"{name} {version}" for name, version in results["packages"].items())
    lines += ["", f"Packages: {packages}."]
    return "\n".join(lines)


def render_training(records: dict[str, Any]) -> str:
    """Writes what each adapter was trained on, with which settings, as Markdown."""
    lines = [
        "| adapter | mask | sources | pairs | weights trained | share | loss | wall seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, record in sorted(records.items()):
        share = record["trained_entry_count"] / record["target_weight_count"]
        lines.append(
            f"| {name} | {record['mask']} | {', '.join(record['sources'])} "
            f"| {record['pair_count']} | {record['trained_entry_count']} | {share:.2%} "
            f"| {record['final_loss']:.4f} | {record['seconds']:.0f} |"
        )
    titles = {"settings": "Settings", "packages": "Packages", "versions": "Versions"}
    for key, title in titles.items():
        by_text: dict[str, list[str]] = {}
        for name, record in sorted(records.items()):
            text = ", ".join(f"{field} {value}" for field, value in record[key].items())
            by_text.setdefault(text, []).append(name)
        lines += ["", f"{title}:", ""]
        lines += [f"- {', '.join(names)}: {text}" for text, names in by_text.items()]
    return "\n".join(lines)


def render_card(card: str, results: dict[str, Any], records: dict[str, Any]) -> str:
    """Replaces what stands between the card's markers by fresh tables."""
    tables = {"scores": render_scores(results), "training": render_training(records)}
    for name, table in tables.items():
        begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
        before, found_begin, rest = card.partition(begin)
        _, found_end, after = rest.partition(end)
        if not found_begin or not found_end:
            raise ValueError(f"{CARD_PATH.name}: the markers of {name} are missing")
        card = f"{before}{begin}{table}\n{end}{after}"
    return card


def print_scores(results: dict[str, Any]) -> None:
    """Prints the scores as a table on the terminal."""
    table = Table(title="Retrieval: MRR / R@1 / R@10")
    table.add_column("task", no_wrap=True)
    for name in STATES:
        table.add_column(name, justify="right", overflow="fold")
    for task in dict.fromkeys(row["task"] for row in results["scores"]):
        rows = {row["state"]: row for row in results["scores"] if row["task"] == task}
        table.add_row(
            f"{task} ({rows['base']['query_count']})",
            *(
                "\n".join(f"{rows[n][key]:.3f}" for key in ("mrr", "recall_at_1", "recall_at_10"))
                for n in STATES
            ),
        )
    Console().print(table)


def main() -> None:
    """Evaluates every state on every task."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=manuals.CACHE_FOLDER)
    parser.add_argument("--output", type=Path, default=RESULTS_PATH, help="where to write JSON")
    arguments = parser.parse_args()
    tasks = load_tasks(arguments.cache)
    scores = []
    for state, scales in STATES.items():
        encoder = merged_encoder(scales)
        for task in tasks:
            scores.append(measure(state, task, encoder))
            print(f"{state}: {task.name} MRR {scores[-1]['mrr']:.3f}", flush=True)
    results = {
        "schema_version": 1,
        "states": STATES,
        "scores": scores,
        "packages": manuals.package_versions(
            [(manuals.FAQ, language) for language in LANGUAGES], arguments.cache
        ),
        "versions": {"torch": torch.__version__, "peft": peft.__version__},
    }
    arguments.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print_scores(results)
    if arguments.output == RESULTS_PATH:
        records = json.loads(TRAIN_RESULTS_PATH.read_text(encoding="utf-8"))
        card = render_card(CARD_PATH.read_text(encoding="utf-8"), results, records)
        CARD_PATH.write_text(card, encoding="utf-8")


if __name__ == "__main__":
    main()
