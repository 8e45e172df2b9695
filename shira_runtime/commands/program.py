# SPDX-License-Identifier: Apache-2.0
"""`shira program`: the command-line options of shira_runtime.export.program."""

from __future__ import annotations

import importlib
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from shira_runtime.commands.output import Json, note, print_table


class Backend(str, Enum):
    """Where the operators run."""

    PORTABLE = "portable"
    XNNPACK = "xnnpack"


class Quantize(str, Enum):
    """What becomes of linear layers."""

    ROWS_8 = "8da8w"
    GROUPS_4 = "8da4w"
    ROWS_4 = "8da4w-channel"
    PORTABLE_8 = "8w"


def program(
    factory: Annotated[
        str,
        typer.Argument(
            help="package.module:function or path/to/file.py:function; it returns"
            " (module, example_inputs) or (module, example_inputs, dynamic_shapes)."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .pte to write.")],
    data: Annotated[
        Path | None, typer.Option(help="A .ptd for the weights; else they go into the .pte.")
    ] = None,
    backend: Annotated[
        Backend,
        typer.Option(
            help="portable keeps all weights where any loader can switch them; xnnpack is faster,"
            " and packs those of linear layers, which only this project's own loader can switch."
        ),
    ] = Backend.PORTABLE,
    quantize: Annotated[
        Quantize | None,
        typer.Option(
            help="Quantize linear layers: 8da8w, 8da4w (in groups of columns) or 8da4w-channel,"
            " with int8 activations, for xnnpack; or 8w, with float activations, for portable."
        ),
    ] = None,
    group_size: Annotated[
        int, typer.Option(help="Columns that share a scale in 8da4w and in 4-bit embeddings.")
    ] = 32,
    embedding_bits: Annotated[
        int | None, typer.Option(help="Quantize embeddings to 4 or 8 bits.")
    ] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option(help="REGEX=SUB: the module's names to those of the training checkpoint."),
    ] = None,
    allow_shared: Annotated[
        bool, typer.Option("--allow-shared", help="List weights that share storage, go on.")
    ] = False,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="List weights the program lost, go on.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
    json: Json = False,
) -> None:
    """Export a PyTorch module with switchable weights."""
    # Imports torch and executorch, which no other command needs.
    export = importlib.import_module("shira_runtime.export.program")
    report = export.program_command(
        factory,
        output,
        data_path=data,
        backend=backend.value,
        quantize=quantize and quantize.value,
        group_size=group_size,
        embedding_bits=embedding_bits,
        rename=rename or (),
        allow_shared=allow_shared,
        allow_missing=allow_missing,
        force=force,
    )
    if json:
        print(report.to_json())
        return
    rows = [
        (name, tensor.dtype, list(tensor.shape), tensor.size_bytes)
        for name, tensor in sorted(report.tensors.items())
    ]
    print_table(("constant", "dtype", "shape", "bytes"), rows)
    packed = report.packed | report.packed_biases
    if packed:
        keys = [(name, packed[name][:16]) for name in sorted(packed)]
        print_table(("weight that XNNPACK packs", "key"), keys)
    delegated = [name for name in report.delegated if name not in packed]
    for what, names in (
        ("delegated", delegated),
        ("unused", report.unused),
        ("missing", report.missing),
    ):
        if names:
            note(f"{what}: {', '.join(names)}")
    for group in report.shared:
        note(f"one storage: {', '.join(group)}")
    note(f"wrote {output} in {report.export_seconds:.1f} s")
