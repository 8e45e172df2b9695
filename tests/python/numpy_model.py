# SPDX-License-Identifier: Apache-2.0
"""A program over numpy arrays with two adapters, which the tests of Program start from."""

from __future__ import annotations

import numpy as np
from shb_files import adapter, random_arrays, tensor_entries

from shira_runtime import (
    from_numpy,
)

SHAPES = {
    "a.weight": ((8, 24), "f32"),
    "b.bias": ((40,), "f16"),
    "c.weight": ((6, 4, 3, 3), "bf16"),
}


class Model:
    """Three weights, two adapters whose masks overlap in a.weight, and the bytes at the start."""

    def __init__(self) -> None:
        rng = np.random.default_rng(3)
        self.arrays = random_arrays(rng, SHAPES)
        self.before = self.bytes()
        a, b, c = self.arrays.values()
        self.de = adapter(
            "de",
            tensor_entries("a.weight", a, np.arange(0, 60, 3), rng.standard_normal(20)),
            tensor_entries("c.weight", c, np.arange(10, 30), rng.standard_normal(20)),
        )
        self.fr = adapter(
            "fr",
            tensor_entries("a.weight", a, np.arange(0, 60, 2), rng.standard_normal(30)),
            tensor_entries(
                "b.bias", b, np.array([0, 39]), np.array([1, -0.5], np.float32), kind="delta"
            ),
        )
        self.program = from_numpy(self.arrays)
        self.program.add_adapter(self.de)
        self.program.add_adapter(self.fr)

    def bytes(self) -> dict[str, bytes]:
        return {name: array.tobytes() for name, array in self.arrays.items()}
