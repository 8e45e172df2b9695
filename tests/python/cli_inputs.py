# SPDX-License-Identifier: Apache-2.0
"""What tests of the command line share: a base with adapters for it, how a command ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from shb_files import adapter_bytes, random_arrays, tensor_entries

SHAPES = {
    "layer.a.weight": ((12, 40), "f32"),
    "layer.b.weight": ((8, 30), "bf16"),
    "layer.c.bias": ((20,), "f16"),
}


class Ran(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


Shira = Callable[..., Ran]


def shira_process(
    folder: Path, *arguments: object, before: str = "pass", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, in a folder that is not the checkout."""
    given = [str(argument) for argument in arguments]
    script = f"import sys; {before}; from shira_runtime.cli import main; sys.exit(main({given!r}))"
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


class Files:
    """A base of three weights as safetensors, and two bound adapters whose masks overlap."""

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(9)
        self.arrays = random_arrays(rng, SHAPES)
        self.base, self.de, self.fr = (folder / n for n in ("b.safetensors", "de.shb", "fr.shb"))
        self.base.write_bytes(safetensors_bytes(self.arrays, {"format": "pt", "who": "me"}))
        a, b, c = self.arrays.values()
        at_de, at_fr = np.arange(0, 200, 2), np.arange(0, 200, 5)
        self.targets = {
            "de": {"layer.a.weight": (at_de, rng.standard_normal(100).astype(a.dtype))},
            "fr": {
                "layer.a.weight": (at_fr, rng.standard_normal(40).astype(a.dtype)),
                "layer.b.weight": (np.arange(7, 39), np.linspace(-1, 1, 32).astype(b.dtype)),
            },
        }
        for name, targets in self.targets.items():
            entries = [tensor_entries(n, self.arrays[n], *t) for n, t in targets.items()]
            content = adapter_bytes(name, *entries, license="MIT", train={"steps": 3})
            (folder / f"{name}.shb").write_bytes(content)
        self.delta = folder / "delta.shb"
        self.delta.write_bytes(
            adapter_bytes(
                "delta",
                tensor_entries(
                    "layer.c.bias", c, np.array([3]), np.ones(1, np.float32), "delta", bound=False
                ),
            )
        )


def safetensors_bytes(arrays: dict[str, NDArray[Any]], metadata: dict[str, str]) -> bytes:
    types = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
    header: dict[str, Any] = {"__metadata__": metadata}
    at = 0
    for name, array in arrays.items():
        header[name] = {
            "dtype": types[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    body = b"".join(array.tobytes() for array in arrays.values())
    return len(text).to_bytes(8, "little") + text + body


def with_prefix(arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {f"model.{name}": array for name, array in arrays.items()}


def read_back(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Read a safetensors file, written here once more so that the command's reader is not used."""
    content = path.read_bytes()
    header_bytes = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + header_bytes])
    metadata = header.pop("__metadata__")
    types = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
    arrays = {}
    for name, entry in header.items():
        start, end = (8 + header_bytes + offset for offset in entry["data_offsets"])
        arrays[name] = np.frombuffer(content[start:end], types[entry["dtype"]])
        arrays[name] = arrays[name].reshape(entry["shape"])
    return arrays, metadata
