# SPDX-License-Identifier: Apache-2.0
"""`shira inspect`: what is in an adapter file, or which constants of a program can be switched."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from shira_runtime import Adapter, _core
from shira_runtime.commands.output import Json, count, note, print_json, print_table, say

_PEFT_BYTES_PER_ENTRY = 12  # two int32 indices and a float32 value
_SECTIONS = ("adapters", "tensors", "names", "metadata", "index", "values")


def inspect(
    file: Annotated[Path, typer.Argument(help="A .shb, .pte or .ptd file.")], json: Json = False
) -> None:
    """Show what is in an adapter, or a program's named constants."""
    with file.open("rb") as stream:
        start = stream.read(8)
    if start[4:6] in (b"ET", b"FT"):
        description = _describe_program(_core.ProgramFile.read(os.fsencode(file)))
    else:
        description = describe_adapter(Adapter.open(file))
    if json:
        print_json(description)
    elif description["kind"] == "shb":
        _show_adapter(description)
    else:
        _show_program(description)


def describe_adapter(adapter: Adapter) -> dict[str, Any]:
    """Everything about an adapter but its entries, ready for JSON."""
    return {
        "file": adapter.path,
        "kind": "shb",
        "format_version": ".".join(map(str, adapter.version)),
        "name": adapter.name,
        "is_bound": adapter.is_bound,
        "content_digest": adapter.content_digest,
        "file_bytes": adapter.file_bytes,
        "entry_count": adapter.entry_count,
        "bytes_per_entry": adapter.file_bytes / adapter.entry_count,
        "sections": [
            {
                "kind": _SECTIONS[section.kind - 1],
                "offset_bytes": section.offset_bytes,
                "size_bytes": section.size_bytes,
                "crc32c": f"{section.crc32c:08x}",
                "sha256": section.sha256.hex(),
            }
            for section in adapter._core.sections
        ],
        "tensors": [
            {
                "name": tensor.name,
                "dtype": tensor.dtype,
                "shape": list(tensor.shape),
                "nnz": tensor.nnz,
                "density": tensor.nnz / tensor.numel,
                "index_codec": tensor.index_codec,
                "index_param": tensor.index_param,
                "unit_count": tensor.unit_count,
                "index_bytes": tensor.index_bytes,
                "value_kind": tensor.value_kind,
                "value_dtype": tensor.value_dtype,
                "value_bytes": tensor.value_bytes,
                "fingerprint": tensor.fingerprint.hex() if adapter.is_bound else None,
                "base_digest": tensor.base_digest.hex() if adapter.is_bound else None,
            }
            for tensor in adapter.tensors.values()
        ],
        "metadata": adapter.metadata,
    }


def _show_adapter(adapter: dict[str, Any]) -> None:
    bound = "bound to its base" if adapter["is_bound"] else "unbound: no base fingerprints"
    say(f"{adapter['name']}: .shb {adapter['format_version']}, {bound}")
    say(f"digest {adapter['content_digest']}")
    tensors = adapter["tensors"]
    print_table(
        ("tensor", "shape", "dtype", "entries", "density %", "index", "values", "bytes"),
        [
            (
                tensor["name"],
                "x".join(map(str, tensor["shape"])),
                tensor["dtype"],
                tensor["nnz"],
                100 * tensor["density"],
                _codec(tensor),
                f"{tensor['value_kind']} {tensor['value_dtype']}",
                tensor["index_bytes"] + tensor["value_bytes"],
            )
            for tensor in tensors
        ],
    )
    print_table(
        ("section", "offset", "bytes"),
        [(s["kind"], s["offset_bytes"], s["size_bytes"]) for s in adapter["sections"]],
    )
    if adapter["metadata"]:
        print_table(("metadata", ""), sorted(adapter["metadata"].items()))
    peft = _PEFT_BYTES_PER_ENTRY * adapter["entry_count"]
    say(
        f"{count(adapter['entry_count'])} entries in {len(tensors)} tensors,"
        f" {count(adapter['file_bytes'])} bytes: {adapter['bytes_per_entry']:.2f} per entry,"
        f" {peft / adapter['file_bytes']:.1f} times smaller than PEFT's entries"
    )


def _codec(tensor: dict[str, Any]) -> str:
    parameter = f" of {tensor['index_param']}" if tensor["index_param"] else ""
    return f"{tensor['index_codec']}{parameter}"


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
    switchable = sum(tensor["switchable"] for tensor in tensors)
    say(
        f".{program['kind']} of {count(program['file_bytes'])} bytes with {len(tensors)} named"
        f" constants, {switchable} of them switchable"
    )
    if not tensors:
        note("No constant has a name: `shira program` exports programs whose constants have.")
