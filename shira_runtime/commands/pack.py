# SPDX-License-Identifier: Apache-2.0
"""`shira pack`: several adapters of one base in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shira_runtime import AdapterFile
from shira_runtime.commands.output import Json, Misuse, count, print_json, say


def pack(
    files: Annotated[list[Path], typer.Argument(help="Two or more .shb files.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .shb file to write.")],
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    json: Json = False,
) -> None:
    """Put several files into one, equal positions once.

    Signatures do not carry over.
    """
    try:
        from shira_runtime.export.output import check_output, write_output
        from shira_runtime.export.pack import pack_adapters
    except ModuleNotFoundError as error:
        raise ImportError(
            f"packing needs {error.name}: pip install 'shira-runtime[cli,format]'"
        ) from None
    if len(files) < 2:
        raise Misuse(f"name two or more files to pack, not {len(files)}")
    check_output(output, force)
    content = pack_adapters(files)
    packed = AdapterFile.from_bytes(content, str(output))
    before_bytes = sum(file.stat().st_size for file in files)
    write_output(output, content, force)
    if json:
        print_json(
            {
                "output": str(output),
                "adapters": list(packed.adapters),
                "file_bytes": len(content),
                "source_bytes": before_bytes,
                "content_digest": packed.content_digest,
            }
        )
    else:
        say(
            f"{output}: {len(packed.adapters)} adapters ({', '.join(packed.adapters)}),"
            f" {count(len(content))} bytes instead of {count(before_bytes)}"
        )
