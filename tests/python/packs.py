# SPDX-License-Identifier: Apache-2.0
"""Files for tests that hold more than one list of positions and values: packs, tiers, rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray
from shb_files import random_arrays, tensor_entries

from shira_runtime.export import build
from shira_runtime.export.derive import SeedSource, derive

SHAPES = {"layer.a.weight": ((12, 40), "f32"), "layer.b.weight": ((8, 30), "f16")}


def arrays(seed: int = 9) -> dict[str, NDArray[Any]]:
    return random_arrays(np.random.default_rng(seed), SHAPES)


def pack_bytes(base: Mapping[str, NDArray[Any]], names: Sequence[str]) -> bytes:
    """Adapters of one mask: the first has the value 1 everywhere, the second 2, and so on."""
    mask = {name: np.arange(3, weight.size, 7) for name, weight in base.items()}
    return build.build_file(
        [
            build.Adapter(
                name,
                [
                    tensor_entries(tensor, base[tensor], at, np.full(at.size, 1 + number))
                    for tensor, at in mask.items()
                ],
                {"description": f"adapter {name}"},
            )
            for number, name in enumerate(names)
        ]
    ).content


def tiered_bytes(base: Mapping[str, NDArray[Any]], name: str, tiers: Sequence[Any]) -> bytes:
    """One adapter, whose tier t has the value 1 + t at the positions tiers[t] of every tensor."""
    rows = []
    for tensor, weight in base.items():
        so_far = np.zeros(0, np.int64)
        for tier, at in enumerate(tiers):
            so_far = np.sort(np.concatenate((so_far, at)))
            touched = weight.reshape(-1)[so_far].tobytes()
            rows.append(
                replace(
                    tensor_entries(tensor, weight, at, np.full(len(at), 1 + tier)),
                    tier=tier,
                    fingerprint=xxhash.xxh3_128_digest(touched),
                )
            )
    return build.build_file([build.Adapter(name, rows)]).content


def largest(weight: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Positions of the largest magnitudes, of equal ones the first."""
    order = np.argsort(-np.abs(weight.reshape(-1).astype(np.float64)), kind="stable")
    return np.sort(order[:count])


def derived(name: str, base: NDArray[Any], at: NDArray[np.int64]) -> build.AdapterTensor:
    """The value 1 at positions that follow from a rule."""
    rules = derive(at, base.shape, base.reshape(-1), SeedSource()).rules
    assert rules, "no rule gives these positions"
    return replace(tensor_entries(name, base, at, np.ones(at.size)), rules=rules)
