# SPDX-License-Identifier: Apache-2.0
"""`shira diff`: how much two adapters get in each other's way.

AWOM and AWOR are the paper's measures (arXiv 2406.13175, section 4) of two sparse updates A1 and A2
of one n x m weight: the spectral norm of A1^T A2, and the share of its m^2 elements that are zero.
"""

from __future__ import annotations

import importlib
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from shira_runtime import Adapter, _core
from shira_runtime.commands.adapters import IndexFrom, Names, Tiers, open_adapters
from shira_runtime.commands.bases import Base
from shira_runtime.commands.output import Json, Misuse, note, print_json, print_table
from shira_runtime.errors import error_of

_LARGEST_DENSE = 2048  # columns up to which the m x m product is formed without scipy


def diff(
    files: Annotated[
        list[Path], typer.Argument(help="Two .shb files, or a pack and --adapter twice.")
    ],
    names: Names = None,
    tiers: Tiers = None,
    index_from: IndexFrom = None,
    base: Annotated[
        Path | None,
        typer.Option(
            help="Their base; needed for masks of the largest base values, and for signs, AWOM and"
            " AWOR of target values."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Compare two adapters: overlap, sign conflicts, AWOM and AWOR."""
    adapters = open_adapters(files, names, tiers, index_from)
    if len(adapters) != 2:
        raise Misuse(f"name two adapters to compare, not {len(adapters)}")
    pair = (adapters[0], adapters[1])
    opened = None if base is None else Base(base)
    shared = [name for name in pair[0].tensors if name in pair[1].tensors]
    if opened is None:
        _refuse_masks_of_the_base(pair, shared)
    rows = [_compare(pair, name, opened) for name in shared]
    only = [[n for n in a.tensors if n not in b.tensors] for a, b in (pair, pair[::-1])]
    total = _total(rows)
    if json:
        print_json({"tensors": rows, "only_in": only, "total": total})
        return
    keys = ("entries_first", "entries_second", "overlap", "jaccard", "sign_conflicts")
    print_table(
        ("tensor", "entries A", "entries B", "overlap", "Jaccard", "conflicts", "AWOM", "AWOR"),
        [
            tuple("" if row[key] is None else row[key] for key in ("name", *keys, "awom", "awor"))
            for row in rows
        ],
        footer=("all", *("" if total[key] is None else total[key] for key in keys), "", ""),
    )
    for label, names in zip("AB", only, strict=True):
        if names:
            note(f"only in {label}: {', '.join(names)}")
    if any(row["sign_conflicts"] is None for row in rows):
        note("Target values say nothing about signs without their base: name it with --base.")
    if any(row["awom"] is None and row["sign_conflicts"] is not None for row in rows):
        note(
            f"AWOM and AWOR are for matrices; above {_LARGEST_DENSE} columns they need scipy"
            " (pip install scipy)."
        )


def _refuse_masks_of_the_base(pair: tuple[Adapter, Adapter], names: list[str]) -> None:
    for adapter, name in product(pair, names):
        if any(part.codec == "topk" for part in adapter.tensors[name].parts):
            raise Misuse(
                f"{adapter.path}: tensor {name}: its mask is that of the largest base values: name"
                " the base with --base"
            )


def _compare(pair: tuple[Adapter, Adapter], name: str, base: Base | None) -> dict[str, Any]:
    tensors = [adapter.tensors[name] for adapter in pair]
    if tensors[0].shape != tensors[1].shape:
        shapes = " and ".join(str(list(tensor.shape)) for tensor in tensors)
        raise error_of("SHAPE_MISMATCH", f"has shapes {shapes} in the two files", tensor=name)
    stored = None if base is None else _read_base(base, name, tensors[0].shape)
    indices = [tensor.indices(stored) for tensor in tensors]
    common, at_first, at_second = np.intersect1d(
        indices[0], indices[1], assume_unique=True, return_indices=True
    )
    row: dict[str, Any] = {
        "name": name,
        "entries_first": tensors[0].nnz,
        "entries_second": tensors[1].nnz,
        "overlap": len(common),
        "jaccard": len(common) / (tensors[0].nnz + tensors[1].nnz - len(common)),
        "sign_conflicts": None,
        "awom": None,
        "awor": None,
    }
    deltas = [
        _deltas(tensor, entries, stored) for tensor, entries in zip(tensors, indices, strict=True)
    ]
    if deltas[0] is None or deltas[1] is None:
        return row
    signs = np.sign(deltas[0][at_first]) * np.sign(deltas[1][at_second])
    row["sign_conflicts"] = int((signs < 0).sum())
    if len(tensors[0].shape) > 1:
        row["awom"], row["awor"] = orthogonality(
            tensors[0].shape, (indices[0], deltas[0]), (indices[1], deltas[1])
        )
    return row


def _read_base(base: Base, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
    stored = base.find(name)
    if stored is None or stored.shape != shape:
        raise error_of("UNKNOWN_TENSOR", f"{base.path} has none of this shape", tensor=name)
    return base.read(name)


def _deltas(
    tensor: _core.AdapterTensor, indices: NDArray[np.uint32], base: NDArray[Any] | None
) -> NDArray[np.float32] | None:
    if tensor.value_kind == "delta":
        return tensor.values()
    if base is None:
        return None
    original = base.reshape(-1)[indices].astype(np.float32)
    return np.asarray(tensor.values() - original, dtype=np.float32)


Entries = tuple[NDArray[np.uint32], NDArray[np.float32]]


def orthogonality(
    shape: tuple[int, ...], first: Entries, second: Entries
) -> tuple[float | None, float | None]:
    """AWOM and AWOR of two sparse updates of one weight.

    Args:
        shape: of the weight; dimensions after the first count as columns.
        first: (nnz,) ascending flat indices and (nnz,) deltas.
        second: the same for the other update.

    Returns:
        The spectral norm of A1^T A2 and the share of zeros in it; None where that needs scipy.
    """
    rows, columns = shape[0], int(np.prod(shape[1:]))
    try:
        sparse = importlib.import_module("scipy.sparse")
    except ModuleNotFoundError:
        if columns > _LARGEST_DENSE:
            return None, None
        dense = _dense(first, rows, columns).T @ _dense(second, rows, columns)
        return float(np.linalg.norm(dense, 2)), 1 - np.count_nonzero(dense) / columns**2
    a, b = (
        sparse.csr_matrix(
            (deltas.astype(np.float64), np.divmod(indices, np.uint32(columns))),
            shape=(rows, columns),
        )
        for indices, deltas in (first, second)
    )
    product = (a.T @ b).tocsr()
    product.eliminate_zeros()
    zeros = 1 - product.nnz / columns**2
    if product.nnz == 0:
        return 0.0, zeros
    if columns < 3:  # below what the iterative solver takes
        return float(np.linalg.norm(product.toarray(), 2)), zeros
    linalg = importlib.import_module("scipy.sparse.linalg")
    # The start vector is fixed so that the same files give the same digits.
    start = np.random.default_rng(0).standard_normal(columns)
    largest = linalg.svds(product, k=1, v0=start, return_singular_vectors=False)
    return float(largest[0]), zeros


def _dense(entries: Entries, rows: int, columns: int) -> NDArray[np.float64]:
    matrix = np.zeros(rows * columns)
    matrix[entries[0]] = entries[1]
    return matrix.reshape(rows, columns)


def _total(rows: list[dict[str, Any]]) -> dict[str, Any]:
    keys = ("entries_first", "entries_second", "overlap", "sign_conflicts")
    total: dict[str, Any] = {
        key: None if any(row[key] is None for row in rows) else sum(row[key] for row in rows)
        for key in keys
    }
    union = total["entries_first"] + total["entries_second"] - total["overlap"]
    total["jaccard"] = total["overlap"] / union if union else 0.0
    return total
