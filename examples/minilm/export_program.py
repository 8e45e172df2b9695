# SPDX-License-Identifier: Apache-2.0
"""Exports all-MiniLM-L6-v2 to ExecuTorch: switchable as .pte, as .pte + .ptd, and delegated.

Run ``python -m examples.minilm.export_program build/minilm`` for all three, or use `export_minilm`.
The length of the sentences is dynamic, and so is their number unless the program is delegated.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from examples.minilm.model import (
    MAX_TOKENS,
    SentenceEncoder,
    load_encoder,
    load_tokenizer,
    tokenize,
)
from shira_runtime.export.program import Backend, ProgramReport, export_program

MAX_BATCH = 16
"""The most sentences that one call of a portable program takes."""

DELEGATED_BATCH = 2
"""The number of sentences that each call of a delegated program takes."""

Example = tuple[SentenceEncoder, tuple[Tensor, Tensor], dict[str, Any]]


def example(encoder: SentenceEncoder | None = None, fixed_batch: bool = False) -> Example:
    """The encoder, example inputs and dynamic shapes, as `shira program` takes them.

    Args:
        encoder: by default the published one; with merged weights, the program has those.
        fixed_batch: take always DELEGATED_BATCH sentences, because XNNPACK allows only one dynamic
            dimension in a reshape.
    """
    sentences = ["How do I install a package?", "The weather is fine today."]
    inputs = tokenize(load_tokenizer(), sentences[:DELEGATED_BATCH])
    # Memory is planned for the largest sizes, so there must be some.
    dimensions: dict[int, Any] = {1: torch.export.Dim("tokens", min=2, max=MAX_TOKENS)}
    if not fixed_batch:
        dimensions[0] = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    shapes = dict.fromkeys(("input_ids", "attention_mask"), dimensions)
    return encoder or load_encoder(), inputs, shapes


def export_minilm(
    output: Path,
    *,
    encoder: SentenceEncoder | None = None,
    data_path: Path | None = None,
    backend: Backend = "portable",
    force: bool = False,
) -> ProgramReport:
    """Export the encoder: (batch, tokens) int64 ids and mask -> (batch, 384) float32 embeddings.

    Args:
        output: the .pte.
        encoder: by default the published one.
        data_path: a .ptd for the weights.
        backend: "portable", or "xnnpack" for its faster kernels; both can be switched.
        force: replace existing files.

    Raises:
        ExportError: see `shira_runtime.export.program.export_program`.
    """
    module, inputs, shapes = example(encoder, fixed_batch=backend == "xnnpack")
    return export_program(
        module,
        inputs,
        output,
        data_path=data_path,
        backend=backend,
        dynamic_shapes=shapes,
        force=force,
    )


def main() -> None:
    """Write the three forms into one folder and print what each took."""
    parser = argparse.ArgumentParser(description="Export all-MiniLM-L6-v2 to ExecuTorch.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--force", action="store_true", help="replace existing files")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    encoder = load_encoder()
    forms: list[tuple[str, Path | None, Backend]] = [
        ("minilm.pte", None, "portable"),
        ("minilm_external.pte", folder / "minilm_external.ptd", "portable"),
        ("minilm_xnnpack.pte", None, "xnnpack"),
    ]
    for name, data_path, backend in forms:
        report = export_minilm(
            folder / name,
            encoder=encoder,
            data_path=data_path,
            backend=backend,
            force=arguments.force,
        )
        print(
            f"{report.program_path}: {len(report.tensors)} tensors with names,"
            f" {len(report.delegated)} delegated, {report.export_seconds:.1f} s"
        )


if __name__ == "__main__":
    main()
