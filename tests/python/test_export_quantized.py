# SPDX-License-Identifier: Apache-2.0
"""Adapters for quantized tensors: weights on the base's grid, what vanishes, what is chosen."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shira_runtime.export.base import xxh3_128
from shira_runtime.export.choose_entries import check_density, choose_entries
from shira_runtime.export.compute import (
    ComputedTensor,
    ComputeSettings,
    snap_dense,
    snap_entries,
)
from shira_runtime.export.dtypes import CODE_RANGES
from shira_runtime.export.entries import RawEntries
from shira_runtime.export.errors import ExportError
from shira_runtime.export.grid import Grid, make_grid
from shira_runtime.export.image import IndexCodec
from shira_runtime.export.names import NameMatch
from shira_runtime.export.snap import finish_snapping, made_changes, snap_summary, total_error
from shira_runtime.export.tensor_files import StoredTensor
from shira_runtime.export.tiers import split_into_tiers
from shira_runtime.export.values import store_values

SHAPE = (6, 64)
SETTINGS = ComputeSettings(1.0, {}, None)


def random_grid(seed: int, dtype: str = "i4", groups: int = 2) -> Grid:
    generator = np.random.default_rng(seed)
    lowest, highest = CODE_RANGES[dtype]
    codes = generator.integers(lowest, highest + 1, SHAPE).astype(np.int8)
    scales = generator.uniform(0.5, 2, (SHAPE[0], groups)) * 0.05 / highest
    return make_grid("w", dtype, codes, scales.astype(np.float32), None)


def entries(seed: int, grid: Grid, count: int, strength: float = 1.0, **options: Any) -> Any:
    """A sparse adapter's tensor whose deltas are of the order of a step times `strength`."""
    generator = np.random.default_rng(seed)
    flat = np.sort(generator.choice(grid.codes.size, count, replace=False))
    deltas = generator.normal(0, strength * grid.steps.mean(), count).astype(np.float32)
    raw = RawEntries("w", "w", flat, deltas)
    return snap_entries(raw, "w", grid, flat, deltas, ComputeSettings(1.0, {}, None, **options))


def dense(grid: Grid, tuned: Any, **options: Any) -> ComputedTensor | None:
    stored = StoredTensor("w", "f32", grid.codes.shape, lambda: tuned)
    match, how = NameMatch("w", "w", "exact"), ComputeSettings(**{**vars(SETTINGS), **options})
    return snap_dense(match, stored, tuned.reshape(-1), grid, how)


def exact_code(weight: float, step: float, base: int, dtype: str) -> tuple[int, bool]:
    """The nearest code, ties to even, in rational numbers; and whether the range cut it off."""
    if step == 0:
        return base, False
    level = round(Fraction(weight) / Fraction(step))
    lowest, highest = CODE_RANGES[dtype]
    return min(max(level, lowest), highest), not lowest <= level <= highest


@pytest.mark.parametrize("dtype", ["i8", "i4"])
@pytest.mark.parametrize("groups", [1, 2])
def test_weights_become_the_nearest_codes(dtype: str, groups: int) -> None:
    grid = random_grid(3, dtype, groups)
    grid.steps[4] = 0
    tensor = entries(5, grid, 200, strength=3)
    for i, index in enumerate(tensor.indices):
        row, column = divmod(int(index), SHAPE[1])
        base, step = int(grid.codes[row, column]), float(grid.steps[row, column * groups // 64])
        delta = np.random.default_rng(5)  # the helper's own numbers, drawn again
        delta.choice(grid.codes.size, 200, replace=False)
        weight = base * step + float(
            delta.normal(0, 3 * grid.steps.mean(), 200).astype(np.float32)[i]
        )
        code, is_clipped = exact_code(weight, step, base, dtype)
        assert (tensor.before[i], tensor.targets[i]) == (base, code)
        assert bool(tensor.snap.is_clipped[i]) == is_clipped
        assert math.isclose(tensor.deltas[i], weight - base * step, rel_tol=1e-6, abs_tol=1e-9)
    assert tensor.base_digest == xxh3_128(grid.codes)
    assert tensor.fingerprint() == xxh3_128(np.ascontiguousarray(tensor.before))
    assert (tensor.dtype, tensor.shape) == (dtype, SHAPE)


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 1 << 32),
    dtype=st.sampled_from(["i8", "i4"]),
    groups=st.sampled_from([1, 2, 4]),
    exponent=st.integers(-12, 6),
)
def test_codes_stay_in_range_and_err_by_half_a_step(
    seed: int, dtype: str, groups: int, exponent: int
) -> None:
    grid = random_grid(seed, dtype, groups)
    tensor = entries(seed, grid, 64, strength=2.0**exponent)
    lowest, highest = CODE_RANGES[dtype]
    assert tensor.targets.dtype == np.int8
    assert lowest <= tensor.targets.min() <= tensor.targets.max() <= highest
    error = np.abs(made_changes(tensor) - tensor.deltas)
    clipped = tensor.snap.is_clipped
    assert (error[~clipped] <= tensor.snap.steps[~clipped] * 0.500001).all()
    assert np.isin(tensor.targets[clipped], [lowest, highest]).all()
    # Not even where it is clipped is the weight farther from its target than it was.
    assert (error <= np.abs(tensor.deltas) * 1.000001 + 1e-12).all()


def test_the_report_counts_what_changes_vanishes_and_clips() -> None:
    codes = np.array([[7, 7, 0, 1, -8, 3]], np.int8)
    grid = make_grid("w", "i4", codes, np.array([0.5], np.float32), None)
    #         clips, stays |  changes, vanishes, clips and changes, changes
    deltas = np.array([0.6, 0.1, 0.9, -0.2, 9.0, -0.5], np.float32)
    raw = RawEntries("w", "w", np.arange(6), deltas)
    tensor = snap_entries(raw, "w", grid, np.arange(6), deltas, SETTINGS)
    assert tensor.targets.tolist() == [7, 7, 2, 1, 7, 2]
    kept, (report,) = finish_snapping([tensor], keep_masks=False)
    assert (report.source_count, report.entry_count) == (6, 6)
    assert (report.changed_count, report.vanished_count, report.clipped_count) == (3, 3, 2)
    left = np.array([0.6, 0.1, -0.1, -0.2, 1.5, 0.0])
    assert report.relative_error == pytest.approx(np.linalg.norm(left) / np.linalg.norm(deltas))
    assert report.change_norm == pytest.approx(np.linalg.norm(deltas))
    assert kept[0].indices.tolist() == [2, 4, 5]
    assert kept[0].targets.tolist() == [2, 7, 2]
    assert total_error([report]) == pytest.approx(report.relative_error)
    summary = snap_summary([report], grid_aware=False)
    named = dict(zip(summary["columns"], summary["tensors"]["w"], strict=True))
    assert named["vanished"] == 3
    stored = store_values(kept[0], "int8", 128)
    assert (stored.kind, stored.choice, stored.no_op_count) == ("target", "target", 0)
    assert stored.coded.decoded.tolist() == [2, 7, 2]
    # A mask that must stay as it is keeps its entries, and the report is the same.
    assert finish_snapping([tensor], keep_masks=True) == ([tensor], [report])


def test_a_tensor_without_a_changed_code_is_reported_and_dropped() -> None:
    tensor = entries(1, random_grid(1), 40, strength=1e-4)
    kept, (report,) = finish_snapping([tensor], keep_masks=False)
    assert kept == []
    assert (report.changed_count, report.vanished_count, report.relative_error) == (0, 40, 1)


def test_entries_vanish_only_where_that_makes_the_file_smaller() -> None:
    grid = random_grid(2)
    row = np.arange(64)
    deltas = np.full(64, 0.8, np.float32) * grid.steps_at(row).astype(np.float32)
    raw = RawEntries("w", "w", row, deltas)
    whole = snap_entries(raw, "w", grid, row, deltas, SETTINGS)
    assert [rule.codec.name for rule in whole.derivation.rules] == ["STRUCT"]
    assert whole.derivation.refusals[IndexCodec.TOPK] == "the base holds integer codes"
    # A row is a run of positions, whatever its length; holes in it would cost more than codes.
    kept, (report,) = finish_snapping([whole], keep_masks=False)
    assert report.vanished_count > 0
    assert kept == [whole]
    scattered = entries(2, grid, 100)
    (kept,), (report,) = finish_snapping([scattered], keep_masks=False)
    assert kept.indices.size == report.changed_count < 100
    assert (kept.targets != kept.before).all()
    assert kept.derivation.rules == ()
    assert set(kept.derivation.refusals.values()) == {"some of its entries were left out"}


def test_what_training_began_with_makes_the_codes_of_the_quantized_trained_model() -> None:
    """An untouched half of a step is not lost: the float model tells where in its step it is."""
    grid = random_grid(7)
    generator = np.random.default_rng(8)
    steps = grid.steps_at(np.arange(grid.codes.size)).reshape(SHAPE)
    start = (grid.codes * steps + generator.uniform(-0.5, 0.5, SHAPE) * steps).astype(np.float32)
    tensor = entries(9, grid, 100, strength=0.2, trained_on=lambda name, where: start)
    assert 5 < (tensor.targets != tensor.before).sum() < 60
    plain = entries(9, grid, 100, strength=0.2)
    assert (plain.targets != plain.before).sum() <= 2
    deltas = plain.deltas.astype(np.float64)
    merged = start.reshape(-1)[tensor.indices] + deltas
    expected = grid.nearest(merged, tensor.indices)[0]
    assert (tensor.targets == expected).all()
    with pytest.raises(ExportError, match=r"shape \(3, 2\), in the program it has \(6, 64\)"):
        entries(9, grid, 100, trained_on=lambda name, where: np.zeros((3, 2), np.float32))


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("knows_start", [True, False])
def test_a_fine_tuned_tensor_has_entries_where_codes_differ(
    scale: float, knows_start: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shira_runtime.export.compute._CHUNK_ELEMENTS", 50)
    grid = random_grid(11)
    generator = np.random.default_rng(12)
    steps = grid.steps_at(np.arange(grid.codes.size)).reshape(SHAPE)
    start = (grid.codes * steps).astype(np.float32)
    if knows_start:
        start += (generator.uniform(-1.5, 1.5, SHAPE) * steps).astype(np.float32)
    tuned = np.where(
        generator.random(SHAPE) < 0.5, start, start + generator.normal(0, 1, SHAPE) * steps
    ).astype(np.float32)
    options: dict[str, Any] = {"scale": scale}
    if knows_start:
        options["trained_on"] = lambda name, where: start
    tensor = dense(grid, tuned, **options)
    assert tensor is not None
    begin = start if knows_start else grid.codes * steps
    weights = (begin.astype(np.float64) + scale * (tuned - begin.astype(np.float64))).reshape(-1)
    codes, _ = grid.nearest(weights, np.arange(weights.size))
    # With a start that is known, what training left alone stays, wherever it is on the grid.
    trained = (tuned != begin).reshape(-1)
    changed = (codes != grid.codes.reshape(-1)) & trained
    assert tensor.indices.tolist() == np.flatnonzero(changed).tolist()
    assert (tensor.targets == codes[changed]).all()
    assert tensor.snap.source_count == trained.sum()
    _, (report,) = finish_snapping([tensor], keep_masks=False)
    asked = (weights - (grid.codes * steps).reshape(-1)) * trained
    left = np.where(changed, weights - codes * steps.reshape(-1), asked)
    expected = np.linalg.norm(left) / np.linalg.norm(asked)
    assert report.relative_error == pytest.approx(expected, rel=1e-5)
    assert dense(grid, start if knows_start else np.float64(begin), **options) is None


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_trained_weights_that_are_not_finite_are_refused(value: float) -> None:
    grid = random_grid(1)
    tuned = np.zeros(SHAPE, np.float32)
    tuned[1, 2] = value
    with pytest.raises(ExportError, match="NaN or infinite, the first at flat index 66"):
        dense(grid, tuned)


def float_tensor(seed: int, count: int) -> ComputedTensor:
    generator = np.random.default_rng(seed)
    indices = np.sort(generator.choice(256, count, replace=False))
    deltas = generator.normal(0, 0.005, count).astype(np.float32)
    return ComputedTensor("n", "n", "n", "f32", "f32", (256,), indices, deltas)


def squared_error(before: list[ComputedTensor], chosen: list[ComputedTensor]) -> float:
    """Of all weights against the trained ones, of the tensors' own entries, counted one by one."""
    changes = {
        (t.name, int(i)): c for t in chosen for i, c in zip(t.indices, made_changes(t), strict=True)
    }
    return sum(
        (changes.get((t.name, int(i)), 0.0) - float(d)) ** 2
        for t in before
        for i, d in zip(t.indices, t.deltas, strict=True)
    )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1 << 32),
    density=st.floats(0.001, 0.6),
    exponent=st.integers(-3, 3),
    has_floats=st.booleans(),
)
def test_grid_aware_is_never_worse_than_plain(
    seed: int, density: float, exponent: int, has_floats: bool
) -> None:
    tensors = [entries(seed, random_grid(seed), 120, strength=2.0**exponent)]
    tensors += [float_tensor(seed, 60)] if has_floats else []
    budget = max(1, int(density * sum(math.prod(t.shape) for t in tensors)))
    errors = {}
    for grid_aware in (False, True):
        chosen = choose_entries(tensors, density, grid_aware)
        kept, reports = finish_snapping(chosen, keep_masks=False)
        assert sum(tensor.indices.size for tensor in chosen) <= budget
        errors[grid_aware] = squared_error(tensors, kept)
        for report in reports:  # whose error is over all entries of the source
            own = [tensor for tensor in tensors if tensor.name == report.name]
            error = squared_error(own, [t for t in kept if t.name == report.name])
            assert (report.relative_error * report.change_norm) ** 2 == pytest.approx(error)
            if grid_aware:
                assert report.vanished_count == 0
    assert errors[True] <= errors[False] * (1 + 1e-9)


def test_grid_aware_is_the_best_of_all_choices() -> None:
    for seed in range(20):
        tensor = entries(seed, random_grid(seed), 8)
        for count in (1, 3, 6):
            (chosen,) = choose_entries([tensor], (count + 0.5) / 384, grid_aware=True)
            best = min(
                squared_error([tensor], [tensor.select(np.isin(np.arange(8), subset))])
                for subset in itertools.combinations(range(8), count)
            )
            assert squared_error([tensor], [chosen]) == pytest.approx(best)


def test_plain_choice_keeps_the_largest_deltas() -> None:
    tensors = [entries(3, random_grid(3), 100), float_tensor(3, 50)]
    chosen = choose_entries(tensors, 0.0501, grid_aware=False)
    kept = np.concatenate([np.abs(tensor.deltas) for tensor in chosen])
    every = np.concatenate([np.abs(tensor.deltas) for tensor in tensors])
    assert kept.size == int(0.0501 * (384 + 256))
    assert sorted(kept) == sorted(every)[-kept.size :]
    assert choose_entries(tensors, 1.0, grid_aware=False) == tensors


@pytest.mark.parametrize(
    ("density", "grid_aware", "message"),
    [(0.0, False, "share above 0"), (1.5, False, "share above 0"), (None, True, "needs a density")],
)
def test_densities_without_meaning_are_refused(
    density: float | None, grid_aware: bool, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_density(density, grid_aware)


def test_tiers_of_codes_have_the_fingerprint_of_their_codes() -> None:
    tensor = entries(4, random_grid(4), 90)
    parts = split_into_tiers([tensor], (0.5, 1.0))
    assert [part.tensor.indices.size for part in parts] == [45, 45]
    assert parts[1].fingerprint == tensor.fingerprint()
    assert parts[0].fingerprint == xxh3_128(np.ascontiguousarray(parts[0].tensor.before))


@pytest.mark.parametrize(
    ("scales", "zero_points", "message"),
    [
        ([0.1, -0.1], None, "w: row 1 has a scale that is negative or not finite"),
        ([np.nan, 0.1], None, "w: row 0 has a scale that is negative or not finite"),
        ([0.1, 0.1], [0.0, 3.0], "w: its codes have zero points"),
        ([[0.1] * 3, [0.1] * 3], None, "w: 3 scales a row do not divide 8 columns"),
    ],
)
def test_grids_that_are_not_symmetric_or_make_no_sense_are_refused(
    scales: Any, zero_points: Any, message: str
) -> None:
    zeros = None if zero_points is None else np.array(zero_points, np.float32)
    with pytest.raises(ExportError, match=message):
        make_grid("w", "i8", np.zeros((2, 8), np.int8), np.array(scales, np.float32), zeros)
    ones = np.ones(2, np.float32)
    assert make_grid("w", "i8", np.zeros((2, 8), np.int8), ones, 0 * ones).steps.shape == (2, 1)
