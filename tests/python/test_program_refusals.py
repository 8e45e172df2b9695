# SPDX-License-Identifier: Apache-2.0
"""What a Program refuses: a clear error, and nothing has changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from numpy_model import Model
from shb_files import adapter, adapter_bytes, resealed, section_range, tensor_entries

import shira_runtime
from shira_runtime import (
    Adapter,
    AttachError,
    BaseMismatchError,
    ShiraError,
    UsageError,
    from_numpy,
)


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
    content[section_range(content, "index").stop - 1] = 40  # the gap, of 40 elements
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


def read_only() -> NDArray[Any]:
    array = np.zeros((2, 2), np.float32)
    array.flags.writeable = False
    return array


ODD_ARRAYS: dict[str, tuple[Any, str, str]] = {
    "read-only": (read_only(), "READ_ONLY", "not writeable"),
    "column order": (np.zeros((2, 3), np.float32, order="F"), "INVALID_ARGUMENT", "C-contiguous"),
    "strided": (np.zeros((4, 4), np.float32)[:, ::2], "INVALID_ARGUMENT", "C-contiguous"),
    "float64": (np.zeros((2, 2)), "INVALID_ARGUMENT", "float64"),
    "uint8": (np.zeros(4, np.uint8), "INVALID_ARGUMENT", "bfloat16 or int8"),
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
