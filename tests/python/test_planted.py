# SPDX-License-Identifier: Apache-2.0
"""Every bug that the fuzz self-test plants still fits the sources: known before it runs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fuzz"))

from planted import BUGS, Bug, changed_source


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name.replace(" ", "-"))
def test_bug_can_be_planted(bug: Bug) -> None:
    assert bug.new in changed_source(bug)
