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

__all__ = [
    "IndexFrom",
    "Names",
    "Tiers",
    "by_name",
    "open_adapters",
    "open_file",
    "open_sources",
    "parse_scales",
]

Names = Annotated[
    list[str] | None,
    typer.Option("--adapter", "-a", help="NAME of an adapter in a file that holds several."),
]
Tiers = Annotated[
    int | None, typer.Option(min=1, help="Open only the first N importance tiers of each file.")
]
IndexFrom = Annotated[
    list[Path] | None,
    typer.Option("--index-from", help="A .shb file whose positions another one refers to."),
]


def open_file(path: Path, tiers: int | None, index_from: Sequence[Path] | None) -> AdapterFile:
    """Open one file, with the files that it may refer to.

    Raises:
        ShiraError: see `AdapterFile.open`.
    """
    return AdapterFile.open(path, tiers=tiers, index_from=open_sources(index_from))


def open_sources(index_from: Sequence[Path] | None) -> list[AdapterFile]:
    """Open the files of `--index-from`.

    Raises:
        ShiraError: see `AdapterFile.open`.
    """
    return [AdapterFile.open(source) for source in index_from or ()]


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
    known: list[str] = []
    for path in paths:
        file = open_file(path, tiers, index_from)
        chosen = [name for name in wanted if name in file.adapters]
        if len(file.adapters) > 1 and not chosen:
            raise Misuse(
                f"{path} holds {len(file.adapters)} adapters, choose with --adapter:"
                f" {', '.join(file.adapters)}"
            )
        adapters += [file.adapters[name] for name in chosen or file.adapters]
        known += file.adapters
    if missing := [name for name in wanted if name not in known]:
        raise Misuse(f"--adapter {missing[0]}: no such adapter among {', '.join(known)}")
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
