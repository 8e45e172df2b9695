# SPDX-License-Identifier: Apache-2.0
"""Documents: tables are those of the stored runs, and links lead somewhere."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*/*.md")})


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_shows_the_stored_run() -> None:
    doc_tables = load(ROOT / "benchmarks" / "doc_tables.py")
    run = json.loads((ROOT / "docs" / "runs" / "demo.json").read_text())
    readme = (ROOT / "README.md").read_text()
    assert readme == doc_tables.replace_block(readme, "demo", doc_tables.demo_tables(run))


def test_the_readme_shows_the_stored_run_of_the_language_model() -> None:
    doc_tables = load(ROOT / "benchmarks" / "doc_tables.py")
    run = json.loads((ROOT / "docs" / "runs" / "llm.json").read_text())
    scores = json.loads((ROOT / "examples" / "smollm2" / "eval_results.json").read_text())
    readme = (ROOT / "README.md").read_text()
    assert readme == doc_tables.replace_block(readme, "llm", doc_tables.llm_tables(run, scores))


def test_the_page_about_sizes_shows_the_stored_run_of_opening() -> None:
    doc_tables = load(ROOT / "benchmarks" / "doc_tables.py")
    run = json.loads((ROOT / "docs" / "runs" / "open_speed.json").read_text())
    page = (ROOT / "docs" / "FORMAT_SIZES.md").read_text()
    assert page == doc_tables.replace_block(page, "opening", doc_tables.opening_table(run))


def test_the_page_about_programs_shows_the_stored_run() -> None:
    doc_tables = load(ROOT / "benchmarks" / "doc_tables.py")
    page = (ROOT / "docs" / "EXECUTORCH.md").read_text()
    table = doc_tables.packed_table(doc_tables.stored_packed_run())
    assert page == doc_tables.replace_block(page, "packed", table)


def test_the_page_about_fuzzing_shows_the_stored_run() -> None:
    doc_tables = load(ROOT / "benchmarks" / "doc_tables.py")
    run = json.loads((ROOT / "docs" / "runs" / "fuzz.json").read_text())
    page = (ROOT / "docs" / "FUZZING.md").read_text()
    assert page == doc_tables.replace_block(page, "fuzz", doc_tables.fuzz_table(run))
    assert not any(record["findings"] for record in run["targets"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", page.read_text())
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_pages_name_are_there(page: Path) -> None:
    folders = "csrc|shira_runtime|export|benchmarks|examples|tests|docs"
    named = re.findall(rf"`((?:{folders})/[^`\s<>]*)`", page.read_text())
    assert [path for path in named if not list(ROOT.glob(path))] == []


def test_the_laws_name_their_tests() -> None:
    laws = re.findall(r"^\| I\d+ \|.*\|$", (ROOT / "docs" / "DESIGN.md").read_text(), re.MULTILINE)
    assert len(laws) == 10
    assert all(re.search(r"`tests/[^`]+` \|$", law) for law in laws)


def readme_commands() -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith("shira")]


@pytest.mark.parametrize("command", readme_commands(), ids=" ".join)
def test_commands_of_the_readme_have_their_options(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("typer")
    monkeypatch.setenv("COLUMNS", "200")
    if "|" in command:
        command = command[: command.index("|")]
    if command[0] == "shira-export":
        export_cli = pytest.importorskip("shira_runtime.export.cli")
        monkeypatch.setattr("sys.argv", ["shira-export", "--help"])
        with pytest.raises(SystemExit):
            export_cli.main()
    else:
        from shira_runtime.cli import main

        assert main([command[1], "--help"]) == 0
    shown = capsys.readouterr().out
    assert [word for word in command if word.startswith("-") and word not in shown] == []
