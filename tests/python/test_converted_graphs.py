# SPDX-License-Identifier: Apache-2.0
"""Graphs that users quantized and converted by themselves keep the names of their weights."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

models = pytest.importorskip("_models", exc_type=ImportError)

from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (  # noqa: E402
    XNNPACKQuantizer,
    get_symmetric_quantization_config,
)
from packed_models import make_adapter, random_entries  # noqa: E402
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e  # noqa: E402

from shira_runtime import load_program  # noqa: E402
from shira_runtime.export.program import export_program  # noqa: E402
from shira_runtime.weights import program_weights  # noqa: E402

torch = models.torch


class Twice(torch.nn.Module):  # type: ignore[misc,name-defined]
    """(batch, 32) -> (batch, 9); one layer is used twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.inner = torch.nn.ModuleDict({"again": torch.nn.Linear(32, 32)})
        self.head = torch.nn.Linear(32, 9, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[name-defined]
        again = self.inner["again"]
        return self.head(torch.tanh(again(torch.tanh(again(x)))))


def converted(bits: int) -> Any:
    limits = {} if bits == 8 else {"weight_qmin": -8, "weight_qmax": 7}
    configuration = get_symmetric_quantization_config(
        is_per_channel=True, is_dynamic=True, **limits
    )
    states = torch.linspace(-1, 1, 64).view(2, 32)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        graph = torch.export.export(Twice().eval(), (states,)).module()
        prepared = prepare_pt2e(graph, XNNPACKQuantizer().set_global(configuration))
        prepared(states)
        return convert_pt2e(prepared), states


@pytest.mark.parametrize("bits", [8, 4])
def test_codes_have_the_names_of_their_weights(tmp_path: Path, bits: int) -> None:
    graph, states = converted(bits)
    names = [name for name, _ in graph.named_buffers()]
    path = tmp_path / "graph.pte"
    report = export_program(graph, (states,), path, backend="xnnpack")
    assert set(report.packed) == {"inner.again.weight", "head.weight"}
    assert [name for name, _ in graph.named_buffers()] == names, "the user's graph was changed"
    program = load_program(path)
    assert program.tensors.keys() >= report.packed.keys()
    weights = program_weights(path)
    for name in report.packed:
        weight = weights[name]
        scales = weight.scales()
        assert scales is not None
        trained = graph.get_parameter(name).detach().numpy()
        assert np.abs(weight.codes() * scales - trained).max() <= scales.max() / 2 * 1.01
    codes = weights["inner.again.weight"].codes()
    dtype = f"i{bits}"
    entries = random_entries(dtype, codes, np.random.default_rng(0))
    before = program.forward(states)[0]
    program.add_adapter(
        make_adapter("a", dtype, {"inner.again.weight": codes}, {"inner.again.weight": entries})
    )
    program.switch("a")
    assert (program.forward(states)[0] != before).any()
    program.switch(None)
    assert (program.forward(states)[0] == before).all()


def test_codes_of_another_weight_get_no_name(tmp_path: Path) -> None:
    """A weight that was trained on after the conversion is not the one that was quantized."""
    graph, states = converted(8)
    with torch.no_grad():
        graph.get_parameter("head.weight").mul_(1.5)
    report = export_program(graph, (states,), tmp_path / "graph.pte", backend="xnnpack")
    assert set(report.packed) == {"inner.again.weight", "_frozen_param1"}
