# SPDX-License-Identifier: Apache-2.0
"""Makes the fixtures of this folder: small linear layers as ExecuTorch's XNNPACK backend has them.

Every kind of weight is exported once, its codes, scales and bias are replaced by random ones in the
``.pte``, and a program is packed on every target twice: as it is, and with new values at 2 % of
the positions. ``python make_fixtures.py --targets targets.json`` with a file that maps the name of
a target to the command that runs ``pack_weights.cpp`` there. Needs torch, torchao and executorch.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import struct
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FOLDER = Path(__file__).parent
DENSITY = 0.02
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Kind:
    """One kind of weight: (rows, columns), and columns per scale (0 for floats)."""

    name: str
    rows: int
    columns: int
    group: int


# Row counts leave the last block of every packing partly empty, column counts the last piece.
KINDS = (
    Kind("int8_channel", 70, 100, 100),
    Kind("int4_group", 40, 96, 32),
    Kind("int4_one_group", 40, 160, 160),
    Kind("int4_channel", 40, 80, 80),
    Kind("f16", 40, 36, 0),
    Kind("f32", 20, 36, 0),
)


def export(kind: Kind) -> bytes:
    """A ``.pte`` of one linear layer of this kind."""
    import torch
    from executorch.backends.xnnpack.partition.config.xnnpack_config import ConfigPrecisionType
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from executorch.exir import to_edge_transform_and_lower
    from torchao.quantization import (  # type: ignore[import-untyped]
        Int8DynamicActivationIntxWeightConfig,
        PerAxis,
        PerGroup,
        quantize_,
    )
    from torchao.quantization.pt2e.quantize_pt2e import (  # type: ignore[import-untyped]
        convert_pt2e,
        prepare_pt2e,
    )

    torch.manual_seed(len(kind.name))
    model: Any = torch.nn.Sequential(torch.nn.Linear(kind.columns, kind.rows)).eval()
    example = torch.randn(3, kind.columns)
    dynamic = ({0: torch.export.Dim("batch", min=1, max=8)},)
    if kind.name == "f16":
        model, example = model.half(), example.half()
    elif kind.name == "int4_channel":
        settings = get_symmetric_quantization_config(
            is_per_channel=True, is_dynamic=True, weight_qmin=-8, weight_qmax=7
        )
        graph = torch.export.export(model, (example,), dynamic_shapes=dynamic).module()
        prepared = prepare_pt2e(graph, XNNPACKQuantizer().set_global(settings))
        prepared(example)
        model = convert_pt2e(prepared)
    elif kind.group:
        weight_dtype = "int8" if kind.name == "int8_channel" else "int4"
        config = Int8DynamicActivationIntxWeightConfig(
            weight_dtype=getattr(torch, weight_dtype),
            weight_granularity=PerGroup(kind.group) if kind.name == "int4_group" else PerAxis(0),
        )
        quantize_(model, config)
    partitioners = [XnnpackPartitioner()]
    if kind.group:
        dynamic_quantization = ConfigPrecisionType.DYNAMIC_QUANT
        partitioners.insert(
            0, XnnpackPartitioner(config_precisions=dynamic_quantization, per_op_mode=True)
        )
    exported = torch.export.export(model, (example,), dynamic_shapes=dynamic)
    lowered = to_edge_transform_and_lower(exported, partitioner=partitioners)
    return bytes(lowered.to_executorch().buffer)


def buffers(program: bytes) -> list[tuple[str, int, int]]:
    """The named data of a ``.pte``: key, offset and size in bytes."""
    from executorch.exir._serialize._program import deserialize_pte_binary

    named = deserialize_pte_binary(program).named_data
    found = []
    for key, entry in named.pte_data.items():
        content = bytes(named.buffers[getattr(entry, "buffer_index", entry)])
        offset = program.find(content)
        assert program.find(content, offset + 1) < 0
        found.append((key, offset, len(content)))
    return found


def bf16(values: Array) -> Array:
    """float32 cut to the upper 16 bits, as uint16."""
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def pack_nibbles(codes: Array) -> bytes:
    """Bytes of int4 codes (rows, columns): each plus 8, the even column in the low nibble."""
    raised = (codes + 8).astype(np.uint8)
    return (raised[:, 0::2] | raised[:, 1::2] << 4).astype(np.uint8).tobytes()


@dataclass
class Contents:
    """What is put into the program: codes and their bytes, scales and bias."""

    codes: Array
    to_bytes: Callable[[Array], bytes]
    scales: bytes
    bias: bytes


def contents(kind: Kind, random: np.random.Generator) -> Contents:
    """Random contents of a kind, extreme codes included."""
    shape = (kind.rows, kind.columns)
    bias = random.standard_normal(kind.rows).astype(np.float32)
    if kind.group == 0:
        dtype = np.float16 if kind.name == "f16" else np.float32
        codes = random.standard_normal(shape).astype(dtype)
        return Contents(codes, lambda array: array.tobytes(), b"", bias.astype(dtype).tobytes())
    groups = kind.columns // kind.group
    # From 2^-16 to 1: sums of such products depend on the order in which they are added.
    scales = np.exp2(random.uniform(-16, 0, (kind.rows, groups))).astype(np.float32)
    if kind.name in ("int4_group", "int4_one_group"):
        scale_bytes = bf16(scales).tobytes()
    else:
        scale_bytes = scales.tobytes()
    if kind.name == "int8_channel":
        codes = random.integers(-128, 128, shape).astype(np.int8)
        return Contents(codes, lambda array: array.tobytes(), scale_bytes, bias.tobytes())
    codes = random.integers(-8, 8, shape).astype(np.int8)
    return Contents(codes, pack_nibbles, scale_bytes, bias.tobytes())


def changed(content: Contents, random: np.random.Generator) -> tuple[Array, Array]:
    """Positions and new codes: first, last, the two in one byte of a nibble packing, and others."""
    count = content.codes.size
    drawn = random.choice(count, int(DENSITY * count), replace=False)
    positions = np.unique(np.concatenate([drawn, [0, 1, 4, 8, 16, count - 1]]))
    if content.codes.dtype == np.int8:
        low = int(content.codes.min())
        values = random.integers(low, -low, positions.size).astype(np.int8)
        values[0] = low
    else:
        values = random.standard_normal(positions.size).astype(content.codes.dtype)
    return positions.astype(np.uint32), values


def packed(command: list[str], program: bytes, folder: Path) -> tuple[bytes, dict[str, bytes]]:
    """The cache file that packing leaves, and the packed bytes of its entries."""
    model, cache = folder / "model.pte", folder / "packed.cache"
    model.write_bytes(program)
    cache.unlink(missing_ok=True)
    subprocess.run([*command, str(model), str(cache)], check=True, capture_output=True)
    file = cache.read_bytes()
    entries: dict[str, bytes] = {}
    if not file:
        return file, entries
    position, count, _, _ = struct.unpack("<QIII", file[-20:])
    for _ in range(count):
        (length,) = struct.unpack_from("<I", file, position)
        name = file[position + 4 : position + 4 + length].decode()
        offset, size, _ = struct.unpack_from("<QQI", file, position + 4 + length)
        position += 4 + length + 20
        entries[name] = file[offset : offset + size]
    return file, entries


def record(name: str, content: bytes) -> bytes:
    """A record: lengths of name and content as uint32, name, content."""
    return struct.pack("<II", len(name), len(content)) + name.encode() + content


def make(kind: Kind, targets: dict[str, list[str]], folder: Path) -> None:
    """Writes the fixture of a kind."""
    random = np.random.default_rng(kind.rows * 1000 + kind.columns)
    content = contents(kind, random)
    program = bytearray(export(kind))
    places = {}
    rest = buffers(bytes(program))
    for what, data in (
        ("codes", content.to_bytes(content.codes)),
        ("scales", content.scales),
        ("bias", content.bias),
    ):
        if not data:
            continue
        fitting = [place for place in rest if place[2] == len(data)]
        assert fitting, (kind, what, len(data), rest)
        places[what] = fitting[0]
        rest.remove(fitting[0])
        offset = fitting[0][1]
        program[offset : offset + len(data)] = data
    assert not rest, rest
    positions, values = changed(content, random)
    patched = bytearray(program)
    new_codes = content.codes.copy()
    new_codes.reshape(-1)[positions] = values
    new_bytes = content.to_bytes(new_codes)
    offset = places["codes"][1]
    patched[offset : offset + len(new_bytes)] = new_bytes

    shape = struct.pack("<III", kind.rows, kind.columns, kind.group)
    output = record("shape", shape)
    output += record("codes", content.to_bytes(content.codes))
    output += record("scales", content.scales) + record("bias", content.bias)
    output += record("positions", positions.tobytes()) + record("values", values.tobytes())
    for target, command in targets.items():
        cache, entries = packed(command, bytes(program), folder)
        _, new_entries = packed(command, bytes(patched), folder)
        print(kind.name, target, {name[:8]: len(data) for name, data in entries.items()})
        assert len(entries) <= 1
        assert all(name.startswith(places["codes"][0]) for name in entries)
        assert entries.keys() == new_entries.keys()
        for name, base in entries.items():
            output += record(f"{target}/base", base) + record(
                f"{target}/patched", new_entries[name]
            )
        if kind.name == "int4_group" and target == next(iter(targets)):
            (FOLDER / "real.cache").write_bytes(cache)
    (FOLDER / f"{kind.name}.records").write_bytes(output)
    print(kind.name, hashlib.sha256(output).hexdigest()[:16], len(output))


def main() -> None:
    """Makes all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", type=Path, required=True)
    targets = json.loads(parser.parse_args().targets.read_text())
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            make(kind, targets, Path(folder))


if __name__ == "__main__":
    main()
