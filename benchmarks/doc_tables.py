# SPDX-License-Identifier: Apache-2.0
"""Writes the tables in README.md from a stored run, so that no number in it is typed.

Run from the repository's root: ``python -m benchmarks.doc_tables [demo.json]``. With a file, that
run is stored in ``docs/runs`` first.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
STORED_RUN = ROOT / "docs" / "runs" / "demo.json"
README = ROOT / "README.md"


def replace_block(text: str, name: str, content: str) -> str:
    """Puts ``content`` between ``<!-- begin: name -->`` and ``<!-- end: name -->``.

    Raises:
        ValueError: the text does not have exactly one such block.
    """
    pattern = rf"(<!-- begin: {re.escape(name)} -->\n).*?(<!-- end: {re.escape(name)} -->)"
    replaced, count = re.subn(
        pattern, lambda match: match[1] + content + match[2], text, flags=re.DOTALL
    )
    if count != 1:
        raise ValueError(f"expected one block named {name!r}, found {count}")
    return replaced


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A GitHub table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def demo_tables(run: dict[str, Any]) -> str:
    """The three tables and the context line of a demo run."""
    states = run["states"]
    languages = list(next(iter(states.values()))["mrr"])
    retrieval = markdown_table(
        ["state", *(f"MRR {language} to en" for language in languages)],
        [
            [name, *(f"{state['mrr'][language]:.3f}" for language in languages)]
            for name, state in states.items()
        ],
    )
    switches = markdown_table(
        ["exchange adapter A for B, one thread", "median ms", "p95 ms"],
        [
            [name, f"{arm['median_ms']:.3f}", f"{arm['p95_ms']:.3f}"]
            for name, arm in run["switch_times"]["arms"].items()
        ],
    )
    forwards = markdown_table(
        ["one forward pass", "median ms"],
        [[name, f"{arm['median_ms']:.2f}"] for name, arm in run["forward_times"]["arms"].items()],
    )
    context = run["context"]
    first = run["switch_times"]["first_switch_ms"]
    note = (
        f"The first switch of all, which pays the copy-on-write page faults, took {first:.2f} ms. "
        f"Measured on {context['cpu']} ({context['machine']}, {context['cores']} cores), "
        f"torch {context['torch']}; both LoRAs have as many parameters as the adapters have "
        f"entries. Raw samples: [docs/runs/demo.json](docs/runs/demo.json).\n"
    )
    return "\n".join([retrieval, switches, forwards, note])


def main(arguments: Sequence[str] | None = None) -> int:
    """Regenerates README.md; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", type=Path, help="demo.json of a new run to store")
    options = parser.parse_args(arguments)
    if options.run:
        STORED_RUN.parent.mkdir(parents=True, exist_ok=True)
        for suffix in (".json", ".png"):
            shutil.copyfile(options.run.with_suffix(suffix), STORED_RUN.with_suffix(suffix))
    tables = demo_tables(json.loads(STORED_RUN.read_text()))
    README.write_text(replace_block(README.read_text(), "demo", tables))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
