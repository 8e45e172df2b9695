# SPDX-License-Identifier: Apache-2.0
"""Greedy answers to many prompts at once by the PyTorch module, for evaluations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from examples.smollm2 import weights
from examples.smollm2.model import MASKED, Attention, Decoder


def answers(decoder: Decoder, prompts: Sequence[str], most_tokens: int = 64) -> list[str]:
    """Answers all prompts, padded in front to one length; the cache is resized to hold them."""
    tokenizer = weights.load_tokenizer()
    end = tokenizer.token_to_id(weights.END_OF_TURN)
    rows = [weights.chat_tokens(prompt) for prompt in prompts]
    longest = max(map(len, rows))
    padding = torch.tensor([longest - len(row) for row in rows])
    tokens = torch.tensor([[end] * (longest - len(row)) + row for row in rows])
    _resize_cache(decoder, len(rows), longest + most_tokens)
    # Rotations are relative, so it does not matter where in the cache a row begins.
    hidden = torch.arange(longest + most_tokens) < padding[:, None]
    answered = torch.empty(len(rows), 0, dtype=torch.int64)
    start, is_done = 0, torch.zeros(len(rows), dtype=torch.bool)
    with torch.no_grad():
        while answered.shape[1] < most_tokens and not is_done.all():
            found = _next_tokens(decoder, tokens, start, hidden)
            start += tokens.shape[1]
            is_done |= found == end
            tokens = found[:, None]
            answered = torch.cat((answered, tokens), dim=1)
    texts = []
    for row in answered.tolist():
        texts.append(tokenizer.decode(row[: row.index(end)] if end in row else row))
    return texts


def _resize_cache(decoder: Decoder, rows: int, length: int) -> None:
    config = decoder.config
    if length > config.cache_length:
        raise ValueError(f"{length} tokens do not fit a cache of {config.cache_length}")
    for layer in decoder.modules():
        if isinstance(layer, Attention):
            layer.keys = torch.zeros(rows, config.key_value_heads, length, config.head_width)
            layer.values = torch.zeros_like(layer.keys)


def _next_tokens(decoder: Decoder, tokens: Tensor, start: int, hidden: Tensor) -> Tensor:
    """(rows,) likeliest tokens behind `tokens` (rows, count), which stand at `start` on."""
    slots = torch.arange(start, start + tokens.shape[1])
    mask = decoder.causal[:, slots, : hidden.shape[1]] + hidden[:, None] * MASKED
    mask = mask.repeat_interleave(decoder.config.key_value_heads, dim=0)
    rotation = (decoder.cosines[slots], decoder.sines[slots])
    states = decoder.model.embed_tokens(tokens)
    for layer in decoder.model.layers:
        states = layer(states, rotation, mask, slots)
    logits: Tensor = decoder.lm_head(decoder.model.norm(states[:, -1]))
    return logits.argmax(dim=-1)
