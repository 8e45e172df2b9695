# SPDX-License-Identifier: Apache-2.0
"""The adapters that a command line names, and their scales."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from shira_runtime import Adapter, AdapterFile
from shira_runtime.commands.output import Misuse
from shira_runtime.errors import error_of

__all__ = [
    "IndexFrom",
    "Names",
    "Scales",
    "Tiers",
    "by_name",
    "open_adapters",
    "open_file",
    "open_sources",
    "parse_scales",
    "read_content",
    "require_regular",
]

Names = Annotated[
    list[str] | None,
    typer.Option("--adapter", "-a", metavar="NAME", help="An adapter in a file of several."),
]
Tiers = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Open only the first N importance tiers of each file."),
]
Scales = Annotated[
    list[str] | None,
    typer.Option(
        "--scale",
        metavar="NAME=NUMBER",
        help="The scale of an adapter, 1 if not given; NUMBER will do where there is one adapter.",
    ),
]
IndexFrom = Annotated[
    list[Path] | None,
    typer.Option(
        "--index-from", metavar="OTHER.shb", help="A file whose positions another one refers to."
    ),
]


def open_file(path: Path, tiers: int | None, index_from: Sequence[Path] | None) -> AdapterFile:
    """Open one file, with the files that it may refer to.

    Raises:
        ShiraError: see `AdapterFile.open`.
    """
    sources = open_sources(index_from)
    return AdapterFile.open(path, tiers=tiers, index_from=sources, keep_content=False)


def open_sources(index_from: Sequence[Path] | None) -> list[AdapterFile]:
    """Open the files of `--index-from`.

    Raises:
        ShiraError: see `AdapterFile.open`.
    """
    return [AdapterFile.open(source) for source in index_from or ()]


def read_content(path: Path) -> bytes:
    """Read the whole of a regular file, and not wait for a pipe or fill memory from a device.

    Raises:
        FileError: it is something else.
        OSError: it cannot be read.
    """
    require_regular(path)
    return path.read_bytes()


def require_regular(path: Path) -> None:
    """Refuse what exists and is no regular file.

    Raises:
        FileError: it is a pipe, a device or a folder.
    """
    if path.exists() and not path.is_file():
        raise error_of("IO_ERROR", "this is not a regular file", file=str(path))


def open_adapters(
    paths: Iterable[Path],
    names: Sequence[str] | None = None,
    tiers: int | None = None,
    index_from: Sequence[Path] | None = None,
) -> list[Adapter]:
    """Open adapter files: the only adapter of each, and of packs those that `names` has.

    Raises:
        Misuse: a pack of which none is named, or a name that no pack has.
        ShiraError: see `AdapterFile.open`.
    """
    adapters: list[Adapter] = []
    wanted = list(names or ())
    files = [open_file(path, tiers, index_from) for path in paths]
    known = [name for file in files for name in file.adapters]
    if missing := [name for name in wanted if name not in known]:
        raise Misuse(f"--adapter {missing[0]}: no such adapter among {', '.join(known)}")
    for file in files:
        chosen = [name for name in wanted if name in file.adapters]
        if len(file.adapters) > 1 and not chosen:
            raise Misuse(
                f"{file.path} holds {len(file.adapters)} adapters, choose with --adapter:"
                f" {', '.join(file.adapters)}"
            )
        adapters += [file.adapters[name] for name in chosen or file.adapters]
    return adapters


def by_name(adapters: Iterable[Adapter]) -> dict[str, Adapter]:
    """Key adapters by the names stored in their files.

    Raises:
        Misuse: two have one name.
    """
    named: dict[str, Adapter] = {}
    for adapter in adapters:
        other = named.setdefault(adapter.name, adapter)
        if other is not adapter:
            raise Misuse(f"{other.path} and {adapter.path} have one name: {adapter.name}")
    return named


def parse_scales(options: Iterable[str], names: Sequence[str]) -> dict[str, float]:
    """Read NAME=NUMBER options; names without one get scale 1.

    Raises:
        Misuse: an option of another form, or for a name that is not there.
    """
    scales = dict.fromkeys(names, 1.0)
    for option in options:
        name, separator, number = option.rpartition("=")
        if not separator and len(names) == 1:
            name = names[0]
        try:
            scale = float(number)
        except ValueError:
            raise Misuse(f"--scale {option}: expected NAME=NUMBER") from None
        if not math.isfinite(scale):
            raise Misuse(f"--scale {option}: expected a finite number")
        if name not in scales:
            raise Misuse(f"--scale {option}: no adapter {name!r} among {', '.join(names)}")
        scales[name] = scale
    return scales
