# SPDX-License-Identifier: Apache-2.0
"""`shira inspect`: what is in an adapter file, or which weights of a program can be switched."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from shira_runtime.commands.adapters import IndexFrom, Tiers, open_file, require_regular
from shira_runtime.commands.describe import PEFT_BYTES_PER_ENTRY, describe_file
from shira_runtime.commands.inspect_program import describe_program, show_program
from shira_runtime.commands.output import Json, Misuse, count, print_json, print_table, say


def inspect(
    file: Annotated[Path, typer.Argument(help="A .shb, .pte or .ptd file.")],
    data: Annotated[
        list[Path] | None, typer.Option(help="A .ptd file of a .pte; may be repeated.")
    ] = None,
    tiers: Tiers = None,
    index_from: IndexFrom = None,
    lists_all: Annotated[
        bool, typer.Option("--all", help="List each weight of a .pte, however many are alike.")
    ] = False,
    json: Json = False,
) -> None:
    """Show what is in an adapter file, or which weights of a program can be switched and how."""
    for each in (file, *(data or ())):
        require_regular(each)
    with file.open("rb") as stream:
        start = stream.read(8)
    if start[4:6] in (b"ET", b"FT"):
        description = describe_program(file, data or ())
    elif data or lists_all:
        raise Misuse(f"{'--data' if data else '--all'} belongs to a .pte")
    else:
        description = describe_file(open_file(file, tiers, index_from))
    if json:
        print_json(description)
    elif description["kind"] == "shb":
        _show_file(description)
    else:
        show_program(description, lists_all=lists_all)


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
