# SPDX-License-Identifier: Apache-2.0
"""Measures how fast .shb files of real sizes are opened, and the memory that takes at its peak.

Needs the C++ program of the same name (``cmake -DSHIRA_BUILD_BENCHMARKS=ON``). Run from the
repository's root: ``python -m benchmarks.open_speed PROGRAM [--output RECORD.json]``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shira_runtime.bench.context import machine_context
from shira_runtime.export.build import AdapterTensor, build_adapter
from shira_runtime.export.encode_values import CodedValues, encode_scaled
from shira_runtime.export.image import ValueCodec

_SHAPE = (4096, 4096)
_TENSOR_COUNT = 32
_DENSITY = 0.01
_GROUP = 64
_REPEATS = 15


@dataclass(frozen=True)
class Case:
    """A kind of file.

    Attributes:
        index: an index codec in lower case.
        values: F16 or a scaled codec.
        block_length: entries stand in aligned blocks of so many.
        has_one_tensor: of as many rows as otherwise all tensors have together.
    """

    index: str
    values: ValueCodec = ValueCodec.F16
    block_length: int = 1
    has_one_tensor: bool = False

    @property
    def name(self) -> str:
        """As a file's name, and in the record."""
        blocks = f"_blocks{self.block_length}" if self.block_length > 1 else ""
        one = "_one_tensor" if self.has_one_tensor else ""
        return f"{self.index}_{self.values.name.lower()}{blocks}{one}"


CASES = (
    Case("gaps8"),
    Case("rice"),
    Case("gaps16"),
    Case("gaps8", block_length=16),
    Case("rice", ValueCodec.Q8),
    Case("rice", ValueCodec.Q4),
    Case("rice", ValueCodec.Q1),
    Case("gaps16", has_one_tensor=True),
    Case("gaps16", ValueCodec.Q8, has_one_tensor=True),
    Case("rice", ValueCodec.Q8, has_one_tensor=True),
)


def measure(program: Path, repeats: int = _REPEATS) -> dict[str, Any]:
    """Writes a file of each kind, opens it again and again, and gives what was measured.

    Args:
        program: the built ``open_speed``.
        repeats: of each measurement, at least 9.

    Raises:
        subprocess.CalledProcessError: the program failed.
    """
    records = []
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            path = Path(folder) / f"{case.name}.shb"
            path.write_bytes(file_of(case))
            command = [str(program), "--json", "--repeats", str(repeats), str(path)]
            # A process for each file: one before could leave memory behind.
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            (record,) = json.loads(done.stdout)
            record["file"] = case.name
            record["block_length"] = case.block_length
            records.append(record)
            path.unlink()
    return {
        "machine": machine_context(),
        "shape": list(_SHAPE),
        "density": _DENSITY,
        "tensor_count": _TENSOR_COUNT,
        "repeats": repeats,
        "files": records,
    }


def file_of(case: Case, tensor_count: int = _TENSOR_COUNT) -> bytes:
    """A file of one kind, from a seed: so many matrices, or one as large as they are together."""
    generator = np.random.default_rng(20261122)
    tensors = []
    part_count = 1 if case.has_one_tensor else tensor_count
    shape = (_SHAPE[0] * tensor_count // part_count, _SHAPE[1])
    for number in range(part_count):
        indices = _random_mask(generator, shape, case.block_length)
        deltas = 0.01 * generator.standard_normal(indices.size, np.float32)
        tensors.append(
            AdapterTensor(
                name=f"layers.{number:03d}.weight",
                dtype="f16",
                shape=shape,
                indices=indices,
                values=_coded(deltas, case.values),
                kind="delta",
            )
        )
    return build_adapter("benchmark", tensors, index=case.index).content


def _random_mask(
    generator: np.random.Generator, shape: tuple[int, int], block_length: int
) -> NDArray[np.int64]:
    """Draws blocks independently of each other, each with probability _DENSITY."""
    block_count = shape[0] * shape[1] // block_length
    gaps = generator.geometric(_DENSITY, int(1.1 * _DENSITY * block_count) + 100)
    blocks = np.cumsum(gaps) - 1
    blocks = blocks[blocks < block_count]
    within = np.arange(block_length, dtype=np.int64)
    return (blocks[:, np.newaxis] * block_length + within).reshape(-1)


def _coded(deltas: NDArray[np.float32], codec: ValueCodec) -> NDArray[np.float16] | CodedValues:
    if codec is ValueCodec.F16:
        return deltas.astype(np.float16)
    return encode_scaled(deltas, codec, _GROUP)


def _print(record: dict[str, Any]) -> None:
    for file in record["files"]:
        open_ns, index_ns = file["open_ns_per_entry"], file["index_ns_per_entry"]
        peak = file["peak_bytes"] / file["plan_bytes"]
        print(
            f"{file['file']:22} open {open_ns:6.3f} ns/entry ({1e3 / open_ns:5.0f} M/s)  "
            f"index alone {index_ns:6.3f} ns/entry ({1e3 / index_ns:5.0f} M/s)  "
            f"peak {peak:.3f} x plan"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program", type=Path, help="the built open_speed")
    parser.add_argument("--repeats", type=int, default=_REPEATS)
    parser.add_argument("--output", type=Path, help="where to store the record as JSON")
    parsed = parser.parse_args(arguments)
    record = measure(parsed.program, parsed.repeats)
    _print(record)
    if parsed.output is not None:
        parsed.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
