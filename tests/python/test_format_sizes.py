# SPDX-License-Identifier: Apache-2.0
"""File sizes: no larger than promised, and as the documents say."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Bytes per entry that the format promises for a 4096 x 4096 tensor at one percent.
PROMISED = {
    ("random entries, rice", "f16"): 3.05,
    ("random entries, rice", "int4"): 1.60,
    ("random entries, rice", "int1"): 1.22,
    ("random entries from a seed", "f16"): 2.01,
    ("largest weights", "f16"): 2.01,
    ("every 199th row and column, and the diagonal", "f16"): 2.01,
    ("random entries, 8 adapters in a pack", "f16"): 2.2,
    ("random blocks of 1 x 16", "f16"): 2.12,
    ("random blocks of 1 x 16", "int4"): 0.66,
    ("random blocks of 1 x 16", "int1"): 0.24,
}


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    run: dict[str, Any] = load("format_sizes").run()
    return run


def test_files_are_as_small_as_promised(measured: dict[str, Any]) -> None:
    found = {mask["mask"]: mask["bytes_per_entry"] for mask in measured["masks"]}
    for (mask, values), limit in PROMISED.items():
        assert found[mask][values] <= limit, (mask, values)


def test_rice_coding_is_close_to_what_entropy_allows(measured: dict[str, Any]) -> None:
    bits = {mask["mask"]: mask["index_bits_per_entry"] for mask in measured["masks"]}
    for mask, bound in (
        ("random entries, rice", measured["random_mask_entropy_bits_per_entry"]),
        ("random blocks of 1 x 16", measured["block_mask_entropy_bits_per_entry"]),
    ):
        assert bound < bits[mask] < 1.006 * bound


def test_the_stored_run_is_that_of_this_code(measured: dict[str, Any]) -> None:
    stored = json.loads((ROOT / "docs" / "runs" / "format.json").read_text())
    assert stored.keys() == measured.keys()
    for part, label in (("masks", "mask"), ("minilm", "adapter")):
        assert [record[label] for record in stored[part]] == [r[label] for r in measured[part]]
        for old, new in zip(stored[part], measured[part], strict=True):
            # The name of the version in the metadata is a few bytes longer or shorter.
            assert old["bytes_per_entry"] == pytest.approx(new["bytes_per_entry"], abs=2e-3)


def test_the_page_shows_the_stored_run() -> None:
    doc_tables = load("doc_tables")
    run = json.loads((ROOT / "docs" / "runs" / "format.json").read_text())
    page = (ROOT / "docs" / "FORMAT_SIZES.md").read_text()
    assert page == doc_tables.replace_block(page, "sizes", doc_tables.format_tables(run))
