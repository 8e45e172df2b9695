# SPDX-License-Identifier: Apache-2.0
"""`shira apply`: what it writes, and what it will not write over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cli_inputs import Files, Shira, read_back, safetensors_bytes, shira_process, with_prefix
from shb_files import adapter_bytes, tensor_entries

pytest.importorskip("typer")
pytest.importorskip("safetensors")

from shira_runtime import from_numpy


def test_apply_writes_what_a_switch_would_leave(shira: Shira, files: Files, tmp_path: Path) -> None:
    output, before = tmp_path / "fused.safetensors", files.base.read_bytes()
    ran = shira(
        "apply", files.base, files.de, files.fr, "-o", output, "--scale", "fr=0.5", "--json"
    )
    assert ran.json["scales"] == {"de": 1.0, "fr": 0.5}
    live = {name: array.copy() for name, array in files.arrays.items()}
    program = from_numpy(live)
    program.switch({program.add_adapter(files.de): 1.0, program.add_adapter(files.fr): 0.5})
    fused, metadata = read_back(output)
    assert metadata == {"format": "pt", "who": "me"}
    assert {n: a.tobytes() for n, a in fused.items()} == {n: a.tobytes() for n, a in live.items()}
    assert fused["layer.b.weight"].tobytes() != files.arrays["layer.b.weight"].tobytes()
    assert files.base.read_bytes() == before
    assert output.stat().st_size == files.base.stat().st_size
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "b.safetensors",
        "de.shb",
        "delta.shb",
        "fr.shb",
        "fused.safetensors",
    ]


def test_apply_to_tensors_at_odd_offsets_and_with_a_prefix(
    shira: Shira, files: Files, tmp_path: Path
) -> None:
    arrays = with_prefix(files.arrays)
    arrays = {"model.layer.c.bias": arrays.pop("model.layer.c.bias"), **arrays}
    content = safetensors_bytes(arrays, {"format": "pt"})
    header_bytes = int.from_bytes(content[:8], "little")
    odd = (header_bytes + 1).to_bytes(8, "little") + content[8 : 8 + header_bytes] + b" "
    files.base.write_bytes(odd + content[8 + header_bytes :])
    output = tmp_path / "fused.safetensors"
    assert shira("apply", files.base, files.fr, "-o", output).code == 0
    fused, _ = read_back(output)
    for name, (at, values) in files.targets["fr"].items():
        assert fused[f"model.{name}"].reshape(-1)[at].tobytes() == values.tobytes()


def test_two_names_of_one_tensor_are_refused(shira: Shira, files: Files, tmp_path: Path) -> None:
    """The second would be written over the first."""
    base = files.arrays["layer.a.weight"]
    entries = tensor_entries("model.layer.a.weight", base, np.array([1]), np.ones(1))
    other, both = tmp_path / "other.shb", tmp_path / "both.shb"
    other.write_bytes(adapter_bytes("other", entries))
    entries_again = tensor_entries("layer.a.weight", base, np.array([2]), np.ones(1))
    both.write_bytes(adapter_bytes("both", entries_again, entries))
    output = tmp_path / "fused.safetensors"
    for arguments in (
        ("apply", files.base, files.de, other, "-o", output),
        ("apply", files.base, both, "-o", output),
        ("verify", both, "--base", files.base),
    ):
        ran = shira(*arguments)
        assert (ran.code, ran.out) == (1, "")
        assert "layer.a.weight and model.layer.a.weight both become layer.a.weight" in ran.err
    assert not output.exists()
    assert shira("apply", files.base, other, "-o", output).code == 0


def test_apply_does_not_overwrite(shira: Shira, files: Files, tmp_path: Path) -> None:
    output = tmp_path / "fused.safetensors"
    output.write_text("precious")
    ran = shira("apply", files.base, files.de, "-o", output)
    assert ran.code == 1
    assert "--force" in ran.err
    assert output.read_text() == "precious"
    assert shira("apply", files.base, files.de, "-o", output, "--force").code == 0
    # Onto itself: the result is complete before it takes the name.
    assert shira("apply", files.base, files.de, "-o", files.base, "--force").code == 0
    assert files.base.read_bytes() == output.read_bytes()
    ran = shira("apply", files.base, files.de, "-o", output, "--force")
    assert ran.code == 1  # applied already
    assert "tensor layer.a.weight" in ran.err


def test_apply_asks_before_trusting_an_unbound_file(
    shira: Shira, files: Files, tmp_path: Path
) -> None:
    output = tmp_path / "fused.safetensors"
    assert shira("apply", files.base, files.delta, "-o", output).code == 1
    assert not output.exists()
    allowed = shira("apply", files.base, files.delta, "-o", output, "--allow-unverified-base")
    assert allowed.code == 0
    assert "1 weights written" in allowed.out


def test_apply_needs_no_torch(files: Files, tmp_path: Path) -> None:
    done = shira_process(
        tmp_path, "apply", files.base, files.fr, "-o", "x", before="sys.modules['torch'] = None"
    )
    assert done.returncode == 0, done.stderr
