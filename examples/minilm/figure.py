# SPDX-License-Identifier: Apache-2.0
"""Draws the demo's one figure from its JSON: retrieval scores per state, and switch times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from shira_runtime.bench import RunFile
from shira_runtime.bench.statistics import median


def draw(results: dict[str, Any], path: Path) -> None:
    """Writes a PNG.

    Args:
        results: what the demo writes to ``demo.json``.
        path: of the PNG.
    """
    figure, (scores, times) = plt.subplots(1, 2, figsize=(11, 3.8), width_ratios=(1, 1))
    states = results["states"]
    languages = list(next(iter(states.values()))["mrr"])
    width = 0.8 / len(languages)
    for i, language in enumerate(languages):
        positions = [x + (i - (len(languages) - 1) / 2) * width for x in range(len(states))]
        values = [state["mrr"][language] for state in states.values()]
        scores.bar(positions, values, width, label=f"{language} to en")
    scores.set_xticks(range(len(states)), [state.replace(" ", "\n") for state in states])
    scores.set_ylabel("mean reciprocal rank")
    scores.set_title("One live program, adapters switched in place")
    scores.set_ylim(0, 1)
    scores.legend(loc="upper right")

    run = RunFile.from_json(results["bench"])
    arms = [record for record in run.records if record.case["what"] == "exchange"]
    names = [record.arm for record in arms]
    medians = [median(record.samples) / 1e6 for record in arms]
    bars = times.barh(
        [name.replace(" (", "\n(") for name in names],
        medians,
        color=["tab:green" if "SHiRA" in n else "tab:gray" for n in names],
    )
    times.bar_label(bars, [f" {median:.2f} ms" for median in medians])
    times.set_xscale("log")
    times.set_xlim(min(medians) / 6, max(medians) * 30)
    times.invert_yaxis()
    times.set_xlabel("median milliseconds, log scale")
    times.set_title("Exchange adapter A for B")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
