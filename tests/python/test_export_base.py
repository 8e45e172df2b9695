# SPDX-License-Identifier: Apache-2.0
"""ExecuTorch programs as bases: their bytes, their names, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from _models import torch
from export_inputs import random_pairs
from shb_reader import read_shb

import shira_runtime
from shira_runtime.export import ExportError, export_adapter
from shira_runtime.export.program import export_program

SHORT_NAMES = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}


class TwoLayers(torch.nn.Module):
    """Two linear layers of different shapes, one with a twin of equal content if asked for."""

    def __init__(self, dtype: Any, twin: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = torch.nn.Linear(20, 12, dtype=dtype)
        self.second = torch.nn.Linear(12, 12, bias=False, dtype=dtype)
        self.third = torch.nn.Linear(12, 12, bias=False, dtype=dtype)
        if twin:
            self.third.weight.data.copy_(self.second.weight.data)

    def forward(self, x: Any) -> Any:
        return self.third(self.second(self.first(x)))


def export(folder: Path, dtype: Any = None, twin: bool = False, **options: Any) -> tuple[Path, Any]:
    """(program, state before) of a small module."""
    dtype = dtype or torch.float32
    module = TwoLayers(dtype, twin).eval()
    inputs = (torch.randn(2, 20, dtype=dtype),)
    export_program(module, inputs, folder / "model.pte", allow_shared=twin, **options)
    return folder / "model.pte", module.state_dict()


def adapter(folder: Path, name: str = "first.weight", shape: tuple[int, int] = (12, 20)) -> Path:
    indices, values = random_pairs(shape, 30)
    tensor = torch.sparse_coo_tensor(
        torch.from_numpy(indices), torch.from_numpy(values), shape, check_invariants=True
    )
    torch.save({name: tensor}, folder / "adapter.pt")
    return folder / "adapter.pt"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("place", ["pte", "ptd"])
def test_targets_are_bound_to_the_bytes_of_the_program(
    tmp_path: Path, dtype: Any, place: str
) -> None:
    data_path = tmp_path / "model.ptd" if place == "ptd" else None
    program, state = export(tmp_path, dtype, data_path=data_path)
    export_adapter(adapter(tmp_path), tmp_path / "a.shb", base=data_path or program)
    tensor = read_shb(tmp_path / "a.shb")["tensors"]["first.weight"]
    base = state["first.weight"]
    raw = base.view(torch.uint8 if dtype == torch.float32 else torch.int16).numpy().tobytes()
    indices, values = random_pairs((12, 20), 30)
    dense = torch.zeros(12, 20)
    dense[tuple(torch.from_numpy(indices).long())] = torch.from_numpy(values)
    expected = (base.float() + dense).to(dtype).float().reshape(-1)[tensor["indices"]]
    assert tensor["dtype"] == SHORT_NAMES[dtype]
    assert tensor["base_digest"] == xxhash.xxh3_128(raw).digest()
    assert tensor["values"].astype(np.float32).tolist() == expected.tolist()


def test_the_name_map_of_a_program_is_followed(tmp_path: Path) -> None:
    names = {"first.weight": "model.encoder.query.weight"}
    program, _ = export(tmp_path, name_map=names)
    source = adapter(tmp_path, "base_model.model.model.encoder.query.weight")
    report = export_adapter(source, tmp_path / "a.shb", base=program)
    assert list(read_shb(tmp_path / "a.shb")["tensors"]) == ["first.weight"]
    assert [match.how for match in report.matches] == ["name map"]


def test_a_tensor_that_shares_its_bytes_is_refused(tmp_path: Path) -> None:
    program, _ = export(tmp_path, twin=True)
    source = adapter(tmp_path, "second.weight", (12, 12))
    with pytest.raises(ExportError, match=r"second.weight: .* shares its bytes with third.weight"):
        export_adapter(source, tmp_path / "a.shb", base=program)
    export_adapter(adapter(tmp_path), tmp_path / "a.shb", base=program)


class Doubled(torch.nn.Module):
    """A layer whose bias has the bytes of a constant that has no name."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(20, 12)
        self.first.bias.data.fill_(2.0)

    def forward(self, x: Any) -> Any:
        return self.first(x) * torch.tensor([2.0] * 12)


def test_a_tensor_that_shares_its_bytes_with_an_unnamed_constant_is_refused(tmp_path: Path) -> None:
    program = tmp_path / "model.pte"
    module = Doubled().eval()
    export_program(module, (torch.randn(2, 20),), program)
    tuned = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    tuned["first.weight"][3, 4] += 1.0
    torch.save(tuned, tmp_path / "tuned.pt")
    # What stays as it is may share its bytes with anything.
    export_adapter(tmp_path / "tuned.pt", tmp_path / "a.shb", base=program)
    loaded = shira_runtime.load_program(program)
    loaded.add_adapter(tmp_path / "a.shb")
    tuned["first.bias"][3] += 1.0
    torch.save(tuned, tmp_path / "tuned.pt")
    with pytest.raises(ExportError, match=r"first.bias: .* shares its bytes with a constant with"):
        export_adapter(tmp_path / "tuned.pt", tmp_path / "b.shb", base=program)


def test_the_types_of_a_program_are_fixed(tmp_path: Path) -> None:
    program, _ = export(tmp_path)
    with pytest.raises(ExportError, match=r"model.pte: .*finished program are fixed"):
        export_adapter(adapter(tmp_path), tmp_path / "a.shb", base=program, dtype="f16")


def test_a_damaged_program_is_refused(tmp_path: Path) -> None:
    program, _ = export(tmp_path)
    program.write_bytes(program.read_bytes()[:-100])
    with pytest.raises(ExportError, match=r"model.pte: .*truncated"):
        export_adapter(adapter(tmp_path), tmp_path / "a.shb", base=program)
