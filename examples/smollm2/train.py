# SPDX-License-Identifier: Apache-2.0
"""Trains the SHiRA adapters of SmolLM2: about one weight in a hundred of every linear layer.

Run from the repository's root: ``python -m examples.smollm2.train [adapter ...]``.

A difference smaller than half a step of a 4-bit grid is lost in a 4-bit program. So the base has
its 4-bit weights here, and every other step sees the trained entries as that grid would round them;
the gradient goes to the differences as if they had not been rounded.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from examples import training
from examples.smollm2 import adapters, weights
from examples.smollm2.generate import load_decoder
from examples.smollm2.tasks import TASKS, Example


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters of one training run."""

    steps: int = 160
    warm_up_steps: int = 8
    batch_examples: int = 4
    learning_rate: float = 3e-3


@dataclass(frozen=True)
class Recipe:
    """One adapter to train, for the task of the same name."""

    name: str
    seed: int
    settings: Settings = Settings()


RECIPES = (Recipe("json", seed=1), Recipe("telegram", seed=2))


class SparseLinear(nn.Module):
    """A linear layer on a 4-bit grid, of which only some entries are trained.

    Args:
        weight: (rows, columns) float32.
        positions: (entries,) flat positions of the trained entries.
    """

    def __init__(self, weight: Tensor, positions: Tensor) -> None:
        super().__init__()
        grouped = weight.view(-1, adapters.GROUP)
        steps = adapters.grid_steps(weight)[:, None]
        codes = (grouped / steps).round().clamp(-8, 7)
        self.weight = (codes * steps).view_as(weight).bfloat16()
        self.positions = positions
        self.codes = codes.view(-1)[positions]
        self.steps = steps.expand_as(grouped).reshape(-1)[positions]
        self.difference = nn.Parameter(torch.zeros(len(positions)))

    def set_entries(self, is_snapped: bool) -> None:
        """Puts the trained entries into the weight, rounded to the grid or as they are."""
        entries = self.codes + self.difference.detach() / self.steps
        if is_snapped:
            entries = entries.round().clamp(-8, 7)
        self.weight.view(-1)[self.positions] = (entries * self.steps).bfloat16()

    def forward(self, states: Tensor) -> Tensor:
        """(..., columns) -> (..., rows)."""
        product: Tensor = _SparseProduct.apply(  # type: ignore[no-untyped-call]
            states.bfloat16(), self.difference, self.weight, self.positions
        )
        return product


class _SparseProduct(torch.autograd.Function):
    """states @ weight.T, with gradients for the states and for some entries of the weight."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, _: Tensor, weight: Tensor, positions: Tensor) -> Tensor:
        ctx.save_for_backward(states)
        ctx.weight, ctx.positions = weight, positions
        return states @ weight.T

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (states,) = ctx.saved_tensors
        (gradient,) = gradients
        whole = gradient.flatten(0, -2).T @ states.flatten(0, -2)
        return gradient @ ctx.weight, whole.view(-1)[ctx.positions].float(), None, None


def make_sparse(decoder: nn.Module, seed: int) -> dict[str, SparseLinear]:
    """Replaces the target layers in place; weight name -> the layer that trains it."""
    layers = {}
    for name, parameter in list(decoder.named_parameters()):
        if adapters.is_target(name):
            layer = SparseLinear(parameter.data, adapters.positions(parameter.data, seed))
            owner, _, attribute = name.removesuffix(".weight").rpartition(".")
            setattr(decoder.get_submodule(owner), attribute, layer)
            layers[name] = layer
    return layers


def batches(examples: Sequence[Example], size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields (tokens, is_answer) without end, both (size, longest), padded behind the end."""
    start = 0
    while True:
        rows = [examples[(start + offset) % len(examples)] for offset in range(size)]
        start += size
        prompts = [weights.chat_tokens(row.prompt) for row in rows]
        wholes = [weights.chat_tokens(row.prompt, row.answer) for row in rows]
        tokens = torch.zeros(size, max(map(len, wholes)), dtype=torch.int64)
        is_answer = torch.zeros(tokens.shape, dtype=torch.bool)
        for row, (prompt, whole) in enumerate(zip(prompts, wholes, strict=True)):
            tokens[row, : len(whole)] = torch.tensor(whole)
            is_answer[row, len(prompt) : len(whole)] = True
        yield tokens, is_answer


def answer_loss(decoder: Any, head: Tensor, tokens: Tensor, is_answer: Tensor) -> Tensor:
    """Mean cross entropy of the answers' tokens."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        states = decoder.states(tokens)[:, :-1][is_answer[:, 1:]]
        logits = states.bfloat16() @ head.T
    return functional.cross_entropy(logits.float(), tokens[:, 1:][is_answer[:, 1:]])


def fit(recipe: Recipe, report: training.Report) -> tuple[dict[str, SparseLinear], float]:
    """Trains one adapter; gives its layers, and the mean loss of the last steps."""
    settings = recipe.settings
    decoder = load_decoder()
    layers = make_sparse(decoder, recipe.seed)
    head = decoder.lm_head.weight.bfloat16()
    parameters = [layer.difference for layer in layers.values()]
    report(f"{sum(parameter.numel() for parameter in parameters)} weights are trained")
    source = batches(TASKS[recipe.name].training(recipe.seed), settings.batch_examples)

    def loss_of_step(step: int) -> Tensor:
        for layer in layers.values():
            layer.set_entries(is_snapped=step % 2 == 0)
        return answer_loss(decoder, head, *next(source))

    return layers, training.minimize(parameters, settings, loss_of_step, report)


def train(recipe: Recipe) -> dict[str, object]:
    """Trains and stores one adapter; returns the record of the run."""
    started = time.perf_counter()
    log_path = adapters.ADAPTERS_FOLDER / f"{recipe.name}.log"
    with training.training_log(log_path, recipe.name) as report:
        layers, final_loss = fit(recipe, report)
    differences = {name: layer.difference.detach() for name, layer in layers.items()}
    adapters.save_adapter(adapters.adapter_path(recipe.name), differences, recipe.seed)
    return {
        "adapter": recipe.name,
        "seed": recipe.seed,
        "trained_entry_count": sum(len(layer.positions) for layer in layers.values()),
        "target_weight_count": sum(layer.weight.numel() for layer in layers.values()),
        "final_loss": final_loss,
        "seconds": round(time.perf_counter() - started, 1),
        "settings": asdict(recipe.settings),
        "versions": {"torch": torch.__version__},
    }


def main() -> None:
    """Trains the adapters named on the command line, by default all."""
    parser = argparse.ArgumentParser(description=__doc__)
    arguments = training.parse_chosen(parser, [recipe.name for recipe in RECIPES])
    results_path = adapters.ADAPTERS_FOLDER / "train_results.json"
    for recipe in RECIPES:
        if recipe.name in arguments.adapters:
            training.store_record(results_path, recipe.name, train(recipe))


if __name__ == "__main__":
    main()
