# SPDX-License-Identifier: Apache-2.0
"""What docs/UPSTREAM.md says of ExecuTorch, and what is made of it here.

A test that fails after the pinned version was raised says that something was mended upstream: then
the page and what works around it change.
"""

from __future__ import annotations

import importlib.util
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shira_runtime import load_program
from shira_runtime.weights import program_weights

pytest.importorskip("_models", exc_type=ImportError)

UPSTREAM = Path(__file__).parents[1] / "upstream"
sys.path.append(str(UPSTREAM))

import linear_layers  # noqa: E402
import reshaped_constant  # noqa: E402

Array = np.ndarray[Any, Any]
Run = Callable[[Path, "str | Path"], Array]

# Of layers with equal codes; where the name of a packed weight also has the bias, equal ones only.
COLLIDING = (
    ("int8 by row", False),
    ("int8 by row", True),
    ("int4 by group", False),
    ("int4 by row", True),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a program by ExecuTorch alone, with XNNPACK's cache "off", in the "heap" or a file."""
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    spec = importlib.util.find_spec("executorch")
    assert spec is not None
    package = Path(next(iter(spec.submodule_search_locations or ())))
    program = tmp_path_factory.mktemp("upstream") / "run_with_cache"
    libraries = ("", "_kernels_optimized", "_backend_xnnpack", "_threadpool")
    includes = ("include", "include/executorch/runtime/core/portable_type/c10")
    defines = ("C10_USING_CUSTOM_GENERATED_MACROS", "ET_EVENT_TRACER_ENABLED", "ET_USE_THREADPOOL")
    command = [compiler, "-std=c++17", UPSTREAM / "run_with_cache.cpp", "-o", program]
    command += [f"-D{name}" for name in defines]
    command += [part for folder in includes for part in ("-isystem", package / folder)]
    command += [f"-L{package / 'lib'}", f"-Wl,-rpath,{package / 'lib'}", "-Wl,--no-as-needed"]
    command += [f"-lexecutorch{name}" for name in libraries]
    subprocess.run(command, check=True)

    def run_program(path: Path, cache: str | Path) -> Array:
        done = subprocess.run([program, path, cache], check=True, capture_output=True, text=True)
        values = np.array(done.stdout.split(), np.float32)
        return values.reshape(linear_layers.ROWS, -1)

    return run_program


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("programs")


def is_near(found: Array, expected: Array) -> bool:
    """Within what rounding activations to 8 bits, a little differently, makes of the sums."""
    return bool(np.allclose(found, expected, rtol=0, atol=0.05))


@pytest.mark.parametrize(("kind", "bias"), COLLIDING)
def test_a_layer_is_computed_with_the_scales_of_another_that_has_its_codes(
    run: Run, folder: Path, kind: str, bias: bool
) -> None:
    path = folder / f"{kind}-{bias}.pte"
    written = linear_layers.write(path, kind, (1.0, 2.0), bias)
    first, second = np.split(written.outputs, 2, axis=1)
    assert not is_near(first, second)
    assert is_near(run(path, "off"), written.outputs)
    for cache in ("heap", path.with_suffix(".cache")):
        outputs = run(path, cache)
        assert is_near(outputs[:, : first.shape[1]], first)
        assert np.array_equal(outputs[:, first.shape[1] :], outputs[:, : first.shape[1]])
    # Here both are listed as what cannot be switched, each with the other's name.
    weights, program = program_weights(path), load_program(path)
    layers = {name: weight for name, weight in weights.items() if weight.storage == "packed"}
    assert len(layers) == 2
    assert len(weights) == (4 if bias else 2)
    assert not program.tensors
    for name, weight in layers.items():
        (other,) = layers.keys() - {name}
        assert "XNNPACK packs equal codes once" in weight.why_not
        assert other in weight.why_not
        assert program.unpatchable[name] == weight.why_not


def test_int4_groups_are_told_apart_by_their_biases(run: Run, folder: Path) -> None:
    path = folder / "biases.pte"
    written = linear_layers.write(path, "int4 by group", (1.0, 2.0), bias=True)
    for cache in ("off", "heap", path.with_suffix(".cache")):
        assert is_near(run(path, cache), written.outputs)


def test_float_weights_are_told_apart_by_their_biases(run: Run, folder: Path) -> None:
    path = folder / "float.pte"
    written = linear_layers.write(path, "f32", (1.0, 1.0), bias=True)
    for cache in ("off", "heap", path.with_suffix(".cache")):
        assert is_near(run(path, cache), written.outputs)
    weights = program_weights(path)
    assert len({weight.key for weight in weights.values() if weight.storage == "packed"}) == 1
    assert len({weight.packed_name for weight in weights.values()} - {""}) == 2


def test_layers_whose_codes_differ_are_right_with_any_cache(run: Run, folder: Path) -> None:
    path = folder / "distinct.pte"
    written = linear_layers.write(path, "int8 by row", (1.0, -1.0))
    off = run(path, "off")
    assert is_near(off, written.outputs)
    for cache in ("heap", path.with_suffix(".cache")):
        assert np.array_equal(run(path, cache), off)
    assert [weight.why_not for weight in program_weights(path).values()] == ["", ""]
    program = load_program(path)
    assert sorted(program.tensors) == sorted(program_weights(path))
    assert not program.unpatchable
    assert np.array_equal(program.forward(linear_layers.inputs().numpy())[0], off)


def test_equal_codes_of_another_model_in_the_same_file_are_taken_for_its_own(
    run: Run, folder: Path
) -> None:
    cache = folder / "two_models.cache"
    plain = linear_layers.write(folder / "plain.pte", "int8 by row", (1.0,))
    doubled = linear_layers.write(folder / "doubled.pte", "int8 by row", (2.0,))
    assert is_near(run(plain.path, cache), plain.outputs)
    assert is_near(run(doubled.path, cache), plain.outputs)
    assert not is_near(plain.outputs, doubled.outputs)
    assert is_near(run(doubled.path, "off"), doubled.outputs)


def test_a_cache_file_with_a_flipped_bit_is_used_as_it_is(run: Run, folder: Path) -> None:
    path = folder / "flipped.pte"
    cache = path.with_suffix(".cache")
    linear_layers.write(path, "f32", (1.0,))
    first = run(path, cache)
    assert np.array_equal(run(path, cache), first)
    content = bytearray(cache.read_bytes())
    index_offset, entries, _, _ = struct.unpack("<QIII", content[-20:])
    (name_bytes,) = struct.unpack_from("<I", content, index_offset)
    offset, size_bytes = struct.unpack_from("<QQ", content, index_offset + 4 + name_bytes)
    assert entries == 1
    content[offset + size_bytes // 2 + 3] ^= 0x40  # in the exponent of a weight
    cache.write_bytes(content)
    assert np.abs(run(path, cache) - first).max() > 1


def test_a_cache_that_cannot_be_opened_is_no_error(run: Run, folder: Path) -> None:
    path = folder / "heap.pte"
    written = linear_layers.write(path, "f32", (1.0,))
    cache = folder / "missing" / "heap.cache"
    assert is_near(run(path, cache), written.outputs)
    assert not cache.exists()


def test_a_reshaped_constant_cannot_go_to_a_data_file() -> None:
    from executorch.exir.error import InternalError

    with pytest.raises(InternalError) as caught:
        reshaped_constant.export(keeps_copy=False)
    cause: BaseException = caught.value
    while cause.__context__ is not None:
        cause = cause.__context__
    assert isinstance(cause, AssertionError)
    reshaped_constant.export(keeps_copy=True)


def test_an_operator_with_a_kernel_cannot_be_exported() -> None:
    """In a process of its own: here another test may have told torch what is missing."""
    script = [sys.executable, UPSTREAM / "mixed_linear.py"]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode != 0
    assert "UnsupportedOperatorException: quantized_decomposed.mixed_linear.default" in done.stderr
