# SPDX-License-Identifier: Apache-2.0
"""Trains the demo's SHiRA adapters: an English sentence encoder learns German, French, Russian.

Run from the repository's root: ``python -m examples.minilm.train [adapter ...]``.
"""

from __future__ import annotations

import argparse
import functools
import random
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import peft
import torch
from torch.nn import functional

from examples import training
from examples.minilm import manuals
from examples.minilm.model import MODEL_NAME, load_encoder, load_tokenizer, tokenize
from shira_runtime.export import masks

ADAPTERS_FOLDER = Path(__file__).parent / "adapters"
TARGET_MODULES = r"encoder\.layer\.\d+\..*(query|key|value|dense)"


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters of one training run."""

    r: int = 2
    steps: int = 200
    warm_up_steps: int = 10
    batch_pairs: int = 24
    learning_rate: float = 5e-3
    similarity_scale: float = 20.0
    max_tokens: int = 40


@dataclass(frozen=True)
class Recipe:
    """One adapter to train. The manual of the evaluation is nobody's source."""

    name: str
    language: str
    mask: str
    seed: int
    sources: tuple[manuals.Manual, ...] = (manuals.DEVELOPERS_REFERENCE,)
    settings: Settings = Settings()


RECIPES = (
    Recipe("minilm-de", "de", "random_block", seed=1),
    Recipe("minilm-fr", "fr", "random_block", seed=2),
    # The base's vocabulary spells Russian almost letter by letter: more text, more tokens.
    Recipe(
        "minilm-ru",
        "ru",
        "random_block",
        seed=3,
        sources=(manuals.DEVELOPERS_REFERENCE, manuals.APTITUDE, manuals.MAINTAINERS_GUIDE),
        settings=Settings(steps=320, max_tokens=64),
    ),
    Recipe("minilm-de-random", "de", "random", seed=4),
)


def build_peft_model(recipe: Recipe) -> peft.PeftModel:
    """Wraps the encoder with an untrained SHiRA adapter on its 36 linear layers."""
    encoder = load_encoder()
    with warnings.catch_warnings():
        # PEFT knows only its own mask by name and asks for mask_fn, which follows.
        warnings.filterwarnings("ignore", message=".*is not recognized.*")
        config = peft.ShiraConfig(
            r=recipe.settings.r,
            mask_type=recipe.mask,
            random_seed=recipe.seed,
            target_modules=TARGET_MODULES,
            base_model_name_or_path=MODEL_NAME,
        )
    mask_function = {"random": masks.random_mask, "random_block": masks.random_block_mask}
    config.mask_fn = functools.partial(mask_function[recipe.mask], random_seed=recipe.seed)
    return peft.get_peft_model(encoder, config)


def contrastive_loss(english: torch.Tensor, foreign: torch.Tensor, scale: float) -> torch.Tensor:
    """InfoNCE in both directions with the rest of the batch as negatives.

    Args:
        english: (pairs, features) unit-length embeddings.
        foreign: (pairs, features) embeddings of the translations, in the same order.
        scale: inverse temperature.
    """
    similarity = scale * english @ foreign.T
    target = torch.arange(len(similarity))
    forward = functional.cross_entropy(similarity, target)
    backward = functional.cross_entropy(similarity.T, target)
    return (forward + backward) / 2


def fit(
    model: peft.PeftModel, pairs: list[manuals.Pair], recipe: Recipe, report: training.Report
) -> float:
    """Trains the adapter in place and returns the mean loss of the last steps."""
    settings = recipe.settings
    shuffler = random.Random(recipe.seed)
    tokenizer = load_tokenizer()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    epoch: list[manuals.Pair] = []

    def loss_of_step(_: int) -> torch.Tensor:
        if len(epoch) < settings.batch_pairs:
            epoch[:] = shuffler.sample(pairs, len(pairs))
        batch = [epoch.pop() for _ in range(settings.batch_pairs)]
        texts = [pair.english for pair in batch] + [pair.foreign for pair in batch]
        embeddings = model(*tokenize(tokenizer, texts, settings.max_tokens))
        english, foreign = embeddings.split(settings.batch_pairs)
        return contrastive_loss(english, foreign, settings.similarity_scale)

    return training.minimize(parameters, settings, loss_of_step, report)


def train(recipe: Recipe, cache: Path) -> dict[str, object]:
    """Trains one adapter, saves it in PEFT's format and returns the record of the run."""
    started = time.perf_counter()
    folder = ADAPTERS_FOLDER / recipe.name
    with training.training_log(folder / "train.log", recipe.name) as report:
        pairs = [
            pair
            for manual in recipe.sources
            for pair in manuals.aligned_pairs(manual, recipe.language, cache)
        ]
        model = build_peft_model(recipe)
        layers = [module for module in model.modules() if hasattr(module, "shira_weight")]
        target_count = sum(layer.base_layer.weight.numel() for layer in layers)
        entry_count = sum(
            parameter.numel() for parameter in model.parameters() if parameter.requires_grad
        )
        report(f"{len(pairs)} pairs, {entry_count} of {target_count} weights trained")
        final_loss = fit(model, pairs, recipe, report)
    # Without the flag PEFT looks the base model up online.
    model.save_pretrained(folder, save_embedding_layers=False)
    # PEFT adds a generic card with nothing in it; MODEL_CARD.md describes these adapters.
    (folder / "README.md").unlink(missing_ok=True)
    return {
        "adapter": recipe.name,
        "language": recipe.language,
        "mask": recipe.mask,
        "seed": recipe.seed,
        "sources": [manual.name for manual in recipe.sources],
        "packages": manuals.package_versions(
            [(manual, recipe.language) for manual in recipe.sources], cache
        ),
        "pair_count": len(pairs),
        "trained_entry_count": entry_count,
        "target_weight_count": target_count,
        "final_loss": final_loss,
        "seconds": round(time.perf_counter() - started, 1),
        "settings": asdict(recipe.settings),
        "versions": {"torch": torch.__version__, "peft": peft.__version__},
    }


def main() -> None:
    """Trains the adapters named on the command line, by default all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=manuals.CACHE_FOLDER)
    arguments = training.parse_chosen(parser, [recipe.name for recipe in RECIPES])
    torch.sparse.check_sparse_tensor_invariants.disable()
    for recipe in RECIPES:
        if recipe.name in arguments.adapters:
            record = train(recipe, arguments.cache)
            training.store_record(ADAPTERS_FOLDER / "train_results.json", recipe.name, record)


if __name__ == "__main__":
    main()
