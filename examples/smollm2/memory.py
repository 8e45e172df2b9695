# SPDX-License-Identifier: Apache-2.0
"""Measures in a process of its own, without torch, what a program takes in memory.

Run ``python -m examples.smollm2.memory REQUEST``; prints the figures as JSON. `measure` does that.
The request, in JSON, has the program, adapters by name, the one to activate, and tokens to read.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import shira_runtime

_ROOT = Path(__file__).resolve().parents[2]


def measure(
    program: Path,
    tokens: Sequence[int],
    adapters: Mapping[str, Path] | None = None,
    active: str | None = None,
) -> dict[str, int]:
    """Loads a program in a fresh process, switches it, reads tokens one by one, and looks.

    Returns:
        Bytes: "resident", which counts a page once for every place where it is mapped;
        "proportional", which counts it once; and of them "private".
    """
    request = {
        "program": str(program.resolve()),
        "tokens": list(tokens),
        "adapters": {name: str(path.resolve()) for name, path in (adapters or {}).items()},
        "active": active,
    }
    command = [sys.executable, "-m", "examples.smollm2.memory", json.dumps(request)]
    done = subprocess.run(command, cwd=_ROOT, check=True, capture_output=True, text=True)
    figures: dict[str, int] = json.loads(done.stdout)
    return figures


def main() -> None:
    """Does what the request on the command line says."""
    request: dict[str, Any] = json.loads(sys.argv[1])
    program = shira_runtime.load_program(request["program"])
    for name, path in request["adapters"].items():
        program.add_adapter(path, name)
    if request["active"]:
        program.switch(request["active"])
    for position, token in enumerate(request["tokens"]):
        program.forward(np.array([[token]]), np.array([position]))
    text = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8")
    kib = {name: int(value) for name, value in re.findall(r"(\w+): +(\d+) kB", text)}
    figures = {
        "resident": kib["Rss"],
        "proportional": kib["Pss"],
        "private": kib["Private_Clean"] + kib["Private_Dirty"],
    }
    print(json.dumps({name: 1024 * value for name, value in figures.items()}))


if __name__ == "__main__":
    main()
