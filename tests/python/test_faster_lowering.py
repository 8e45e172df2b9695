# SPDX-License-Identifier: Apache-2.0
"""Exports that take less work give the bytes of those that take more."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("_models", exc_type=ImportError)

import packed_models as packed
from torch.fx import GraphModule
from torch.fx.traceback import NodeSource

from shira_runtime.export import lower
from shira_runtime.export.program import export_program


def export_counting(path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Exports a small net; returns how often the code of a graph was written."""
    count, thresholds = 0, gc.get_threshold()
    recompile: Callable[[GraphModule], Any] = GraphModule.recompile

    def counting(graph: GraphModule) -> Any:
        nonlocal count
        count += 1
        return recompile(graph)

    with monkeypatch.context() as patch:
        patch.setattr(GraphModule, "recompile", counting)
        packed.torch.manual_seed(3)
        net = packed.Net().eval().requires_grad_(False)
        export_program(net, (packed.example("f32"),), path, backend="xnnpack")
        assert GraphModule.recompile is counting
    assert not hasattr(NodeSource, "__deepcopy__")
    assert gc.get_threshold() == thresholds
    return count


def test_the_program_is_the_same_for_less_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_counting(tmp_path / "first.pte", monkeypatch)  # fills what torch remembers of operators
    once = export_counting(tmp_path / "once.pte", monkeypatch)
    monkeypatch.setattr(lower, "faster_lowering", contextlib.nullcontext)
    often = export_counting(tmp_path / "often.pte", monkeypatch)
    assert (tmp_path / "once.pte").read_bytes() == (tmp_path / "often.pte").read_bytes()
    assert once < often
