# SPDX-License-Identifier: Apache-2.0
"""Makes the files of the demo that are not there yet: programs, and adapters for the 4-bit one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from examples.smollm2 import adapters, weights
from examples.smollm2.generate import load_decoder
from shira_runtime.export import export_adapter

ADAPTERS = ("json", "telegram")


@dataclass(frozen=True)
class Files:
    """Where everything lies.

    Attributes:
        program: the 4-bit program.
        lora_program: the same with unfused LoRA in it, if it was asked for.
        adapters: .shb files for `program`, by name.
        random: one whose entries are a hundredth of all weights, each one code off; for timing.
    """

    program: Path
    lora_program: Path | None
    adapters: Mapping[str, Path]
    random: Path


def prepare(folder: Path, *, with_lora: bool = False) -> Files:
    """Exports what is missing; the programs take minutes, the adapters are made each time."""
    folder.mkdir(parents=True, exist_ok=True)
    files = Files(
        folder / "smollm2-8da4w.pte",
        folder / "smollm2-8da4w-lora.pte" if with_lora else None,
        {name: folder / f"{name}.shb" for name in ADAPTERS},
        folder / "random.shb",
    )
    export(files.program)
    if files.lora_program:
        export(files.lora_program, with_lora=True)
    published = weights.load_state_dict()
    made = {
        name: adapters.load_entries(adapters.adapter_path(name), published) for name in ADAPTERS
    }
    made["random"] = random_entries(published)
    for name, path in {**files.adapters, "random": files.random}.items():
        entries = path.with_suffix(".pt")
        torch.save(made[name], entries)
        export_adapter(entries, path, base=files.program, name=name, force=True)
    return files


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


def export(path: Path, *, with_lora: bool = False) -> None:
    """Exports a 4-bit program unless it is there."""
    # Not above: it imports the compiler.
    from examples.smollm2.export_program import export_decoder

    if not path.exists():
        print(f"Exporting {path} takes some minutes.", flush=True)
        export_decoder(load_decoder(), path, with_lora=with_lora)
