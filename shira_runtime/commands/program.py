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
        typer.Option(help="portable keeps all weights switchable; xnnpack is faster and does not."),
    ] = Backend.PORTABLE,
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
    for what in ("delegated", "unused", "missing"):
        if names := getattr(report, what):
            note(f"{what}: {', '.join(names)}")
    for group in report.shared:
        note(f"one storage: {', '.join(group)}")
    note(f"wrote {output} in {report.export_seconds:.1f} s")
