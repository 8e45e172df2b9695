# SPDX-License-Identifier: Apache-2.0
"""shira verify and diff where the base is a delegated or quantized program."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_inputs import Shira

pytest.importorskip("typer")
pytest.importorskip("safetensors")
pytest.importorskip("ml_dtypes")

PACKED = Path(__file__).resolve().parents[1] / "programs" / "packed"
KINDS = sorted(path.stem for path in PACKED.glob("*.shb"))


def test_there_are_programs_of_every_kind() -> None:
    assert {"f16", "f32", "int4_channel", "int4_group", "int8", "tables"} <= set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_fits_its_program_and_no_other(shira: Shira, kind: str) -> None:
    adapter = PACKED / f"{kind}.shb"
    ran = shira("verify", adapter, "--base", PACKED / f"{kind}.pte", "--json")
    assert ran.code == 0, ran.err
    assert [tensor["problem"] for tensor in ran.json["tensors"]] == [None] * len(
        ran.json["tensors"]
    )
    # A program with the adapter merged has other codes at its positions.
    ran = shira("verify", adapter, "--base", PACKED / f"{kind}-merged.pte")
    assert ran.code == 1
    assert "error: " in ran.err
    other = "int8" if kind != "int8" else "int4_group"
    assert shira("verify", adapter, "--base", PACKED / f"{other}.pte").code == 1


@pytest.mark.parametrize("kind", KINDS)
def test_bench_checks_every_byte(shira: Shira, kind: str, tmp_path: Path) -> None:
    pytest.importorskip("executorch")
    ran = shira(
        *("bench", PACKED / f"{kind}.pte", PACKED / f"{kind}.shb", "--rounds", 2),
        *("--first-rounds", 1, "--forward-rounds", 1, "-o", tmp_path / "run.json"),
    )
    if kind == "f16" and "no kernel" in ran.err:
        pytest.skip("XNNPACK has no float16 arithmetic on this processor")
    assert ran.code == 0, ran.err
    assert (tmp_path / "run.json").exists()


def test_differences_are_those_of_codes(shira: Shira) -> None:
    adapter = PACKED / "int4_group.shb"
    ran = shira("diff", adapter, adapter, "--base", PACKED / "int4_group.pte")
    assert ran.code == 0, ran.err
