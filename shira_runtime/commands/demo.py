# SPDX-License-Identifier: Apache-2.0
"""`shira demo`: runs the demonstration of a checkout, which an installed wheel does not carry."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from shira_runtime.commands.output import Misuse

_SCRIPT = Path("examples", "minilm", "demo.py")


def demo(
    context: typer.Context,
    folder: Annotated[
        Path | None,
        typer.Option("--dir", help="A checkout; by default the one around this folder."),
    ] = None,
) -> int:
    """Switch adapters live on a real model in ExecuTorch.

    Other options go to the demo.
    """
    here = Path.cwd() if folder is None else folder.resolve()
    checkout = next((f for f in (here, *here.parents) if (f / _SCRIPT).is_file()), None)
    if checkout is None:
        raise Misuse(f"no {_SCRIPT} in {here} or above it: name a checkout with --dir")
    sys.path.insert(0, str(checkout))
    module = importlib.import_module(".".join(_SCRIPT.with_suffix("").parts))
    code: int = module.main(list(context.args))
    return code
