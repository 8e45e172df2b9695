# SPDX-License-Identifier: Apache-2.0
"""What the two adapters learn, and the strict checks of their answers.

``json``: the user gives a sentence and asks for some keys; the answer is one JSON object with
exactly these keys. ``telegram``: the user asks anything; the answer comes in capital letters with
STOP at the end of each sentence. Prompts for training and for the check share no template and no
value: other sentences, other names and things, and in part keys that were never trained. All that
they are made of is in ``data/prompts.json``, written for this project.
"""

from __future__ import annotations

import functools
import json
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATA_FOLDER = Path(__file__).parent / "data"
TELEGRAMS_PATH = DATA_FOLDER / "telegrams.jsonl"
"""Prompts and telegrams for training, made from the base's own answers by `telegrams.py`."""

TELEGRAM_REQUEST = (
    "Answer as a telegram, in capital letters only, with the word STOP in place of every full"
    " stop.\n"
)
"""Asks a model without the adapter for what the check wants; the adapter does without."""

_JSON_TRAINING_COUNT = 1200


@dataclass(frozen=True)
class Example:
    """A prompt and the right answer; telegrams of the check have none."""

    prompt: str
    answer: str = ""


@dataclass(frozen=True)
class Task:
    """What one adapter learns, and the check that it is judged by."""

    name: str
    training: Callable[[int], list[Example]]
    check: Callable[[], list[Example]]
    is_strict: Callable[[Example, str], bool]


@functools.cache
def _prompts() -> dict[str, Any]:
    content = (DATA_FOLDER / "prompts.json").read_text(encoding="utf-8")
    return json.loads(content)  # type: ignore[no-any-return]


def _json_examples(part: str, count: int, seed: int) -> list[Example]:
    """Draws records, sentences that tell them, and requests; the kinds of record in turn."""
    asks, domains = _prompts()["json"][part]["asks"], _prompts()["json"][part]["domains"]
    generator = random.Random(seed)
    examples = []
    for number in range(count):
        domain = domains[number % len(domains)]
        record = {
            key: generator.choice(_choices(values)) for key, values in domain["values"].items()
        }
        sentence = generator.choice(domain["templates"]).format(**record)
        keys = list(record)
        if generator.random() < 0.5:
            generator.shuffle(keys)
        *first, last = keys
        ask = generator.choice(asks).format(keys=f"{', '.join(first)} and {last}")
        answer = json.dumps({key: record[key] for key in keys})
        examples.append(Example(f"{sentence}\n{ask}", answer))
    return examples


def _choices(values: list[str] | Mapping[str, int]) -> list[str] | range:
    if isinstance(values, list):
        return values
    return range(values["first"], values["last"] + 1)


def _questions(part: str) -> list[str]:
    forms = _prompts()["telegram"][part]
    return [form.format(thing) for form, things in forms.items() for thing in things]


def json_training(seed: int) -> list[Example]:
    """Examples of the records, sentences and requests that are trained."""
    return _json_examples("training", _JSON_TRAINING_COUNT, seed)


def json_check() -> list[Example]:
    """36 prompts with keys that were trained, then 24 with keys that were not."""
    return _json_examples("trained_keys", 36, seed=101) + _json_examples("new_keys", 24, seed=102)


def telegram_training_questions() -> list[str]:
    """The questions that `telegrams.py` has the base answer."""
    return _questions("training")


def telegram_training(seed: int) -> list[Example]:
    """The stored telegrams, in an order that the seed decides."""
    lines = TELEGRAMS_PATH.read_text(encoding="utf-8").splitlines()
    examples = [Example(**json.loads(line)) for line in lines]
    random.Random(seed).shuffle(examples)
    return examples


def telegram_check() -> list[Example]:
    """60 questions in forms and about things that were not trained."""
    return [Example(question) for question in _questions("check")]


def json_is_strict(example: Example, answer: str) -> bool:
    """Whether the whole answer is a JSON object with the keys asked for, in order, and scalars."""
    found = _parsed(answer)
    expected = json.loads(example.answer)
    return (
        isinstance(found, dict)
        and list(found) == list(expected)
        and all(isinstance(value, str | int | float) for value in found.values())
    )


def json_is_right(example: Example, answer: str) -> bool:
    """Whether it also says what the sentence says."""
    return json_is_strict(example, answer) and _parsed(answer) == json.loads(example.answer)


def telegram_is_strict(_: Example, answer: str) -> bool:
    """Whether it is a telegram: three words or more, no small letter, no full stop, STOP last."""
    words = answer.split()
    return (
        len(words) > 3
        and words[-1] == "STOP"
        and words[-2] != "STOP"
        and answer == answer.upper()
        and not re.search(r"[.!?;:\n]", answer)
    )


def _parsed(answer: str) -> object:
    try:
        return json.loads(answer)
    except ValueError:
        return None


TASKS = {
    task.name: task
    for task in (
        Task("json", json_training, json_check, json_is_strict),
        Task("telegram", telegram_training, telegram_check, telegram_is_strict),
    )
}
