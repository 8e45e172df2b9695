# SPDX-License-Identifier: Apache-2.0
"""Reads the shipped sentence pairs and scores cross-lingual retrieval over embeddings."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy
from numpy.typing import NDArray

PAIRS_FOLDER = Path(__file__).parent / "pairs"
LANGUAGES = ("de", "fr", "ru")


@dataclass(frozen=True)
class SentencePair:
    """One sentence in English and its translation; ids ending in a, b, c ... form a group.

    The sentences of a group differ in one detail: they are each other's hard negatives.
    """

    id: str
    english: str
    foreign: str


@dataclass(frozen=True)
class Score:
    """How well each query finds its own document, between 0 and 1."""

    mrr: float
    recall_at_1: float
    recall_at_10: float


def read_pairs(language: str) -> list[SentencePair]:
    """Reads the shipped pairs of one of `LANGUAGES`; ids and English are the same in all."""
    path = PAIRS_FOLDER / f"{language}.tsv"
    with path.open(encoding="utf-8", newline="") as lines:
        rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [SentencePair(row["id"], row["english"], row["foreign"]) for row in rows]


def ranks(
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


def score(found_ranks: NDArray[numpy.int64]) -> Score:
    """Sums ranks up as mean reciprocal rank and recall."""
    return Score(
        mrr=float(numpy.mean(1.0 / found_ranks)),
        recall_at_1=float(numpy.mean(found_ranks <= 1)),
        recall_at_10=float(numpy.mean(found_ranks <= 10)),
    )
