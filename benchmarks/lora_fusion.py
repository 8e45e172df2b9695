# SPDX-License-Identifier: Apache-2.0
"""Fused LoRA as it is exchanged in place: the code that baselines run, on any number of weights.

A fused adapter keeps a forward pass free of adapter cost, as a SHiRA switch does, so what is
compared is the exchange of adapter A for adapter B: unfuse A, fuse B. LoRA of rank r on an
(out, in) matrix has r * (out + in) parameters, exactly as many as PEFT's SHiRA with the same r has
entries.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

#: Of the two adapters in a PEFT model.
NAMES = ("first", "second")

#: B (out, rank) and A (rank, in).
Factors = tuple[Tensor, Tensor]

#: `exchange(k)` finds adapter k fused, 0 or 1, and leaves the other one fused.
Exchange = Callable[[int], None]


def peft_model(model: nn.Module, first: Any, second: Any) -> Any:
    """A PEFT model with two adapters called `NAMES`, neither of them merged.

    Args:
        model: the base; PEFT puts its layers into it.
        first: configuration of the first adapter.
        second: of the second.
    """
    import peft

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned = peft.get_peft_model(model, first, adapter_name=NAMES[0])
        tuned.add_adapter(NAMES[1], second)
    return tuned


def peft_exchange(tuned: Any) -> Exchange:
    """PEFT's own path: ``unmerge_adapter()``, ``set_adapter(other)``, ``merge_adapter()``.

    Merges the first adapter.

    Args:
        tuned: from `peft_model`.
    """
    with torch.no_grad():
        tuned.set_adapter(NAMES[0])
        tuned.merge_adapter()

    def exchange(fused: int) -> None:
        with torch.no_grad():
            tuned.unmerge_adapter()
            tuned.set_adapter(NAMES[1 - fused])
            tuned.merge_adapter()

    return exchange


def addmm_exchange(weights: Sequence[Tensor], factors: Sequence[Sequence[Factors]]) -> Exchange:
    """The strongest plain PyTorch path: ``W.addmm_(B, A)``, which never forms the product B A.

    Args:
        weights: (out, in) matrices with the first adapter fused; patched in place.
        factors: of either adapter, for each of the weights.
    """

    def exchange(fused: int) -> None:
        for weight, (up, down) in zip(weights, factors[fused], strict=True):
            weight.addmm_(up, down, alpha=-1.0)
        for weight, (up, down) in zip(weights, factors[1 - fused], strict=True):
            weight.addmm_(up, down)

    return exchange


@dataclass(frozen=True)
class Baseline:
    """One way to exchange LoRA adapters of a whole model.

    Attributes:
        name: what runs, as tables print it.
        parameters: trained parameters of one adapter.
        switch: exchanges the fused adapter for the other one, every call.
    """

    name: str
    parameters: int
    switch: Callable[[], None]


def peft_unmerge_merge(
    model: nn.Module, target_modules: str | Sequence[str], rank: int
) -> Baseline:
    """`peft_exchange` between two random adapters.

    Args:
        model: the base; PEFT puts its layers into it, so pass a copy.
        target_modules: as in ``peft.LoraConfig``.
        rank: LoRA rank.
    """
    import peft

    config = peft.LoraConfig(
        r=rank, lora_alpha=rank, target_modules=target_modules, init_lora_weights=False
    )
    tuned = peft_model(model, config, config)
    parameters = sum(
        parameter.numel()
        for name, parameter in tuned.named_parameters()
        if "lora_" in name and f".{NAMES[0]}." in name
    )
    return Baseline("PEFT LoRA unmerge + merge", parameters, _to_and_fro(peft_exchange(tuned)))


def addmm_unfuse_fuse(weights: Sequence[Tensor], rank: int, seed: int = 0) -> Baseline:
    """`addmm_exchange` between two random adapters.

    Args:
        weights: (out, in) matrices; patched in place, so pass copies.
        rank: LoRA rank.
        seed: of the random factors.
    """
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return 0.01 * torch.randn(*shape, generator=generator)

    factors = [
        [(random(weight.shape[0], rank), random(rank, weight.shape[1])) for weight in weights]
        for _ in range(2)
    ]
    for weight, (up, down) in zip(weights, factors[0], strict=True):
        weight.addmm_(up, down)
    parameters = sum(rank * sum(weight.shape) for weight in weights)
    exchange = addmm_exchange(weights, factors)
    return Baseline("torch addmm_ unfuse + fuse", parameters, _to_and_fro(exchange))


def _to_and_fro(exchange: Exchange) -> Callable[[], None]:
    fused = 0

    def switch() -> None:
        nonlocal fused
        exchange(fused)
        fused = 1 - fused

    return switch
