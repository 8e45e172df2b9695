# SPDX-License-Identifier: Apache-2.0
"""What an installed wheel does not carry: modules of the checkout around the current folder."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from shira_runtime.commands.output import Misuse

__all__ = ["Checkout", "import_from_checkout"]

Checkout = Annotated[
    Path | None,
    typer.Option("--dir", help="A checkout; by default the one around this folder."),
]


def import_from_checkout(module: str, folder: Path | None) -> ModuleType:
    """Import a module by its dotted name.

    Args:
        module: such as "benchmarks.suites".
        folder: the checkout or a folder in it; None for the current folder.

    Raises:
        Misuse: there is no such module in the folder or above it.
    """
    path = Path(*module.split(".")).with_suffix(".py")
    here = Path.cwd() if folder is None else folder.resolve()
    checkout = next((f for f in (here, *here.parents) if (f / path).is_file()), None)
    if checkout is None:
        raise Misuse(f"no {path} in {here} or above it: name a checkout with --dir")
    sys.path.insert(0, str(checkout))
    return importlib.import_module(module)
