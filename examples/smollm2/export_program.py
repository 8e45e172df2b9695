# SPDX-License-Identifier: Apache-2.0
"""Exports SmolLM2-135M-Instruct with its key-value cache to ExecuTorch, for XNNPACK.

Run ``python -m examples.smollm2.export_program build/llm`` for the 4-bit program, or with ``--kind
f32`` for the one in float32; or use `export_decoder`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torchao.quantization import (
    Int8DynamicActivationIntxWeightConfig,
    PerAxis,
    PerGroup,
    quantize_,
)

from examples.smollm2.adapters import GROUP, is_target
from examples.smollm2.files import KINDS, Kind
from examples.smollm2.generate import LONGEST_READ, load_decoder
from examples.smollm2.lora import add_lora
from examples.smollm2.model import Decoder
from shira_runtime.export.program import ProgramReport, export_program


def quantize_decoder(decoder: Decoder) -> None:
    """Quantizes in place: int4 in groups of 32 below the last layer, which gets int8 per row.

    Activations are quantized to int8 as they come.
    """
    four_bits = torch.int4  # type: ignore[attr-defined]
    layers = Int8DynamicActivationIntxWeightConfig(
        weight_dtype=four_bits, weight_granularity=PerGroup(GROUP)
    )
    last = Int8DynamicActivationIntxWeightConfig(
        weight_dtype=torch.int8, weight_granularity=PerAxis(0)
    )
    quantize_(decoder, layers, lambda _, name: is_target(f"{name}.weight"))
    quantize_(decoder, last, lambda _, name: name == "lm_head")


def export_decoder(
    decoder: Decoder,
    output: Path,
    kind: Kind = "8da4w",
    *,
    quantized: bool = False,
    with_lora: bool = False,
    force: bool = False,
) -> ProgramReport:
    """Exports ``forward(tokens (1, count), positions (count,))`` with 1 to LONGEST_READ tokens.

    Args:
        decoder: changed in place if it has to be quantized or gets a LoRA.
        output: the .pte.
        kind: "f32", or "8da4w" for integer codes.
        quantized: it went through `quantize_decoder` already.
        with_lora: export an unfused LoRA with it.
        force: replace an existing file.

    Raises:
        ExportError: see `shira_runtime.export.program.export_program`.
    """
    if kind == "8da4w" and not quantized:
        quantize_decoder(decoder)
    if with_lora:
        add_lora(decoder)
    count = torch.export.Dim("count", min=1, max=LONGEST_READ)
    inputs = (torch.zeros(1, 3, dtype=torch.int64), torch.arange(3))
    return export_program(
        decoder,
        inputs,
        output,
        backend="xnnpack",
        embedding_bits=8 if kind == "8da4w" else None,
        dynamic_shapes=({1: count}, {0: count}),
        force=force,
    )


def main() -> None:
    """Writes one program and prints what it took."""
    parser = argparse.ArgumentParser(description="Export SmolLM2-135M-Instruct to ExecuTorch.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kind", choices=KINDS, default="8da4w")
    parser.add_argument("--force", action="store_true", help="replace an existing file")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    output = arguments.folder / f"smollm2-{arguments.kind}.pte"
    report = export_decoder(load_decoder(), output, arguments.kind, force=arguments.force)
    print(
        f"{report.program_path}: {len(report.packed)} weights packed by XNNPACK,"
        f" {report.export_seconds:.1f} s"
    )


if __name__ == "__main__":
    main()
