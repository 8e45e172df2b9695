# SPDX-License-Identifier: Apache-2.0
"""A model's matrices in a .ptd file, mapped as ExecuTorch maps it, and attached for switching.

No method is loaded: the mapping is made here, read-only and shared, and its addresses are given to
the core as a program's would be. From there on everything is what `load_program` does.
"""

from __future__ import annotations

import mmap
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shira_runtime import Program, _core
from shira_runtime.bench import BenchmarkError, WrongBytes

from .resident import DTYPE, Layout
from .weights import random_bits


def write_ptd(path: Path, model: Sequence[Layout]) -> None:
    """Write the matrices of a model as ExecuTorch would, one after the other.

    ExecuTorch's own writer holds all of them in memory several times, so this takes its parts.
    """
    from executorch.exir._serialize._program import _insert_flatbuffer_header
    from executorch.exir._serialize.padding import aligned_size, pad_to
    from executorch.exir.scalar_type import ScalarType
    from executorch.exir.tensor_layout import TensorLayout
    from executorch.extension.flat_tensor.serialize import flat_tensor_schema as schema
    from executorch.extension.flat_tensor.serialize import serialize

    alignment = serialize.FlatTensorConfig().segment_alignment
    segments: list[schema.DataSegment] = []
    end = 0
    for layout in model:
        segments.append(schema.DataSegment(aligned_size(end, alignment), layout.size_bytes))
        end = segments[-1].offset + layout.size_bytes
    named = [
        schema.NamedData(
            layout.name, number, TensorLayout(ScalarType.HALF, list(layout.shape), [0, 1])
        )
        for number, layout in enumerate(model)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Python deprecates is nothing to our users
        tables = bytes(serialize._serialize_to_flatbuffer(schema.FlatTensor(0, segments, named)))
    header_bytes = aligned_size(serialize.FlatTensorHeader.EXPECTED_LENGTH, 16)
    base = aligned_size(len(tables) + header_bytes, alignment)
    header = serialize.FlatTensorHeader(header_bytes, len(tables), base, end).to_bytes()
    head = _insert_flatbuffer_header(
        tables, "FT[0-9a-zA-Z][0-9a-zA-Z]", pad_to(header, header_bytes)
    )
    with path.open("wb") as stream:
        stream.write(pad_to(head, base))
        for layout, segment in zip(model, segments, strict=True):
            stream.write(bytes(base + segment.offset - stream.tell()))
            stream.write(random_bits(layout.shape, DTYPE, layout.seed).data)


class _Unrunnable:
    """The source of a Program that has weights and no method."""

    def __init__(self) -> None:
        self.unpatchable: Mapping[str, str] = {}

    def check_attached(self) -> None:
        """The core watches mapped memory by itself."""

    def forward(self, *arguments: Any) -> Any:
        """There is nothing to run.

        Raises:
            BenchmarkError: always.
        """
        raise BenchmarkError("a .ptd file that is mapped for a benchmark has no method to run")


class MappedModel:
    """One mapping of a .ptd file, attached: copy-on-write from now on.

    Args:
        path: written by `write_ptd`.
        model: what is in it.
    """

    def __init__(self, path: Path, model: Sequence[Layout]) -> None:
        self._model = model
        with path.open("rb") as stream:
            self._mapping = mmap.mmap(stream.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ)
        view = np.frombuffer(self._mapping, np.uint8)
        self._address = view.ctypes.data
        del view  # the mapping could not be closed otherwise
        self._offsets = {
            tensor.name: tensor.offset_bytes for tensor in _core.ProgramFile.read(str(path)).tensors
        }
        core = _core.Program()
        anchors = [(name, self._address + offset) for name, offset in self._offsets.items()]
        core.attach_file(os.fsencode(path), anchors)
        self.program = Program(core, _Unrunnable())

    def close(self) -> None:
        """Give the mapping and its private pages back."""
        del self.program
        self._mapping.close()

    def check(self, digests: dict[str, bytes]) -> None:
        """Compare every byte of the matrices with what it has to be, by digest.

        Raises:
            WrongBytes: a matrix differs, and which.
        """
        file = np.frombuffer(self._mapping, np.uint8)
        for layout in self._model:
            offset = self._offsets[layout.name]
            if _core.hash128(file[offset : offset + layout.size_bytes]) != digests[layout.name]:
                raise WrongBytes(f"{layout.name} is not what it has to be")

    def private_bytes(self) -> int:
        """How much of the mapping is private memory by now, as /proc/self/smaps says."""
        begin, end = self._address, self._address + len(self._mapping)
        total_kib, inside = 0, False
        for line in Path("/proc/self/smaps").read_text().splitlines():
            first, *rest = line.split()
            if not first.endswith(":"):
                low, high = (int(part, 16) for part in first.split("-"))
                inside = begin <= low and high <= end + mmap.PAGESIZE
            elif inside and first == "Anonymous:":
                total_kib += int(rest[0])
        return total_kib * 1024
