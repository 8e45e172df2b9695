# SPDX-License-Identifier: Apache-2.0
"""The adapters that a command line names, and their scales."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from shira_runtime import Adapter
from shira_runtime.commands.output import Misuse

__all__ = ["open_adapters", "parse_scales"]


def open_adapters(paths: Iterable[Path]) -> dict[str, Adapter]:
    """Open adapter files, by the names stored in them.

    Raises:
        Misuse: two have one name.
        FormatError, UnsupportedError, FileError: see `Adapter.open`.
    """
    adapters: dict[str, Adapter] = {}
    for path in paths:
        adapter = Adapter.open(path)
        other = adapters.setdefault(adapter.name, adapter)
        if other is not adapter:
            raise Misuse(f"{other.path} and {adapter.path} have one name: {adapter.name}")
    return adapters


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
