# SPDX-License-Identifier: Apache-2.0
"""The LoRA baselines that a switch is compared with: fused LoRA, exchanged in place.

Both keep a forward pass free of adapter cost, as a SHiRA switch does, so what is compared is the
exchange of adapter A for adapter B: unfuse A, fuse B. LoRA of rank r on an (out, in) matrix has
r * (out + in) parameters, exactly as many as PEFT's SHiRA with the same r has entries.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Baseline:
    """One way to exchange LoRA adapters.

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
    """PEFT's own path: ``unmerge_adapter()``, ``set_adapter(other)``, ``merge_adapter()``.

    Args:
        model: the base; PEFT puts its layers into it, so pass a copy.
        target_modules: as in ``peft.LoraConfig``.
        rank: LoRA rank.
    """
    import peft

    names = ("first", "second")
    config = peft.LoraConfig(
        r=rank, lora_alpha=rank, target_modules=target_modules, init_lora_weights=False
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned = peft.get_peft_model(model, config, adapter_name=names[0])
        tuned.add_adapter(names[1], config)
    parameters = sum(
        parameter.numel()
        for name, parameter in tuned.named_parameters()
        if "lora_" in name and f".{names[0]}." in name
    )
    fused = 0
    tuned.set_adapter(names[fused])
    tuned.merge_adapter()

    def switch() -> None:
        nonlocal fused
        fused = 1 - fused
        with torch.no_grad():
            tuned.unmerge_adapter()
            tuned.set_adapter(names[fused])
            tuned.merge_adapter()

    return Baseline("PEFT LoRA unmerge + merge", parameters, switch)


def addmm_unfuse_fuse(weights: Sequence[Tensor], rank: int, seed: int = 0) -> Baseline:
    """The strongest plain PyTorch path: ``W.addmm_(B, A)``, which never forms the product B A.

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
    fused = 0

    def switch() -> None:
        nonlocal fused
        for weight, (up, down) in zip(weights, factors[fused], strict=True):
            weight.addmm_(up, down, alpha=-1.0)
        fused = 1 - fused
        for weight, (up, down) in zip(weights, factors[fused], strict=True):
            weight.addmm_(up, down)

    parameters = sum(rank * sum(weight.shape) for weight in weights)
    return Baseline("torch addmm_ unfuse + fuse", parameters, switch)
