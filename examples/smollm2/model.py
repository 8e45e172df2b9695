# SPDX-License-Identifier: Apache-2.0
"""A Llama-shaped decoder whose key-value cache is a buffer of the exported program.

Parameter names are those of the published checkpoints (``model.layers.0.self_attn.q_proj.weight``
and so on), so that adapters fit both. Every product with a weight is a plain linear layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

MASKED = -1e9
"""Added to a score, it hides a token. Finite, so that nothing computed from it is a NaN."""


@dataclass(frozen=True)
class Config:
    """Sizes of a decoder."""

    vocabulary: int
    width: int
    hidden_width: int
    layers: int
    heads: int
    key_value_heads: int
    cache_length: int
    rope_base: float = 100_000.0
    norm_epsilon: float = 1e-5

    @property
    def head_width(self) -> int:
        """Features of one attention head."""
        return self.width // self.heads


class Norm(nn.Module):
    """Root mean square normalisation over the last dimension."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, states: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        mean_square = (states * states).mean(dim=-1, keepdim=True)
        return states * torch.rsqrt(mean_square + self.epsilon) * self.weight


class Attention(nn.Module):
    """Grouped-query attention; keys and values of earlier tokens come from the cache, if asked."""

    keys: Tensor
    values: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        key_value_width = config.key_value_heads * config.head_width
        self.q_proj = nn.Linear(config.width, config.width, bias=False)
        self.k_proj = nn.Linear(config.width, key_value_width, bias=False)
        self.v_proj = nn.Linear(config.width, key_value_width, bias=False)
        self.o_proj = nn.Linear(config.width, config.width, bias=False)
        shape = (1, config.key_value_heads, config.cache_length, config.head_width)
        self.register_buffer("keys", torch.zeros(shape), persistent=False)
        self.register_buffer("values", torch.zeros(shape), persistent=False)

    def forward(
        self, states: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor, slots: Tensor | None
    ) -> Tensor:
        """Mixes each token's state with those that its row of the mask lets it see.

        Args:
            states: (batch, tokens, width).
            rotation: cosines and sines, (tokens, head_width) each.
            mask: (1 or batch * key_value_heads, tokens, seen) summands of the scores; seen is the
                cache's length if there are slots, else the number of tokens.
            slots: (tokens,) int64, where these tokens' keys and values go in the cache.
        """
        batch, tokens, width = states.shape
        groups, head_width = self.config.key_value_heads, self.config.head_width
        queries = self.q_proj(states).view(batch, tokens, -1, head_width)
        keys = self.k_proj(states).view(batch, tokens, groups, head_width)
        values = self.v_proj(states).view(batch, tokens, groups, head_width)
        # Copies in plain order, because torch.export cannot reason about the strides of views.
        queries = _rotated(queries, rotation).transpose(1, 2).contiguous()
        keys = _rotated(keys, rotation).transpose(1, 2).contiguous()
        values = values.transpose(1, 2).contiguous()
        if slots is not None:
            self.keys.index_copy_(2, slots, keys)
            self.values.index_copy_(2, slots, values)
            keys, values = self.keys, self.values
        # The query heads of a group stand one below the other, so that no key is repeated.
        per_group = self.config.heads // groups
        queries = queries.view(batch * groups, per_group * tokens, head_width)
        keys = keys.view(batch * groups, -1, head_width)
        values = values.view(batch * groups, -1, head_width)
        scores = torch.bmm(queries, keys.transpose(1, 2)) * (1 / math.sqrt(head_width))
        weights = functional.softmax(scores + mask.repeat(1, per_group, 1), dim=-1)
        mixed = torch.bmm(weights, values).view(batch, groups, per_group, tokens, head_width)
        mixed = mixed.permute(0, 3, 1, 2, 4).contiguous().view(batch, tokens, width)
        output: Tensor = self.o_proj(mixed)
        return output


class FeedForward(nn.Module):
    """Gated linear unit with SiLU."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.width, config.hidden_width, bias=False)
        self.up_proj = nn.Linear(config.width, config.hidden_width, bias=False)
        self.down_proj = nn.Linear(config.hidden_width, config.width, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        """(batch, tokens, width) -> (batch, tokens, width)."""
        gated = functional.silu(self.gate_proj(states)) * self.up_proj(states)
        output: Tensor = self.down_proj(gated)
        return output


class Layer(nn.Module):
    """Attention and feed-forward network, each behind a norm and beside a residual."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.input_layernorm = Norm(config.width, config.norm_epsilon)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = Norm(config.width, config.norm_epsilon)
        self.mlp = FeedForward(config)

    def forward(
        self, states: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor, slots: Tensor | None
    ) -> Tensor:
        """Arguments and result as in `Attention.forward`."""
        states = states + self.self_attn(self.input_layernorm(states), rotation, mask, slots)
        output: Tensor = states + self.mlp(self.post_attention_layernorm(states))
        return output


class Trunk(nn.Module):
    """Everything but the last linear layer, under the name that checkpoints give it."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocabulary, config.width)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = Norm(config.width, config.norm_epsilon)


class Decoder(nn.Module):
    """The whole model: `forward` continues from the cache, `states` looks at whole sequences."""

    cosines: Tensor
    sines: Tensor
    causal: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.model = Trunk(config)
        self.lm_head = nn.Linear(config.width, config.vocabulary, bias=False)
        powers = torch.arange(0, config.head_width, 2) / config.head_width
        positions = torch.arange(config.cache_length)
        angles = positions[:, None] / config.rope_base**powers
        angles = torch.cat((angles, angles), dim=-1)
        self.register_buffer("cosines", angles.cos(), persistent=False)
        self.register_buffer("sines", angles.sin(), persistent=False)
        future = positions[None, :] > positions[:, None]
        self.register_buffer("causal", future[None] * MASKED, persistent=False)

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Reads tokens behind those that the cache holds, and predicts the next.

        Args:
            tokens: (1, count) int64.
            positions: (count,) int64, consecutive; tokens before the first must be in the cache.

        Returns:
            (1, vocabulary) float32 logits of the token after the last.
        """
        rotation = (self.cosines[positions], self.sines[positions])
        states = self.model.embed_tokens(tokens)
        for layer in self.model.layers:
            states = layer(states, rotation, self.causal[:, positions], positions)
        logits: Tensor = self.lm_head(self.model.norm(states[:, -1]))
        return logits

    def states(self, tokens: Tensor) -> Tensor:
        """Last states of whole sequences, without the cache: what training needs.

        Args:
            tokens: (batch, count) int64.

        Returns:
            (batch, count, width) normalised states, the inputs of ``lm_head``.
        """
        count = tokens.shape[1]
        rotation = (self.cosines[:count], self.sines[:count])
        states = self.model.embed_tokens(tokens)
        for layer in self.model.layers:
            states = layer(states, rotation, self.causal[:, :count, :count], None)
        normalised: Tensor = self.model.norm(states)
        return normalised


def _rotated(heads: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary position embedding of (batch, tokens, heads, head_width)."""
    cosines, sines = (part[:, None] for part in rotation)
    first, second = heads.chunk(2, dim=-1)
    return heads * cosines + torch.cat((-second, first), dim=-1) * sines
