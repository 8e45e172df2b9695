# SPDX-License-Identifier: Apache-2.0
"""Chooses which weights a SHiRA adapter may change: mask functions for PEFT's SHiRA tuner.

Each mask function has PEFT's signature ``mask_fn(base_layer, r, **kwargs)`` and returns a mask of
the weight's shape with exactly ``r * (rows + columns)`` ones, the parameter count of a LoRA of
rank ``r``. The criteria are those of SHiRA (arXiv 2406.13175, section 3): random (SHiRA-Rand),
largest weights (SHiRA-WM) and SNIP (SHiRA-SNIP). The paper picks single entries. A block form
picks aligned runs along the input dimension instead: a switch then touches about one cache line
per 16 float32 entries rather than one per entry, and a file stores one index per run. A file of a
`seeded_random_mask`, or of a `magnitude_mask` of entries, stores no indices at all.

Example::

    config = ShiraConfig(r=2, mask_type="random_block", target_modules=[...])
    config.mask_fn = functools.partial(random_block_mask, random_seed=7)
    model = get_peft_model(base, config)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .seeded import stratified_blocks, weight_seed

__all__ = [
    "layer_seed",
    "magnitude_mask",
    "random_block_mask",
    "random_mask",
    "seeded_random_mask",
    "snip_mask",
]

BLOCK_LENGTH = 16
"""Entries in a run: 16 float32 values are one 64-byte cache line."""


def layer_seed(base_layer: nn.Module, random_seed: int) -> int:
    """Derives a seed that is stable for one layer and differs between layers.

    PEFT shows a mask function the layer but not its name, and seeds every layer alike, so that
    its own random masks coincide in all layers of one shape and in all adapters of one seed. The
    weight's bytes identify the layer instead: two layers share a seed only where their dtype,
    shape and values are equal.

    Args:
        base_layer: has a two-dimensional ``weight``.
        random_seed: the adapter's own number; give each adapter another one.

    Returns:
        An unsigned 63-bit seed.
    """
    weight = base_layer.get_parameter("weight").detach().cpu().contiguous()
    as_bytes = weight.view(torch.uint8).numpy()
    return weight_seed(random_seed, str(weight.dtype), tuple(weight.shape), as_bytes)


def random_mask(
    base_layer: nn.Module, r: int, *, random_seed: int, block_length: int = 1, **_: Any
) -> Tensor:
    """Picks entries, or aligned runs, uniformly at random (SHiRA-Rand).

    Args:
        base_layer: has a ``weight`` of shape (rows, columns) = (output, input features).
        r: budget; the mask gets ``r * (rows + columns)`` ones.
        random_seed: the adapter's seed; see `layer_seed`.
        block_length: entries per run along the input dimension.

    Returns:
        (rows, columns) mask of zeros and ones, of the weight's dtype and on its device.

    Raises:
        ValueError: the budget does not fit the weight.
    """
    generator = torch.Generator().manual_seed(layer_seed(base_layer, random_seed))
    rows, columns = base_layer.get_parameter("weight").shape
    scores = torch.rand(rows, columns // block_length, generator=generator, dtype=torch.float64)
    return _mask_from_block_scores(base_layer.get_parameter("weight"), r, scores, block_length)


def random_block_mask(
    base_layer: nn.Module,
    r: int,
    *,
    random_seed: int,
    block_length: int = BLOCK_LENGTH,
    **_: Any,
) -> Tensor:
    """Picks random aligned 1 x 16 runs: `random_mask` with another default."""
    return random_mask(base_layer, r, random_seed=random_seed, block_length=block_length)


def seeded_random_mask(
    base_layer: nn.Module, r: int, *, random_seed: int, block_length: int = 1, **_: Any
) -> Tensor:
    """Picks one entry, or aligned run, at random from each of equal shares of the weight.

    The rule is that of the index codec RANDOM, so that an exporter who knows the base and
    ``random_seed`` writes 8 bytes in place of the positions. Set ``config.random_seed`` of PEFT to
    the same number, and `shira-export` finds it. Arguments and result are those of `random_mask`.

    Raises:
        ValueError: the budget does not fit the weight, or runs do not divide it and its rows.
    """
    weight = base_layer.get_parameter("weight")
    rows, columns = weight.shape
    entry_count = r * (rows + columns)
    for what, count in (("rows", columns), ("a budget", entry_count)):
        if count % block_length:
            raise ValueError(f"runs of {block_length} do not divide {what} of {count}")
    if not 0 < entry_count <= weight.numel():
        raise ValueError(
            f"r={r} asks for {entry_count} entries; a {rows} x {columns} weight has"
            f" {weight.numel()}"
        )
    blocks = stratified_blocks(
        layer_seed(base_layer, random_seed),
        weight.numel() // block_length,
        entry_count // block_length,
    )
    runs = torch.zeros(weight.numel() // block_length, block_length, dtype=weight.dtype)
    runs[torch.from_numpy(blocks)] = 1
    return runs.reshape(rows, columns).to(weight.device)


def magnitude_mask(base_layer: nn.Module, r: int, *, block_length: int = 1, **_: Any) -> Tensor:
    """Picks the weights, or runs, of largest summed magnitude (SHiRA-WM).

    The mask depends on the base alone, so adapters trained with it share their positions.
    Arguments, result and errors are those of `random_mask`; of equals, the first in memory wins.
    """
    weight = base_layer.get_parameter("weight").detach()
    scores = _sum_blocks(weight.abs(), block_length)
    return _mask_from_block_scores(weight, r, scores, block_length)


def snip_mask(base_layer: nn.Module, r: int, *, block_length: int = 1, **_: Any) -> Tensor:
    """Picks the weights, or runs, of largest summed |weight * gradient| (SHiRA-SNIP).

    Run some calibration batches backward through the base model first, so that
    ``base_layer.weight.grad`` is filled. Arguments and result are those of `random_mask`.

    Raises:
        ValueError: the layer has no gradient, or the budget does not fit the weight.
    """
    gradient = base_layer.get_parameter("weight").grad
    if gradient is None:
        raise ValueError("snip_mask needs weight.grad: run calibration batches backward first")
    weight = base_layer.get_parameter("weight").detach()
    scores = _sum_blocks((weight.double() * gradient.double()).abs(), block_length)
    return _mask_from_block_scores(weight, r, scores, block_length)


def _sum_blocks(values: Tensor, block_length: int) -> Tensor:
    """Sums aligned runs: (rows, columns) -> (rows, columns // block_length) float64."""
    rows, columns = values.shape
    whole = values[:, : columns // block_length * block_length].double()
    return whole.reshape(rows, -1, block_length).sum(dim=2)


def _mask_from_block_scores(weight: Tensor, r: int, scores: Tensor, block_length: int) -> Tensor:
    """Sets ones in the runs of highest score until the budget is spent, the last run in part."""
    rows, columns = weight.shape
    entry_count = r * (rows + columns)
    if entry_count <= 0 or entry_count > scores.numel() * block_length:
        raise ValueError(
            f"r={r} asks for {entry_count} entries in runs of {block_length}; "
            f"a {rows} x {columns} weight has room for {scores.numel() * block_length}"
        )
    whole_count, rest_count = divmod(entry_count, block_length)
    # A stable sort, unlike topk, defines which of equal scores comes first.
    order = scores.flatten().argsort(descending=True, stable=True)
    runs = torch.zeros(scores.numel(), block_length, dtype=weight.dtype, device=weight.device)
    runs[order[:whole_count]] = 1
    runs[order[whole_count : whole_count + 1], :rest_count] = 1
    mask = torch.zeros_like(weight, requires_grad=False)
    mask[:, : scores.shape[1] * block_length] = runs.reshape(rows, -1)
    return mask
