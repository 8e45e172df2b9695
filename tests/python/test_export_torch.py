# SPDX-License-Identifier: Apache-2.0
"""PyTorch files: the forms of an adapter they may hold, and what their loader must not do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export_inputs import Q_PROJ, peft_tensors, random_pairs, weights, write_safetensors
from shb_reader import read_shb

from shira_runtime.export import ExportError, export_adapter

torch = pytest.importorskip("torch")

# PyTorch warns when the tests make sparse tensors.
pytestmark = pytest.mark.filterwarnings("ignore:Sparse .*:UserWarning")

SHAPE = (12, 20)
NAME = "layers.0.q_proj.weight"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_safetensors(tmp_path / "base.safetensors", {NAME: weights(SHAPE)})


@pytest.fixture
def pairs() -> tuple[Any, Any]:
    indices, values = random_pairs(SHAPE, 32)
    return torch.from_numpy(indices), torch.from_numpy(values)


@pytest.fixture
def expected(tmp_path: Path, base: Path) -> dict[str, Any]:
    source = write_safetensors(tmp_path / "x.safetensors", peft_tensors(*random_pairs(SHAPE, 32)))
    export_adapter(source, tmp_path / "expected.shb", base=base)
    return read_shb(tmp_path / "expected.shb")["tensors"][NAME]


def save(tmp_path: Path, content: Any) -> Path:
    torch.save(content, tmp_path / "adapter.pt")
    return tmp_path / "adapter.pt"


def refused(tmp_path: Path, message: str, content: Any, **options: Any) -> None:
    with pytest.raises(ExportError, match=f"adapter.pt: {message}"):
        export_adapter(save(tmp_path, content), tmp_path / "a.shb", **options)
    assert not (tmp_path / "a.shb").exists()


FORMS = ["peft", "peft on Windows", "sparse", "flat", "row and column", "lists", "no shape"]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_adapter(
    tmp_path: Path, base: Path, pairs: tuple[Any, Any], expected: dict[str, Any], form: str
) -> None:
    indices, values = pairs
    order = torch.randperm(32)
    flat = torch.from_numpy(np.ravel_multi_index(tuple(indices.numpy()), SHAPE))
    content: dict[str, Any] = {
        "peft": peft_tensors(indices, values),
        "peft on Windows": peft_tensors(indices.float(), values),
        "sparse": {NAME: torch.sparse_coo_tensor(indices[:, order], values[order], SHAPE)},
        "flat": {NAME: {"indices": flat[order], "values": values[order], "shape": SHAPE}},
        "row and column": {
            NAME: {"indices": indices.T.contiguous().T, "values": values, "shape": list(SHAPE)}
        },
        "lists": {
            NAME: {"indices": flat.tolist(), "values": values.double(), "shape": torch.Size(SHAPE)}
        },
        "no shape": {f"module.{NAME}": {"indices": flat, "values": values}},
    }[form]
    report = export_adapter(save(tmp_path, content), tmp_path / "a.shb", base=base)
    found = read_shb(tmp_path / "a.shb")["tensors"][NAME]
    assert found["indices"].tolist() == expected["indices"].tolist()
    assert found["values"].tobytes() == expected["values"].tobytes()
    assert found["fingerprint"] == expected["fingerprint"]
    format_of_form = {"peft": "peft-shira", "sparse": "sparse"}
    assert report.source_format == format_of_form.get(form.partition(" ")[0], "entries")


def test_shapes_in_the_file_are_enough_without_a_base(
    tmp_path: Path, pairs: tuple[Any, Any]
) -> None:
    source = save(tmp_path, {NAME: torch.sparse_coo_tensor(*pairs, SHAPE)})
    export_adapter(source, tmp_path / "a.shb")
    assert read_shb(tmp_path / "a.shb")["tensors"][NAME]["shape"] == SHAPE
    content = {NAME: torch.sparse_coo_tensor(*pairs, (20, 20))}
    wrong = write_safetensors(tmp_path / "wrong.safetensors", {NAME: weights(SHAPE)})
    (tmp_path / "a.shb").unlink()
    message = rf"tensor {NAME}: has shape \(20, 20\) in the file and \(12, 20\) in"
    refused(tmp_path, message, content, base=wrong)
    refused(tmp_path, message, content, shapes={NAME: SHAPE})


def test_16_bit_values_are_read(tmp_path: Path, pairs: tuple[Any, Any], base: Path) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        content = {NAME: torch.sparse_coo_tensor(pairs[0], pairs[1].to(dtype), SHAPE)}
        export_adapter(save(tmp_path, content), tmp_path / "a.shb", force=True)
        values = read_shb(tmp_path / "a.shb")["tensors"][NAME]["values"]
        assert values.tolist() == pairs[1].to(dtype).float().tolist()


def test_duplicates_are_refused_and_not_added_up(
    tmp_path: Path, base: Path, pairs: tuple[Any, Any]
) -> None:
    indices, values = pairs
    indices[:, 4] = indices[:, 9]
    content = {NAME: torch.sparse_coo_tensor(indices, values, SHAPE)}
    refused(tmp_path, f"tensor {NAME}: index .* given twice, by entries 4 and 9", content)


@pytest.mark.parametrize(("row", "column"), [(12, 0), (0, 20), (-1, 0)])
def test_sparse_tensors_with_indices_outside_are_refused_by_name(
    tmp_path: Path, pairs: tuple[Any, Any], row: int, column: int
) -> None:
    indices, values = pairs
    indices[:, 0] = torch.tensor([row, column])
    content = torch.sparse_coo_tensor(indices, values, SHAPE, check_invariants=False)
    refused(tmp_path, f"tensor {NAME}: the index along axis . of entry 0", {NAME: content})


def test_other_layouts_and_mixtures_are_refused(tmp_path: Path, pairs: tuple[Any, Any]) -> None:
    sparse = torch.sparse_coo_tensor(*pairs, SHAPE)
    hybrid = torch.sparse_coo_tensor(pairs[0][:1, :3], torch.ones(3, 20), SHAPE)
    compressed = torch.sparse_csr_tensor([0, 1], [0], [1.0], (1, 2), check_invariants=True)
    refused(tmp_path, f"tensor {NAME}: has layout .*csr", {NAME: compressed})
    refused(tmp_path, f"tensor {NAME}: has layout .*coo with 1 dense", {NAME: hybrid})
    mixed = {NAME: sparse, "head.weight": torch.ones(2, 2)}
    refused(tmp_path, "1 tensors would be left out.*head.weight: not sparse", mixed)
    export_adapter(save(tmp_path, mixed), tmp_path / "a.shb", allow_skipped=True)


def test_dicts_of_other_things_are_refused(tmp_path: Path, pairs: tuple[Any, Any]) -> None:
    indices, values = pairs
    for content, message in (
        ([1, 2], "holds list, expected a dict"),
        ({}, "holds dict, expected a dict"),
        (torch.ones(2), "holds Tensor"),
        ({"state_dict": {"a": values, "b": values}}, r"tensor state_dict: .*2 keys \(a, b\)"),
        ({NAME: {"indices": indices}}, f"tensor {NAME}: is a dict with 1 keys"),
        ({NAME: {"indices": indices, "values": values, "alpha": 1}}, f"tensor {NAME}: is a dict"),
        ({NAME: {"indices": [[1], [1, 2]], "values": values}}, f"tensor {NAME}: indices: .*ragged"),
        ({NAME: {"indices": indices, "values": 3.0}}, f"tensor {NAME}: values: is no dense tensor"),
        ({NAME: {"indices": indices, "values": values, "shape": 5}}, f"tensor {NAME}: 5 is not a"),
    ):
        refused(tmp_path, message, content, shapes={NAME: SHAPE})


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    class Malice:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "made"),)

    refused(tmp_path, "was not loaded, because it is damaged or holds more", {"a": Malice()})
    assert not (tmp_path / "made").exists()


def test_a_cut_file_is_refused(tmp_path: Path, pairs: tuple[Any, Any]) -> None:
    content = save(tmp_path, peft_tensors(*pairs)).read_bytes()
    cut = tmp_path / "cut.pt"
    for length in (len(content) - 1, len(content) // 2, 200, 10):
        cut.write_bytes(content[:length])
        with pytest.raises(ExportError, match=r"cut.pt: was not loaded"):
            export_adapter(cut, tmp_path / "a.shb")


def test_an_old_torch_is_refused(
    tmp_path: Path, pairs: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    refused(tmp_path, "PyTorch 2.9.1.cpu has known holes.* 2.10 or newer", peft_tensors(*pairs))


def test_a_state_dict_without_indices_says_how_to_save(tmp_path: Path) -> None:
    content = {f"{Q_PROJ}.shira_weight.default": torch.ones(3)}
    refused(tmp_path, f"tensor {Q_PROJ}: has no shira_indices; .*save_pretrained", content)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tuned_state_dicts_are_compared_with_a_torch_base(tmp_path: Path, dtype: Any) -> None:
    start = {NAME: torch.randn(SHAPE, dtype=dtype), "steps": torch.tensor(3)}
    torch.save(start, tmp_path / "base.pt")
    tuned = {NAME: start[NAME].clone(), "steps": torch.tensor(3)}
    tuned[NAME][4, 5] += 1
    export_adapter(save(tmp_path, tuned), tmp_path / "a.shb", base=tmp_path / "base.pt")
    tensor = read_shb(tmp_path / "a.shb")["tensors"][NAME]
    assert tensor["indices"].tolist() == [4 * 20 + 5]
    assert tensor["values"].astype(np.float32).tolist() == [tuned[NAME][4, 5].item()]
    (tmp_path / "a.shb").unlink()
    with_note = {**tuned, "note": "x"}
    refused(tmp_path, ".*note: no such tensor in", with_note, base=tmp_path / "base.pt")
