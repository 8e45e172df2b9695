# SPDX-License-Identifier: Apache-2.0
"""Ten thousand random switches against an oracle in plain numpy, on arrays and mapped programs.

The oracle knows docs/FORMAT.md section 11 and nothing of the runtime: from the base, the adapters
and the scales it computes what every byte of every weight must be.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from shb_files import Kind, tensor_entries
from shb_reader import adapter_values, read

from shira_runtime import Adapter, AdapterFile, Program, from_numpy, load_program
from shira_runtime.export import build
from shira_runtime.export.derive import SeedSource, derive
from shira_runtime.export.encode_values import encode_scaled
from shira_runtime.export.image import SCALED_CODECS

Arrays = dict[str, NDArray[Any]]
SWITCHES = 10_000
COMPARE_EVERY = 100
CODES = {"i8.weight": 128, "i4.weight": 8}  # weights of integer codes: how far they go below 0
SCALES = (1.0, 1.0, 1.0, 0.5, 0.25, -1.0, 2.0, 1 / 3, 0.7, 0.0, 1e-3)


# --- the oracle ---


def narrow(values: NDArray[np.float32], name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Round float32 to the weight's dtype, to nearest with ties to even; bfloat16 by hand."""
    if name in CODES:
        return np.clip(np.rint(values), -CODES[name], CODES[name] - 1).astype(dtype)
    if dtype != ml_dtypes.bfloat16:
        return values.astype(dtype)
    bits = values.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16).view(dtype)


@dataclass(frozen=True)
class Entries:
    """What one adapter holds for one weight."""

    indices: NDArray[np.int64]
    values: NDArray[Any]
    kind: Kind


def order_of(adapter: Adapter) -> tuple[bytes, int]:
    """What decides, before the scale, when an adapter's contribution is added."""
    return bytes.fromhex(adapter.content_digest), adapter._core.number


def expected(
    base: Arrays, files: dict[str, Adapter], held: dict[str, dict[str, Entries]], active: Any
) -> dict[str, bytes]:
    members = [(n, np.float32(s)) for n, s in active.items() if np.float32(s) != 0]
    members.sort(key=lambda member: (*order_of(files[member[0]]), member[1]))
    result = {}
    for name, weight in base.items():
        flat = weight.reshape(-1).copy()
        wide = flat.astype(np.float32)
        total = np.zeros(flat.size, np.float32)
        touched = np.zeros(flat.size, np.int64)
        exact = np.zeros(flat.size, bool)
        for member, scale in members:
            if name not in held[member]:
                continue
            entries = held[member][name]
            at, values = entries.indices, entries.values.astype(np.float32)
            if entries.kind == "target":
                values = values - wide[at]
                exact[at] = scale == 1
            share = scale * values
            # The first contribution is taken as it is: 0 + -0.0 would lose the sign.
            total[at] = np.where(touched[at] == 0, share, total[at] + share)
            touched[at] += 1
            if entries.kind == "target" and scale == 1:
                flat[at] = entries.values
        computed = (touched > 0) & ~(exact & (touched == 1))
        flat[computed] = narrow((wide + total)[computed], name, flat.dtype)
        result[name] = flat.tobytes()
    return result


# --- random weights and adapters with the difficult values among them ---


def awkward(rng: np.random.Generator, count: int, dtype: Any, spread: float) -> NDArray[Any]:
    """Normal values, and many that are zeros of both signs, subnormals or powers of two."""
    tiny = float(np.finfo(np.float32).smallest_subnormal if dtype == np.float32 else 2.0**-24)
    if dtype == ml_dtypes.bfloat16:
        tiny = 2.0**-133
    specials = np.array([0.0, -0.0, tiny, -tiny, 3 * tiny, 1.0, -1.0, 0.5, 1 + 2.0**-7], np.float64)
    values = np.where(
        rng.random(count) < 0.4, rng.choice(specials, count), spread * rng.standard_normal(count)
    )
    return values.astype(dtype)


def half_steps(rng: np.random.Generator, base: NDArray[Any]) -> NDArray[np.float32]:
    """Deltas of half a unit in the last place: sums lie exactly between two values of the dtype."""
    digits = {2: 10, 4: 23}[base.dtype.itemsize] if base.dtype != ml_dtypes.bfloat16 else 7
    exponent = np.frexp(np.abs(base.astype(np.float32)))[1] - 1 - digits - 1
    steps = np.ldexp(np.float32(1), exponent).astype(np.float32)
    return np.where(rng.random(base.size) < 0.5, steps, -steps).astype(np.float32)


def random_mask(rng: np.random.Generator, weight: NDArray[Any]) -> NDArray[np.int64]:
    style, size = rng.integers(5), weight.size
    if style == 0:
        return np.flatnonzero(rng.random(size) < 0.1)
    if style == 1:  # aligned blocks
        blocks = np.flatnonzero(rng.random(size // 16) < 0.2)
        return (blocks[:, None] * 16 + np.arange(16)).reshape(-1)
    if style == 2:  # the largest, of equal ones the first
        order = np.argsort(-np.abs(weight.reshape(-1).astype(np.float64)), kind="stable")
        return np.sort(order[: size // 10])
    if style == 3:  # every seventh row
        flat = np.arange(size).reshape(weight.shape[0], -1)
        return flat[rng.integers(7) :: 7].reshape(-1)
    start = int(rng.integers(size // 2))  # runs
    return np.r_[start : start + size // 5, size - 3 : size - 1]


def random_entries(
    rng: np.random.Generator, name: str, weight: NDArray[Any], at: NDArray[np.int64]
) -> build.AdapterTensor:
    """Targets, deltas as they are, or deltas of one of the scaled codecs; for codes targets."""
    if name in CODES:
        codes = rng.integers(-CODES[name], CODES[name], at.size, np.int8)
        return replace(tensor_entries(name, weight, at, codes), dtype=name[:2])
    style = rng.integers(3)
    if style == 0:
        return tensor_entries(name, weight, at, awkward(rng, at.size, weight.dtype, 0.05))
    deltas = awkward(rng, at.size, np.float32, 0.01)
    if style == 1:
        ties = rng.random(at.size) < 0.5
        values = np.where(ties, half_steps(rng, weight.reshape(-1)[at]), deltas)
        return tensor_entries(name, weight, at, values.astype(np.float32), "delta")
    codec = SCALED_CODECS[rng.integers(len(SCALED_CODECS))]
    coded = encode_scaled(deltas, codec, 64)
    return replace(tensor_entries(name, weight, at, deltas, "delta"), values=coded)


def random_adapter(
    rng: np.random.Generator, base: Arrays, name: str, masks: dict[str, NDArray[np.int64]]
) -> build.Adapter:
    tensors = [
        replace(
            random_entries(rng, tensor, base[tensor], at),
            rules=derive(
                at,
                base[tensor].shape,
                None if tensor in CODES else base[tensor].reshape(-1),
                SeedSource(),
            ).rules,
        )
        for tensor, at in masks.items()
        if rng.random() < 0.8 or tensor == "f32.weight"
    ]
    return build.Adapter(name, tensors)


def random_adapters(
    rng: np.random.Generator, base: Arrays
) -> tuple[dict[str, Adapter], dict[str, dict[str, Entries]]]:
    """Adapters in files of their own, and a pack of adapters with one mask."""

    def masks() -> dict[str, NDArray[np.int64]]:
        found = {name: random_mask(rng, weight) for name, weight in base.items()}
        return {name: at if at.size else np.array([1]) for name, at in found.items()}

    one_mask = masks()
    packs = [[random_adapter(rng, base, f"a{i}", masks())] for i in range(6)]
    packs.append([random_adapter(rng, base, f"p{i}", one_mask) for i in range(3)])
    files, held = {}, {}
    codecs = set()
    for pack in packs:
        content = build.build_file(pack).content
        plain = read(content)  # what the file holds, in the words of the independent reader
        for name, opened in AdapterFile.from_bytes(content).adapters.items():
            files[name] = opened
            flat = {tensor: weight.reshape(-1) for tensor, weight in base.items()}
            held[name] = {
                tensor: Entries(each["indices"], each["values"], each["kind"])
                for tensor, each in adapter_values(plain, name, flat)["tensors"].items()
            }
            codecs |= {part.codec for t in opened.tensors.values() for part in t.parts}
            codecs |= {tensor.value_codec for tensor in opened.tensors.values()}
    assert len(codecs) > 7, codecs  # a good mixture
    # The same content twice: equal digests, which the scales then put in order.
    files["twin"], held["twin"] = files["a0"], held["a0"]
    return files, held


# --- the run ---


def run_switches(
    program: Program,
    read: Callable[[], dict[str, bytes]],
    base: Arrays,
    seed: int,
    switches: int = SWITCHES,
) -> None:
    """Switch at random, compare every byte after each hundredth, end with the base's bytes.

    Args:
        program: over weights with the values of `base`, without adapters.
        read: gives the live bytes of each weight.
        base: copies of the weights.
        seed: of the adapters and the order of switches.
        switches: how many.
    """
    rng = np.random.default_rng(seed)
    before = {name: array.tobytes() for name, array in base.items()}
    assert read() == before
    files, held = random_adapters(rng, base)
    for name, file in files.items():
        program.add_adapter(file, name)
    names = list(files)
    compared = set()
    for step in range(1, switches + 1):
        chosen = rng.choice(names, size=rng.choice(5, p=(0.1, 0.4, 0.25, 0.15, 0.1)), replace=False)
        active = {str(name): float(rng.choice(SCALES)) for name in chosen}
        program.switch(active)
        if step % COMPARE_EVERY == 0:
            wanted = expected(base, files, held, active)
            live = read()
            for name in base:
                assert live[name] == wanted[name], f"{name}, step {step}, {active}, seed {seed}"
            compared.add(tuple(wanted.values()))
            program.threads = 1 + step // COMPARE_EVERY % 4
    assert len(compared) > switches // COMPARE_EVERY // 2  # the states really differed
    program.verify_base()
    program.switch(None)
    assert read() == before


def base_arrays(rng: np.random.Generator) -> Arrays:
    shapes = {"f32.weight": (48, 64), "f16.weight": (40, 50), "bf16.weight": (33, 47)}
    types = {"f32.weight": np.float32, "f16.weight": np.float16, "bf16.weight": ml_dtypes.bfloat16}
    return {
        name: awkward(rng, int(np.prod(shape)), types[name], 0.02).reshape(shape)
        for name, shape in shapes.items()
    }


def test_random_switches_of_numpy_arrays() -> None:
    rng = np.random.default_rng(11)
    base = base_arrays(rng)
    for name, reach in CODES.items():
        base[name] = rng.integers(-reach, reach, (37, 53), np.int8)
    live = {name: array.copy() for name, array in base.items()}
    program = from_numpy(live, {"i4.weight": "int4"})
    assert {name: program.tensors[name].dtype for name in CODES} == {
        "i8.weight": "int8",
        "i4.weight": "int4",
    }
    run_switches(program, lambda: {n: array.tobytes() for n, array in live.items()}, base, seed=12)


def test_random_switches_of_a_torch_module() -> None:
    torch = pytest.importorskip("torch")
    import shira_runtime

    base = base_arrays(np.random.default_rng(21))
    module = torch.nn.Module()
    for name, array in base.items():
        layer = torch.nn.Module()
        bits = torch.from_numpy(array.copy().view(f"i{array.itemsize}"))
        dtype = {"f32": torch.float32, "f16": torch.float16}.get(name[:3], torch.bfloat16)
        layer.register_parameter("weight", torch.nn.Parameter(bits.view(dtype), False))
        module.add_module(name.partition(".")[0], layer)

    def read() -> dict[str, bytes]:
        return {
            name: module.get_parameter(name).view(torch.uint8).numpy().tobytes() for name in base
        }

    run_switches(shira_runtime.from_torch(module), read, base, seed=22, switches=2_000)


def test_random_switches_of_a_mapped_program(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    models = pytest.importorskip("_models", exc_type=ImportError)
    torch = models.torch
    from shira_runtime.export.program import export_program

    class Mixed(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(31)
            self.f32 = torch.nn.Linear(64, 48)
            self.f16 = torch.nn.Linear(50, 40, dtype=torch.float16)
            self.bf16 = torch.nn.Linear(47, 33, dtype=torch.bfloat16)

        def forward(self, x: Any) -> Any:
            y = self.f16(self.f32(x)[:, :1].half().expand(-1, 50))
            return self.bf16(y[:, :1].bfloat16().expand(-1, 47)).float()

    path = tmp_path / "mixed.pte"
    export_program(Mixed().eval(), (torch.ones(2, 64),), path)
    on_disk = path.read_bytes()
    program = load_program(path)
    types = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}
    spans = {
        name: (address, shape, np.dtype(types[dtype]))
        for name, dtype, shape, address in program._core.tensors()
    }

    def read() -> dict[str, bytes]:
        return {
            name: ctypes.string_at(address, int(np.prod(shape)) * dtype.itemsize)
            for name, (address, shape, dtype) in spans.items()
        }

    base = {
        name: np.frombuffer(read()[name], dtype).reshape(shape)
        for name, (_, shape, dtype) in spans.items()
    }
    assert {"f32.weight", "f16.weight", "bf16.weight", "bf16.bias"} <= set(base)
    inputs = torch.linspace(-1, 1, 128).reshape(2, 64)
    (output,) = program.forward(inputs)
    run_switches(program, read, base, seed=32)
    assert np.array_equal(program.forward(inputs)[0], output)
    program.switch(dict.fromkeys(("a0", "a1", "a2", "p0", "p1"), 1.0))
    assert not np.array_equal(program.forward(inputs)[0], output)
    assert program.hard_revert().epoch == program.epoch
    assert read() == {name: array.tobytes() for name, array in base.items()}
    assert path.read_bytes() == on_disk
