# SPDX-License-Identifier: Apache-2.0
"""`shira run`: one forward pass of an ExecuTorch program, with adapters."""

from __future__ import annotations

import errno
import hashlib
import io
import os
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from shira_runtime import load_program
from shira_runtime.commands.adapters import (
    IndexFrom,
    Names,
    Scales,
    Tiers,
    by_name,
    open_adapters,
    parse_scales,
)
from shira_runtime.commands.inputs import Inputs, read_inputs
from shira_runtime.commands.output import Json, note, print_json, print_table
from shira_runtime.commands.pages import (
    FirstTouch,
    FirstTouches,
    MaxDirty,
    Originals,
    OriginalsIn,
    measure_memory,
    say_memory,
    set_pages,
)


def run_program(
    model: Annotated[Path, typer.Argument(help="A .pte file.")],
    adapters: Annotated[
        list[Path] | None, typer.Argument(help=".shb files to make active.")
    ] = None,
    names: Names = None,
    tiers: Tiers = None,
    index_from: IndexFrom = None,
    inputs: Inputs = None,
    scale: Scales = None,
    data: Annotated[Path | None, typer.Option(help="The program's .ptd file.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A folder for output_0.npy and so on.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
    allow_unverified_base: Annotated[
        bool,
        typer.Option("--allow-unverified-base", help="Accept files without base fingerprints."),
    ] = False,
    max_dirty_mb: MaxDirty = None,
    first_touch: FirstTouches = FirstTouch.AUTO,
    originals: OriginalsIn = Originals.MEMORY,
    json: Json = False,
) -> None:
    """Run a program once and show or save its outputs."""
    opened_adapters = by_name(open_adapters(adapters or (), names, tiers, index_from))
    scales = parse_scales(scale or (), list(opened_adapters))
    if output is not None:
        _check_folder(output, force)
    program = load_program(model, data)
    set_pages(program, max_dirty_mb, first_touch, originals)
    for adapter in opened_adapters.values():
        program.add_adapter(adapter, allow_unverified_base=allow_unverified_base)
    report = program.switch(scales)
    memory = measure_memory(program)
    outputs = [_as_array(value) for value in program.forward(*read_inputs(inputs, program))]
    if output is not None:
        _save(outputs, output, force)
    rows = [
        {
            "output": index,
            "shape": list(array.shape),
            "dtype": str(array.dtype),
            "sha256": hashlib.sha256(array.tobytes()).hexdigest(),
            "first": array.reshape(-1)[:8].tolist(),
        }
        for index, array in enumerate(outputs)
    ]
    if json:
        print_json(
            {
                "active": program.active,
                "load": program.load_report and program.load_report.to_dict(),
                "switch": report.to_dict(),
                "memory": memory and memory.to_dict(),
                "outputs": rows,
            }
        )
    else:
        print_table(
            ("output", "shape", "dtype", "first values"),
            [
                (
                    row["output"],
                    "x".join(map(str, row["shape"])),
                    row["dtype"],
                    " ".join(f"{value:.6g}" for value in row["first"]),
                )
                for row in rows
            ],
        )
        say_memory(memory)


def _as_array(value: Any) -> NDArray[Any]:
    array = np.asarray(value)
    # A .npy file cannot say bfloat16; float32 holds every value of it.
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def _check_folder(folder: Path, force: bool) -> None:
    """Refuse a folder with outputs in it; how many there will be is not known yet."""
    from shira_runtime.export.output import check_output

    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    for path in sorted(folder.glob("output_*.npy")):
        check_output(path, force)


def _save(outputs: list[NDArray[Any]], folder: Path, force: bool) -> None:
    from shira_runtime.export.output import write_output

    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"output_{index}.npy" for index in range(len(outputs))]
    for path, array in zip(paths, outputs, strict=True):
        content = io.BytesIO()
        np.save(content, array, allow_pickle=False)
        write_output(path, content.getbuffer(), force)
    note(f"wrote {', '.join(map(str, paths))}")
