# SPDX-License-Identifier: Apache-2.0
"""`shira keygen`: a new key pair, whose secret half signs adapters."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from shira_runtime import signing
from shira_runtime.commands.output import Json, Misuse, note, print_json, say


def keygen(
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="The secret key to write; the public one gets .pub."),
    ],
    json: Json = False,
) -> None:
    """Make an Ed25519 key pair; print its public half.

    The secret key is PEM (PKCS #8) without a password, readable by its owner only. Neither file
    replaces another one.
    """
    if not output.name:
        raise Misuse(f"--output {output}: names no file")
    public = output.with_name(f"{output.name}.pub")
    keys = signing.generate_keys()
    _write_new(output, keys.private_pem, 0o600)
    try:
        _write_new(public, keys.public_pem, 0o666)
    except OSError:
        output.unlink()
        raise
    if json:
        print_json(
            {
                "private_key_file": str(output),
                "public_key_file": str(public),
                "public_key": keys.public_key.hex(),
            }
        )
    else:
        note(f"{output}: the secret key; keep it where only the signer can read it")
        note(f"{public}: the public key as PEM; as hex digits, for a runtime:")
        say(keys.public_key.hex())


def _write_new(path: Path, content: bytes, mode: int) -> None:
    """Write a file that must not exist yet, with its permissions from the first moment on."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    with os.fdopen(os.open(path, flags, mode), "wb") as stream:
        try:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        except BaseException:
            path.unlink()
            raise
