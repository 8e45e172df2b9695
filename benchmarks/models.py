# SPDX-License-Identifier: Apache-2.0
"""Shapes of real models' weight matrices, from benchmarks/shapes/*.txt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "shapes"

#: Adapters are not trained on these.
_EMBEDDINGS = ("embed_tokens", "lm_head")


@dataclass(frozen=True)
class Matrix:
    """A weight matrix that a model has several times.

    Attributes:
        name: as in the upstream checkpoint, without the number of the layer.
        rows: outputs.
        columns: inputs.
        count: how many of them the model has.
    """

    name: str
    rows: int
    columns: int
    count: int

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.rows, self.columns


def model_names() -> tuple[str, ...]:
    """The models whose shapes are there."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.txt")))


def matrices(model: str, embeddings: bool = False) -> tuple[Matrix, ...]:
    """Read the matrices of a model, in the order of its file.

    Args:
        model: stem of a file in benchmarks/shapes.
        embeddings: list those too, on which adapters are not trained.

    Raises:
        ValueError: a line is malformed.
        OSError: there is no such file.
    """
    found = []
    path = FOLDER / f"{model}.txt"
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.startswith("#") or not line.strip():
            continue
        name, *sizes = line.split()
        if len(sizes) != 3 or not all(size.isdecimal() and int(size) > 0 for size in sizes):
            raise ValueError(f"{path}:{number}: expected tensor, rows, columns and count")
        if embeddings or name not in _EMBEDDINGS:
            found.append(Matrix(name, *map(int, sizes)))
    return tuple(found)


def distinct_shapes(model: str) -> tuple[tuple[int, int], ...]:
    """The shapes that adapters of a model meet, each once, in ascending order of size."""
    shapes = {matrix.shape for matrix in matrices(model)}
    return tuple(sorted(shapes, key=lambda shape: (shape[0] * shape[1], shape)))
