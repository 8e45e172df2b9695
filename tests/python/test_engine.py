# SPDX-License-Identifier: Apache-2.0
"""The ExecuTorch engine: what a program takes and gives, several methods, threads, unloading."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import re
import threading
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from shb_files import adapter, tensor_entries

from shira_runtime import (
    BusyError,
    FileError,
    FormatError,
    Program,
    UsageError,
    from_numpy,
    load_program,
)

models = pytest.importorskip("_models", exc_type=ImportError)
torch = models.torch

import engine_models  # noqa: E402

NUMPY = {
    name: np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)
    for name in engine_models.DTYPES
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engine")


@pytest.fixture(scope="module")
def files(folder: Path) -> dict[str, Path]:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    export = engine_models.export_methods
    paths = {
        name: folder / f"{name}.pte"
        for name in ("dtypes", "methods", "packed", "numbers", "counter")
    }
    every = tuple(torch.ones(2, 3, dtype=dtype) for dtype in engine_models.DTYPES.values())
    export(paths["dtypes"], {"forward": engine_models.EveryDtype()}, {"forward": every})
    layers = engine_models.shared_layers()
    inputs = {name: (torch.ones(2, 16),) for name in layers}
    shapes = {name: (engine_models.rows(5),) for name in layers}
    export(paths["methods"], layers, inputs, shapes)
    export(paths["packed"], layers, inputs, shapes, [XnnpackPartitioner()])
    export(
        paths["numbers"],
        {"forward": engine_models.Numbers()},
        {"forward": (torch.ones(2, 4), 3, None)},
        {"forward": (engine_models.rows(5), None, None)},
    )
    export(paths["counter"], {"forward": engine_models.Counter()}, {"forward": (torch.ones(2),)})
    return paths


def random_arrays() -> list[Any]:
    generator = np.random.default_rng(1)
    return [(generator.standard_normal((2, 3)) * 50).astype(NUMPY[name]) for name in NUMPY]


def layer_adapter(value: float = 2.0) -> Any:
    weight = engine_models.shared_layers()["forward"].layer.weight.detach().numpy()
    indices = np.arange(1, weight.size, 3)
    return adapter(
        "x", tensor_entries("layer.weight", weight, indices, np.full(indices.size, value))
    )


# --- what goes in and what comes out ---


def test_every_dtype_goes_in_and_comes_out(files: dict[str, Path]) -> None:
    arrays = random_arrays()
    outputs = load_program(files["dtypes"]).forward(*arrays)
    assert [output.dtype for output in outputs[:-1]] == list(NUMPY.values())
    for array, output in zip(arrays, outputs[:-1], strict=True):
        assert output.tobytes() == np.flip(array, 0).tobytes()
    assert outputs[-1].tobytes() == (arrays[0] + arrays[1].astype(np.float32)).tobytes()


def test_outputs_are_those_of_executorchs_own_runtime(files: dict[str, Path]) -> None:
    def bits(tensor: Any) -> bytes:
        return bytes(models.tensor_bytes(tensor))

    arrays = random_arrays()
    tensors = [
        torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        if array.dtype == NUMPY["bfloat16"]
        else torch.from_numpy(array)
        for array in arrays
    ]
    wanted = [bits(tensor) for tensor in models.load_forward(files["dtypes"]).execute(tensors)]
    program = load_program(files["dtypes"])
    for inputs in (arrays, tensors):
        assert [output.tobytes() for output in program.forward(*inputs)] == wanted
    states = torch.linspace(-1, 1, 48).view(3, 16)
    for kind in ("methods", "packed"):
        (wanted_output,) = models.load_forward(files[kind]).execute([states])
        assert load_program(files[kind]).forward(states)[0].tobytes() == bits(wanted_output)


def test_inputs_in_any_layout(files: dict[str, Path]) -> None:
    program = load_program(files["methods"])
    states = np.linspace(-1, 1, 64, dtype=np.float32).reshape(4, 16)
    (wanted,) = program.forward(states)
    read_only = states.copy()
    read_only.flags.writeable = False

    class Capsule:
        """What offers nothing but DLPack."""

        def __dlpack__(self, **_: Any) -> Any:
            return states.__dlpack__()

        def __dlpack_device__(self) -> Any:
            return states.__dlpack_device__()

    for same in (
        np.asfortranarray(states),
        np.repeat(states, 2, axis=1)[:, ::2],
        states.astype(">f4"),
        read_only,
        torch.from_numpy(states).requires_grad_(),
        Capsule(),
    ):
        assert program.forward(same)[0].tobytes() == wanted.tobytes()


def test_outputs_are_the_callers_own(files: dict[str, Path]) -> None:
    program = load_program(files["methods"])
    (first,) = program.forward(np.ones((2, 16), np.float32))
    kept = first.copy()
    program.forward(np.zeros((2, 16), np.float32))
    assert (first == kept).all()
    first[:] = 0.0
    del program
    assert not first.any()


def test_dynamic_shapes_up_to_the_largest(files: dict[str, Path]) -> None:
    program = load_program(files["methods"])
    for rows in (5, 1, 3):
        assert program.forward(np.ones((rows, 16), np.float32))[0].shape == (rows, 8)
    with pytest.raises(UsageError, match=r"at most float32\[5, 16\], not float32\[6, 16\]"):
        program.forward(np.ones((6, 16), np.float32))


def test_numbers_and_nothing(files: dict[str, Path]) -> None:
    program = load_program(files["numbers"])
    states = np.ones((3, 4), np.float32)
    for number in (3, np.int64(3), np.array(3)):
        output, rows, nothing = program.forward(states, number, None)
        assert (output == 4.0).all()
        assert (rows, nothing) == (3, None)
    for wrong in (3.0, "3", None, 2**63, states):
        with pytest.raises(UsageError):
            program.forward(states, wrong, None)


@pytest.mark.parametrize(
    ("inputs", "problem"),
    [
        ((), "takes 1 input, not 0"),
        ((np.ones((2, 16), np.float32), 1), "takes 1 input, not 2"),
        ((np.ones((2, 16)),), r"at most float32\[5, 16\], not float64\[2, 16\]"),
        ((np.ones(16, np.float32),), r"not float32\[16\]"),
        ((np.ones((2, 16), np.complex64),), "complex64"),
        ((np.array([None]),), "object"),
        ((3,), "not an integer"),
        (("states",), "neither an array nor a tensor"),
        (([1.0],), "neither an array nor a tensor"),
    ],
)
def test_inputs_that_do_not_fit(
    files: dict[str, Path], inputs: tuple[Any, ...], problem: str
) -> None:
    program = load_program(files["methods"])
    with pytest.raises(UsageError, match=problem):
        program.forward(*inputs)
    program.try_switch(None)  # the gate is open again


def test_state_lasts_as_long_as_the_program(files: dict[str, Path]) -> None:
    program, other = load_program(files["counter"]), load_program(files["counter"])
    ones = np.ones(2, np.float32)
    assert [program.forward(ones)[0].tolist() for _ in range(3)] == [[1, 1], [2, 2], [3, 3]]
    assert other.forward(ones)[0].tolist() == [1, 1]


# --- methods and weights ---


def test_methods_share_their_weights(files: dict[str, Path]) -> None:
    program = load_program(files["methods"], methods=["doubled"])
    assert set(program.tensors) == {"layer.weight", "layer.bias"}
    states = np.linspace(-1, 1, 32, dtype=np.float32).reshape(2, 16)
    before = [program.forward(states, method=name)[0] for name in ("forward", "doubled")]
    assert (before[0] * 2 == before[1]).all()
    program.add_adapter(layer_adapter())
    program.switch("x")
    after = [program.forward(states, method=name)[0] for name in ("forward", "doubled")]
    assert (after[0] * 2 == after[1]).all()
    assert (after[0] != before[0]).any()
    program.switch(None)
    assert (program.forward(states, method="doubled")[0] == before[1]).all()


def test_methods_that_were_not_loaded(files: dict[str, Path]) -> None:
    program = load_program(files["methods"])
    states = np.ones((2, 16), np.float32)
    with pytest.raises(UsageError, match="'doubled' was not asked for when the program was loaded"):
        program.forward(states, method="doubled")
    with pytest.raises(UsageError, match="no method 'halved', only doubled, forward"):
        program.forward(states, method="halved")
    with pytest.raises(UsageError, match="no method 'halved', only doubled, forward"):
        load_program(files["methods"], methods=["halved"])


def test_what_the_delegate_has_packed_is_listed(files: dict[str, Path]) -> None:
    program = load_program(files["packed"], methods=["doubled"])
    packed = program._source._program.packed_weights()  # type: ignore[attr-defined]
    assert len(packed) == 1, "two methods, one weight"
    name, offset_bytes, size_bytes = packed[0]
    assert re.fullmatch("[0-9a-f]{128}", name)
    unnamed = f"xnnpack:{name[:16]}"
    assert list(program.tensors) == [unnamed, f"{unnamed}.bias"], "they have no other names"
    assert size_bytes >= 16 * 8 * 4
    assert offset_bytes % 64 == 0
    assert load_program(files["methods"])._source._program.packed_weights() == []  # type: ignore


def test_loading_says_where_its_time_went(files: dict[str, Path]) -> None:
    report = load_program(files["packed"]).load_report
    assert report is not None
    *stages, total_ns = report.to_dict().values()
    assert min(stages) > 0
    assert sum(stages) <= total_ns
    assert from_numpy({}).load_report is None


def test_several_data_files(tmp_path: Path) -> None:
    from shira_runtime.export.program import export_program

    inputs = (models.tiny_ids(),)
    paths = {name: tmp_path / f"{name}.pte" for name in ("one", "two")}
    for seed, path in enumerate(paths.values()):
        encoder = models.tiny_encoder(seed=seed)
        export_program(encoder, inputs, path, data_path=path.with_suffix(".ptd"))
    data = [path.with_suffix(".ptd") for path in paths.values()]
    with pytest.raises(UsageError, match="the data files cannot be used together") as caught:
        load_program(paths["one"], data)
    assert caught.value.status == "DUPLICATE_NAME"
    alone = load_program(paths["one"], [data[0]])
    assert alone.tensors.keys() == load_program(paths["one"], data[0]).tensors.keys()
    with pytest.raises(FormatError, match="a program, where a data file"):
        load_program(paths["one"], paths["two"])
    with pytest.raises(FormatError, match=r"a data file .* where a program"):
        load_program(data[0])


# --- files ---


def test_damaged_files_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    """No crash: an error of ours, or a program whose bytes happen not to matter."""
    path = tmp_path / "damaged.pte"
    content = files["methods"].read_bytes()
    generator = random.Random(20261122)
    positions = [*range(0, 64, 4), *generator.sample(range(64, 2500), 120)]
    refused = 0
    for position in positions:
        damaged = bytearray(content)
        damaged[position] ^= generator.randrange(1, 256)
        path.write_bytes(damaged)
        try:
            load_program(path)
        except (FormatError, UsageError):
            refused += 1
    assert refused > 10
    for length in (0, 10, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(FormatError):
            load_program(path)
    with pytest.raises(FileError):
        load_program(tmp_path)


def test_an_engine_that_there_is_not(files: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="'onnx', not 'executorch' or 'torch'"):
        load_program(files["methods"], engine="onnx")  # type: ignore[arg-type]


# --- threads ---


def test_passes_in_flight_see_whole_states(tmp_path: Path) -> None:
    """A layer that is slow enough for a store without the gate to hit the middle of a pass."""
    torch.manual_seed(4)
    linear = torch.nn.Linear(256, 1024)
    layers = {
        name: engine_models.Layer(linear, factor).eval()
        for name, factor in (("forward", 1.0), ("doubled", 2.0))
    }
    inputs = {name: (torch.ones(8, 256),) for name in layers}
    path = engine_models.export_methods(tmp_path / "wide.pte", layers, inputs)
    program = load_program(path, methods=["doubled"])
    weight = linear.weight.detach().numpy()
    indices = np.arange(1, weight.size, 50)
    for name, value in (("x", 2.0), ("y", -3.0)):
        values = np.full(indices.size, value)
        program.add_adapter(adapter(name, tensor_entries("layer.weight", weight, indices, values)))
    states = np.ones((8, 256), np.float32)
    members: list[Any] = [None, "x", "y", {"x": 0.5}]
    whole: dict[str, set[bytes]] = {"forward": set(), "doubled": set()}
    for each in members:
        program.switch(each)
        for name, outputs in whole.items():
            outputs.add(program.forward(states, method=name)[0].tobytes())
    assert len(whole["forward"]) == len(members)
    mixtures: list[str] = []
    stop = threading.Event()

    def run(name: str) -> None:
        while not stop.is_set():
            if program.forward(states, method=name)[0].tobytes() not in whole[name]:
                mixtures.append(name)

    threads = [threading.Thread(target=run, args=(name,)) for name in (*whole, *whole)]
    for thread in threads:
        thread.start()
    generator = random.Random(5)
    for _ in range(200):
        with contextlib.suppress(BusyError):
            program.switch(generator.choice(members), wait=generator.random() < 0.7)
    stop.set()
    for thread in threads:
        thread.join(60)
    assert mixtures == []
    program.switch(None)
    program.verify_base()


# --- loading and unloading ---


def memory_kib() -> int:
    return int(re.findall(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[0])


def open_files_and_mappings(folder: Path) -> tuple[int, int]:
    maps = Path("/proc/self/maps").read_text()
    return len(os.listdir("/proc/self/fd")), maps.count(str(folder)) + maps.count("memfd:shira")


def test_unloading_gives_everything_back(files: dict[str, Path], folder: Path) -> None:
    def use(kind: str) -> bytes:
        program = load_program(files[kind])
        output: bytes = program.forward(np.ones((5, 16), np.float32))[0].tobytes()
        if kind == "methods":
            program.add_adapter(layer_adapter())
            program.switch("x")
        return output

    kinds = ("methods", "packed")
    wanted = {kind: use(kind) for kind in kinds}
    gc.collect()  # what the tests before have left
    before, after_few = open_files_and_mappings(folder), 0
    for cycle in range(200):
        for kind in kinds:
            assert use(kind) == wanted[kind]
        if cycle == 20:
            after_few = memory_kib()
    assert open_files_and_mappings(folder) == before
    assert memory_kib() - after_few < 2048


def test_programs_of_one_file_are_apart(files: dict[str, Path]) -> None:
    one, other = load_program(files["methods"]), load_program(files["methods"])
    states = np.ones((1, 16), np.float32)
    (base,) = other.forward(states)
    one.add_adapter(layer_adapter())
    one.switch("x")
    assert (other.forward(states)[0] == base).all()
    del other
    assert (one.forward(states)[0] != base).any()


def test_a_forked_child_has_its_own_weights(files: dict[str, Path]) -> None:
    program = load_program(files["methods"])
    program.add_adapter(layer_adapter())
    packed = load_program(files["packed"])
    states = np.ones((1, 16), np.float32)
    (base,) = program.forward(states)
    (packed_base,) = packed.forward(states)
    child = os.fork()
    if child == 0:
        os._exit(_in_the_child(program, packed, files["packed"], base, packed_base))
    assert os.waitpid(child, 0)[1] == 0
    assert (program.forward(states)[0] == base).all()
    program.verify_base()


def _in_the_child(
    program: Program, packed: Program, path: Path, base: Any, packed_base: Any
) -> int:
    states = np.ones((1, 16), np.float32)
    try:
        program.switch("x")
        if (program.forward(states)[0] == base).all():
            return 1
        try:
            packed.forward(states)
        except UsageError as error:
            if error.status != "NOT_SUPPORTED":
                return 2
        else:
            return 3
        return 0 if (load_program(path).forward(states)[0] == packed_base).all() else 4
    except BaseException:
        return 5
