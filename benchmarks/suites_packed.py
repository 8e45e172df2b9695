# SPDX-License-Identifier: Apache-2.0
"""Suite "packed": switches in weights that XNNPACK has packed, beside plain ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from shira_runtime import Adapter, load_program
from shira_runtime.bench import Arm, Case, Scalar, Suite, WrongBytes, stages_of
from shira_runtime.export.base import xxh3_128
from shira_runtime.export.build import AdapterTensor, build_adapter

from .masks import Mask, make_mask
from .native import scratch_folder
from .switches import Switching
from .weights import Change, Weights

_DENSITY = 0.01
_TENSOR = "layer.weight"

#: Kind of packed weight -> how it is quantized, and the type of its codes in adapters.
_KINDS: Mapping[str, tuple[Any, str]] = {
    "f32": (None, "f32"),
    "f16": (None, "f16"),
    "int8": ("8da8w", "i8"),
    "int4 in groups of 32": ("8da4w", "i4"),
    "int4 by rows": ("8da4w-channel", "i4"),
}


@dataclass(frozen=True)
class _Size:
    shape: tuple[int, int]
    rounds: int


def packed(quick: bool) -> Suite:
    """The suite."""
    size = _Size((96, 64), 1) if quick else _Size((4096, 4096), 20)

    def cases() -> Iterator[Case]:
        torch.set_num_threads(1)
        with scratch_folder("packed") as folder:
            for kind in _KINDS:
                yield _case(size, kind, folder)

    return Suite(
        "packed-quick" if quick else "packed",
        "one 4096 x 4096 layer that XNNPACK has packed, of each kind: loading and switches",
        cases,
    )


def _case(size: _Size, kind: str, folder: Path) -> Case:
    mask = make_mask("random", size.shape, _DENSITY, 4, 11)
    layer = _PackedLayer(kind, size.shape, mask, folder / f"{kind.replace(' ', '_')}.pte")
    arms = [layer.load(), layer.first(), layer.arm(None, "A"), layer.arm("A", None)]
    if kind in ("f32", "f16"):
        plain = Switching(
            Weights(size.shape, kind), {"A": Change.random(mask, kind, 21)}, "plain: "
        )
        arms += [
            plain.first("switch base -> A, first", "A"),
            plain.arm("switch base -> A", None, "A"),
        ]
    fields: dict[str, Scalar] = {
        "what": "packed",
        "shape": f"{size.shape[0]}x{size.shape[1]}",
        "kind": kind,
        "mask": "random",
        "density": _DENSITY,
    }
    return Case(fields, arms, rounds=size.rounds)


class _Layer(nn.Module):
    """(1, columns) -> (1, rows)."""

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__()
        self.layer = nn.Linear(shape[1], shape[0], bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layer(x)
        return y


class _PackedLayer:
    """A program of one layer, an adapter for it, and what both compute."""

    def __init__(self, kind: str, shape: tuple[int, int], mask: Mask, path: Path) -> None:
        quantize, self._dtype = _KINDS[kind]
        torch.manual_seed(1)
        module = _Layer(shape).eval().requires_grad_(False)
        self._input = torch.linspace(-1.0, 1.0, shape[1]).reshape(1, -1)
        if kind == "f16":
            module, self._input = module.half(), self._input.half()
        self._path = path
        self._export(module, path, quantize)
        self._program = load_program(path)
        base = self._base()
        self._entries = mask.indices.size
        values = np.roll(base.reshape(-1)[mask.indices], 1)
        self._adapter = Adapter.from_bytes(self._content(base, mask, values))
        self._program.add_adapter(self._adapter)
        # A program that was packed with the adapter's codes says what is right.
        merged = base.copy()
        merged.reshape(-1)[mask.indices] = values
        other = path.with_suffix(".merged.pte")
        other.write_bytes(self._with_codes(path.read_bytes(), merged))
        self._answers = {
            None: self._program.forward(self._input)[0].tobytes(),
            "A": load_program(other).forward(self._input)[0].tobytes(),
        }

    def _export(self, module: nn.Module, path: Path, quantize: Any) -> None:
        from shira_runtime.export.program import export_program

        export_program(module, (self._input,), path, backend="xnnpack", quantize=quantize)

    def _place(self) -> tuple[int, int]:
        from shira_runtime.export.program_file import read_named_data, read_packed_keys

        return read_named_data(self._path)[read_packed_keys(self._path)[_TENSOR]]

    def _base(self) -> NDArray[Any]:
        """The codes in the program's file, one int8 for each of 4 bits."""
        begin, end = self._place()
        stored = np.fromfile(self._path, np.uint8, end - begin, offset=begin)
        shape = self._program.tensors[_TENSOR].shape
        if self._dtype == "i4":
            pairs = np.stack([stored & 15, stored >> 4], axis=-1).reshape(shape)
            return pairs.astype(np.int8) - np.int8(8)
        return stored.view({"f32": "<f4", "f16": "<f2", "i8": "i1"}[self._dtype]).reshape(shape)

    def _with_codes(self, content: bytes, codes: NDArray[Any]) -> bytes:
        if self._dtype == "i4":
            unsigned = (codes + 8).astype(np.uint8)
            codes = unsigned[:, 1::2] << 4 | unsigned[:, ::2]
        begin, end = self._place()
        return content[:begin] + codes.tobytes() + content[end:]

    def _content(self, base: NDArray[Any], mask: Mask, values: NDArray[Any]) -> bytes:
        tensor = AdapterTensor(
            name=_TENSOR,
            dtype=self._dtype,
            shape=base.shape,
            indices=mask.indices,
            values=values,
            kind="target",
            fingerprint=xxh3_128(np.ascontiguousarray(base.reshape(-1)[mask.indices])),
            base_digest=xxh3_128(np.ascontiguousarray(base.reshape(-1))),
        )
        return build_adapter("A", [tensor]).content

    # --- arms ---

    def load(self) -> Arm:
        """Loading the program: packing, finding out how it was packed, comparing every number."""
        loaded: list[Any] = []

        def run() -> Mapping[str, int]:
            loaded[:] = [load_program(self._path)]
            return stages_of(loaded[0].load_report)

        def check() -> None:
            if not loaded or loaded[0].forward(self._input)[0].tobytes() != self._answers[None]:
                raise WrongBytes("the program that was loaded does not give the base's answer")

        return Arm("load the program", run, check=check, finish=loaded.clear)

    def first(self) -> Arm:
        """A switch to an adapter that was only just added: it saves originals."""

        def prepare() -> None:
            self._program.switch(None)
            self._program.remove_adapter("A")
            self._program.add_adapter(self._adapter)

        return self._switch("switch base -> A, first", "A", prepare)

    def arm(self, start: str | None, target: str | None) -> Arm:
        """A switch from one state to the other, originals being held already."""

        def prepare() -> None:
            self._program.switch(target)
            self._program.switch(start)

        name = f"switch {start or 'base'} -> {target or 'base'}"
        return self._switch(name, target, prepare)

    def _switch(self, name: str, target: str | None, prepare: Any) -> Arm:
        return Arm(
            name,
            lambda: stages_of(self._program.switch(target)),
            prepare=prepare,
            check=lambda: self._check(target),
            finish=lambda: self._program.switch(None),
            counts={"entries": self._entries},
        )

    def _check(self, state: str | None) -> None:
        if self._program.forward(self._input)[0].tobytes() != self._answers[state]:
            raise WrongBytes(f"the answer of {state or 'the base'} is not that of a fresh packing")
