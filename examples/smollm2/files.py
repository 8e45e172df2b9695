# SPDX-License-Identifier: Apache-2.0
"""Makes the files of the demo that are not there yet: programs, and adapters for them."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from examples.smollm2 import adapters, weights
from examples.smollm2.generate import load_decoder
from shira_runtime.export import export_adapter

Kind = Literal["8da4w", "f32"]
KINDS: tuple[Kind, ...] = ("8da4w", "f32")
"""4-bit weights with activations quantized as they come, or everything in float32."""

ADAPTERS = ("json", "telegram")


@dataclass(frozen=True)
class Files:
    """Where everything of one kind lies.

    Attributes:
        program: the program, for XNNPACK.
        lora_program: the same with unfused LoRA in it, if it was asked for.
        adapters: .shb files for `program`, by name.
        random: one whose entries are a hundredth of all weights, each one code off; for timing.
    """

    program: Path
    lora_program: Path | None
    adapters: Mapping[str, Path]
    random: Path


def prepare(folder: Path, kinds: Sequence[Kind], *, with_lora: bool = False) -> dict[Kind, Files]:
    """Exports what is missing; the programs take minutes, the adapters are made each time.

    Args:
        folder: where to; is made.
        kinds: of which there shall be programs and adapters.
        with_lora: also export an unfused LoRA with the program in 4 bits.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[Kind, Files] = {}
    programs: dict[Path, tuple[Kind, bool]] = {}
    for kind in kinds:
        program, lora_program = folder / f"smollm2-{kind}.pte", None
        programs[program] = (kind, False)
        if with_lora and kind == "8da4w":
            lora_program = folder / f"smollm2-{kind}-lora.pte"
            programs[lora_program] = (kind, True)
        shb = {name: folder / f"{name}-{kind}.shb" for name in ADAPTERS}
        found[kind] = Files(program, lora_program, shb, folder / f"random-{kind}.shb")
    _export(programs)
    published = weights.load_state_dict()
    made = {
        name: adapters.load_entries(adapters.adapter_path(name), published) for name in ADAPTERS
    }
    made["random"] = random_entries(published)
    for name, entries in made.items():
        torch.save(entries, folder / f"{name}.pt")
        for files in found.values():
            path = {**files.adapters, "random": files.random}[name]
            export_adapter(folder / f"{name}.pt", path, base=files.program, name=name, force=True)
    return found


def random_entries(published: Mapping[str, Tensor], seed: int = 0) -> dict[str, dict[str, Any]]:
    """Single random entries, a hundredth of each weight, one code nearer to zero.

    Args:
        published: the weights.
        seed: of the positions.

    Returns:
        As `adapters.load_entries`.
    """
    generator = torch.Generator().manual_seed(seed)
    entries = {}
    for name, weight in published.items():
        if adapters.is_target(name):
            order = torch.randperm(weight.numel(), generator=generator)
            positions = order[: weight.numel() // 100].sort().values
            steps = adapters.grid_steps(weight)[positions // adapters.GROUP]
            values = torch.where(weight.view(-1)[positions] < 0, steps, -steps)
            entries[name] = {"indices": positions, "values": values, "shape": tuple(weight.shape)}
    return entries


def _export(programs: Mapping[Path, tuple[Kind, bool]]) -> None:
    """Exports the programs that are not there, as many at a time as there are processors."""
    missing = {path: what for path, what in programs.items() if not path.exists()}
    if not missing:
        return
    names = ", ".join(path.name for path in missing)
    print(f"Exporting {names}, which takes some minutes.", flush=True)
    workers = min(len(missing), os.cpu_count() or 1)
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=fresh) as pool:
        exports = [pool.submit(_export_one, path, *what) for path, what in missing.items()]
        for path, export in zip(missing, exports, strict=True):
            print(f"{path}: {export.result():.0f} s", flush=True)


def _export_one(path: Path, kind: Kind, with_lora: bool) -> float:
    # At their import they warn of missing kernels for GPUs, and of each other.
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Not above: it imports the compiler.
    from examples.smollm2.export_program import export_decoder

    return export_decoder(load_decoder(), path, kind, with_lora=with_lora).export_seconds
