# SPDX-License-Identifier: Apache-2.0
"""Baselines on one matrix: fused LoRA in several strengths, PEFT's SHiRA, torch's own scatters.

Fused LoRA and a SHiRA switch both leave a forward pass without any cost of adapters, so what is
compared is the exchange of adapter A for adapter B: unfuse A, fuse B. torch runs on one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from shira_runtime.bench import Arm, WrongBytes

from . import lora_fusion
from .native import native
from .weights import Bits, Change, Weights, as_tensor, numbers

Factors = tuple[NDArray[np.float32], NDArray[np.float32]]

#: Distance to the next number, relative to a number.
_STEP = {"f32": 2.0**-23, "f16": 2.0**-10, "bf16": 2.0**-7}

_TORCH_DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def equal_rank(entries: int, shape: tuple[int, int]) -> int:
    """The rank whose r * (rows + columns) parameters are nearest to so many entries."""
    return max(1, round(entries / sum(shape)))


def lora_factors(shape: tuple[int, int], rank: int, seed: int) -> Factors:
    """B (rows, rank) and A (rank, columns) whose product has entries of about 0.05."""
    generator = np.random.default_rng([seed, rank])
    deviation = np.float32((0.05 / rank**0.5) ** 0.5)
    up = deviation * generator.standard_normal((shape[0], rank), np.float32)
    down = deviation * generator.standard_normal((rank, shape[1]), np.float32)
    return up, down


@dataclass(frozen=True)
class _Exchange:
    """Two adapters of one rank on one base: their factors, and the weights with either fused."""

    weights: Weights
    rank: int
    factors: Sequence[Factors]
    fused: tuple[Bits, Bits]

    @classmethod
    def random(cls, weights: Weights, rank: int, seed: int = 3) -> _Exchange:
        first, second = (lora_factors(weights.shape, rank, seed + k) for k in range(2))
        fused = [_plus(weights.base, weights.dtype, up @ down) for up, down in (first, second)]
        return cls(weights, rank, (first, second), (fused[0], fused[1]))

    def arm(
        self,
        name: str,
        exchange: Callable[[int], object],
        parameters: int = 0,
        notes: Sequence[str] = (),
    ) -> Arm:
        """Alternates: `exchange(k)` finds adapter k fused, and leaves the other one fused."""
        weights, state = self.weights, 0

        def prepare() -> None:
            weights.bits[:] = self.fused[state]

        def run() -> None:
            exchange(state)

        def check() -> None:
            check_close(weights.bits, self.fused[1 - state], weights.dtype)

        def finish() -> None:
            nonlocal state
            state = 1 - state

        return Arm(
            f"{name}, rank {self.rank}" if self.rank else name,
            run,
            role="baseline",
            prepare=prepare,
            check=check,
            finish=finish,
            counts={
                "rank": self.rank,
                "parameters": parameters or self.rank * sum(weights.shape),
            },
            notes=notes,
        )


def check_close(found: Bits, expected: Bits, dtype: str) -> None:
    """Compare weights that products in float32 were added to, with a few roundings.

    Raises:
        WrongBytes: they are further apart than four steps of the largest number, or 64 in float32.
    """
    wanted = numbers(expected, dtype).astype(np.float32)
    distance = np.abs(numbers(found, dtype).astype(np.float32) - wanted).max()
    allowed = max(4 * _STEP[dtype], 64 * _STEP["f32"]) * np.abs(wanted).max()
    if not distance <= allowed:
        raise WrongBytes(f"weights are off by up to {distance:.3g}, allowed are {allowed:.3g}")


def _plus(base: Bits, dtype: str, delta: NDArray[np.float32]) -> Bits:
    values = numbers(base, dtype)
    return (values.astype(np.float32) + delta).astype(values.dtype).view(base.dtype)


# --- LoRA ---


def lora_arms(weights: Weights, rank: int) -> Iterator[Arm]:
    """Every way to exchange fused LoRA adapters of one rank.

    With f16 the matrix products of torch are left out: this CPU path is many times slower than
    with bf16, so that it would be no fair baseline. PEFT itself computes in float32 there.
    """
    exchange = _Exchange.random(weights, rank)
    if weights.dtype != "f16":
        yield from _torch_arms(exchange)
    yield from _eigen_arms(exchange)
    yield _peft_lora(exchange)


def strongest_lora(weights: Weights, rank: int) -> Arm:
    """Unfuse and fuse by torch's addmm_: of what PyTorch users have at hand the fastest."""
    arms = list(_torch_arms(_Exchange.random(weights, rank)))
    return next(arm for arm in arms if arm.name.startswith("torch addmm_, unfuse"))


def _torch_arms(exchange: _Exchange) -> Iterator[Arm]:
    weight = exchange.weights.tensor
    dtype = _TORCH_DTYPES[exchange.weights.dtype]
    factors = [
        (torch.from_numpy(up).to(dtype), torch.from_numpy(down).to(dtype))
        for up, down in exchange.factors
    ]
    stacked = [
        (
            torch.cat([factors[1 - k][0], -factors[k][0]], dim=1),
            torch.cat([factors[1 - k][1], factors[k][1]], dim=0),
        )
        for k in range(2)
    ]

    def materialised(state: int) -> None:
        up, down = factors[state]
        weight.sub_(up @ down)
        up, down = factors[1 - state]
        weight.add_(up @ down)

    def addmm_stacked(state: int) -> None:
        weight.addmm_(*stacked[state])

    # Factors are rounded to the weights' dtype first: the oracle's are not, which is within what
    # is allowed.
    yield exchange.arm("torch W += B @ A, unfuse + fuse", materialised)
    addmm = lora_fusion.addmm_exchange([weight], [[pair] for pair in factors])
    yield exchange.arm("torch addmm_, unfuse + fuse", addmm)
    yield exchange.arm("torch addmm_, both in one product", addmm_stacked)


def _eigen_arms(exchange: _Exchange) -> Iterator[Arm]:
    weights = exchange.weights
    stacked = [
        (
            np.concatenate([exchange.factors[1 - k][0], -exchange.factors[k][0]], axis=1),
            np.concatenate([exchange.factors[1 - k][1], exchange.factors[k][1]], axis=0),
        )
        for k in range(2)
    ]

    def fuse(factors: Factors, scale: float) -> None:
        native().fuse_lora(weights.bits, weights.dtype, *factors, scale)

    def unfuse_fuse(state: int) -> None:
        fuse(exchange.factors[state], -1.0)
        fuse(exchange.factors[1 - state], 1.0)

    def in_one(state: int) -> None:
        fuse(stacked[state], 1.0)

    notes = [f"C++ Eigen: compiled with {native().COMPILER} {native().FLAGS}, one thread"]
    yield exchange.arm("C++ Eigen, unfuse + fuse", unfuse_fuse, notes=notes)
    yield exchange.arm("C++ Eigen, both in one product", in_one, notes=notes)


def _peft_lora(exchange: _Exchange) -> Arm:
    import peft

    rank = exchange.rank
    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=["linear"])
    tuned = lora_fusion.peft_model(_OneLayer(exchange.weights), config, config)
    layer = tuned.base_model.model.linear
    with torch.no_grad():
        for name, (up, down) in zip(lora_fusion.NAMES, exchange.factors, strict=True):
            layer.lora_A[name].weight.copy_(torch.from_numpy(down))
            layer.lora_B[name].weight.copy_(torch.from_numpy(up))
    return exchange.arm("PEFT LoRA, unmerge + merge", lora_fusion.peft_exchange(tuned))


# --- PEFT ---


class _OneLayer(nn.Module):
    """What PEFT needs: a module that holds a linear layer."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        rows, columns = weights.shape
        self.linear = nn.Linear(columns, rows, bias=False, device="meta")
        self.linear.weight = nn.Parameter(weights.tensor, requires_grad=False)


def peft_shira(weights: Weights, rank: int) -> Arm:
    """PEFT's SHiRA with its random masks: unmerge + merge, which add and subtract a delta."""
    import peft

    configs = [
        peft.ShiraConfig(r=rank, target_modules=["linear"], random_seed=seed) for seed in (5, 6)
    ]
    tuned = lora_fusion.peft_model(_OneLayer(weights), *configs)
    layer = tuned.base_model.model.linear
    # What torch does by default, said aloud: else it warns at every merge.
    torch.sparse.check_sparse_tensor_invariants.disable()
    generator = np.random.default_rng(7)
    fused = []
    for name in lora_fusion.NAMES:
        values = 0.05 * generator.standard_normal(rank * sum(weights.shape)).astype(np.float32)
        with torch.no_grad():
            layer.shira_weight[name].copy_(torch.from_numpy(values))
        delta = np.zeros(weights.shape, np.float32)
        delta[tuple(layer.shira_indices[name].numpy())] = values
        fused.append(_plus(weights.base, weights.dtype, delta))
    exchange = _Exchange(weights, 0, (), (fused[0], fused[1]))
    run = lora_fusion.peft_exchange(tuned)
    return exchange.arm("PEFT SHiRA, unmerge + merge", run, rank * sum(weights.shape))


# --- torch's scatters ---


def scatter_arms(weights: Weights, change: Change) -> Iterator[Arm]:
    """Tensor.scatter_, the paper's way, and index_copy_; both on the flat matrix."""
    flat = weights.tensor.view(-1)
    index = torch.from_numpy(change.mask.indices)
    values = as_tensor(change.bits, weights.dtype)

    def arm(name: str, run: Callable[[], object]) -> Arm:
        def run_it() -> None:
            run()

        return Arm(
            name,
            run_it,
            role="baseline",
            check=lambda: weights.check(change),
            finish=lambda: weights.restore(change.mask),
            counts={"entries": change.mask.indices.size},
        )

    yield arm("torch scatter_", lambda: flat.scatter_(0, index, values))
    yield arm("torch index_copy_", lambda: flat.index_copy_(0, index, values))
