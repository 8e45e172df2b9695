# SPDX-License-Identifier: Apache-2.0
"""`shira verify`: every check that an adapter file allows, alone and against a base model."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any

import typer

from shira_runtime import Adapter, BaseMismatchError, ShiraError, _core, from_numpy
from shira_runtime.commands.bases import Base
from shira_runtime.commands.output import Json, count, print_json, print_table, say
from shira_runtime.errors import error_of

# docs/FORMAT.md, sections 4, 5 and 12
_HEADER_BYTES = 128
_SECTION_TABLE_ROW_BYTES = 64
_DIGEST = slice(64, 96)
_HEADER_CRC = slice(124, 128)


def verify(
    file: Annotated[Path, typer.Argument(help="A .shb file.")],
    base: Annotated[
        Path | None,
        typer.Option(help="The base: a model folder, .safetensors, .pte or .ptd file."),
    ] = None,
    json: Json = False,
) -> None:
    """Check an adapter's checksums and digests, and that it fits a base."""
    content = file.read_bytes()
    adapter = Adapter.from_bytes(content, str(file))
    check_digests(content, adapter)
    rows = []
    if base is not None:
        opened = Base(base)
        opened.require_distinct(adapter.tensors)
        rows = [_compare(adapter, name, opened) for name in adapter.tensors]
    failed = [row for row in rows if row["problem"]]
    if json:
        print_json(
            {
                "file": str(file),
                "content_digest": adapter.content_digest,
                "base": None if base is None else str(base),
                "tensors": rows,
                "ok": not failed,
            }
        )
    else:
        if rows:
            print_table(
                ("tensor", "fits the base", "problem"),
                [(row["name"], not row["problem"], row["problem"] or "") for row in rows],
            )
        if not failed:
            against = "" if base is None else f", made for {base}"
            say(
                f"{file}: sound, {len(adapter.tensors)} tensors, {count(adapter.entry_count)}"
                f" entries, digest {adapter.content_digest}{against}"
            )
    if failed:
        raise error_of(
            failed[0]["status"],
            f"{file} does not fit {base}: {len(failed)} of {len(rows)} tensors;"
            f" the first: {failed[0]['problem']}",
            tensor=failed[0]["name"],
        )


def check_digests(content: bytes, adapter: Adapter) -> None:
    """Compare the SHA-256 of every section and of the whole with what the file declares.

    Raises:
        FormatError: DIGEST_MISMATCH.
    """
    sections = adapter._core.sections
    for section in sections:
        data = content[section.offset_bytes : section.offset_bytes + section.size_bytes]
        if hashlib.sha256(data).digest() != section.sha256:
            raise error_of(
                "DIGEST_MISMATCH",
                f"{adapter.path}: SHA-256 of section {section.kind} is"
                f" {hashlib.sha256(data).hexdigest()}, the file declares {section.sha256.hex()}",
            )
    header = bytearray(content[: _HEADER_BYTES + len(sections) * _SECTION_TABLE_ROW_BYTES])
    header[_DIGEST] = bytes(32)
    header[_HEADER_CRC] = bytes(4)
    found = hashlib.sha256(header).hexdigest()
    if found != adapter.content_digest:
        raise error_of(
            "DIGEST_MISMATCH",
            f"{adapter.path}: the content digest is {found}, the file declares"
            f" {adapter.content_digest}",
        )


def _compare(adapter: Adapter, name: str, base: Base) -> dict[str, Any]:
    """Check one tensor against the base, with the core's own checks."""
    tensor = adapter.tensors[name]
    stored = base.find(name)
    error: ShiraError | None = None
    if stored is None:
        error = error_of("UNKNOWN_TENSOR", "the base has no such tensor")
    elif stored.dtype not in ("f32", "f16", "bf16"):
        error = error_of("DTYPE_MISMATCH", f"{stored.dtype} in the base, {tensor.dtype} expected")
    else:
        array = base.read(name)
        try:
            program = from_numpy({name: array})
            program.add_adapter(adapter, "adapter", allow_partial=True)
            program.check_adapter("adapter")
            if _core.hash128(array) != tensor.base_digest:
                raise error_of(
                    "BASE_MODIFIED",
                    "the base fits at the touched positions and differs elsewhere",
                )
        except BaseMismatchError as mismatch:
            error = mismatch
    return {
        "name": name,
        "problem": error and error.message,
        "status": error and error.status,
    }
