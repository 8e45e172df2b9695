# SPDX-License-Identifier: Apache-2.0
"""Suite "sweep": density x mask x dtype over the distinct layer shapes of real models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from shira_runtime.bench import Arm, Case, Scalar, Suite

from .baselines import equal_rank, scatter_arms, strongest_lora
from .masks import KINDS, Kind, make_mask
from .models import distinct_shapes, model_names
from .rooflines import copy_touched, touch
from .switches import Switching
from .weights import PAGES, Change, Weights, element_bytes

_DENSITIES = (0.001, 0.005, 0.01, 0.02)
_USUAL_DENSITY = 0.01


@dataclass(frozen=True)
class _Size:
    models: tuple[str, ...]
    shapes_per_model: int | None
    densities: tuple[float, ...]
    rounds: int


_FULL = _Size(model_names(), None, _DENSITIES, 5)
_QUICK = _Size(("smollm2-135m",), 1, (_USUAL_DENSITY,), 1)


def sweep(quick: bool) -> Suite:
    """The suite: the whole grid in f16, the other dtypes at the usual density."""
    size = _QUICK if quick else _FULL

    def cases() -> Iterator[Case]:
        torch.set_num_threads(1)
        for shape, models in _shapes(size).items():
            for kind in KINDS:
                for density in size.densities:
                    yield _case(size, shape, models, kind, density, "f16")
                for dtype in ("f32", "bf16"):
                    yield _case(size, shape, models, kind, _USUAL_DENSITY, dtype)

    return Suite(
        "sweep-quick" if quick else "sweep",
        "density x mask x dtype over the layer shapes of six models, against LoRA and index_copy_",
        cases,
    )


def _shapes(size: _Size) -> dict[tuple[int, int], str]:
    """Distinct shapes, small ones first, each with the models that have it."""
    owners: dict[tuple[int, int], list[str]] = {}
    for model in size.models:
        for shape in distinct_shapes(model)[: size.shapes_per_model]:
            owners.setdefault(shape, []).append(model)
    in_order = sorted(owners, key=lambda shape: (shape[0] * shape[1], shape))
    return {shape: ", ".join(owners[shape]) for shape in in_order}


def _case(
    size: _Size, shape: tuple[int, int], models: str, kind: Kind, density: float, dtype: str
) -> Case:
    """Overwriting, exchanging, and what they are compared with."""
    width = element_bytes(dtype)
    first, other = (make_mask(kind, shape, density, width, seed) for seed in (11, 12))
    changes = {"A": Change.random(first, dtype, 21), "B": Change.random(other, dtype, 22)}
    switching = Switching(Weights(shape, dtype), changes)
    raw = Weights(shape, dtype)
    arms: list[Arm] = [
        switching.arm("switch base -> A", None, "A"),
        switching.arm("switch A -> B, distinct masks", "A", "B"),
        # Of torch's scatters the one that 16-bit types do not slow down.
        list(scatter_arms(raw, changes["A"]))[-1],
    ]
    if kind == "random":
        arms.append(list(touch(raw, first))[-1])  # suite micro has all settings
    else:
        arms.append(copy_touched(raw, changes["A"]))
    if density == _USUAL_DENSITY and kind == "random" and dtype != "f16":
        lora = strongest_lora(Weights(shape, dtype), equal_rank(first.indices.size, shape))
        # The rank, which differs from shape to shape, is among the counts.
        arms.append(replace(lora, name="torch addmm_, unfuse + fuse, equal parameters"))
    fields: dict[str, Scalar] = {
        "models": models,
        "shape": f"{shape[0]}x{shape[1]}",
        "dtype": dtype,
        "mask": kind,
        "density": density,
        "pages": PAGES[False],
    }
    return Case(fields, arms, rounds=size.rounds, warmup_rounds=1)
