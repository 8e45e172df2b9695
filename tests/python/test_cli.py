# SPDX-License-Identifier: Apache-2.0
"""The commands of `shira` that look, compare and list: what they print."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
from cli_inputs import Files, Shira, safetensors_bytes, shira_process, with_prefix
from numpy.typing import NDArray
from shb_files import resealed

pytest.importorskip("typer")
pytest.importorskip("safetensors")

from shira_runtime.commands import diff as diff_command

# --- inspect ---


def test_inspect_shows_an_adapter(shira: Shira, files: Files) -> None:
    ran = shira("inspect", files.fr)
    assert ran.code == 0
    assert ran.err == ""
    assert ran.out.startswith("fr: .shb 1.0, not signed\n")
    for words in (
        *("fr: 72 entries, bound to its base", "layer.a.weight", "12x40", "target bf16"),
        *("metadata", "MIT", "72 entries, ", "PEFT: 12"),
    ):
        assert words in ran.out
    shown = shira("inspect", files.fr, "--json").json
    assert (shown["kind"], shown["format_version"], shown["entry_count"]) == ("shb", "1.0", 72)
    assert shown["file_bytes"] == files.fr.stat().st_size
    assert (shown["tier_count"], shown["signer"]) == (1, None)
    assert [s["kind"] for s in shown["sections"]][:2] == ["adapters", "tensors"]
    (adapter,) = shown["adapters"]
    assert (adapter["name"], adapter["is_bound"], adapter["entry_count"]) == ("fr", True, 72)
    assert adapter["metadata"] == {"license": "MIT", "train": {"steps": 3}}
    by_name = {tensor["name"]: tensor for tensor in adapter["tensors"]}
    assert by_name["layer.b.weight"]["shape"] == [8, 30]
    assert by_name["layer.b.weight"]["density"] == 32 / 240
    assert "unbound" in shira("inspect", files.delta).out


# --- verify ---


@pytest.mark.parametrize(("kind", "dtype"), [("int8", "int8"), ("int4_group", "int4")])
def test_inspect_shows_an_adapter_of_codes(shira: Shira, kind: str, dtype: str) -> None:
    path = Path(__file__).parents[1] / "programs" / "packed" / f"{kind}.shb"
    (adapter,) = shira("inspect", path, "--json").json["adapters"]
    # Of narrow.weight, wide.bias and wide.weight.
    assert [tensor["dtype"] for tensor in adapter["tensors"]] == [dtype, "f32", dtype]
    assert all(1 <= tensor["pages"] <= 2 for tensor in adapter["tensors"])
    assert dtype in shira("inspect", path).out


def test_verify_a_file_alone(shira: Shira, files: Files) -> None:
    ran = shira("verify", files.de)
    assert (ran.code, ran.err) == (0, "")
    assert f"{files.de}: sound, 1 tensors, 100 entries" in ran.out
    assert shira("verify", files.de, "--json").json["ok"] is True


@pytest.mark.parametrize("where", ["section", "whole"])
def test_verify_finds_a_wrong_sha256_below_right_crcs(
    shira: Shira, files: Files, where: str
) -> None:
    content = bytearray(files.de.read_bytes())
    if where == "section":
        content[256 + 32] ^= 1  # the SHA-256 of the first section, in the section table
        good = resealed(content)
        content[:256] = good[:256]
        struct.pack_into("<I", content, 56, google_crc32c.value(bytes(content[256:640])))
    else:
        content[64] ^= 1
    struct.pack_into("<I", content, 252, google_crc32c.value(bytes(content[:252])))
    files.de.write_bytes(content)
    assert shira("inspect", files.de).code == 0  # the CRCs are right
    ran = shira("verify", files.de)
    assert ran.code == 1
    offset = 256 + 32 if where == "section" else 64
    assert f"byte {offset}: " in ran.err
    assert ran.out == ""


def test_verify_against_a_base(shira: Shira, files: Files, tmp_path: Path) -> None:
    assert shira("verify", files.fr, "--base", files.base).code == 0
    folder = tmp_path / "hf"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(files.base.read_bytes())
    assert shira("verify", files.fr, "--base", folder).code == 0


def test_verify_finds_a_base_with_a_prefix(shira: Shira, files: Files) -> None:
    files.base.write_bytes(safetensors_bytes(with_prefix(files.arrays), {}))
    assert shira("verify", files.fr, "--base", files.base).code == 0


WRONG_BASES: dict[str, tuple[Callable[[dict[str, NDArray[Any]]], Any], str]] = {
    "another value there": (
        lambda a: a["layer.b.weight"].reshape(-1).__setitem__(8, 5),
        "fingerprint",
    ),
    "another value elsewhere": (
        lambda a: a["layer.b.weight"].reshape(-1).__setitem__(200, 5),
        "elsewhere",
    ),
    "transposed": (
        lambda a: a.update({"layer.b.weight": a["layer.b.weight"].T.copy()}),
        "shape",
    ),
    "another dtype": (
        lambda a: a.update({"layer.b.weight": a["layer.b.weight"].astype(np.float32)}),
        "f32",
    ),
    "gone": (lambda a: a.pop("layer.b.weight"), "no such tensor"),
}


@pytest.mark.parametrize("what", WRONG_BASES)
def test_verify_names_what_does_not_fit(shira: Shira, files: Files, what: str) -> None:
    change, words = WRONG_BASES[what]
    change(files.arrays)
    files.base.write_bytes(safetensors_bytes(files.arrays, {}))
    ran = shira("verify", files.fr, "--base", files.base)
    assert ran.code == 1
    assert "tensor layer.b.weight: " in ran.err
    assert "1 of 2 tensors" in ran.err
    assert words in ran.err
    assert len(ran.err.splitlines()) == 1
    rows = json.loads(shira("verify", files.fr, "--base", files.base, "--json").out)["tensors"]
    assert [bool(row["problem"]) for row in rows] == [False, True]


def test_verify_refuses_an_unbound_file_for_any_base(shira: Shira, files: Files) -> None:
    assert shira("verify", files.delta).code == 0
    ran = shira("verify", files.delta, "--base", files.base)
    assert ran.code == 1
    assert "fingerprint" in ran.err


# --- diff ---


def test_diff_counts_overlap_and_sign_conflicts(shira: Shira, files: Files) -> None:
    shown = shira("diff", files.de, files.fr, "--base", files.base, "--json").json
    (row,) = shown["tensors"]
    assert (row["entries_first"], row["entries_second"], row["overlap"]) == (100, 40, 20)
    assert row["jaccard"] == 20 / 120
    deltas = {}
    for name in ("de", "fr"):
        at, values = files.targets[name]["layer.a.weight"]
        base = files.arrays["layer.a.weight"].reshape(-1)
        matrix = np.zeros(480)
        matrix[at] = values - base[at]
        deltas[name] = matrix
    assert row["sign_conflicts"] == int((deltas["de"] * deltas["fr"] < 0).sum()) > 0
    product = deltas["de"].reshape(12, 40).T @ deltas["fr"].reshape(12, 40)
    assert row["awom"] == pytest.approx(np.linalg.svd(product)[1][0], rel=1e-5)
    assert row["awor"] == 1 - np.count_nonzero(product) / 1600
    assert shown["only_in"] == [[], ["layer.b.weight"]]
    ran = shira("diff", files.de, files.fr)
    assert ran.code == 0
    assert "--base" in ran.err
    assert "only in B: layer.b.weight" in ran.err


def test_orthogonality_without_scipy_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("scipy")
    rng = np.random.default_rng(4)
    updates = []
    for _ in range(2):
        at = np.flatnonzero(rng.random(50 * 60) < 0.05).astype(np.uint32)
        updates.append((at, rng.standard_normal(at.size).astype(np.float32)))
    sparse = diff_command.orthogonality((50, 60), *updates)
    monkeypatch.setitem(sys.modules, "scipy.sparse", None)
    dense = diff_command.orthogonality((50, 60), *updates)
    assert sparse == pytest.approx(dense, rel=1e-6)
    assert diff_command.orthogonality((2, 5000), *updates) == (None, None)


def test_random_masks_are_as_orthogonal_as_theory_says() -> None:
    """Two independent random masks of density p leave (1 - p^2)^n of A1^T A2 zero."""
    rng = np.random.default_rng(6)
    updates = []
    for _ in range(2):
        at = np.flatnonzero(rng.random(256 * 256) < 0.01).astype(np.uint32)
        updates.append((at, rng.standard_normal(at.size).astype(np.float32)))
    _, awor = diff_command.orthogonality((256, 256), *updates)
    assert awor == pytest.approx((1 - 0.01**2) ** 256, abs=0.005)


def test_diff_of_equal_files(shira: Shira, files: Files) -> None:
    total = shira("diff", files.fr, files.fr, "--base", files.base, "--json").json["total"]
    assert (total["overlap"], total["jaccard"], total["sign_conflicts"]) == (72, 1.0, 0)


# --- the rest ---


def test_kernels(shira: Shira, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = shira("kernels", "--json").json
    assert rows[-1]["name"] == "scalar"
    assert sum(row["chosen"] for row in rows) == 1
    assert "scalar" in shira("kernels").out


def test_a_forced_kernel_that_is_not_there_is_refused(tmp_path: Path) -> None:
    done = shira_process(tmp_path, "kernels", SHIRA_FORCE_KERNEL="abacus")
    assert done.returncode == 1
    assert "abacus" in done.stderr


def test_help_lists_the_commands(shira: Shira) -> None:
    for ran in (shira(), shira("--help")):
        assert ran.code == 0
        for command in ("inspect", "verify", "diff", "apply", "run", "bench", "program", "demo"):
            assert f"  {command} " in ran.out


def test_demo_runs_the_checkout_around_it(tmp_path: Path) -> None:
    folder = tmp_path / "checkout" / "examples" / "minilm"
    folder.mkdir(parents=True)
    (folder / "demo.py").write_text("def main(arguments):\n    print(arguments)\n    return 7\n")
    done = shira_process(tmp_path, "demo", "--dir", folder, "--output", "x", "y")
    assert (done.returncode, done.stdout) == (7, "['--output', 'x', 'y']\n")


@pytest.mark.parametrize("module", ["typer", "rich", "ml_dtypes"])
def test_a_missing_package_is_named_with_its_extra(
    files: Files, tmp_path: Path, module: str
) -> None:
    done = shira_process(
        tmp_path,
        *("apply", files.base, files.de, "-o", "fused.safetensors"),
        before=f"sys.modules[{module!r}] = None",
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert f"needs {module}: pip install 'shira-runtime[cli" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_closed_pipe_is_no_traceback(files: Files, tmp_path: Path) -> None:
    script = f"""
import sys
from shira_runtime.cli import main
sys.exit(main(["inspect", {str(files.de)!r}]))
"""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")
