# SPDX-License-Identifier: Apache-2.0
"""What switching costs in private memory: counted beforehand, measured, limited, given back."""

from __future__ import annotations

import json
import mmap
from pathlib import Path

import numpy as np
import pytest
from shb_files import adapter_bytes, tensor_entries

from shira_runtime import OutOfMemoryError, Program, UsageError, from_numpy, load_program

pytest.importorskip("typer")
models = pytest.importorskip("_models", exc_type=ImportError)
torch = models.torch

from shira_runtime import cli  # noqa: E402

WIDTH = 512


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program with a weight of a megabyte, and an adapter for every 64th row of it."""
    from shira_runtime.export.program import export_program

    folder = tmp_path_factory.mktemp("pages")
    torch.manual_seed(1)
    module = torch.nn.Linear(WIDTH, WIDTH).eval().requires_grad_(False)
    export_program(module, (torch.zeros(1, WIDTH),), folder / "model.pte")
    base = module.weight.numpy()
    at = (np.arange(0, WIDTH, 64)[:, None] * WIDTH + np.arange(WIDTH)).reshape(-1)
    content = adapter_bytes("rows", tensor_entries("weight", base, at, np.full(at.size, 0.5)))
    (folder / "rows.shb").write_bytes(content)
    return folder


@pytest.fixture
def program(folder: Path) -> Program:
    program = load_program(folder / "model.pte")
    program.add_adapter(folder / "rows.shb")
    return program


def test_pages_are_known_before_and_measured_after_a_switch(program: Program) -> None:
    pages = program.adapter_pages("rows")
    rows = WIDTH // 64
    row_pages = -(-WIDTH * 4 // pages.page_bytes)
    assert pages.page_bytes == mmap.PAGESIZE
    assert rows * row_pages <= pages.page_count <= rows * (row_pages + 1)
    assert pages.private_bytes == pages.page_count * pages.page_bytes
    assert list(pages.tensors) == ["weight"]
    assert pages.tensors["weight"][1] >= WIDTH * WIDTH * 4 // pages.page_bytes
    assert program.memory().private_bytes == 0
    report = program.switch("rows")
    memory = program.memory()
    assert report.pages_touched == pages.page_count
    assert memory.private_bytes == pages.private_bytes
    assert memory.mapped_bytes >= WIDTH * WIDTH * 4
    assert memory.originals_bytes == rows * WIDTH * 4
    with pytest.raises(UsageError):
        program.adapter_pages("nobody")


def test_the_limit_names_tensor_pages_and_bytes(program: Program) -> None:
    pages = program.adapter_pages("rows")
    assert program.max_dirty_bytes is None
    program.max_dirty_bytes = pages.private_bytes - 1
    before = (program.epoch, program.digest)
    with pytest.raises(OutOfMemoryError) as raised:
        program.switch("rows")
    assert (raised.value.status, raised.value.tensor) == ("DIRTY_LIMIT", "weight")
    assert f"{pages.page_count} more pages" in str(raised.value)
    assert str(pages.private_bytes - 1) in str(raised.value)
    assert (program.epoch, program.digest) == before
    assert program.memory().private_bytes == 0
    program.max_dirty_bytes = pages.private_bytes
    program.switch("rows")
    program.max_dirty_bytes = 1
    program.switch(None)  # makes no page private
    for wrong in (0, -1, 2**64):
        with pytest.raises(UsageError):
            program.max_dirty_bytes = wrong
    program.max_dirty_bytes = None


def test_pages_of_the_base_are_given_back(program: Program) -> None:
    program.switch("rows")
    active = program.digest
    program.release_pages()  # none of them shows the file, but for rounding of rows to pages
    assert program.digest == active
    program.switch(None)
    private_bytes = program.memory().private_bytes
    epoch = program.epoch
    assert program.release_pages() == private_bytes > 0
    assert program.memory().private_bytes == 0
    assert program.epoch == epoch
    program.verify_base()
    assert program.switch("rows").elements_changed > 0


def test_first_touch_is_one_of_three(program: Program) -> None:
    assert program.first_touch == "auto"
    program.first_touch = "populate"
    assert program.first_touch == "populate"
    with pytest.raises(UsageError, match="'auto', 'populate', 'huge'"):
        program.first_touch = "tiny"
    try:
        program.first_touch = "huge"
    except UsageError:  # a system without huge pages
        assert program.first_touch == "populate"
    program.switch("rows")
    program.hard_revert()
    assert program.memory().private_bytes == 0


def test_originals_may_stay_in_the_file(program: Program) -> None:
    assert program.originals == "memory"
    program.switch("rows")
    kept = program.memory()
    digest = program.digest
    program.originals = "file"
    assert program.originals == "file"
    assert kept.originals_bytes > 0 == program.memory().originals_bytes
    reports = [program.switch({"rows": 0.5}), program.switch("rows")]
    assert program.digest == digest
    reports.append(program.switch(None))
    assert all(report.source_read_bytes > 0 for report in reports)
    program.verify_base()
    memory = program.memory()
    assert sum(report.source_read_bytes for report in reports) == memory.source_read_bytes
    assert sum(report.source_cold_bytes for report in reports) == memory.source_cold_bytes
    assert memory.source_read_bytes > 0 == memory.originals_bytes
    assert memory.source_cold_bytes <= memory.source_read_bytes
    with pytest.raises(UsageError, match="'memory', 'file'"):
        program.originals = "nowhere"


def test_memory_of_others_costs_nothing_here() -> None:
    weight = np.zeros((64, 64), np.float32)
    program = from_numpy({"w": weight})
    assert program.memory().to_dict() == {
        "mapped_bytes": 0,
        "private_bytes": 0,
        "huge_bytes": 0,
        "originals_bytes": 0,
        "source_read_bytes": 0,
        "source_cold_bytes": 0,
    }
    with pytest.raises(UsageError) as raised:
        program.originals = "file"
    assert (raised.value.status, raised.value.tensor) == ("NOT_SUPPORTED", "w")
    assert program.originals == "memory"
    assert program.release_pages() == 0


def test_run_and_inspect_say_what_it_costs(
    folder: Path, program: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    pages = program.adapter_pages("rows")
    run = ["run", f"{folder}/model.pte", f"{folder}/rows.shb"]
    assert cli.main([*run, "--json"]) == 0
    memory = json.loads(capsys.readouterr().out)["memory"]
    assert memory["private_bytes"] == pages.private_bytes
    assert cli.main(run) == 0
    assert f"private: {pages.private_bytes / 2**20:.1f} of" in capsys.readouterr().err
    assert cli.main([*run, "--max-dirty-mb", "0.001"]) == 1
    assert "weight: the switch needs private copies" in capsys.readouterr().err
    assert cli.main([*run, "--max-dirty-mb", "0"]) == 2
    assert cli.main([*run, "--max-dirty-mb", "64", "--first-touch", "populate"]) == 0
    capsys.readouterr()
    assert memory["originals_bytes"] > 0
    assert cli.main([*run, "--originals", "file", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["memory"]["originals_bytes"] == 0
    assert cli.main([*run, "--originals", "nowhere"]) == 2
    capsys.readouterr()
    assert cli.main(["inspect", f"{folder}/rows.shb", "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["page_bytes"] == pages.page_bytes
    assert described["adapters"][0]["tensors"][0]["pages"] <= pages.page_count
