# SPDX-License-Identifier: Apache-2.0
"""Greedy generation with a key-value cache that is valid for one epoch of the weights only.

Keys and values that one adapter has computed mean nothing to another. So a `Session` remembers
under which `epoch` its cache was filled, and reads all its tokens again when a switch came between.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from examples.smollm2 import weights
from examples.smollm2.model import Decoder

CACHE_LENGTH = 256
"""Tokens that the key-value cache holds: prompt and answer together."""

LONGEST_READ = 64
"""The most tokens that one call of an exported program takes."""


class Model(Protocol):
    """What a session runs: `shira_runtime.Program` is one."""

    @property
    def epoch(self) -> int:
        """A number that grows exactly when weights change."""

    def forward(self, *inputs: Any) -> Any:
        """(tokens (1, count), positions (count,)) -> [logits (1, vocabulary)]."""


class EagerModel:
    """The PyTorch module behind the same interface."""

    epoch = 0

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder

    @classmethod
    def load(cls) -> EagerModel:
        """The published model, in eval mode with gradients off."""
        return cls(load_decoder())

    def forward(self, tokens: NDArray[np.int64], positions: NDArray[np.int64]) -> list[Any]:
        """As `Decoder.forward`."""
        with torch.no_grad():
            logits = self.decoder(torch.from_numpy(tokens), torch.from_numpy(positions))
        return [logits.numpy()]


def load_decoder(cache_length: int = CACHE_LENGTH) -> Decoder:
    """Builds the published model, in eval mode with gradients off."""
    decoder = Decoder(weights.load_config(cache_length))
    decoder.load_state_dict(weights.load_state_dict())
    decoder.eval().requires_grad_(False)
    return decoder


class Session:
    """One conversation: its tokens, and how many of them the model's cache holds.

    Args:
        model: runs the tokens; sessions of one model take turns at the cache, so one at a time.
        longest_read: the most tokens that one forward pass takes.
        keep_stale_cache: go on with keys and values of other weights. Wrong; for showing it.
    """

    def __init__(
        self, model: Model, *, longest_read: int = LONGEST_READ, keep_stale_cache: bool = False
    ) -> None:
        self.model = model
        self.longest_read = longest_read
        self.keep_stale_cache = keep_stale_cache
        self.tokens: list[int] = []
        self.cached_count = 0
        self.cached_epoch = model.epoch
        self.reread_count = 0

    def append(self, tokens: Sequence[int]) -> None:
        """Adds tokens; the next `logits` reads them."""
        self.tokens.extend(tokens)

    def logits(self) -> NDArray[np.float32]:
        """(vocabulary,) logits of the token after the last, by the weights as they are now."""
        if self.model.epoch != self.cached_epoch and not self.keep_stale_cache:
            self.reread_count += self.cached_count
            self.cached_count = 0
        self.cached_epoch = self.model.epoch
        # With nothing new to read, the last token is read once more.
        start = min(self.cached_count, len(self.tokens) - 1)
        while start < len(self.tokens):
            end = min(start + self.longest_read, len(self.tokens))
            tokens = np.array([self.tokens[start:end]], dtype=np.int64)
            (logits,) = self.model.forward(tokens, np.arange(start, end, dtype=np.int64))
            start = self.cached_count = end
        result: NDArray[np.float32] = np.asarray(logits)[0]
        return result


@dataclass(frozen=True)
class Answer:
    """Generated text, and what it took."""

    text: str
    token_count: int
    seconds: float


def generate(model: Model, prompt: str, most_tokens: int = 64) -> Answer:
    """Answers a prompt greedily; `seconds` leaves out reading the prompt."""
    session = Session(model)
    session.append(weights.chat_tokens(prompt))
    answer, seconds = continue_session(session, most_tokens)
    return Answer(weights.load_tokenizer().decode(answer), len(answer), seconds)


def continue_session(session: Session, most_tokens: int) -> tuple[list[int], float]:
    """Adds the likeliest tokens until the end of the turn.

    Returns:
        The new tokens without the end marker, and the seconds behind the first forward pass.
    """
    end = weights.load_tokenizer().token_to_id(weights.END_OF_TURN)
    answer: list[int] = []
    token = int(session.logits().argmax())
    started = time.perf_counter()
    while token != end:
        answer.append(token)
        session.append([token])
        if len(answer) == most_tokens:
            break
        token = int(session.logits().argmax())
    return answer, time.perf_counter() - started
