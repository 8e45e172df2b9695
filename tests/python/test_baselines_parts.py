# SPDX-License-Identifier: Apache-2.0
"""Parts of the benchmarks against plain numpy: masks, shapes, loops, products, checks."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]

pytest.importorskip("_models", exc_type=ImportError)  # imports torch and executorch quietly

from shira_runtime.bench import WrongBytes  # noqa: E402

#: Parameters of the linear layers and of the embeddings, counted by hand from the configurations.
PARAMETERS = {
    "smollm2-135m": (30 * (2 * 576**2 + 2 * 192 * 576 + 3 * 1536 * 576), 49152 * 576),
    "llama-3.2-1b": (16 * (2 * 2048**2 + 2 * 512 * 2048 + 3 * 8192 * 2048), 128256 * 2048),
    "llama2-7b": (32 * (4 * 4096**2 + 3 * 11008 * 4096), 2 * 32000 * 4096),
    "vit-b": (12 * (4 * 768**2 + 2 * 3072 * 768), 0),
}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The modules of the checkout that these tests are about."""
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import baselines, masks, models, native, weights

    try:
        extension = native.native()
    except RuntimeError as error:
        if "Eigen3" not in str(error):
            raise
        pytest.skip("the benchmarks' extension needs Eigen (libeigen3-dev)")
    return SimpleNamespace(
        baselines=baselines, masks=masks, models=models, native=extension, weights=weights
    )


@pytest.mark.parametrize("model", PARAMETERS)
def test_shapes_add_up_to_the_model(bench: SimpleNamespace, model: str) -> None:
    linear, embeddings = PARAMETERS[model]
    for listed, expected in ((False, linear), (True, linear + embeddings)):
        matrices = bench.models.matrices(model, listed)
        assert sum(m.rows * m.columns * m.count for m in matrices) == expected


def test_a_malformed_line_of_shapes_is_named(
    bench: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "odd.txt").write_text("# tensor rows columns count\nq_proj 64 0 1\n")
    monkeypatch.setattr(bench.models, "FOLDER", tmp_path)
    with pytest.raises(ValueError, match=r"odd\.txt:2: expected tensor, rows, columns"):
        bench.models.matrices("odd")


@pytest.mark.parametrize("kind", ["random", "rows", "pages", "blocks"])
def test_masks_have_the_density_and_structure_asked_for(bench: SimpleNamespace, kind: str) -> None:
    shape, element_bytes = (512, 1024), 2
    mask = bench.masks.make_mask(kind, shape, 0.02, element_bytes, 5)
    again = bench.masks.make_mask(kind, shape, 0.02, element_bytes, 5)
    assert np.array_equal(mask.indices, again.indices)
    assert (np.diff(mask.indices) > 0).all()
    assert mask.indices[-1] < shape[0] * shape[1]
    assert mask.indices.size == pytest.approx(0.02 * shape[0] * shape[1], rel=0.1)
    unit = {"random": 1, "rows": 1024, "pages": 2048, "blocks": 16}[kind]
    assert (mask.indices.reshape(-1, unit) % unit == np.arange(unit)).all()
    lines = {int(index) * element_bytes // 64 for index in mask.indices}
    assert mask.lines(element_bytes).size == len(lines)
    assert np.isin(mask.lines(element_bytes), mask.indices).all()
    assert mask.page_count(element_bytes) == len({int(i) // 2048 for i in mask.indices})
    assert sum(mask.runs[:, 1]) == mask.indices.size


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("shape", [(1, 1), (7, 33), (300, 2500)])
def test_eigen_adds_the_product_that_numpy_adds(
    bench: SimpleNamespace, dtype: str, shape: tuple[int, int]
) -> None:
    bits = bench.weights.random_bits(shape, dtype, 1)
    up, down = bench.baselines.lora_factors(shape, 5, 2)
    wide = bench.weights.numbers(bits, dtype).astype(np.float64)
    bench.native.fuse_lora(bits, dtype, up, down, -0.5)
    found = bench.weights.numbers(bits, dtype).astype(np.float64)
    expected = wide - 0.5 * (up.astype(np.float64) @ down.astype(np.float64))
    # Rounded once, and a few roundings of float32 sums.
    step = {"f32": 2.0**-23, "f16": 2.0**-11, "bf16": 2.0**-8}[dtype]
    assert np.abs(found - expected).max() <= (step + 2.0**-20) * np.abs(expected).max()


def test_lora_that_was_not_unfused_is_found_out(bench: SimpleNamespace) -> None:
    weights = bench.weights.Weights((96, 64), "bf16")
    for arm in bench.baselines.lora_arms(weights, 4):
        if "Eigen, unfuse" not in arm.name:
            continue
        arm.prepare()
        up, down = bench.baselines.lora_factors((96, 64), 4, 4)  # the second adapter's
        bench.native.fuse_lora(weights.bits, "bf16", up, down, 1.0)
        with pytest.raises(WrongBytes, match="weights are off by up to"):
            arm.check()
        arm.prepare()
        arm.run()
        arm.check()
        return
    pytest.fail("there is no such arm")


@pytest.mark.parametrize("dtype", ["f32", "f16"])
@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 1000])
def test_loops_do_what_numpy_does(bench: SimpleNamespace, dtype: str, count: int) -> None:
    generator = np.random.default_rng(count)
    base = bench.weights.random_bits((100, 50), dtype, 1)
    flat_indices = np.sort(generator.choice(5000, count, replace=False))
    values = bench.weights.random_bits(count, dtype, 2)
    index = flat_indices.astype(np.uint32)
    expected = base.copy()
    expected.reshape(-1)[flat_indices] = values
    originals = base.reshape(-1)[flat_indices]
    gaps = np.diff(flat_indices, prepend=0).astype(np.uint16)
    starts = np.searchsorted(flat_indices, np.arange(101) * 50).astype(np.uint32)
    columns = (flat_indices % 50).astype(np.uint16)

    def run(loop: Any, *arguments: Any, rows: bool = False) -> None:
        live = base.copy()
        loop(live if rows else live.reshape(-1), *arguments)
        assert np.array_equal(live, expected)

    native = bench.native
    for distance in (0, 8, 16, 32, 64, 128):
        saved = np.zeros_like(values)
        run(native.store_flat32, index, values, distance)
        run(native.swap_flat32, index, values, saved, distance)
        assert np.array_equal(saved, originals)
        touched = base.copy()
        native.touch(touched.reshape(-1), index, distance)
        assert np.array_equal(touched.reshape(-1)[flat_indices], originals ^ 1)
    run(native.store_gaps16, gaps, values)
    run(native.store_row_csr, starts, columns, values, rows=True)
    run(native.kernel_store, index, values)
    saved = np.zeros_like(values)
    run(native.kernel_swap, index, values, saved)
    assert np.array_equal(saved, originals)


def test_loops_refuse_an_index_outside(bench: SimpleNamespace) -> None:
    weights, index = np.zeros(8, np.uint32), np.array([8], np.uint32)
    values = np.zeros(1, np.uint32)
    for call in (
        lambda: bench.native.touch(weights, index, 0),
        lambda: bench.native.store_flat32(weights, index, values, 0),
        lambda: bench.native.kernel_store(weights, index, values),
        lambda: bench.native.kernel_store_runs(weights, np.array([[7, 2]], np.uint32), values),
    ):
        with pytest.raises(ValueError, match=r"outside the weights|leaves the weights"):
            call()


def test_a_single_wrong_element_is_found(bench: SimpleNamespace) -> None:
    weights = bench.weights.Weights((64, 32), "f16")
    mask = bench.masks.make_mask("random", (64, 32), 0.05, 2, 1)
    change = bench.weights.Change.random(mask, "f16", 2)
    weights.flat[mask.indices] = change.bits
    weights.check(change)
    weights.flat[77] ^= 1
    with pytest.raises(WrongBytes, match="1 of 2048 elements differ; the first is element 77"):
        weights.check(change)
