# SPDX-License-Identifier: Apache-2.0
"""Mask functions: budgets, alignment, seeds and the three criteria."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from shira_runtime.export import masks  # noqa: E402
from shira_runtime.export.seeded import stratified_blocks  # noqa: E402

MaskFunction = Callable[..., "torch.Tensor"]


def linear(rows: int, columns: int, seed: int = 0, dtype: torch.dtype = torch.float32):
    layer = torch.nn.Linear(columns, rows, bias=False, dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(rows, columns, generator=generator))
    return layer


ALL_MASKS = [
    pytest.param(functools.partial(masks.random_mask, random_seed=1), id="random"),
    pytest.param(functools.partial(masks.random_block_mask, random_seed=1), id="random-block"),
    pytest.param(functools.partial(masks.seeded_random_mask, random_seed=1), id="seeded"),
    pytest.param(
        functools.partial(masks.seeded_random_mask, random_seed=1, block_length=16),
        id="seeded-block",
    ),
    pytest.param(masks.magnitude_mask, id="magnitude"),
    pytest.param(functools.partial(masks.magnitude_mask, block_length=16), id="magnitude-block"),
    pytest.param(masks.snip_mask, id="snip"),
    pytest.param(functools.partial(masks.snip_mask, block_length=16), id="snip-block"),
]


@pytest.mark.parametrize("mask_function", ALL_MASKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_mask_has_exactly_the_budget_and_the_weights_form(mask_function, dtype):
    layer = linear(48, 96, dtype=dtype)
    layer.weight.grad = torch.ones_like(layer.weight)
    mask = mask_function(layer, 2)
    assert mask.shape == layer.weight.shape
    assert mask.dtype == layer.weight.dtype
    assert not mask.requires_grad
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert int((mask == 1).sum()) == 2 * (48 + 96)


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 80),
    r=st.integers(1, 4),
    block_length=st.sampled_from([1, 4, 16]),
)
def test_random_budget_is_exact_or_refused(rows, columns, r, block_length):
    layer = linear(rows, columns)
    budget = r * (rows + columns)
    room = rows * (columns // block_length) * block_length
    if budget > room:
        with pytest.raises(ValueError, match=f"{rows} x {columns} weight has room for {room}"):
            masks.random_mask(layer, r, random_seed=0, block_length=block_length)
        return
    mask = masks.random_mask(layer, r, random_seed=0, block_length=block_length)
    assert int(mask.sum()) == budget


def test_blocks_are_aligned_runs_along_the_input():
    # 2 * (384 + 1536) is a multiple of 16, so that every run is whole.
    mask = masks.random_block_mask(linear(384, 1536), 2, random_seed=3)
    runs = mask.reshape(384, -1, 16).sum(dim=2)
    assert set(runs.unique().tolist()) == {0.0, 16.0}


def test_a_budget_that_is_no_multiple_ends_in_one_partial_run():
    mask = masks.random_block_mask(linear(33, 64), 1, random_seed=3)
    runs = mask.reshape(33, -1, 16).sum(dim=2).flatten()
    assert sorted(runs[runs > 0].tolist()) == [1.0] + [16.0] * 6


@pytest.mark.parametrize(
    "mask_function", [masks.random_mask, masks.random_block_mask, masks.seeded_random_mask]
)
def test_random_masks_differ_by_layer_and_seed_and_repeat(mask_function):
    first, second = linear(64, 64, seed=1), linear(64, 64, seed=2)
    mask = mask_function(first, 4, random_seed=7)
    assert torch.equal(mask, mask_function(first, 4, random_seed=7))
    for other in (mask_function(second, 4, random_seed=7), mask_function(first, 4, random_seed=8)):
        # Chance overlap is the density, one eighth of the budget; a shared mask would be all of it.
        assert float((mask * other).sum() / mask.sum()) < 0.5


def test_a_seeded_mask_is_spread_evenly_and_follows_the_file_format():
    layer = linear(64, 96)
    mask = masks.seeded_random_mask(layer, 3, random_seed=7, block_length=4)
    blocks = mask.reshape(-1, 4).sum(dim=1).nonzero().flatten()
    assert set(mask.reshape(-1, 4).sum(dim=1).tolist()) == {0.0, 4.0}
    strata = [number * 1536 // 120 for number in range(121)]
    assert all(a <= b < c for a, b, c in zip(strata, blocks.tolist(), strata[1:], strict=False))
    expected = stratified_blocks(masks.layer_seed(layer, 7), 1536, 120)
    assert blocks.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"r": 9}, "r=9 asks for 180 entries; a 8 x 12 weight has 96"),
        ({"r": 0}, "r=0 asks for 0 entries"),
        ({"r": 2, "block_length": 5}, "runs of 5 do not divide rows of 12"),
        ({"r": 1, "block_length": 3}, "runs of 3 do not divide a budget of 20"),
    ],
)
def test_a_seeded_mask_that_no_rule_gives_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        masks.seeded_random_mask(linear(8, 12), random_seed=0, **arguments)


def test_the_stratified_rule_is_that_of_the_specification():
    # SplitMix64 from seed 0 begins with these numbers, as published with the generator.
    published = (0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F)
    found = stratified_blocks(0, 3 << 20, 3).tolist()
    assert found == [(i << 20) + ((z >> 32) * (1 << 20) >> 32) for i, z in enumerate(published)]


def test_layer_seed_sees_values_dtype_and_shape():
    layer = linear(8, 8)
    seed = masks.layer_seed(layer, 0)
    assert seed == masks.layer_seed(linear(8, 8), 0)
    assert 0 <= seed < 2**63
    with torch.no_grad():
        layer.weight[7, 7] += 1
    others = [layer, linear(4, 16), linear(8, 8, dtype=torch.bfloat16)]
    assert len({seed, *(masks.layer_seed(other, 0) for other in others)}) == 4


def test_random_masks_leave_the_global_generator_alone():
    layer = linear(32, 32)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    masks.random_block_mask(layer, 1, random_seed=0)
    assert torch.equal(torch.rand(1), expected)


def test_magnitude_mask_takes_the_largest_and_of_equals_the_first():
    layer = linear(2, 4)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -9.0, 2.0, 5.0], [5.0, 5.0, 5.0, -7.0]]))
    expected = torch.tensor([[0.0, 1.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    assert torch.equal(masks.magnitude_mask(layer, 1), expected)
    layer = linear(3, 6)
    torch.nn.init.ones_(layer.weight)
    assert masks.magnitude_mask(layer, 1).flatten().tolist() == [1.0] * 9 + [0.0] * 9


def test_magnitude_blocks_compare_sums():
    layer = linear(2, 32)
    torch.nn.init.zeros_(layer.weight)
    with torch.no_grad():
        layer.weight[0, 0] = 10.0
        layer.weight[0, 16:] = -1.0
        layer.weight[1, :16] = 0.5
    mask = masks.magnitude_mask(layer, 1, block_length=16)
    runs = mask.reshape(2, 2, 16).sum(dim=2)
    assert runs.tolist() == [[16.0, 16.0], [2.0, 0.0]]


def test_snip_mask_weighs_values_by_gradient():
    layer = linear(2, 4)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(1.0, 9.0).reshape(2, 4))
    # Neither the smallest weights nor the smallest gradients alone are left out.
    layer.weight.grad = torch.tensor([[-2.5, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.1]])
    expected = torch.tensor([[1.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.0]])
    assert torch.equal(masks.snip_mask(layer, 1), expected)


def test_snip_mask_needs_a_gradient():
    with pytest.raises(ValueError, match=r"needs weight\.grad"):
        masks.snip_mask(linear(8, 8), 1)


def test_peft_takes_the_masks():
    peft = pytest.importorskip("peft")
    base = torch.nn.Sequential(linear(32, 32, seed=1), linear(32, 32, seed=2))
    with pytest.warns(UserWarning, match="is not recognized"):
        config = peft.ShiraConfig(r=1, mask_type="random_block", target_modules=["0", "1"])
    config.mask_fn = functools.partial(masks.random_block_mask, random_seed=0)
    model = peft.get_peft_model(base, config)
    indices = [
        module.shira_indices["default"] for module in model.modules() if hasattr(module, "r")
    ]
    assert [tuple(each.shape) for each in indices] == [(2, 64), (2, 64)]
    assert not torch.equal(*indices)
