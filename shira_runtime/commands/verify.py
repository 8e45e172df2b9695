# SPDX-License-Identifier: Apache-2.0
"""`shira verify`: every check that an adapter file allows, alone and against a base model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from shira_runtime import (
    Adapter,
    AdapterFile,
    BaseMismatchError,
    ShiraError,
    _core,
    from_numpy,
    signing,
)
from shira_runtime.commands.adapters import IndexFrom, open_sources, read_content
from shira_runtime.commands.bases import DTYPES, Base
from shira_runtime.commands.output import Json, count, print_json, print_table, say
from shira_runtime.errors import error_of


def verify(
    file: Annotated[Path, typer.Argument(help="A .shb file.")],
    base: Annotated[
        Path | None,
        typer.Option(help="The base: a model folder, .safetensors, .pte or .ptd file."),
    ] = None,
    public_key: Annotated[
        str | None,
        typer.Option(
            "--public-key",
            metavar="KEY",
            help="Also the signature: 64 hex digits, or a PEM file of the key.",
        ),
    ] = None,
    index_from: IndexFrom = None,
    json: Json = False,
) -> None:
    """Check digests, a signature, and the fit to a base.

    Checksums and every rule of the format are always checked; the signature with --public-key, the
    fit with --base.
    """
    key = None if public_key is None else signing.parse_public_key(public_key)
    content = read_content(file)
    opened = AdapterFile.from_bytes(content, str(file), index_from=open_sources(index_from))
    check_digests(opened, content)
    if key is not None:
        opened.check_signature(key)
    adapters = opened.adapters.values()
    rows = [] if base is None else _compare_all(adapters, Base(base))
    failed = [row for row in rows if row["problem"]]
    if json:
        print_json(
            {
                "file": str(file),
                "content_digest": opened.content_digest,
                "signed_by": None if key is None else key.hex(),
                "base": None if base is None else str(base),
                "tensors": rows,
                "ok": not failed,
            }
        )
    else:
        if rows:
            print_table(
                ("adapter", "tensor", "fits the base", "problem"),
                [
                    (row["adapter"], row["name"], not row["problem"], row["problem"] or "")
                    for row in rows
                ],
            )
        if not failed:
            against = "" if base is None else f", made for {base}"
            signed = _signed(opened, key)
            tensor_count = sum(len(adapter.tensors) for adapter in adapters)
            entry_count = sum(adapter.entry_count for adapter in adapters)
            pack = f"{len(adapters)} adapters, " if len(adapters) > 1 else ""
            say(
                f"{file}: sound, {pack}{tensor_count} tensors, {count(entry_count)} entries,"
                f" digest {opened.content_digest}{signed}{against}"
            )
    if failed:
        raise error_of(
            failed[0]["status"],
            f"{failed[0]['problem']} ({len(failed)} of {len(rows)} tensors do not fit {base})",
            file=str(file),
            tensor=failed[0]["name"],
        )


def _signed(opened: AdapterFile, key: bytes | None) -> str:
    if key is not None:
        return f", signed by {key.hex()}"
    return ", signature not checked: give --public-key" if opened.signer else ", not signed"


def check_digests(opened: AdapterFile, content: bytes) -> None:
    """Compute every SHA-256, in Python where the core was built without its library.

    Raises:
        FormatError: DIGEST_MISMATCH.
    """
    if _core.cryptography_available():
        opened.check_digests()
    else:
        signing.check_digests(content, opened.path)


def _compare_all(adapters: Iterable[Adapter], base: Base) -> list[dict[str, Any]]:
    rows = []
    for adapter in adapters:
        base.require_distinct(adapter.tensors)
        rows += [_compare(adapter, name, base) for name in adapter.tensors]
    return rows


def _compare(adapter: Adapter, name: str, base: Base) -> dict[str, Any]:
    """Check one tensor against the base, with the core's own checks."""
    tensor = adapter.tensors[name]
    stored = base.find(name)
    error: ShiraError | None = None
    if stored is None:
        error = error_of("UNKNOWN_TENSOR", "the base has no such tensor")
    elif stored.dtype not in DTYPES:
        error = error_of("DTYPE_MISMATCH", f"{stored.dtype} in the base, {tensor.dtype} expected")
    else:
        array = base.read(name)
        try:
            program = from_numpy({name: array}, {name: DTYPES[stored.dtype]})
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
        "adapter": adapter.name,
        "name": name,
        "problem": error and error.message,
        "status": error and error.status,
    }
