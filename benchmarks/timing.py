# SPDX-License-Identifier: Apache-2.0
"""Interleaved timing: arms take turns in shuffled order, so that drift hits all alike."""

from __future__ import annotations

import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Samples:
    """Raw wall-clock samples of one arm, in nanoseconds, in the order taken."""

    nanoseconds: tuple[int, ...]

    @property
    def median_ms(self) -> float:
        """Median in milliseconds."""
        return statistics.median(self.nanoseconds) / 1e6

    def percentile_ms(self, percent: float) -> float:
        """Nearest-rank percentile in milliseconds."""
        ordered = sorted(self.nanoseconds)
        rank = max(0, min(len(ordered) - 1, round(percent / 100 * (len(ordered) - 1))))
        return ordered[rank] / 1e6

    def to_json(self) -> dict[str, object]:
        """Summary and every raw sample."""
        return {
            "count": len(self.nanoseconds),
            "median_ms": self.median_ms,
            "p5_ms": self.percentile_ms(5),
            "p95_ms": self.percentile_ms(95),
            "samples_ns": list(self.nanoseconds),
        }


@dataclass(frozen=True)
class Arm:
    """One thing to time. ``prepare`` runs before each sample, outside the clock."""

    run: Callable[[], object]
    prepare: Callable[[], object] = lambda: None


def interleave(
    arms: Mapping[str, Arm], rounds: int, warmup_rounds: int = 5, seed: int = 0
) -> dict[str, Samples]:
    """Times every arm once per round, the order shuffled anew each round.

    Args:
        arms: by name.
        rounds: samples per arm.
        warmup_rounds: rounds before the first sample is kept.
        seed: of the shuffling.
    """
    generator = random.Random(seed)
    kept: dict[str, list[int]] = {name: [] for name in arms}
    order = list(arms)
    for round_number in range(warmup_rounds + rounds):
        generator.shuffle(order)
        for name in order:
            arms[name].prepare()
            start = time.perf_counter_ns()
            arms[name].run()
            elapsed = time.perf_counter_ns() - start
            if round_number >= warmup_rounds:
                kept[name].append(elapsed)
    return {name: Samples(tuple(samples)) for name, samples in kept.items()}


def machine_context() -> dict[str, object]:
    """What a reader of a stored run must know about where it was taken."""
    model = "unknown"
    cpu_information = Path("/proc/cpuinfo")
    if cpu_information.exists():
        for line in cpu_information.read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return {
        "cpu": model,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "page_bytes": os.sysconf("SC_PAGE_SIZE"),
    }
