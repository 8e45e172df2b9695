# SPDX-License-Identifier: Apache-2.0
"""Budgets: the file fits, and no other choice of codecs that fits makes a smaller error."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export_inputs import peft_tensors, random_pairs, weights, write_peft, write_safetensors
from shb_reader import read_shb

from shira_runtime.export import ExportError, ExportReport, export_adapter
from shira_runtime.export.budget import BUDGET_CODECS

pytest.importorskip("scipy")

ADAPTERS = Path(__file__).resolve().parents[2] / "examples" / "minilm" / "adapters"
SHAPES = ((12, 20), (32, 64), (24, 24))


def small_adapter(tmp_path: Path, scales: tuple[float, ...] = (1.0, 4.0, 0.5)) -> dict[str, Any]:
    """Three tensors whose deltas differ in size."""
    tensors, base = {}, {}
    for i, (shape, scale) in enumerate(zip(SHAPES, scales, strict=True)):
        indices, deltas = random_pairs(shape, 2 * sum(shape), seed=i)
        module = f"base_model.model.layers.{i}.q_proj"
        tensors.update(peft_tensors(indices, deltas * np.float32(scale), module))
        base[f"layers.{i}.q_proj.weight"] = weights(shape, seed=i)
    return {
        "source": write_peft(tmp_path / "de", tensors, r=2),
        "base": write_safetensors(tmp_path / "base.safetensors", base),
    }


def squared_error(report: ExportReport) -> float:
    return sum((t.relative_error * t.delta_norm) ** 2 for t in report.tensors)


def test_no_other_choice_is_better(tmp_path: Path) -> None:
    inputs = small_adapter(tmp_path)
    output = tmp_path / "a.shb"

    def export(**options: Any) -> ExportReport:
        return export_adapter(output=output, name="x", force=True, **inputs, **options)

    uniform = {codec: export(values=codec) for codec in BUDGET_CODECS}
    sizes = {codec: [t.value_bytes for t in uniform[codec].tensors] for codec in BUDGET_CODECS}
    errors = {
        codec: [(t.relative_error * t.delta_norm) ** 2 for t in uniform[codec].tensors]
        for codec in BUDGET_CODECS
    }

    def file_bytes(choice: tuple[str, ...]) -> int:
        own = sizes[choice[2]][2]
        for tensor in (0, 1):
            own += sizes[choice[tensor]][tensor] + -sizes[choice[tensor]][tensor] % 8
        smallest = sizes["int1"][2] + sum(sizes["int1"][i] + -sizes["int1"][i] % 8 for i in (0, 1))
        return uniform["int1"].file_bytes - smallest + own

    assert file_bytes(("int8",) * 3) == uniform["int8"].file_bytes
    budgets = np.linspace(uniform["int1"].file_bytes, uniform["f16"].file_bytes, 9).astype(int)
    for budget in budgets.tolist():
        report = export(budget_bytes=budget)
        assert report.file_bytes == output.stat().st_size <= budget
        fitting = [
            sum(errors[codec][i] for i, codec in enumerate(choice))
            for choice in itertools.product(BUDGET_CODECS, repeat=3)
            if file_bytes(choice) <= budget
        ]
        assert squared_error(report) == pytest.approx(min(fitting), rel=1e-5)
    assert {t.values for t in report.tensors} == {"f16"}


def test_a_budget_that_cannot_be_met_is_refused_with_the_smallest_size(tmp_path: Path) -> None:
    inputs = small_adapter(tmp_path)
    smallest = export_adapter(
        output=tmp_path / "a.shb", name="x", values="int1", **inputs
    ).file_bytes
    message = rf"a budget of .* KiB cannot be met: the smallest file .* has {smallest} bytes"
    with pytest.raises(ExportError, match=message):
        export_adapter(output=tmp_path / "b.shb", name="x", budget_bytes=smallest - 1, **inputs)
    assert not (tmp_path / "b.shb").exists()
    report = export_adapter(output=tmp_path / "b.shb", name="x", budget_bytes=smallest, **inputs)
    assert report.file_bytes == smallest


def test_deltas_too_large_for_f16_take_another_codec(tmp_path: Path) -> None:
    inputs = small_adapter(tmp_path, scales=(1.0, 1e9, 1.0))
    report = export_adapter(output=tmp_path / "a.shb", budget_bytes=1 << 20, **inputs)
    assert [tensor.values for tensor in report.tensors] == ["f16", "int8", "f16"]


@pytest.mark.parametrize("language", ["de", "fr", "ru"])
def test_a_budget_beats_the_best_uniform_choice_on_real_adapters(
    tmp_path: Path, language: str
) -> None:
    source = ADAPTERS / f"minilm-{language}"
    hidden, inner = 384, 1536
    shapes = {}
    for layer in range(6):
        for part, shape in (
            ("attention.self.query", (hidden, hidden)),
            ("attention.self.key", (hidden, hidden)),
            ("attention.self.value", (hidden, hidden)),
            ("attention.output.dense", (hidden, hidden)),
            ("intermediate.dense", (inner, hidden)),
            ("output.dense", (hidden, inner)),
        ):
            shapes[f"encoder.layer.{layer}.{part}.weight"] = shape

    def export(**options: Any) -> ExportReport:
        return export_adapter(
            source, tmp_path / "a.shb", shapes=shapes, name="x", force=True, **options
        )

    uniform = [export(values=codec) for codec in ("int8", "int4", "int2")]
    between = [(a.file_bytes + b.file_bytes) // 2 for a, b in itertools.pairwise(uniform)]
    for budget in (*(report.file_bytes for report in uniform), *between):
        report = export(budget_bytes=budget)
        assert report.file_bytes <= budget
        best = min(squared_error(u) for u in uniform if u.file_bytes <= budget)
        # Half way between two uniform choices the better one wastes half of the budget.
        assert squared_error(report) <= (0.7 if budget in between else 1.0) * best
        tensors = read_shb(tmp_path / "a.shb")["tensors"]
        assert {t["value_dtype"] for t in tensors.values()} <= {"f16", "q8", "q4", "q2", "q1"}
