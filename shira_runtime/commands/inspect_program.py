# SPDX-License-Identifier: Apache-2.0
"""The part of `shira inspect` about programs: what can be switched in them, how, and what not."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shira_runtime import _core
from shira_runtime.commands.output import count, note, print_table, say

#: How a weight is switched -> what that asks of the loader.
MODES = {
    "mapped": "floats, stored into a private mapping of the file; whoever loaded it, by mmap",
    "byte table": "int8 codes, stored into a private mapping of the file; by load_program",
    "nibble table": "int4 codes, stored into a private mapping of the file; by load_program",
    "packed": (
        "packed by XNNPACK when a method is loaded, stored into what it packed; by load_program,"
        " which compares that with the file first and refuses a layout that it does not know"
    ),
    "packed bias": "floats, stored between the rows of a weight that XNNPACK packed; as that one",
}


def describe_program(path: Path, data: Sequence[Path]) -> dict[str, Any]:
    """A .pte with its .ptd files, or one .ptd: every weight with a name, sorted by name."""
    program = _core.ProgramFile.read(os.fsencode(path))
    constants = [program, *(_core.ProgramFile.read(os.fsencode(each)) for each in data)]
    tensors = {
        tensor.name: _describe_constant(tensor, file)
        for file in constants
        for tensor in file.tensors
    }
    if not program.is_ptd:
        files = [file.path for file in constants]
        for weight in _core.program_weights(os.fsencode(path), [os.fsencode(d) for d in data]):
            tensors[weight.name] = _describe_weight(weight, files)
    return {
        "file": program.path,
        "kind": "ptd" if program.is_ptd else "pte",
        "file_bytes": program.file_bytes,
        "constants_offset_bytes": program.constants_offset_bytes,
        "constants_size_bytes": program.constants_size_bytes,
        "tensors": [tensors[name] for name in sorted(tensors)],
    }


def _describe_constant(tensor: _core.ProgramTensor, file: _core.ProgramFile) -> dict[str, Any]:
    switchable = tensor.patchable and not tensor.shares_storage_with
    return {
        "name": tensor.name,
        "dtype": tensor.dtype if tensor.patchable else None,
        "shape": list(tensor.shape),
        "group_length": 0,
        "file": file.path,
        "offset_bytes": tensor.offset_bytes,
        "size_bytes": tensor.size_bytes,
        "owner": None,
        "methods": None,
        "mode": "mapped" if switchable else None,
        "switchable": switchable,
        "why_not": tensor.why_not or _shared(tensor.shares_storage_with) or None,
    }


def _describe_weight(weight: _core.ProgramWeight, files: Sequence[str]) -> dict[str, Any]:
    switchable = not weight.why_not and not weight.shares_storage_with
    node = f" {weight.node}" if weight.node else ""
    return {
        "name": weight.name,
        "dtype": weight.dtype,
        "shape": list(weight.shape),
        "group_length": weight.group_length,
        "file": files[weight.file_index],
        "offset_bytes": weight.offset_bytes,
        "size_bytes": weight.size_bytes,
        "owner": weight.owner + node,
        "methods": list(weight.methods),
        "mode": weight.storage if switchable else None,
        "switchable": switchable,
        "why_not": weight.why_not or _shared(weight.shares_storage_with) or None,
    }


def _shared(other: str) -> str:
    return f"has the same bytes as {other}" if other else ""


def show_program(program: dict[str, Any], *, lists_all: bool = False) -> None:
    """Print what `describe_program` gave: totals, how each kind is switched, and the weights.

    Weights that differ in nothing but numbers in their names share a row, with * for the numbers,
    unless `lists_all`.
    """
    tensors = program["tensors"]
    switchable = [tensor for tensor in tensors if tensor["switchable"]]
    refused = [tensor for tensor in tensors if not tensor["switchable"]]
    say(
        f".{program['kind']} of {count(program['file_bytes'])} bytes with {len(tensors)} named"
        f" weights, {len(switchable)} of them switchable"
    )
    if not tensors:
        note("Nothing has a name: `shira program` exports programs whose weights have.")
        return
    totals: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for tensor in tensors:
        total = totals[tensor["mode"] or "(none)", tensor["dtype"] or ""]
        total[0] += 1
        total[1] += tensor["size_bytes"]
    print_table(
        ("switched as", "dtype", "weights", "bytes"),
        [(*kind, *total) for kind, total in sorted(totals.items())],
    )
    for mode, meaning in MODES.items():
        if any(tensor["mode"] == mode for tensor in tensors):
            say(f"{mode}: {meaning}")
    show = _show_each if lists_all else _show_groups
    show("can be switched", switchable, "mode", "switched as")
    show("cannot be switched", refused, "why_not", "why not")
    if not lists_all and len({_pattern(tensor["name"]) for tensor in tensors}) < len(tensors):
        note("* stands for numbers; --all lists each weight with its offset.")


def _show_each(title: str, tensors: Sequence[dict[str, Any]], last: str, heading: str) -> None:
    if tensors:
        print_table(
            ("weight", "shape", "dtype", "offset", "bytes", "used by", heading),
            [
                (
                    tensor["name"],
                    _shape(tensor),
                    _dtype(tensor),
                    tensor["offset_bytes"],
                    tensor["size_bytes"],
                    _user(tensor),
                    tensor[last],
                )
                for tensor in tensors
            ],
            title=f"{title}: {len(tensors)}",
        )


def _show_groups(title: str, tensors: Sequence[dict[str, Any]], last: str, heading: str) -> None:
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for tensor in tensors:
        alike = (_shape(tensor), _dtype(tensor), _user(tensor), _pattern(tensor[last]))
        groups[(_pattern(tensor["name"]), *alike)].append(tensor)
    if groups:
        print_table(
            ("weights", "count", "shape", "dtype", "bytes", "used by", heading),
            [
                (
                    _common([tensor["name"] for tensor in group]),
                    len(group),
                    *kind[1:3],
                    sum(tensor["size_bytes"] for tensor in group),
                    kind[3],
                    _common([tensor[last] for tensor in group]),
                )
                for kind, group in groups.items()
            ],
            title=f"{title}: {len(tensors)}",
        )


def _pattern(text: str) -> str:
    return re.sub(r"\d+", "*", text)


def _common(texts: Sequence[str]) -> str:
    """The text itself where all are the same, else their pattern."""
    return texts[0] if len(set(texts)) == 1 else _pattern(texts[0])


def _shape(tensor: dict[str, Any]) -> str:
    return "x".join(map(str, tensor["shape"]))


def _dtype(tensor: dict[str, Any]) -> str:
    groups = f" of {tensor['group_length']}" if tensor["group_length"] else ""
    return f"{tensor['dtype'] or ''}{groups}"


def _user(tensor: dict[str, Any]) -> str:
    if tensor["owner"] is None:
        return ""
    return f"{tensor['owner']} in {', '.join(tensor['methods'])}"
