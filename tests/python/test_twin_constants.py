# SPDX-License-Identifier: Apache-2.0
"""Parameters that a delegate packs and that kernels outside read too: a store would miss one."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

models = pytest.importorskip("_models", exc_type=ImportError)

from executorch.backends.xnnpack.partition.xnnpack_partitioner import (  # noqa: E402
    XnnpackPartitioner,
)
from executorch.exir import (  # noqa: E402
    EdgeCompileConfig,
    ExecutorchBackendConfig,
    to_edge_transform_and_lower,
)
from packed_models import make_adapter, random_entries  # noqa: E402

from shira_runtime import ShiraError, load_program  # noqa: E402
from shira_runtime.export.program import export_program  # noqa: E402
from shira_runtime.weights import program_weights  # noqa: E402

torch = models.torch


class Tied(torch.nn.Module):  # type: ignore[misc,name-defined]
    """(batch,) ids -> (batch, 50): a table, a layer, and a head of the table's values."""

    def __init__(self, is_tied: bool = True) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.table = torch.nn.Embedding(50, 32)
        self.middle = torch.nn.Linear(32, 32)
        self.head = torch.nn.Linear(32, 50, bias=False)
        if is_tied:
            self.head.weight = self.table.weight
        else:
            self.head.weight.data = self.table.weight.data.clone()

    def forward(self, ids: torch.Tensor) -> torch.Tensor:  # type: ignore[name-defined]
        return self.head(torch.tanh(self.middle(self.table(ids))))


class Layers(torch.nn.Module):  # type: ignore[misc,name-defined]
    """(batch, 32) -> (batch, 32): two layers that share something."""

    def __init__(self, shared: str) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.shared = shared
        self.a, self.b = torch.nn.Linear(32, 32), torch.nn.Linear(32, 32)
        if shared == "bias":
            self.b.bias = self.a.bias
        elif shared == "weight":
            self.b.weight = self.a.weight
        elif shared == "zeros":
            self.a.bias.data.zero_()
            self.b.bias.data.zero_()

    def forward(self, states: torch.Tensor) -> torch.Tensor:  # type: ignore[name-defined]
        result = self.b(torch.tanh(self.a(states)))
        # XNNPACK has no operator for an index.
        return result + self.a.bias[torch.tensor([3])] if self.shared == "outside" else result


def plain_export(
    folder: Path, is_external: bool, module: Any = None, example: Any = None
) -> tuple[Path, list[Path]]:
    """What ExecuTorch's own functions write, without a word of ours."""
    module = Tied() if module is None else module
    example = torch.tensor([1, 2]) if example is None else example
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = to_edge_transform_and_lower(
            torch.export.export(module.eval(), (example,)),
            partitioner=[XnnpackPartitioner()],
            compile_config=EdgeCompileConfig(_check_ir_validity=False),
        ).to_executorch(ExecutorchBackendConfig(external_constants=is_external))
    path = folder / "tied.pte"
    with path.open("wb") as stream:
        program.write_to_file(stream)
    if is_external:
        program.write_tensor_data_to_file(str(folder))
    return path, sorted(folder.glob("*.ptd"))


@pytest.mark.parametrize("is_external", [False, True], ids=["inline", "ptd"])
def test_a_tied_table_is_not_switched_by_halves(tmp_path: Path, is_external: bool) -> None:
    path, data = plain_export(tmp_path, is_external)
    program = load_program(path, data)
    assert [info.shape for info in program.tensors.values()] == [(32, 32), (32,)]
    weight = next(w for w in program_weights(path, *data).values() if w.shape == (50, 32))
    values = Tied().table.weight.detach().numpy()
    refused = {name: text for name, text in program.unpatchable.items() if "the two" in text}
    assert len(refused) == 1 + is_external
    assert weight.name in refused
    before = program.forward(np.array([1, 2]))[0].tobytes()
    for name in refused:
        entries = {name: random_entries("f32", values, np.random.default_rng(0))}
        with pytest.raises(ShiraError, match="change one of the two") as caught:
            program.add_adapter(make_adapter("a", "f32", {name: values}, entries))
        assert caught.value.tensor == name
    assert program.forward(np.array([1, 2]))[0].tobytes() == before
    if is_external:
        assert any("packed the same values" in reason for reason in refused.values())


def test_another_loader_does_not_switch_it_by_halves_either(tmp_path: Path) -> None:
    program = load_program(*plain_export(tmp_path, True), engine="torch")
    assert not program.tensors
    reasons = [text for text in program.unpatchable.values() if "change one of the two" in text]
    assert len(reasons) == 2


def test_equal_values_of_two_names_are_two_weights(tmp_path: Path) -> None:
    """Nobody tied them, and the program says which is which."""
    path = tmp_path / "equal.pte"
    export_program(Tied(is_tied=False).eval(), (torch.tensor([1, 2]),), path, backend="xnnpack")
    program = load_program(path)
    assert {"table.weight", "head.weight"} <= program.tensors.keys()


@pytest.mark.parametrize("is_named", [True, False])
def test_a_bias_that_is_read_outside_is_not_switched_by_halves(
    tmp_path: Path, is_named: bool
) -> None:
    module, states = Layers("outside"), torch.ones(2, 32)
    if is_named:
        path = tmp_path / "m.pte"
        export_program(module.eval(), (states,), path, backend="xnnpack")
    else:
        path, _ = plain_export(tmp_path, False, module, states)
    bias = module.a.bias.detach().numpy()
    found = [w for w in program_weights(path).values() if w.storage == "packed bias"]
    (twin,) = [w for w in found if (w.codes() == bias).all()]
    program = load_program(path)
    assert "outside of the delegate" in program.unpatchable[twin.name]
    assert {w.name for w in found} - {twin.name} <= program.tensors.keys()


@pytest.mark.parametrize("shared", ["bias", "weight", "zeros"])
def test_equal_values_without_names_may_be_one_parameter(tmp_path: Path, shared: str) -> None:
    path, _ = plain_export(tmp_path, False, Layers(shared), torch.ones(2, 32))
    program = load_program(path)
    switchable = sorted(info.shape for info in program.tensors.values())
    assert switchable == ([] if shared == "weight" else [(32, 32), (32, 32)])
    refused = [text for text in program.unpatchable.values() if "are one parameter" in text]
    assert len(refused) == (4 if shared == "weight" else 2)  # biases go with their weights


def test_biases_that_are_zeros_have_names(tmp_path: Path) -> None:
    path = tmp_path / "m.pte"
    export_program(Layers("zeros").eval(), (torch.ones(2, 32),), path, backend="xnnpack")
    assert load_program(path).tensors.keys() == {"a.weight", "a.bias", "b.weight", "b.bias"}
