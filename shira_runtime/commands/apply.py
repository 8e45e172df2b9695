# SPDX-License-Identifier: Apache-2.0
"""`shira apply`: writes a copy of a checkpoint with adapters fused in by the runtime itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from shira_runtime.commands.adapters import (
    IndexFrom,
    Names,
    Scales,
    Tiers,
    by_name,
    open_adapters,
    parse_scales,
)
from shira_runtime.commands.bases import Base
from shira_runtime.commands.output import Json, Misuse, count, print_json, say


def apply(
    base: Annotated[Path, typer.Argument(help="A .safetensors file.")],
    adapters: Annotated[list[Path], typer.Argument(help="One or more .shb files.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .safetensors to write.")],
    names: Names = None,
    tiers: Tiers = None,
    index_from: IndexFrom = None,
    scale: Scales = None,
    allow_unverified_base: Annotated[
        bool,
        typer.Option("--allow-unverified-base", help="Accept files without base fingerprints."),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    json: Json = False,
) -> None:
    """Write a copy of BASE with adapters fused in.

    Its header and all other tensors stay as they are.
    """
    if base.suffix != ".safetensors":
        raise Misuse(f"{base}: only a .safetensors file can be fused")
    opened_adapters = by_name(open_adapters(adapters, names, tiers, index_from))
    scales = parse_scales(scale or (), list(opened_adapters))
    opened = Base(base)
    # Needs no torch, but what Base needs too; Base has said so by now if it is missing.
    from shira_runtime.export.output import check_output, write_output

    check_output(output, force)

    program, arrays = opened.program(opened_adapters.values())
    for adapter in opened_adapters.values():
        program.add_adapter(adapter, allow_unverified_base=allow_unverified_base)
    report = program.switch(scales)
    content = np.fromfile(base, np.uint8)
    for name, array in arrays.items():
        _paste(content, opened, name, array)
    write_output(output, content.data, force)
    if json:
        print_json({"output": str(output), "scales": scales} | report.to_dict())
    else:
        say(
            f"{output}: {count(report.elements_written)} weights written, of which"
            f" {count(report.elements_changed)} changed, in {report.tensors_matched} tensors"
        )


def _paste(content: NDArray[np.uint8], base: Base, name: str, array: NDArray[np.generic]) -> None:
    """Put a tensor's new bytes where the file has the old ones."""
    stored = base.find(name)
    assert stored is not None, "it was read from there"
    mapped = stored.read()
    assert isinstance(mapped, np.memmap), "safetensors files are read through a map"
    content[mapped.offset : mapped.offset + array.nbytes] = array.reshape(-1).view(np.uint8)
