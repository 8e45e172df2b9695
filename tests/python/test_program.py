# SPDX-License-Identifier: Apache-2.0
"""Program over numpy arrays: switching, refusals that change nothing, using(), the gate, state."""

from __future__ import annotations

import doctest
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from shb_files import adapter, adapter_bytes, random_arrays, resealed, section_range, tensor_entries

import shira_runtime
from shira_runtime import (
    Adapter,
    AttachError,
    BaseMismatchError,
    BusyError,
    Program,
    ShiraError,
    UsageError,
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


@pytest.fixture
def model() -> Model:
    return Model()


def test_switching_there_and_back(model: Model) -> None:
    program = model.program
    assert program.adapters == ("de", "fr")
    assert program.active == {}
    report = program.switch("de")
    assert report.tensors_matched == 2
    assert report.elements_written == report.elements_changed == 40
    assert report.bytes_written == 20 * 4 + 20 * 2
    assert report.epoch == program.epoch
    assert report.total_ns >= report.check_ns + report.plan_ns + report.store_ns
    assert program.active == {"de": 1.0}
    for name, tensor in model.de.tensors.items():
        live = model.arrays[name].reshape(-1)[tensor.indices()]
        np.testing.assert_array_equal(live.astype(np.float32), tensor.values())
    program.revert()
    assert model.bytes() == model.before
    assert program.active == {}


def test_a_report_is_frozen_and_becomes_a_dict(model: Model) -> None:
    report = model.program.switch("de")
    assert report.to_dict()["elements_written"] == 40
    with pytest.raises(AttributeError):
        report.epoch = 0  # type: ignore[misc]


def test_scales_stacks_and_order(model: Model) -> None:
    program = model.program
    program.switch({"de": 0.5, "fr": 0.25})
    stacked = model.bytes()
    program.switch("fr")
    program.switch({"fr": 0.25, "de": 0.5})
    assert model.bytes() == stacked
    program.switch({"de": 0.0, "fr": 1.0})
    assert program.active == {"fr": 1.0}
    program.switch({"de": 0.0})
    assert model.bytes() == model.before


def test_epoch_and_digest_change_exactly_with_the_weights(model: Model) -> None:
    program = model.program
    assert len(program.digest) == 32
    base, epoch = program.digest, program.epoch
    program.switch("de")
    de = program.digest
    assert program.epoch == epoch + 1
    assert de != base
    assert program.switch({"de": 1.0, "fr": 0.0}).elements_written == 0
    assert (program.epoch, program.digest) == (epoch + 1, de)
    program.switch("fr")
    assert program.digest not in (base, de)
    program.switch("de")
    assert (program.epoch, program.digest) == (epoch + 3, de)
    program.switch(None)
    assert (program.epoch, program.digest) == (epoch + 4, base)


def test_using_restores_what_was_active(model: Model) -> None:
    program = model.program
    program.switch({"de": 0.5})
    with program.using("fr") as report:
        assert report.elements_written > 0
        assert program.active == {"fr": 1.0}
        with program.using(None):
            assert model.bytes() == model.before
        assert program.active == {"fr": 1.0}
    assert program.active == {"de": 0.5}
    with pytest.raises(KeyError), program.using("fr"):
        raise KeyError
    assert program.active == {"de": 0.5}
    with pytest.raises(UsageError), program.using("es"):
        pytest.fail("the body must not run")
    assert program.active == {"de": 0.5}


def test_names_and_removal(model: Model) -> None:
    program = model.program
    assert program.add_adapter(model.de, name="german") == "german"
    program.switch("german")
    with pytest.raises(UsageError) as caught:
        program.remove_adapter("german")
    assert caught.value.status == "ADAPTER_IN_USE"
    program.switch("de")
    program.remove_adapter("german")
    assert program.adapters == ("de", "fr")


def test_an_adapter_can_be_added_by_path(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "grüße.shb"
    path.write_bytes(
        adapter_bytes(
            "path", tensor_entries("b.bias", model.arrays["b.bias"], np.array([1]), np.ones(1))
        )
    )
    assert model.program.add_adapter(path) == "path"
    assert model.program.add_adapter(str(path), "again") == "again"


def test_tensors_are_listed(model: Model) -> None:
    assert {n: (t.shape, t.dtype) for n, t in model.program.tensors.items()} == SHAPES
    assert model.program.unpatchable == {}
    assert repr(model.program) == "<Program: 3 tensors, 2 adapters, base>"
    model.program.switch({"de": 0.5})
    assert repr(model.program) == "<Program: 3 tensors, 2 adapters, 0.5 de>"


def test_threads_do_not_change_bytes(model: Model) -> None:
    program = model.program
    seen = set()
    for threads in (1, 2, 4):
        program.threads = threads
        assert program.threads == threads
        program.switch({"de": 0.7, "fr": 1.3})
        seen.add(tuple(model.bytes().values()))
        program.switch(None)
    assert len(seen) == 1
    for bad in (0, 65):
        with pytest.raises(UsageError):
            program.threads = bad


# --- refusals: a clear error, and nothing has changed ---


def entries(model: Model, name: str, **changes: Any) -> Adapter:
    """An adapter of one entry for one weight, with some of its facts replaced by wrong ones."""
    base = changes.pop("base", model.arrays[name])
    values = changes.pop("values", np.ones(1, np.float32))
    tensor = changes.pop("tensor", name)
    return adapter(
        "odd", tensor_entries(tensor, base, changes.pop("at", np.array([5])), values, **changes)
    )


def add(make: Callable[[Model], Adapter], **options: bool) -> Callable[[Model], None]:
    return lambda model: (model.program.add_adapter(make(model), **options), None)[1]


def add_and_switch(make: Callable[[Model], Adapter]) -> Callable[[Model], None]:
    return lambda model: model.program.switch(model.program.add_adapter(make(model))) and None


def other_values(model: Model) -> NDArray[Any]:
    return model.arrays["a.weight"] + np.float32(1)


def one_bias_bytes(model: Model) -> bytearray:
    bias = model.arrays["b.bias"]
    return bytearray(
        adapter_bytes("odd", tensor_entries("b.bias", bias, np.array([1]), np.ones(1)))
    )


def nan_value(model: Model) -> Adapter:
    content = one_bias_bytes(model)
    content[section_range(content, "values")] = b"\x00\x7e"
    return Adapter.from_bytes(resealed(content))


def index_out_of_range(model: Model) -> Adapter:
    content = one_bias_bytes(model)
    content[section_range(content, "index")] = bytes([40])  # of 40 elements
    return Adapter.from_bytes(resealed(content))


def truncated(model: Model) -> Adapter:
    return Adapter.from_bytes(bytes(one_bias_bytes(model)[:-1]))


REFUSALS: dict[str, tuple[Callable[[Model], Any], type[ShiraError], str, str | None]] = {
    "wrong base": (
        add_and_switch(lambda m: entries(m, "a.weight", base=other_values(m))),
        BaseMismatchError,
        "BASE_MISMATCH",
        "a.weight",
    ),
    "transposed shape": (
        add(lambda m: entries(m, "a.weight", base=m.arrays["a.weight"].T.copy())),
        BaseMismatchError,
        "SHAPE_MISMATCH",
        "a.weight",
    ),
    "wrong dtype": (
        add(lambda m: entries(m, "a.weight", base=m.arrays["a.weight"].astype(np.float16))),
        BaseMismatchError,
        "DTYPE_MISMATCH",
        "a.weight",
    ),
    "unknown tensor": (
        add(lambda m: entries(m, "a.weight", tensor="z.weight")),
        BaseMismatchError,
        "UNKNOWN_TENSOR",
        "z.weight",
    ),
    "no tensor matches": (
        add(lambda m: entries(m, "a.weight", tensor="z.weight"), allow_partial=True),
        BaseMismatchError,
        "UNKNOWN_TENSOR",
        "z.weight",
    ),
    "unbound file": (
        add(lambda m: entries(m, "a.weight", kind="delta", bound=False)),
        BaseMismatchError,
        "UNVERIFIED_BASE",
        None,
    ),
    "too large for the dtype": (
        lambda m: m.program.switch({"fr": 1e6}),
        BaseMismatchError,
        "NON_FINITE_RESULT",
        "b.bias",
    ),
    "NaN value": (add(nan_value), ShiraError, "BAD_VALUE", "b.bias"),
    "index out of range": (add(index_out_of_range), ShiraError, "BAD_INDEX", "b.bias"),
    "truncated file": (add(truncated), ShiraError, "TRUNCATED", None),
    "unknown adapter": (lambda m: m.program.switch("es"), UsageError, "UNKNOWN_ADAPTER", None),
    "name taken": (add(lambda m: m.de), UsageError, "DUPLICATE_NAME", None),
    "scale is NaN": (
        lambda m: m.program.switch({"de": float("nan")}),
        UsageError,
        "INVALID_ARGUMENT",
        None,
    ),
    "scale beyond float32": (
        lambda m: m.program.switch({"de": 1e300}),
        UsageError,
        "INVALID_ARGUMENT",
        None,
    ),
    "scale is no number": (
        lambda m: m.program.switch({"de": "half"}),
        UsageError,
        "INVALID_ARGUMENT",
        None,
    ),
    "a list": (lambda m: m.program.switch(["de", "fr"]), UsageError, "INVALID_ARGUMENT", None),
    "arrays have no forward": (
        lambda m: m.program.forward(1),
        UsageError,
        "NOT_SUPPORTED",
        None,
    ),
}


@pytest.mark.parametrize("state", [None, "fr"])
@pytest.mark.parametrize("what", REFUSALS)
def test_a_refusal_changes_nothing(model: Model, what: str, state: str | None) -> None:
    refuse, kind, status, tensor = REFUSALS[what]
    model.program.switch(state)
    before, adapters = model.bytes(), model.program.adapters
    facts = (model.program.active, model.program.epoch, model.program.digest)
    with pytest.raises(kind) as caught:
        refuse(model)
    assert caught.value.status == status
    assert caught.value.tensor == tensor
    assert str(caught.value)
    assert model.bytes() == before
    assert (model.program.active, model.program.epoch, model.program.digest) == facts
    assert set(adapters) <= set(model.program.adapters) <= {*adapters, "odd"}
    model.program.switch(None)
    assert model.bytes() == model.before


def test_applying_an_adapter_to_what_it_has_patched_is_refused(model: Model) -> None:
    model.program.switch("de")
    patched = {name: array.copy() for name, array in model.arrays.items()}
    before = {name: array.tobytes() for name, array in patched.items()}
    again = from_numpy(patched)
    again.add_adapter(model.de)
    with pytest.raises(BaseMismatchError) as caught:
        again.switch("de")
    assert (caught.value.status, caught.value.tensor) == ("BASE_MISMATCH", "a.weight")
    assert {name: array.tobytes() for name, array in patched.items()} == before
    assert (again.active, again.epoch) == ({}, 0)


@pytest.mark.parametrize("state", [None, "fr"])
def test_arrays_have_no_file_to_revert_to(model: Model, state: str | None) -> None:
    model.program.switch(state)
    before = model.bytes()
    with pytest.raises(UsageError) as caught:
        model.program.hard_revert()
    assert caught.value.status == "NOT_SUPPORTED"
    assert model.bytes() == before


def test_allowances(model: Model) -> None:
    unbound = entries(model, "a.weight", kind="delta", bound=False)
    model.program.add_adapter(unbound, allow_unverified_base=True)
    assert model.program.switch("odd").elements_written == 1
    a = model.arrays["a.weight"]
    model.program.switch(None)
    both = adapter(
        "both",
        tensor_entries("a.weight", a, np.array([1]), np.ones(1)),
        tensor_entries("z.weight", a, np.array([1]), np.ones(1)),
    )
    model.program.add_adapter(both, allow_partial=True)
    assert model.program.switch("both").tensors_matched == 1


def test_check_adapter_finds_a_patched_base_without_writing(model: Model) -> None:
    model.program.check_adapter("de")
    model.program.switch("fr")
    model.program.check_adapter("de")  # against the base below fr
    model.program.switch(None)
    model.arrays["c.weight"].reshape(-1)[12] = 9
    before = model.bytes()
    with pytest.raises(BaseMismatchError, match=r"c\.weight") as caught:
        model.program.check_adapter("de")
    assert caught.value.status == "BASE_MISMATCH"
    assert model.bytes() == before


def test_verify_base_finds_a_patch_anywhere(model: Model) -> None:
    program = model.program
    size = sum(array.nbytes for array in model.arrays.values())
    for state in (None, "de", {"de": 0.5, "fr": 2.0}):
        program.switch(state)
        report = program.verify_base()
        assert (report.tensors_checked, report.bytes_checked) == (3, size)
    model.arrays["a.weight"][7, 23] += 1  # no adapter touches it
    with pytest.raises(BaseMismatchError, match=r"1 of 3 tensors.*a\.weight") as caught:
        program.verify_base()
    assert caught.value.status == "BASE_MODIFIED"
    assert caught.value.tensor == "a.weight"


def test_verify_base_tells_a_changed_weight_from_an_adapter_for_another_base(model: Model) -> None:
    base = model.arrays["a.weight"]
    other = base.copy()
    other[7, 23] += 1  # outside the entries, so that their fingerprints fit
    for name in ("es", "it"):
        entries = tensor_entries("a.weight", other, np.array([1]), np.ones(1))
        model.program.add_adapter(adapter(name, entries))
    with pytest.raises(BaseMismatchError) as caught:
        model.program.verify_base()
    assert caught.value.message == (
        '1 of 3 tensors are not the base that adapter "es" was made for: a.weight;'
        ' 1 of 3 tensors are not the base that adapter "it" was made for: a.weight'
    )
    assert (caught.value.status, caught.value.tensor) == ("BASE_MODIFIED", "a.weight")
    base[7, 22] += 1
    with pytest.raises(BaseMismatchError, match="1 of 3 tensors differ from their source"):
        model.program.verify_base()


# --- arrays that cannot be switched ---


def read_only() -> NDArray[Any]:
    array = np.zeros((2, 2), np.float32)
    array.flags.writeable = False
    return array


ODD_ARRAYS: dict[str, tuple[Any, str, str]] = {
    "read-only": (read_only(), "READ_ONLY", "not writeable"),
    "column order": (np.zeros((2, 3), np.float32, order="F"), "INVALID_ARGUMENT", "C-contiguous"),
    "strided": (np.zeros((4, 4), np.float32)[:, ::2], "INVALID_ARGUMENT", "C-contiguous"),
    "float64": (np.zeros((2, 2)), "INVALID_ARGUMENT", "float64"),
    "uint16 without a name": (np.zeros(4, np.uint16), "INVALID_ARGUMENT", "dtypes="),
    "other byte order": (np.zeros(4, np.dtype(">f4")), "INVALID_ARGUMENT", "byte order"),
    "no elements": (np.zeros((0, 3), np.float32), "INVALID_ARGUMENT", "no elements"),
    "scalar": (np.zeros((), np.float32), "INVALID_ARGUMENT", "0 dimensions"),
    "nine dimensions": (np.zeros((1,) * 9, np.float32), "INVALID_ARGUMENT", "9 dimensions"),
    "a list": ([1.0, 2.0], "INVALID_ARGUMENT", "not an array"),
}


@pytest.mark.parametrize("what", ODD_ARRAYS)
def test_an_odd_array_is_refused_by_name(what: str) -> None:
    array, status, words = ODD_ARRAYS[what]
    with pytest.raises(ShiraError, match=words) as caught:
        from_numpy({"odd.weight": array})
    assert (caught.value.status, caught.value.tensor) == (status, "odd.weight")


def test_a_misaligned_array_is_refused() -> None:
    array = np.zeros(17, np.uint8)[1:].view(np.float32)
    with pytest.raises(UsageError) as caught:
        from_numpy({"odd.weight": array})
    assert caught.value.tensor == "odd.weight"


def test_a_read_only_mapping_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(bytes(4096))
    mapped = np.memmap(path, np.float32, mode="r")
    with pytest.raises(AttachError, match="writeable"):
        from_numpy({"w": mapped})
    # numpy's flag is not the last word: the core asks the kernel whether the memory is writable.
    core = shira_runtime._core.Program()
    with pytest.raises(AttachError) as caught:
        core.add_tensor("w", "f32", mapped.shape, mapped.ctypes.data)
    assert caught.value.status == "READ_ONLY"


def test_overlapping_arrays_are_refused() -> None:
    whole = np.zeros(64, np.float32)
    with pytest.raises(BaseMismatchError) as caught:
        from_numpy({"a": whole[:40], "b": whole[20:]})
    assert caught.value.status == "SHARED_STORAGE"
    program = from_numpy({"a": whole, "b": whole})
    for name in ("a", "b"):
        with pytest.raises(BaseMismatchError) as caught:
            program.add_adapter(
                adapter("x", tensor_entries(name, whole, np.array([3]), np.ones(1)))
            )
        assert caught.value.status == "SHARED_STORAGE"


def test_bfloat16_bits_in_uint16() -> None:
    base = np.linspace(-1, 1, 32).astype(ml_dtypes.bfloat16)
    bits = base.view(np.uint16).copy()
    program = from_numpy({"w": bits}, dtypes={"w": "bf16"})
    program.switch(
        program.add_adapter(adapter("x", tensor_entries("w", base, np.array([4]), np.full(1, 3.0))))
    )
    assert bits[4] == 0x4040
    with pytest.raises(UsageError, match="expected f16"):
        from_numpy({"w": np.zeros(3, np.float32)}, dtypes={"w": "f16"})


@pytest.mark.parametrize("name", ["the array", "what it is a view of"])
def test_an_array_cannot_be_resized_below_a_program(name: str) -> None:
    """A switch that waits would otherwise store into memory that was given back."""
    whole = np.zeros(40, np.float32)
    program = from_numpy({"w": whole if name == "the array" else whole[:30].reshape(5, 6)})
    with pytest.raises(ValueError, match="resize"):
        whole.resize(1 << 22, refcheck=False)
    del program
    whole.resize(1 << 22, refcheck=False)


def test_an_array_with_other_memory_is_detached(model: Model) -> None:
    model.program.switch("fr")
    other = np.zeros(1 << 22, np.float16)
    model.arrays["b.bias"].__setstate__(other.__reduce__()[2])  # type: ignore[attr-defined]
    with pytest.raises(AttachError, match=r"b\.bias") as caught:
        model.program.switch(None)
    assert caught.value.status == "DETACHED"
    assert model.program.active == {"fr": 1.0}


# --- the gate ---


class SlowModule:
    """Stands for a torch module; runs until it is told to stop."""

    def __init__(self) -> None:
        self.started, self.stop = threading.Event(), threading.Event()

    def __call__(self, *_: Any) -> str:
        self.started.set()
        assert self.stop.wait(30)
        return "done"


def with_module(model: Model, module: Any) -> Program:
    program = model.program
    program._source._module = module  # type: ignore[attr-defined]
    return program


def test_no_store_while_a_forward_is_in_flight(model: Model) -> None:
    module = SlowModule()
    program = with_module(model, module)
    results: list[Any] = []
    forward = threading.Thread(target=lambda: results.append(program.forward()))
    forward.start()
    assert module.started.wait(30)
    with pytest.raises(BusyError) as caught:
        program.try_switch("de")
    assert caught.value.status == "BUSY"
    switch = threading.Thread(target=lambda: results.append(program.switch("de")))
    switch.start()
    time.sleep(0.05)
    assert model.bytes() == model.before
    assert results == []
    assert (program.active, program.adapters) == ({}, ("de", "fr"))  # asking does not block
    module.stop.set()
    forward.join(30)
    switch.join(30)
    assert results[0] == "done"
    assert results[1].wait_ns > 20_000_000
    assert program.active == {"de": 1.0}
    assert model.bytes() != model.before


@pytest.mark.parametrize("call", ["switch", "try_switch", "hard_revert", "verify_base"])
def test_a_switch_inside_its_own_forward_is_refused(model: Model, call: str) -> None:
    program = with_module(model, lambda: getattr(program, call)())
    with pytest.raises(BusyError, match=f"{call.removeprefix('try_')} .*same thread"):
        program.forward()
    program.switch("de")  # the gate is open again


@pytest.mark.parametrize("call", ["check_adapter", "remove_adapter"])
def test_what_waits_for_switches_is_refused_inside_a_forward(model: Model, call: str) -> None:
    # A switch that waits for the forward would make it wait for the switch: for ever.
    program = with_module(model, lambda: getattr(program, call)("de"))
    with pytest.raises(BusyError, match=f"{call} .*same thread"):
        program.forward()
    assert program.adapters == ("de", "fr")


def test_forwards_nest_and_fail_without_closing_the_gate(model: Model) -> None:
    depth = 0

    def module() -> None:
        nonlocal depth
        depth += 1
        if depth < 3:
            program.forward()
        raise KeyError(depth)

    program = with_module(model, module)
    with pytest.raises(KeyError):
        program.forward()
    assert depth == 3
    program.try_switch("de")


def test_a_nested_forward_does_not_wait_for_a_waiting_switch(model: Model) -> None:
    """The switch waits for the outer forward, so an inner one must not wait for the switch."""
    program = model.program
    switch = threading.Thread(target=lambda: program.switch("de"))
    results: list[Any] = []

    def module(depth: int) -> int:
        if depth == 0:
            switch.start()
            time.sleep(0.05)  # until it waits at the gate
            return int(program.forward(1))
        return depth

    with_module(model, module)
    forward = threading.Thread(target=lambda: results.append(program.forward(0)), daemon=True)
    forward.start()
    forward.join(20)
    assert results == [1]
    switch.join(20)
    assert program.active == {"de": 1.0}


def test_threads_that_switch_and_run_at_once(model: Model) -> None:
    """Every forward sees a whole state: one of those that were asked for, never a mixture."""
    program = with_module(model, lambda: tuple(model.bytes().values()))
    states: list[Any] = [None, "de", "fr", {"de": 0.5, "fr": 0.5}]
    whole = set()
    for state in states:
        program.switch(state)
        whole.add(program.forward())
    assert len(whole) == len(states)
    failures: list[Any] = []

    def switcher(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(150):
            program.switch(states[rng.integers(len(states))])

    def reader() -> None:
        for _ in range(150):
            if program.forward() not in whole:
                failures.append("mixture")

    threads = [threading.Thread(target=switcher, args=(seed,)) for seed in (1, 2)]
    threads += [threading.Thread(target=reader) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    program.switch(None)
    assert model.bytes() == model.before


# --- what is imported, and what the documentation says ---


def test_switching_needs_numpy_only(tmp_path: Path) -> None:
    base = np.zeros((2, 3), np.float32)
    (tmp_path / "ones.shb").write_bytes(
        adapter_bytes("ones", tensor_entries("w", base, np.array([1, 5]), np.ones(2)))
    )
    script = """
import sys
for name in ("torch", "executorch", "ml_dtypes", "typer", "rich", "safetensors", "xxhash"):
    sys.modules[name] = None  # importing it raises ImportError
import numpy, shira_runtime
array = numpy.zeros((2, 3), numpy.float32)
program = shira_runtime.from_numpy({"w": array})
program.add_adapter("ones.shb")
program.switch({"ones": 0.5})
assert array.sum() == 1
program.verify_base()
program.switch(None)
assert not array.any()
packages = {name.partition(".")[0] for name in sys.modules} - {"torch", "executorch"}
print(sorted(packages & {"torch", "typer", "scipy"}))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_a_missing_extension_is_one_helpful_sentence(tmp_path: Path) -> None:
    script = """
import sys
sys.modules["shira_runtime._core"] = None
try:
    import shira_runtime
except ImportError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "pip install" in done.stdout
    assert len(done.stdout.splitlines()) == 1


def test_documented_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    base = np.zeros((2, 3), np.float32)
    Path("ones.shb").write_bytes(
        adapter_bytes("ones", tensor_entries("layer.weight", base, np.array([1, 5]), np.ones(2)))
    )
    ran = doctest.testmod(shira_runtime.program, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert ran.attempted >= 8
    assert ran.failed == 0


def test_public_names_are_sorted_and_there() -> None:
    assert shira_runtime.__all__ == sorted(shira_runtime.__all__)
    for name in shira_runtime.__all__:
        assert hasattr(shira_runtime, name)
