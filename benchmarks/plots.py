# SPDX-License-Identifier: Apache-2.0
"""Plots of stored runs as SVG, the same bytes for the same records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

from shira_runtime.bench import Record
from shira_runtime.bench.statistics import median, percentile

COLOURS = {
    "shira": "tab:green",
    "baseline": "tab:gray",
    "roofline": "tab:blue",
    "forward": "tab:purple",
}
_SETTINGS: Any = {
    # Text stays text, and names inside the file follow from its content alone.
    "svg.fonttype": "none",
    "svg.hashsalt": "shira",
    "font.family": "sans-serif",
    "font.size": 8,
}


def draw(cases: Mapping[str, Sequence[Record]], path: Path) -> None:
    """Write one panel per case: a line per arm, median, and from 5th to 95th percentile.

    Args:
        cases: records by the title of their panel.
        path: of the SVG.
    """
    heights = [len(records) + 3 for records in cases.values()]
    with matplotlib.rc_context(_SETTINGS):
        figure, panels = plt.subplots(
            len(cases),
            1,
            figsize=(8, 0.17 * sum(heights)),
            height_ratios=heights,
            layout="constrained",
            squeeze=False,
        )
        for axes, (title, records) in zip(panels[:, 0], cases.items(), strict=True):
            _panel(axes, title, records)
        roles = dict.fromkeys(r.role for records in cases.values() for r in records)
        handles = [Line2D([], [], color=COLOURS[r], marker="o", ls="", label=r) for r in roles]
        panels[0, 0].legend(handles=handles, loc="best", fontsize=7)
        panels[-1, 0].set_xlabel("milliseconds: median, 5th to 95th percentile")
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
        plt.close(figure)


def draw_trends(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], path: Path
) -> None:
    """Write one panel per arm, side by side on one scale, with a line for each kind of mask.

    Args:
        panels: (entries, nanoseconds for each entry) by the label of a line, by arm.
        path: of the SVG.
    """
    with matplotlib.rc_context(_SETTINGS):
        figure, row = plt.subplots(
            1,
            len(panels),
            figsize=(3 * len(panels), 3),
            layout="constrained",
            squeeze=False,
            sharey=True,
        )
        for axes, (arm, lines) in zip(row[0], panels.items(), strict=True):
            for label, points in lines.items():
                axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=label)
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.grid(linewidth=0.3)
            axes.set_title(arm, fontsize=8)
            axes.set_xlabel("entries")
        row[0, 0].set_ylabel("nanoseconds for each entry")
        row[0, 0].legend(fontsize=7)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
        plt.close(figure)


def _panel(axes: Axes, title: str, records: Sequence[Record]) -> None:
    ordered = sorted(records, key=lambda record: -median(record.samples))
    # One collection per role: small files.
    for role, colour in COLOURS.items():
        rows = [place for place, record in enumerate(ordered) if record.role == role]
        low, middle, high = (
            [percentile(ordered[row].samples, percent) / 1e6 for row in rows]
            for percent in (5, 50, 95)
        )
        axes.hlines(rows, low, high, colors=colour, linewidth=1)
        axes.plot(middle, rows, color=colour, marker="o", markersize=4, linestyle="")
    axes.set_yticks(range(len(ordered)), [record.arm for record in ordered])
    axes.set_ylim(-0.7, len(ordered) - 0.3)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(axis="x", linewidth=0.3)
    axes.set_title(title, fontsize=8, loc="right")
