# SPDX-License-Identifier: Apache-2.0
"""Masks that follow a rule: found when they do, explicit when not, and the same for readers."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export_inputs import BF16, peft_tensors, weights, write_peft, write_safetensors
from hypothesis import given
from hypothesis import strategies as st
from shb_reader import read_shb

from shira_runtime.export import ExportError, export_adapter
from shira_runtime.export.build import AdapterTensor, build_adapter
from shira_runtime.export.derive import (
    Derivation,
    SeedSource,
    derive,
    random_rule,
    struct_rule,
    topk_positions,
    topk_rule,
)
from shira_runtime.export.image import IndexCodec, IndexStream
from shira_runtime.export.reader import read
from shira_runtime.export.seeded import stratified_blocks, weight_seed

NAME = "layers.0.q_proj.weight"


def struct_mask(shape: tuple[int, int], parts: int, period: int, phase: int) -> Any:
    row, column = np.arange(shape[0])[:, None], np.arange(shape[1])
    mask = (row % period == phase) & bool(parts & 1)
    mask = mask | ((column % period == phase) & bool(parts & 2))
    return np.flatnonzero(mask | ((row == column) & bool(parts & 4)))


def read_positions(
    rule: IndexStream | str, shape: tuple[int, ...], indices: Any, base: Any = None
) -> list[int]:
    """What the reader makes of a file that holds the rule."""
    assert isinstance(rule, IndexStream)
    tensor = AdapterTensor(
        "a", "f32", shape, indices, np.ones(indices.size, np.float16), "delta", rules=(rule,)
    )
    content = build_adapter("x", [tensor], index=rule.codec.name.lower()).content
    found: list[int] = read(content).adapters[0].tensors["a"].positions(base).tolist()
    return found


# In matrices of three lines or fewer the diagonal can complete a line, which hides the period.
@given(
    st.integers(4, 30),
    st.integers(4, 30),
    st.integers(1, 7),
    st.integers(1, 40),
    st.integers(0, 39),
)
def test_struct_masks_are_recognised(
    rows: int, columns: int, parts: int, period: int, phase: int
) -> None:
    shape = (rows, columns)
    indices = struct_mask(shape, parts, period, phase % period)
    if indices.size:
        assert read_positions(struct_rule(indices, shape), shape, indices) == indices.tolist()


@given(st.integers(2, 12), st.integers(2, 12), st.data())
def test_only_struct_masks_are_recognised(rows: int, columns: int, data: st.DataObject) -> None:
    cells = st.lists(st.integers(0, rows * columns - 1), min_size=1, unique=True)
    indices = np.array(sorted(data.draw(cells)))
    rule = struct_rule(indices, (rows, columns))
    if isinstance(rule, IndexStream):
        assert read_positions(rule, (rows, columns), indices) == indices.tolist()


@pytest.mark.parametrize("change", ["one more", "one less", "one moved"])
def test_a_struct_mask_with_a_fault_is_not_taken_for_one(change: str) -> None:
    indices = struct_mask((40, 60), 7, 7, 3)
    other = next(i for i in range(2400) if i not in set(indices.tolist()))
    faulty = {
        "one more": np.sort(np.append(indices, other)),
        "one less": np.delete(indices, 5),
        "one moved": np.sort(np.append(np.delete(indices, 5), other)),
    }[change]
    assert struct_rule(faulty, (40, 60)) == (
        "it is not made of regular rows, columns and the diagonal"
    )


def test_a_struct_mask_of_a_convolution_is_that_of_a_matrix() -> None:
    indices = struct_mask((8, 36), 3, 5, 1)
    rule = struct_rule(indices, (8, 4, 3, 3))
    assert read_positions(rule, (8, 4, 3, 3), indices) == indices.tolist()


@given(
    st.integers(0, 2**64 - 1),
    st.sampled_from([1, 2, 16]),
    st.integers(1, 200),
    st.integers(0, 100),
    st.integers(0, 15),
)
def test_seeded_masks_are_found_by_their_seed(
    seed: int, length: int, units: int, more_blocks: int, rest: int
) -> None:
    element_count = (units + more_blocks) * length + rest % length
    blocks = stratified_blocks(seed, element_count // length, units)
    indices = (blocks[:, None] * length + np.arange(length)).reshape(-1)
    rule = random_rule(indices, (element_count,), SeedSource(seed))
    assert read_positions(rule, (element_count,), indices) == indices.tolist()


def test_a_seed_may_come_from_the_weight_as_it_was_in_training() -> None:
    weight = weights((16, 48))
    seed = weight_seed(5, "torch.float32", (16, 48), weight.reshape(-1))
    blocks = stratified_blocks(seed, 48, 8)
    indices = (blocks[:, None] * 16 + np.arange(16)).reshape(-1)
    deployed = weight.astype(BF16)
    for known in ((weight, deployed), (deployed, weight)):
        rule = random_rule(indices, (16, 48), SeedSource(5, lambda known=known: known))
        assert isinstance(rule, IndexStream)
        assert (rule.block_length, rule.stream) == (16, struct.pack("<Q", seed))
    for source, why in (
        (SeedSource(5, lambda: (deployed,)), "the seed 5 gives another mask"),
        (SeedSource(6, lambda: (weight,)), "the seed 6 gives another mask"),
        (SeedSource(), "no seed is known"),
    ):
        assert random_rule(indices, (16, 48), source) == why
    moved = np.sort(np.append(indices[:-16], indices[:1] + 16 * 48 - indices[0] - 1))
    assert "stratum" in str(random_rule(moved, (16, 48), SeedSource(5, lambda: (weight,))))


@given(st.sampled_from([np.float32, np.float16, BF16]), st.integers(1, 60), st.integers(0, 50))
def test_the_largest_values_are_found_with_ties_by_index(dtype: Any, count: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    base = generator.choice([0.0, -0.0, 0.5, -0.5, 1.0, -2.0, 1e-7, np.nan], 60).astype(dtype)
    indices = topk_positions(base, count)
    rule = topk_rule(indices, base)
    if dtype == np.float32:
        assert read_positions(rule, (60,), indices, base) == indices.tolist()
    assert isinstance(rule, IndexStream)
    others = np.setdiff1d(np.arange(60), indices)
    for other in others[:5]:
        for kept in (indices[1:], indices[:-1]):
            wrong = np.sort(np.append(kept, other))
            assert topk_rule(wrong, base) == (
                "it is not that of the largest base values as deployed"
            )


def test_nothing_is_said_of_a_base_that_is_not_known() -> None:
    found = derive(np.array([3]), (2, 3), None, SeedSource())
    assert found == Derivation(
        (),
        {
            IndexCodec.STRUCT: "it is not made of regular rows, columns and the diagonal",
            IndexCodec.RANDOM: "no seed is known",
            IndexCodec.TOPK: "the base is not known",
        },
    )


# --- Through the exporter ---

SHAPE = (32, 48)  # r = 2 gives 160 entries


def exported(tmp_path: Path, indices: Any, base: Any, **options: Any) -> dict[str, Any]:
    coordinates = np.stack(np.unravel_index(indices, SHAPE)).astype(np.int32)
    deltas = np.random.default_rng(0).normal(0, 0.01, indices.size).astype(np.float32)
    config = options.pop("config", {})
    adapter = write_peft(tmp_path / "de", peft_tensors(coordinates, deltas), r=2, **config)
    file = write_safetensors(tmp_path / "base.safetensors", {NAME: base})
    report = export_adapter(adapter, tmp_path / "a.shb", base=file, force=True, **options)
    deployed = base.astype({"f16": np.float16, None: base.dtype}[options.get("dtype")])
    read = read_shb(tmp_path / "a.shb", {NAME: deployed})["tensors"][NAME]
    assert read["indices"].tolist() == indices.tolist()
    assert read["matches"](deployed)
    return {"codec": read["codec"], "report": report.tensors[0]}


def test_a_magnitude_mask_is_stored_as_a_rule_for_the_deployed_values(tmp_path: Path) -> None:
    base = weights(SHAPE)
    indices = topk_positions(base.reshape(-1), 160)
    assert exported(tmp_path, indices, base)["codec"] == "topk"
    # Rounding makes ties, which the rule breaks by index and the trained mask did not.
    base.reshape(-1)[indices] = 2 * np.sign(base.reshape(-1)[indices])
    edge = np.setdiff1d(np.arange(base.size), indices)[0]
    base.reshape(-1)[edge] = 2 - 1e-5
    found = exported(tmp_path, indices, base, dtype="f16")
    assert found["codec"] != "topk"
    assert found["report"].index_refusals["topk"] == (
        "it is not that of the largest base values as deployed"
    )
    assert exported(tmp_path, indices, base)["codec"] == "topk"


def test_a_seeded_mask_needs_the_seed_of_peft_s_configuration_or_an_option(tmp_path: Path) -> None:
    base = weights(SHAPE)
    seed = weight_seed(7, "torch.float32", SHAPE, base.reshape(-1))
    indices = stratified_blocks(seed, base.size, 160)
    found = exported(tmp_path, indices, base, config={"random_seed": 7})
    assert (found["codec"], found["report"].index_bytes) == ("random", 8)
    assert exported(tmp_path, indices, base, config={"random_seed": 8}, mask_seed=7)["codec"] == (
        "random"
    )
    assert exported(tmp_path, indices, base, config={"random_seed": 7}, dtype="f16")["codec"] == (
        "random"
    )
    found = exported(tmp_path, indices, base, config={"random_seed": None})
    assert found["codec"] == "rice"
    assert found["report"].index_refusals["random"] == "no seed is known"
    with pytest.raises(ExportError, match=f"tensor {NAME}: cannot be coded as random"):
        exported(tmp_path, indices, base, config={"random_seed": 8}, index="random")


def test_tiers_hold_no_rules(tmp_path: Path) -> None:
    base = weights(SHAPE)
    indices = topk_positions(base.reshape(-1), 160)
    found = exported(tmp_path, indices, base, tiers=(0.5, 1))
    assert found["codec"] in ("rice", "gaps8")
    assert found["report"].index_refusals["topk"] == "a file of several tiers holds no such mask"


def test_tensors_do_not_share_the_rule_of_their_largest_values() -> None:
    values = np.ones(2, np.float32)
    rule = topk_rule(np.array([1, 2]), np.array([0, 3, 4, 1], np.float32))
    assert isinstance(rule, IndexStream)
    tensors = [
        AdapterTensor(name, "f32", (4,), np.array([1, 2]), values, "delta", rules=(rule,))
        for name in "ab"
    ]
    rows = build_adapter("x", tensors).image.adapters[0].rows
    assert [row.index_number for row in rows] == [0, 1]
