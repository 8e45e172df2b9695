# SPDX-License-Identifier: Apache-2.0
"""Tiers: the most important entries first, cutting, and files that refer to others' positions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from export_inputs import peft_tensors, random_pairs, weights, write_peft, write_safetensors
from shb_reader import adapter_values, parse_shb, read_shb

from shira_runtime.export import ExportError, export_adapter
from shira_runtime.export.build import AdapterTensor, build_adapter
from shira_runtime.export.cut import cut_adapter
from shira_runtime.export.derive import topk_positions
from shira_runtime.export.reader import read
from shira_runtime.export.seeded import stratified_blocks
from shira_runtime.export.tiers import parse_shares

SHAPE = (24, 40)  # r = 2 gives 128 entries
MODULES = [f"base_model.model.layers.{i}.q_proj" for i in range(2)]
NAMES = [f"layers.{i}.q_proj.weight" for i in range(2)]
SHARES = (0.25, 0.5, 1.0)


def pairs(layer: int) -> Any:
    """The second layer changes more."""
    indices, deltas = random_pairs(SHAPE, 128, seed=layer)
    return indices, deltas * np.float32(1 + 2 * layer)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    tensors = [peft_tensors(*pairs(i), module) for i, module in enumerate(MODULES)]
    return write_peft(tmp_path / "de", {**tensors[0], **tensors[1]}, r=2)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    tensors = {name: weights(SHAPE, seed=i) for i, name in enumerate(NAMES)}
    return write_safetensors(tmp_path / "base.safetensors", tensors)


def flat(layer: int) -> Any:
    return np.ravel_multi_index(tuple(pairs(layer)[0]), SHAPE)


def test_the_first_tiers_hold_the_largest_deltas_of_all_tensors(
    tmp_path: Path, source: Path, base: Path
) -> None:
    report = export_adapter(source, tmp_path / "a.shb", base=base, tiers=SHARES)
    magnitudes = np.sort(np.abs(np.concatenate([pairs(0)[1], pairs(1)[1]])))[::-1]
    content = (tmp_path / "a.shb").read_bytes()
    for tier, count in enumerate((64, 128, 256)):
        tensors = parse_shb(content, tiers=tier + 1)["tensors"]
        assert sum(t["indices"].size for t in tensors.values()) == count
        for layer, name in enumerate(NAMES):
            kept = np.abs(pairs(layer)[1]) >= magnitudes[count - 1]
            assert tensors[name]["indices"].tolist() == flat(layer)[kept].tolist()
            # The fingerprint is over these entries and all before them.
            assert tensors[name]["matches"](weights(SHAPE, seed=layer))
    assert sum(t.entry_count for t in report.tensors) == report.entry_count == 256
    assert report.tensor_count == 2
    assert tensors[NAMES[0]]["values"].size < tensors[NAMES[1]]["values"].size or count == 256


def test_all_tiers_together_are_the_whole_adapter(tmp_path: Path, source: Path, base: Path) -> None:
    for values in ("target", "f16"):
        options: dict[str, Any] = {"base": base, "values": values, "force": True}
        export_adapter(source, tmp_path / "a.shb", tiers=SHARES, **options)
        export_adapter(source, tmp_path / "b.shb", **options)
        a, b = (read_shb(tmp_path / f"{name}.shb")["tensors"] for name in "ab")
        for name in NAMES:
            assert a[name]["tiers"] == [0, 1, 2]
            assert a[name]["indices"].tolist() == b[name]["indices"].tolist()
            assert a[name]["values"].tobytes() == b[name]["values"].tobytes()


def test_blocks_are_not_split(tmp_path: Path, base: Path) -> None:
    generator = np.random.default_rng(0)
    tensors = {}
    for module in MODULES:
        blocks = np.sort(generator.choice(120, 16, replace=False))
        positions = (blocks[:, None] * 8 + np.arange(8)).reshape(-1)
        coordinates = np.stack(np.unravel_index(positions, SHAPE)).astype(np.int32)
        tensors.update(
            peft_tensors(coordinates, generator.normal(size=128).astype(np.float32), module)
        )
    source = write_peft(tmp_path / "blocks", tensors, r=2)
    report = export_adapter(source, tmp_path / "a.shb", base=base, tiers=(0.3, 1))
    assert {tensor.block_length % 8 for tensor in report.tensors} == {0}
    assert sum(t.entry_count for t in report.tensors if t.tier == 0) == 80  # 10 of 32 blocks


def test_a_file_is_cut_to_its_first_tiers(tmp_path: Path, source: Path, base: Path) -> None:
    export_adapter(source, tmp_path / "a.shb", base=base, values="int4", tiers=SHARES)
    content = (tmp_path / "a.shb").read_bytes()
    for tier_count in (1, 2, 3):
        report = cut_adapter(tmp_path / "a.shb", tmp_path / "cut.shb", tier_count, force=True)
        cut = (tmp_path / "cut.shb").read_bytes()
        assert read(cut).tier_count == tier_count
        found, expected = parse_shb(cut), parse_shb(content, tiers=tier_count)
        assert found["metadata"] == expected["metadata"]
        for name in NAMES:
            for what in ("indices", "values"):
                assert found["tensors"][name][what].tobytes() == (
                    expected["tensors"][name][what].tobytes()
                )
        assert report.tier_counts == (3, tier_count)
        assert report.file_bytes == (len(content), len(cut))
        assert report.entry_counts == (256, (64, 128, 256)[tier_count - 1])
        assert json.dumps(report.to_json())
    assert cut == content
    for tier_count in (0, 4):
        with pytest.raises(ExportError, match=f"a.shb: has 3 tiers, so {tier_count} cannot"):
            cut_adapter(tmp_path / "a.shb", tmp_path / "b.shb", tier_count)
    assert not (tmp_path / "b.shb").exists()


def test_a_damaged_file_is_not_cut(tmp_path: Path, source: Path) -> None:
    export_adapter(source, tmp_path / "a.shb", shapes=dict.fromkeys(NAMES, SHAPE), tiers=SHARES)
    content = bytearray((tmp_path / "a.shb").read_bytes())
    content[-1] ^= 1
    (tmp_path / "a.shb").write_bytes(content)
    with pytest.raises(ExportError, match=r"a.shb: SECTION_CHECKSUM at byte \d+"):
        cut_adapter(tmp_path / "a.shb", tmp_path / "b.shb", 1)


def test_a_tier_without_entries_is_refused(tmp_path: Path, source: Path) -> None:
    with pytest.raises(ExportError, match="tier 1 of 3 would have no entries: the adapter has 256"):
        export_adapter(
            source,
            tmp_path / "a.shb",
            shapes=dict.fromkeys(NAMES, SHAPE),
            tiers=(0.501, 0.502, 1),
        )


def test_shares_are_read_from_text() -> None:
    assert parse_shares("0.25,.5,1") == (0.25, 0.5, 1.0)
    assert parse_shares("1") == (1.0,)
    for text in ("", "1,1", "0.5", "0,1", "0.5,0.4,1", "a", "nan,1", "2", ",".join("1" * 9)):
        with pytest.raises(ValueError, match="ascending shares"):
            parse_shares(text)


def test_tiers_that_disagree_are_refused() -> None:
    first = AdapterTensor("a", "f32", (4,), np.array([1]), np.ones(1, np.float32), "delta")

    def second(**changes: Any) -> AdapterTensor:
        fields = {"shape": (4,), "indices": np.array([2]), "values": np.ones(1, np.float32)}
        return AdapterTensor("a", "f32", kind="delta", tier=1, **{**fields, **changes})

    build_adapter("x", [first, second()])
    for changes, message in (
        ({"shape": (2, 2)}, "tensor a: its tiers differ in shape"),
        ({"values": np.ones(1, np.float16)}, "tensor a: its tiers differ in value_codec"),
        ({"indices": np.array([1])}, "tensor a: a position is in two tiers"),
    ):
        with pytest.raises(ExportError, match=message):
            build_adapter("x", [first, second(**changes)])
    with pytest.raises(ExportError, match="0 index streams in a tier"):
        build_adapter("x", [second()])


# --- Positions of another file ---


@pytest.mark.parametrize("tiers", [(1.0,), SHARES])
def test_positions_are_taken_from_another_file(
    tmp_path: Path, source: Path, base: Path, tiers: Any
) -> None:
    options: dict[str, Any] = {"base": base, "tiers": tiers, "name": "x"}
    export_adapter(source, tmp_path / "a.shb", **options)
    report = export_adapter(
        source, tmp_path / "b.shb", values="int8", index_from=tmp_path / "a.shb", **options
    )
    export_adapter(source, tmp_path / "c.shb", values="int8", **options)
    others, referring, whole = ((tmp_path / f"{n}.shb").read_bytes() for n in "abc")
    assert len(referring) < len(whole)
    assert report.file_bytes == len(referring)
    assert any("a.shb: who opens this file must offer" in note for note in report.notes)
    with pytest.raises(ValueError, match="MISSING_INDEX"):
        read(referring)
    found = adapter_values(read(referring, index_sources=[others]), "x")["tensors"]
    for name, tensor in parse_shb(whole)["tensors"].items():
        assert found[name]["indices"].tolist() == tensor["indices"].tolist()
        assert found[name]["values"].tobytes() == tensor["values"].tobytes()
    if len(tiers) > 1:
        with pytest.raises(
            ExportError, match=r"b.shb: takes its positions from another file, which"
        ):
            cut_adapter(tmp_path / "b.shb", tmp_path / "d.shb", 2)
        cut_adapter(tmp_path / "b.shb", tmp_path / "d.shb", 2, index_from=tmp_path / "a.shb")
        cut = read((tmp_path / "d.shb").read_bytes(), index_sources=[others])
        assert cut.adapters[0].tensors[NAMES[0]].nnz < 128


def test_other_positions_are_refused(tmp_path: Path, source: Path, base: Path) -> None:
    export_adapter(source, tmp_path / "a.shb", base=base)

    def refused(message: str, other: Path, **options: Any) -> None:
        with pytest.raises(ExportError, match=message):
            export_adapter(
                other, tmp_path / "b.shb", base=base, index_from=tmp_path / "a.shb", **options
            )

    moved = [peft_tensors(*random_pairs(SHAPE, 128, seed=9 + i), m) for i, m in enumerate(MODULES)]
    other = write_peft(tmp_path / "other", {**moved[0], **moved[1]}, r=2)
    refused(f"a.shb: tensor {NAMES[0]} has other positions there .as many, 128", other)
    part = write_peft(tmp_path / "part", peft_tensors(*pairs(0), MODULES[0]), r=2)
    refused(rf"a.shb: its index section cannot stand .* holds {NAMES[1]}", part)
    refused("a.shb: tensor .* has other positions there", source, tiers=(0.5, 1))
    one = write_peft(tmp_path / "one", peft_tensors(*pairs(0), MODULES[0]), r=2)
    export_adapter(one, tmp_path / "a.shb", base=base, force=True)
    refused(f"a.shb: has no positions of tensor {NAMES[1]}", source)
    export_adapter(one, tmp_path / "c.shb", base=base, index_from=tmp_path / "a.shb")
    (tmp_path / "a.shb").write_bytes((tmp_path / "c.shb").read_bytes())
    refused("a.shb: takes its positions from another file", one)


@pytest.mark.parametrize("rule", ["struct", "random", "topk"])
def test_rules_are_shared_between_files(tmp_path: Path, rule: str) -> None:
    weight = weights(SHAPE)
    positions = {
        "struct": np.arange(3 * 40, 3 * 40 + 40).tolist() + np.arange(17 * 40, 18 * 40).tolist(),
        "random": stratified_blocks(7, weight.size, 128).tolist(),
        "topk": topk_positions(weight.reshape(-1), 128).tolist(),
    }[rule]
    coordinates = np.stack(np.unravel_index(positions, SHAPE)).astype(np.int32)
    values = np.ones(len(positions), np.float32)
    base = write_safetensors(tmp_path / "b.safetensors", {NAMES[0]: weight})
    source = write_peft(
        tmp_path / "de", peft_tensors(coordinates, values, MODULES[0]), r=None, random_seed=None
    )
    options: dict[str, Any] = {"base": base, "name": "x"}
    export_adapter(source, tmp_path / "a.shb", index=rule, mask_seed=7, **options)
    # The seed is in the other file, so nobody has to know it.
    export_adapter(source, tmp_path / "b.shb", index_from=tmp_path / "a.shb", **options)
    others = (tmp_path / "a.shb").read_bytes()
    found = read((tmp_path / "b.shb").read_bytes(), index_sources=[others])
    assert found.adapters[0].tensors[NAMES[0]].positions(weight).tolist() == positions
    touched = weight.reshape(-1)[positions].tobytes()
    assert found.adapters[0].tensors[NAMES[0]].parts[0].fingerprint == (
        xxhash.xxh3_128_digest(touched)
    )


def test_a_rule_for_other_positions_is_refused(tmp_path: Path) -> None:
    weight = weights(SHAPE)
    base = write_safetensors(tmp_path / "b.safetensors", {NAMES[0]: weight})
    largest = topk_positions(weight.reshape(-1), 128)
    others = np.setdiff1d(np.arange(weight.size), largest)[:128]
    for name, positions in (("a", largest), ("b", others)):
        coordinates = np.stack(np.unravel_index(positions, SHAPE)).astype(np.int32)
        tensors = peft_tensors(coordinates, np.ones(128, np.float32), MODULES[0])
        write_peft(tmp_path / name, tensors, r=2)
    other = tmp_path / "a.shb"
    export_adapter(tmp_path / "a", other, base=base, index="topk")
    with pytest.raises(ExportError, match=r"a\.shb: tensor .* has other positions there"):
        export_adapter(tmp_path / "b", tmp_path / "b.shb", base=base, index_from=other)
