# SPDX-License-Identifier: Apache-2.0
"""Text from a file reaches the terminal as text: nothing in it moves the cursor or rings a bell."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from cli_inputs import Files, Shira, safetensors_bytes, shira_process
from shb_files import adapter_bytes, resealed, tensor_entries

pytest.importorskip("typer")
pytest.importorskip("safetensors")

# ESC, BEL, line feed, DEL, C1's CSI, a right-to-left override, and half a surrogate pair
HOSTILE = "\x1b[2J\x07\n\x7f\x9b1m\u202e"
SHOWN = r"\x1b[2J\x07\n\x7f\x9b1m\u202e"


def is_harmless(text: str) -> bool:
    return not any(unicodedata.category(c) in ("Cc", "Cf", "Cs") for c in text.replace("\n", ""))


@pytest.fixture
def hostile(files: Files, tmp_path: Path) -> Path:
    """An adapter whose names and metadata are hostile, and a base that has its tensor."""
    # The format refuses C0, DEL and C1 in names, so those hold what it lets through.
    base = files.arrays["layer.a.weight"]
    tensor = "layer.\u202e.weight"
    files.base.write_bytes(safetensors_bytes({tensor: base}, {}))
    entries = tensor_entries(tensor, base, np.array([1, 5]), np.ones(2))
    path = tmp_path / "hostile.shb"
    path.write_bytes(
        adapter_bytes("x\u202e2J", entries, description=HOSTILE, **{HOSTILE: [HOSTILE]})
    )
    return path


def test_inspect_prints_no_control_characters(shira: Shira, hostile: Path) -> None:
    ran = shira("inspect", hostile)
    assert ran.code == 0, ran.err
    assert is_harmless(ran.out)
    assert ran.out.startswith(r"x\u202e2J: .shb")
    assert r"layer.\u202e.weight" in ran.out
    assert SHOWN in ran.out
    ran = shira("inspect", hostile, "--json")
    assert ran.out.isascii()
    assert is_harmless(ran.out)
    (adapter,) = ran.json["adapters"]
    assert adapter["metadata"] == {"description": HOSTILE, HOSTILE: [HOSTILE]}
    assert adapter["name"] == "x\u202e2J"


def test_other_commands_print_no_control_characters(
    shira: Shira, files: Files, hostile: Path, tmp_path: Path
) -> None:
    output = tmp_path / "fused\x1b.safetensors"
    for code, *arguments in (
        (0, "verify", hostile, "--base", files.base),
        (1, "verify", files.de, "--base", files.base),
        (0, "diff", hostile, hostile, "--base", files.base),
        (0, "diff", hostile, files.de),
        (0, "apply", files.base, hostile, "-o", output),
        (1, "apply", files.base, hostile, "-o", output),
        (2, "apply", files.base, hostile, "-o", output, "--scale", "\x1b[2J=1"),
        (1, "inspect", tmp_path / "no\x1bne.shb"),
    ):
        ran = shira(*arguments)
        assert ran.code == code, ran.err
        assert is_harmless(ran.out + ran.err)


def test_errors_print_no_control_characters(shira: Shira, files: Files, hostile: Path) -> None:
    files.base.write_bytes(safetensors_bytes(files.arrays, {}))
    ran = shira("verify", hostile, "--base", files.base)
    assert ran.code == 1
    assert is_harmless(ran.out + ran.err)
    assert r"tensor layer.\u202e.weight" in ran.err


def test_half_a_surrogate_pair_is_shown(shira: Shira, files: Files, tmp_path: Path) -> None:
    base = files.arrays["layer.a.weight"]
    entries = tensor_entries("layer.a.weight", base, np.array([1]), np.ones(1))
    # The file holds the six characters of the escape; json.loads makes one code point of them.
    content = adapter_bytes("x", entries, note=r"\ud800")
    files.de.write_bytes(_with_bare_escape(content))
    for flags in ((), ("--json",)):
        done = shira_process(tmp_path, "inspect", files.de, *flags, PYTHONIOENCODING="utf-8")
        assert (done.returncode, done.stderr) == (0, "")
        assert r"\ud800" in done.stdout
    assert json.loads(done.stdout)["adapters"][0]["metadata"]["note"] == "\ud800"


def _with_bare_escape(content: bytes) -> bytes:
    """Turn the escaped backslash before ud800 into an escape, and a space into what is missing."""
    assert content.count(rb'"\\ud800"') == 1
    return resealed(content.replace(rb'"\\ud800"', rb'"\ud800" '))
