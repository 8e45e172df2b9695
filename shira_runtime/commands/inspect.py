# SPDX-License-Identifier: Apache-2.0
"""`shira inspect`: what is in an adapter file, or which constants of a program can be switched."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from shira_runtime import _core
from shira_runtime.commands.adapters import IndexFrom, Tiers, open_file, require_regular
from shira_runtime.commands.describe import PEFT_BYTES_PER_ENTRY, describe_file
from shira_runtime.commands.output import Json, count, note, print_json, print_table, say


def inspect(
    file: Annotated[Path, typer.Argument(help="A .shb, .pte or .ptd file.")],
    tiers: Tiers = None,
    index_from: IndexFrom = None,
    json: Json = False,
) -> None:
    """Show what is in an adapter file, or a program's named constants."""
    require_regular(file)
    with file.open("rb") as stream:
        start = stream.read(8)
    if start[4:6] in (b"ET", b"FT"):
        description = _describe_program(_core.ProgramFile.read(os.fsencode(file)))
    else:
        description = describe_file(open_file(file, tiers, index_from))
    if json:
        print_json(description)
    elif description["kind"] == "shb":
        _show_file(description)
    else:
        _show_program(description)


def _show_file(file: dict[str, Any]) -> None:
    adapters = file["adapters"]
    signed = f"signed, it says, by {file['signer']}" if file["signer"] else "not signed"
    tiers = ""
    if file["tier_count"] > 1:
        tiers = f", {file['opened_tier_count']} of {file['tier_count']} tiers"
    pack = f"pack of {len(adapters)} adapters" if len(adapters) > 1 else adapters[0]["name"]
    say(f"{pack}: .shb {file['format_version']}{tiers}, {signed}")
    if len(adapters) > 1:
        say(", ".join(adapter["name"] for adapter in adapters))
    opened = ""
    if file["opened_bytes"] < file["file_bytes"]:
        opened = f"{count(file['opened_bytes'])} of "
    say(
        f"{count(file['entry_count'])} entries, {opened}{count(file['file_bytes'])} bytes:"
        f" {file['bytes_per_entry']:.2f} per entry (PEFT: {PEFT_BYTES_PER_ENTRY})"
    )
    shared = sum(table["used_by"] > 1 for table in file["index_tables"])
    if shared:
        say(f"{shared} of {len(file['index_tables'])} index streams are shared")
    if any(section["kind"] == "index reference" for section in file["sections"]):
        say("its positions are in another file, which the bytes below count too")
    say(f"digest {file['content_digest']}")
    for adapter in adapters:
        _show_adapter(adapter)
    print_table(
        ("section", "tier", "offset", "bytes"),
        [(s["kind"], s["tier"], s["offset_bytes"], s["size_bytes"]) for s in file["sections"]],
    )


def _show_adapter(adapter: dict[str, Any]) -> None:
    bound = "bound to its base" if adapter["is_bound"] else "unbound: no base fingerprints"
    print_table(
        (
            *("tensor", "shape", "dtype", "entries", "density %"),
            *("pages", "index", "values", "bytes", "B/entry", "entropy"),
        ),
        [
            (
                tensor["name"],
                "x".join(map(str, tensor["shape"])),
                tensor["dtype"],
                tensor["nnz"],
                100 * tensor["density"],
                "?" if tensor["pages"] is None else tensor["pages"],
                " + ".join(_coding(part) for part in tensor["parts"]),
                f"{tensor['value_kind']} {tensor['value_codec']}",
                tensor["index_bytes"] + tensor["value_bytes"],
                tensor["bytes_per_entry"],
                tensor["bound_bytes_per_entry"],
            )
            for tensor in adapter["tensors"]
        ],
        title=f"{adapter['name']}: {count(adapter['entry_count'])} entries, {bound}",
    )
    if adapter["metadata"]:
        print_table(("metadata", ""), sorted(adapter["metadata"].items()))


def _coding(part: dict[str, Any]) -> str:
    block = f" of {part['block_length']}" if part["block_length"] > 1 else ""
    return f"{part['codec']}{block}"


def _describe_program(program: _core.ProgramFile) -> dict[str, Any]:
    return {
        "file": program.path,
        "kind": "ptd" if program.is_ptd else "pte",
        "file_bytes": program.file_bytes,
        "constants_offset_bytes": program.constants_offset_bytes,
        "constants_size_bytes": program.constants_size_bytes,
        "tensors": [
            {
                "name": tensor.name,
                "dtype": tensor.dtype if tensor.patchable else None,
                "shape": list(tensor.shape),
                "offset_bytes": tensor.offset_bytes,
                "size_bytes": tensor.size_bytes,
                "switchable": tensor.patchable and not tensor.shares_storage_with,
                "why_not": tensor.why_not or _shared(tensor.shares_storage_with) or None,
            }
            for tensor in program.tensors
        ],
    }


def _shared(other: str) -> str:
    return f"has the same bytes as {other}" if other else ""


def _show_program(program: dict[str, Any]) -> None:
    tensors = program["tensors"]
    switchable = sum(tensor["switchable"] for tensor in tensors)
    say(
        f".{program['kind']} of {count(program['file_bytes'])} bytes with {len(tensors)} named"
        f" constants, {switchable} of them switchable"
    )
    print_table(
        ("constant", "shape", "dtype", "offset", "bytes", "switchable", "why not"),
        [
            (
                tensor["name"],
                "x".join(map(str, tensor["shape"])),
                tensor["dtype"] or "",
                tensor["offset_bytes"],
                tensor["size_bytes"],
                tensor["switchable"],
                tensor["why_not"] or "",
            )
            for tensor in tensors
        ],
    )
    if not tensors:
        note("No constant has a name: `shira program` exports programs whose constants have.")
