# SPDX-License-Identifier: Apache-2.0
"""`shira kernels`: which implementations of the inner loops this build has, and which one runs."""

from __future__ import annotations

from shira_runtime import _core
from shira_runtime.commands.output import Json, print_json, print_table


def kernels(json: Json = False) -> None:
    """List the kernels, best first; SHIRA_FORCE_KERNEL forces one."""
    rows = _core.kernels()
    if json:
        print_json([{"name": n, "supported": s, "chosen": c} for n, s, c in rows])
    else:
        print_table(("kernel", "supported here", "chosen"), rows)
