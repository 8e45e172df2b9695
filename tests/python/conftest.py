# SPDX-License-Identifier: Apache-2.0
"""What all Python tests share: no network, reproducible properties, what was tested, fixtures."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from cli_inputs import Files, Shira
    from numpy_model import Model

# Models come from installed packages; a test that reaches for a hub should fail at once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Two busy-waiting torch threads on a shared pair of cores take many times as long as one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The machine may be busy, so no deadline; a failing example is printed as a line to paste back.
hypothesis.settings.register_profile("shira", deadline=None, print_blob=True)
hypothesis.settings.load_profile("shira")


def pytest_report_header() -> list[str]:
    """Says which shira_runtime is under test and whether torch is there."""
    package = importlib.util.find_spec("shira_runtime")
    torch = importlib.util.find_spec("torch")
    return [
        f"shira_runtime: {package.origin if package else 'not installed'}",
        f"torch: {torch.origin if torch else 'not installed, tests that need it are skipped'}",
    ]


@pytest.fixture
def shira(capsys: pytest.CaptureFixture[str]) -> Shira:
    """Runs a command of the command line in this process."""
    from cli_inputs import Ran

    from shira_runtime import cli

    def run(*arguments: object) -> Ran:
        code = cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


@pytest.fixture
def shira_export(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Shira:
    """Runs the console script's function in the test's folder."""
    from cli_inputs import Ran

    from shira_runtime.export.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FORCE_COLOR", raising=False)

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr("sys.argv", ["shira-export", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_info:
            main()
        captured = capsys.readouterr()
        # Some CI systems make the command line library colour its messages.
        out, err = (re.sub(r"\x1b\[[0-9;]*m", "", text) for text in captured)
        return Ran(int(exit_info.value.code or 0), out, err)

    return run


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """A base and adapters for it in the test's folder."""
    from cli_inputs import Files

    return Files(tmp_path)


@pytest.fixture
def model() -> Model:
    """A program over numpy arrays, with two adapters added."""
    from numpy_model import Model

    return Model()
