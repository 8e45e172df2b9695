# SPDX-License-Identifier: Apache-2.0
"""`shira sign`: puts an Ed25519 signature into the header of an adapter file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shira_runtime import AdapterFile, signing
from shira_runtime.commands.adapters import IndexFrom, open_sources, read_content
from shira_runtime.commands.output import Json, print_json, say
from shira_runtime.errors import error_of


def sign(
    file: Annotated[Path, typer.Argument(help="A .shb file.")],
    key: Annotated[Path, typer.Option(help="A secret key of `shira keygen`.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The file to write; without it FILE is replaced."),
    ] = None,
    index_from: IndexFrom = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a signature, or an existing output.")
    ] = False,
    json: Json = False,
) -> None:
    """Sign an adapter, after every check that its file allows.

    Only the header changes: the content digest is the same before and after.
    """
    from shira_runtime.export.output import check_output, write_output

    target, replace = (file, True) if output is None else (output, force)
    check_output(target, replace)
    private_key = signing.read_private_key(key)
    content = read_content(file)
    opened = AdapterFile.from_bytes(content, str(file), index_from=open_sources(index_from))
    signing.check_digests(content, str(file))
    if opened.signer is not None and not force:
        raise error_of(
            "INVALID_ARGUMENT",
            f"is signed already, as by the key {opened.signer}; --force replaces the signature",
            file=str(file),
        )
    signed = signing.sign(content, private_key)
    write_output(target, signed, replace)
    public_key = private_key.public_key().public_bytes_raw().hex()
    if json:
        print_json(
            {
                "output": str(target),
                "content_digest": opened.content_digest,
                "public_key": public_key,
            }
        )
    else:
        say(f"{target}: digest {opened.content_digest} signed by the key {public_key}")
