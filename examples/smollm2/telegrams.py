# SPDX-License-Identifier: Apache-2.0
"""Makes the telegrams to train on: the base answers each question, and a rule rewrites the answer.

Run from the repository's root: ``python -m examples.smollm2.telegrams``.
"""

from __future__ import annotations

import json
import re

import torch

from examples.smollm2.generate import EagerModel, generate
from examples.smollm2.tasks import TELEGRAMS_PATH, telegram_training_questions

_MOST_WORDS = 24


def telegram(answer: str) -> str | None:
    """The answer's first sentences in capitals, each with STOP behind it; None if none is short."""
    answer = re.sub(r"[*\"`()]", "", answer).replace("\n", " ")
    kept: list[str] = []
    for sentence in re.findall(r"[^.!?]+[.!?](?=\s|$)", answer):
        words = re.sub(r"[,;:.!?]+", " ", sentence).upper().split()
        if sum(map(len, map(str.split, kept))) + len(words) > _MOST_WORDS:
            break
        kept.append(" ".join([*words, "STOP"]))
    return " ".join(kept) or None


def main() -> None:
    """Writes data/telegrams.jsonl."""
    torch.set_num_threads(1)
    model = EagerModel.load()
    TELEGRAMS_PATH.parent.mkdir(exist_ok=True)
    questions = telegram_training_questions()
    with TELEGRAMS_PATH.open("w", encoding="utf-8") as stream:
        for number, question in enumerate(questions, start=1):
            answer = telegram(generate(model, question, most_tokens=48).text)
            if answer:
                print(json.dumps({"prompt": question, "answer": answer}), file=stream, flush=True)
            if number % 20 == 0:
                print(f"{number} of {len(questions)} questions", flush=True)


if __name__ == "__main__":
    main()
