# SPDX-License-Identifier: Apache-2.0
"""`shira demo`: runs the demonstration of a checkout, which an installed wheel does not carry."""

from __future__ import annotations

import typer

from shira_runtime.commands.checkout import Checkout, import_from_checkout


def demo(context: typer.Context, folder: Checkout = None) -> int:
    """Switch adapters live on a real model in ExecuTorch.

    Other options go to the demo.
    """
    module = import_from_checkout("examples.minilm.demo", folder)
    code: int = module.main(list(context.args))
    return code
