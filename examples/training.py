# SPDX-License-Identifier: Apache-2.0
"""What the training scripts share: the command line, the loop over steps, logs and records."""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

_REPORTED_STEPS = 20

Report = Callable[[str], None]


class Schedule(Protocol):
    """The part of a recipe's settings that `minimize` needs."""

    @property
    def steps(self) -> int:
        """How many steps to take."""

    @property
    def warm_up_steps(self) -> int:
        """Steps in which the rate grows; it falls to zero from there."""

    @property
    def learning_rate(self) -> float:
        """The largest rate."""


def minimize(
    parameters: Iterable[nn.Parameter],
    schedule: Schedule,
    loss_of_step: Callable[[int], Tensor],
    report: Report,
) -> float:
    """Minimizes a loss with Adam: a short warm-up, then linear decay.

    Args:
        parameters: are changed in place.
        schedule: see `Schedule`.
        loss_of_step: called with 1, 2, and so on; gives the loss of that step's batch.
        report: takes a line now and then.

    Returns:
        The mean loss of the last steps.

    Raises:
        RuntimeError: a loss is not finite.
    """

    def rate(step: int) -> float:
        return min((step + 1) / schedule.warm_up_steps, 1 - step / schedule.steps)

    optimizer = torch.optim.Adam(parameters, lr=schedule.learning_rate)
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    losses: list[float] = []
    for step in range(1, schedule.steps + 1):
        loss = loss_of_step(step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rates.step()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise RuntimeError(f"the loss became {losses[-1]} at step {step}")
        if step % _REPORTED_STEPS == 0:
            report(f"step {step}/{schedule.steps} loss {_last_mean(losses):.4f}")
    return _last_mean(losses)


def _last_mean(losses: Sequence[float]) -> float:
    last = losses[-_REPORTED_STEPS:]
    return sum(last) / len(last)


@contextmanager
def training_log(path: Path, name: str) -> Iterator[Report]:
    """Gives a function that prints a line, with name and seconds, and writes it into a file."""
    started = time.perf_counter()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as log:

        def report(text: str) -> None:
            line = f"{name}: {text} ({time.perf_counter() - started:.0f} s)"
            print(line, flush=True)
            print(line, file=log, flush=True)

        yield report


def parse_chosen(parser: argparse.ArgumentParser, names: Sequence[str]) -> argparse.Namespace:
    """Parses the command line; ``adapters`` holds those that it names, or all."""
    parser.add_argument("adapters", nargs="*", metavar="adapter", help=", ".join(names))
    arguments = parser.parse_args()
    unknown = set(arguments.adapters) - set(names)
    if unknown:
        parser.error(f"unknown adapter {sorted(unknown)[0]!r}, expected one of {', '.join(names)}")
    arguments.adapters = arguments.adapters or list(names)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    return arguments


def store_record(path: Path, name: str, record: dict[str, object]) -> None:
    """Puts one adapter's record into the JSON file of all."""
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    results[name] = record
    path.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n", encoding="utf-8")
