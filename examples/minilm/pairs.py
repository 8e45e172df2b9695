# SPDX-License-Identifier: Apache-2.0
"""Reads the shipped sentence pairs and the queries that the demo shows."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

LANGUAGES = ("de", "fr", "ru")

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Pair:
    """One sentence in English and its translation.

    Ids that differ in their last letter only form a group: sentences that differ in one detail
    and are each other's hard negatives.
    """

    id: str
    english: str
    foreign: str


def load_pairs(language: str) -> list[Pair]:
    """Reads the pairs of one of `LANGUAGES`; ids and English sentences are the same in all."""
    path = _FOLDER / "pairs" / f"{language}.tsv"
    with path.open(encoding="utf-8", newline="") as lines:
        rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [Pair(row["id"], row["english"], row["foreign"]) for row in rows]


def demo_queries(language: str) -> list[Pair]:
    """Reads the pairs whose answers the demo prints.

    They are picked for the change they show: the base answers them wrongly and the language's
    adapter rightly.
    """
    ids = json.loads((_FOLDER / "queries.json").read_text(encoding="utf-8"))[language]
    by_id = {pair.id: pair for pair in load_pairs(language)}
    return [by_id[pair_id] for pair_id in ids]
