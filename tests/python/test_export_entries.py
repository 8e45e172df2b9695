# SPDX-License-Identifier: Apache-2.0
"""Entries in every form that occurs: what they mean, and what is refused by tensor and entry."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from export_inputs import BF16
from hypothesis import given
from hypothesis import strategies as st

from shira_runtime.export.entries import RawEntries, flatten_entries
from shira_runtime.export.errors import ExportError

SHAPE = (3, 4)


def raw(indices: Any, values: Any, **fields: Any) -> RawEntries:
    return RawEntries("a.weight", "x.pt: tensor a", np.array(indices), np.array(values), **fields)


@given(st.data())
def test_all_forms_of_the_same_entries_agree(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))
    element_count = int(np.prod(shape))
    positions = data.draw(st.permutations(range(element_count)))
    nnz = data.draw(st.integers(1, element_count))
    flat = np.array(positions[:nnz])
    values = np.arange(nnz, dtype=np.float32)
    coordinates = np.stack(np.unravel_index(flat, shape))
    forms = [flat, flat.astype(np.int32), flat.astype(np.uint64), flat.astype(np.float32)]
    forms += [coordinates, coordinates.astype(np.float32), np.asfortranarray(coordinates)]
    for indices in forms:
        found, found_values = flatten_entries(raw(indices, values), shape)
        assert found.dtype == np.int64
        assert found_values.dtype == np.float32
        assert found.tolist() == sorted(flat.tolist())
        dense = np.zeros(element_count, np.float32)
        dense[flat] = values
        assert found_values.tolist() == dense[found].tolist()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_values_of_other_types_become_float32(dtype: Any) -> None:
    _, values = flatten_entries(raw([5, 2], np.array([0.5, -0.0], dtype=dtype)), SHAPE)
    assert values.tobytes() == np.array([-0.0, 0.5], np.float32).tobytes()


ONE = np.ones(2, np.float32)
REFUSED = {
    "row beyond, flat within": (raw([[0, 3], [0, 0]], ONE), "axis 0 of entry 1 is 3.*0 to 2"),
    "column beyond, flat within": (raw([[0, 1], [1, 5]], ONE), "axis 1 of entry 1 is 5.*0 to 3"),
    "transposed": (raw([[0, 1], [3, 0]], ONE), None),
    "flat beyond": (raw([0, 12], ONE), "flat index of entry 1 is 12.*0 to 11"),
    "negative": (raw([[0, 0], [-1, 1]], ONE), "axis 1 of entry 0 is -1"),
    "negative flat": (raw([-1, 1], ONE), "entry 0 is -1"),
    "above 2^63": (raw(np.array([0, 2**64 - 1], np.uint64), ONE), "entry 1 is 184467440737095516"),
    "duplicate": (raw([[1, 2, 1], [3, 0, 3]], np.ones(3)), r"\(1, 3\) is .* entries 0 and 2"),
    "duplicate with another value": (raw([7, 7], ONE), r"\(1, 3\) is given twice"),
    "not whole": (raw(np.array([0, 1.5]), ONE), "index 1.5 .* no whole number"),
    "NaN index": (raw(np.array([0, np.nan], np.float32), ONE), "index nan"),
    "infinite index": (raw(np.array([np.inf, 0], np.float32), ONE), "index inf"),
    "half precision index": (raw(np.array([0, 1], np.float16), ONE), "float16, expected integers"),
    "boolean index": (raw(np.array([True, False]), ONE), "bool, expected integers"),
    "lengths": (raw([0, 1, 2], ONE), r"\(3,\) do not belong to values of shape \(2,\)"),
    "lengths of coordinates": (raw([[0], [1]], ONE), "do not belong"),
    "values in two dimensions": (raw([0, 1], np.ones((1, 2), "f4")), "do not belong"),
    "scalar": (raw(0, np.float32(1)), "do not belong"),
    "three axes": (raw([[0, 1], [0, 1], [0, 1]], ONE), r"expected \(nnz,\) or \(2, nnz\)"),
    "no entries": (raw(np.zeros((2, 0), int), np.zeros(0, "f4")), "no entries"),
    "NaN value": (raw([0, 1], np.array([1, np.nan], "f4")), "1 values are NaN or inf.*entry 1"),
    "infinite value": (raw([0, 1], np.array([-np.inf, 0], "f4")), "entry 0"),
    "signalling bfloat16": (raw([0, 1], np.array([0, 0x7F81], "<u2").view(BF16)), "entry 1"),
    "infinite bfloat16": (raw([0, 1], np.array([1, np.inf], ml_dtypes.bfloat16)), "entry 1"),
    "integer values": (raw([0, 1], [1, 2]), "int64, expected floating point"),
    "huge double": (raw([0, 1], np.array([0, 1e300])), "too large for f32"),
}  # fmt: skip


@pytest.mark.parametrize(("entries", "message"), REFUSED.values(), ids=REFUSED)
def test_refusals_name_the_tensor(entries: RawEntries, message: str | None) -> None:
    if message is None:  # the premise of the cases above: these indices fit
        flatten_entries(entries, SHAPE)
        return
    with pytest.raises(ExportError, match=f"^x.pt: tensor a: .*{message}"):
        flatten_entries(entries, SHAPE)


def test_float32_indices_are_trusted_only_where_they_are_exact() -> None:
    shape = (1 << 13, 1 << 13)
    one = np.ones(1, np.float32)
    for index in ((1 << 24) - 1, 5):
        flat, _ = flatten_entries(raw(np.array([index], np.float32), one), shape)
        assert flat.tolist() == [index]
    for index in (1 << 24, (1 << 24) + 2):
        with pytest.raises(ExportError, match="no whole number below 16777216"):
            flatten_entries(raw(np.array([index], np.float32), one), shape)
        assert flatten_entries(raw(np.array([index], np.float64), one), shape)[0] == [index]
