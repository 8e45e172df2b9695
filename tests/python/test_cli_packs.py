# SPDX-License-Identifier: Apache-2.0
"""The command line with packs, tiers, coded values, keys and positions of other files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_inputs import Shira, read_back, safetensors_bytes
from packs import SHAPES, arrays, derived, largest, pack_bytes, tiered_bytes
from shb_files import adapter_bytes, tensor_entries

pytest.importorskip("typer")
pytest.importorskip("safetensors")

from shira_runtime import _core, signing
from shira_runtime.commands import verify as verify_command
from shira_runtime.commands.describe import index_entropy_bytes
from shira_runtime.export import build
from shira_runtime.export.encode_values import encode_scaled
from shira_runtime.export.image import ValueCodec


class Packed:
    """A base as safetensors, a pack of three adapters for it, and an adapter of three tiers."""

    def __init__(self, folder: Path) -> None:
        self.arrays = arrays()
        self.folder = folder
        self.base = folder / "base.safetensors"
        self.base.write_bytes(safetensors_bytes(self.arrays, {}))
        self.pack = self.write("pack", pack_bytes(self.arrays, ("de", "fr", "it")))
        tiers = (np.arange(5), np.arange(10, 40), np.arange(50, 90))
        self.tiers = self.write("tiers", tiered_bytes(self.arrays, "nl", tiers))

    def write(self, name: str, content: bytes) -> Path:
        path = self.folder / f"{name}.shb"
        path.write_bytes(content)
        return path


@pytest.fixture
def packed(tmp_path: Path) -> Packed:
    return Packed(tmp_path)


# --- inspect ---


def test_inspect_shows_a_pack(shira: Shira, packed: Packed) -> None:
    ran = shira("inspect", packed.pack)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("pack of 3 adapters: .shb 1.0, not signed\n")
    for words in (
        "de: 103 entries, bound",
        "it: 103 entries",
        "adapter fr",
        "2 of 2 index streams",
    ):
        assert words in ran.out
    shown = shira("inspect", packed.pack, "--json").json
    assert [adapter["name"] for adapter in shown["adapters"]] == ["de", "fr", "it"]
    assert shown["entry_count"] == 3 * 103
    assert shown["bytes_per_entry"] == packed.pack.stat().st_size / 309
    assert [table["used_by"] for table in shown["index_tables"]] == [3, 3]
    tensor = shown["adapters"][1]["tensors"][0]
    (part,) = tensor["parts"]
    # 69 gaps of seven; a third of them counts here
    assert tensor["bytes_per_entry"] == (part["stream_bytes"] / 3 + 4 * 69) / 69
    assert tensor["index_bytes"] == part["stream_bytes"] == shown["index_tables"][0]["stream_bytes"]


def test_inspect_shows_tiers(shira: Shira, packed: Packed) -> None:
    assert ", 3 of 3 tiers, not signed" in shira("inspect", packed.tiers).out
    assert ", 2 of 3 tiers, not signed" in shira("inspect", packed.tiers, "--tiers", 2).out
    shown = shira("inspect", packed.tiers, "--tiers", 2, "--json").json
    assert (shown["tier_count"], shown["opened_tier_count"], shown["entry_count"]) == (3, 2, 70)
    sections = [(section["kind"], section["tier"]) for section in shown["sections"]][4:]
    assert sections == [(kind, tier) for tier in range(3) for kind in ("index", "values")]
    parts = shown["adapters"][0]["tensors"][0]["parts"]
    assert [part["tier"] for part in parts] == [0, 1]
    last = shown["sections"][-3]  # values of the second tier
    assert shown["opened_bytes"] == last["offset_bytes"] + last["size_bytes"]
    assert shown["bytes_per_entry"] == shown["opened_bytes"] / 70
    assert shira("inspect", packed.tiers, "--tiers", 4).code == 1
    assert shira("inspect", packed.tiers, "--tiers", 0).code == 2


def test_an_adapter_without_entries_in_the_opened_tiers(
    shira: Shira, packed: Packed, tmp_path: Path
) -> None:
    weight = packed.arrays["layer.a.weight"]
    low, high = (
        tensor_entries("layer.a.weight", weight, at, np.ones(20))
        for at in (np.arange(20), np.arange(60, 80))
    )
    adapters = [build.Adapter("low", [low]), build.Adapter("high", [replace(high, tier=1)])]
    path = packed.write("uneven", build.build_file(adapters).content)
    shown = shira("inspect", path, "--tiers", 1, "--json").json
    assert [adapter["entry_count"] for adapter in shown["adapters"]] == [20, 0]
    ran = shira("inspect", path, "--tiers", 1)
    assert (ran.code, ran.err) == (0, "")
    assert "high: 0 entries" in ran.out
    output = tmp_path / "x.safetensors"
    ran = shira("apply", packed.base, path, "-a", "high", "--tiers", 1, "-o", output)
    assert ran.code == 1
    assert "tiers" in ran.err
    assert shira("apply", packed.base, path, "-a", "high", "-o", output).code == 0


def test_inspect_compares_with_the_bound(shira: Shira, tmp_path: Path) -> None:
    weight = np.zeros((256, 256), np.float32)
    rng = np.random.default_rng(2)
    at = np.sort(rng.choice(weight.size, 655, replace=False))
    deltas = rng.standard_normal(at.size).astype(np.float32)
    entries = replace(
        tensor_entries("w", weight, at, deltas, "delta"),
        values=encode_scaled(deltas, ValueCodec.Q1, 128),
    )
    (tmp_path / "x.shb").write_bytes(adapter_bytes("x", entries))
    (adapter,) = shira("inspect", tmp_path / "x.shb", "--json").json["adapters"]
    (tensor,) = adapter["tensors"]
    assert tensor["value_codec"] == "q1"
    # 8.08 bits an entry of a mask of 1 percent, and one for the value
    assert tensor["bound_bytes_per_entry"] == pytest.approx(9.08 / 8, rel=0.01)
    assert 1 < tensor["bytes_per_entry"] / tensor["bound_bytes_per_entry"] < 1.06
    shown = shira("inspect", tmp_path / "x.shb").out
    assert "delta q1" in shown
    assert "PEFT: 12" in shown


def test_the_entropy_of_a_mask() -> None:
    assert index_entropy_bytes(8, 4) == pytest.approx(np.log2(70) / 8)
    assert index_entropy_bytes(5, 5) == pytest.approx(0, abs=1e-12)
    p = 0.01
    per_element = -p * np.log2(p) - (1 - p) * np.log2(1 - p)
    assert index_entropy_bytes(4096**2, 167772) / 167772 == pytest.approx(
        per_element / p / 8, rel=1e-3
    )


# --- verify ---


def test_verify_checks_every_adapter_of_a_pack(shira: Shira, packed: Packed) -> None:
    ran = shira("verify", packed.pack, "--base", packed.base)
    assert ran.code == 0
    assert "sound, 3 adapters, 6 tensors, 309 entries" in ran.out
    packed.arrays["layer.b.weight"].reshape(-1)[3] = 5
    packed.base.write_bytes(safetensors_bytes(packed.arrays, {}))
    ran = shira("verify", packed.pack, "--base", packed.base, "--json")
    assert ran.code == 1
    rows = json.loads(ran.out)["tensors"]
    assert [(row["adapter"], bool(row["problem"])) for row in rows] == [
        (name, tensor == "layer.b.weight") for name in ("de", "fr", "it") for tensor in SHAPES
    ]


def test_verify_a_signature(shira: Shira, packed: Packed, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    for name in ("ours", "theirs"):
        shira("keygen", "-o", tmp_path / name)
    key = signing.parse_public_key(str(tmp_path / "ours.pub"))
    unsigned = shira("verify", packed.pack, "--public-key", key.hex())
    assert unsigned.code == 1
    assert shira("sign", packed.pack, "--key", tmp_path / "ours").code == 0
    ran = shira("verify", packed.pack, "--public-key", tmp_path / "ours.pub")
    if not _core.cryptography_available():
        assert ran.code == unsigned.code == 1
        return
    assert "not signed" in unsigned.err
    assert (ran.code, ran.err) == (0, "")
    assert f"signed by {key.hex()}" in ran.out
    shown = shira("verify", packed.pack, "--public-key", key.hex(), "--json").json
    assert shown["signed_by"] == key.hex()
    assert f"signed, it says, by {key.hex()}" in shira("inspect", packed.pack).out
    assert shira("verify", packed.pack, "--public-key", tmp_path / "theirs.pub").code == 1
    assert shira("verify", packed.pack, "--public-key", "beef").code == 1


def test_verify_without_the_cores_library(
    shira: Shira, packed: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> bool:
        return False

    calls: list[str] = []

    def check(content: bytes, label: str) -> None:
        assert content == packed.pack.read_bytes()
        calls.append(label)

    monkeypatch.setattr(verify_command._core, "cryptography_available", none)
    monkeypatch.setattr(verify_command.signing, "check_digests", check)
    assert shira("verify", packed.pack).code == 0
    assert calls == [str(packed.pack)]


# --- apply, diff, run ---


def test_apply_an_adapter_of_a_pack(shira: Shira, packed: Packed, tmp_path: Path) -> None:
    output = tmp_path / "fused.safetensors"
    ran = shira("apply", packed.base, packed.pack, "--adapter", "fr", "-o", output, "--json")
    assert ran.json["scales"] == {"fr": 1.0}
    fused, _ = read_back(output)
    for name, array in packed.arrays.items():
        expected = array.reshape(-1).copy()
        expected[3::7] = 2
        assert fused[name].tobytes() == expected.tobytes()
    both = ("apply", packed.base, packed.pack, packed.tiers, "-a", "de", "-a", "it")
    ran = shira(*both, "-o", tmp_path / "both.safetensors", "--scale", "it=0.5", "--json")
    assert ran.json["scales"] == {"de": 1.0, "it": 0.5, "nl": 1.0}


def test_apply_the_first_tiers(shira: Shira, packed: Packed, tmp_path: Path) -> None:
    output = tmp_path / "fused.safetensors"
    assert shira("apply", packed.base, packed.tiers, "--tiers", 2, "-o", output).code == 0
    fused, _ = read_back(output)
    for name, array in packed.arrays.items():
        expected = array.reshape(-1).copy()
        expected[:5] = 1
        expected[10:40] = 2
        assert fused[name].tobytes() == expected.tobytes()


MISUSES: dict[str, tuple[Callable[[Packed], tuple[object, ...]], str]] = {
    "no name": (lambda p: (p.pack,), "holds 3 adapters, choose with --adapter: de, fr, it"),
    "a wrong name": (lambda p: (p.pack, "-a", "de", "-a", "es"), "--adapter es: no such adapter"),
    "two of one name": (lambda p: (p.pack, p.pack, "-a", "de"), "have one name: de"),
}


@pytest.mark.parametrize("what", MISUSES)
def test_a_choice_that_makes_no_sense_is_misuse(
    shira: Shira, packed: Packed, tmp_path: Path, what: str
) -> None:
    arguments, words = MISUSES[what]
    ran = shira("apply", packed.base, *arguments(packed), "-o", tmp_path / "x.safetensors")
    assert ran.code == 2
    assert words in ran.err
    assert len(ran.err.splitlines()) == 1


def test_diff_of_two_adapters_of_a_pack(shira: Shira, packed: Packed) -> None:
    shown = shira("diff", packed.pack, "-a", "de", "-a", "it", "--json").json
    assert shown["total"]["overlap"] == 103
    assert shown["total"]["jaccard"] == 1
    shown = shira("diff", packed.pack, packed.tiers, "-a", "fr", "--tiers", 1, "--json").json
    assert shown["total"]["entries_second"] == 10
    for arguments in ((packed.tiers,), (packed.pack, "-a", "de"), (packed.tiers,) * 3):
        ran = shira("diff", *arguments)
        assert ran.code == 2
        assert "name two adapters to compare" in ran.err


def test_diff_finds_masks_of_the_largest_in_the_base(shira: Shira, packed: Packed) -> None:
    weight = packed.arrays["layer.a.weight"]
    pair = []
    for count in (40, 60):
        entries = derived("layer.a.weight", weight, largest(weight, count))
        content = build.build_adapter(f"top{count}", [entries], index="topk").content
        pair.append(packed.write(f"top{count}", content))
    ran = shira("diff", *pair)
    assert ran.code == 2
    assert f"{pair[0]}: tensor layer.a.weight: " in ran.err
    assert "name the base with --base" in ran.err
    (row,) = shira("diff", *pair, "--base", packed.base, "--json").json["tensors"]
    assert (row["entries_first"], row["entries_second"], row["overlap"]) == (40, 60, 40)


# --- pack ---


def test_pack_puts_adapters_together(shira: Shira, packed: Packed, tmp_path: Path) -> None:
    singles = []
    for number, name in enumerate(("x", "y", "z")):
        tensors = [
            tensor_entries(t, w, np.arange(0, 240, 3), np.full(80, 3 + number))
            for t, w in packed.arrays.items()
        ]
        singles.append(packed.write(name, adapter_bytes(name, *tensors)))
    output = tmp_path / "packed.shb"
    ran = shira("pack", *singles, "-o", output)
    assert (ran.code, ran.err) == (0, "")
    assert "3 adapters (x, y, z)" in ran.out
    shown = shira("inspect", output, "--json").json
    assert [adapter["name"] for adapter in shown["adapters"]] == ["x", "y", "z"]
    assert output.stat().st_size < sum(single.stat().st_size for single in singles)
    assert shira("verify", output, "--base", packed.base).code == 0
    content = output.read_bytes()
    assert shira("pack", *singles[:2], "-o", output).code == 1  # it is there already
    assert output.read_bytes() == content
    again: Any = shira("pack", *singles, "-o", output, "--force", "--json").json
    assert again["adapters"] == ["x", "y", "z"]
    assert output.read_bytes() == content
    ran = shira("pack", singles[0], singles[0], "-o", tmp_path / "twice.shb")
    assert ran.code == 1
    assert len(ran.err.splitlines()) == 1
    assert not (tmp_path / "twice.shb").exists()
