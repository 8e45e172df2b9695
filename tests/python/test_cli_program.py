# SPDX-License-Identifier: Apache-2.0
"""The commands of `shira` that load or make ExecuTorch programs: program, inspect, run, bench."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shb_files import adapter_bytes, tensor_entries

pytest.importorskip("typer")
models = pytest.importorskip("_models", exc_type=ImportError)
torch = models.torch

from shira_runtime import cli, load_program  # noqa: E402

FACTORY = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    return module, (torch.zeros(2, 32),)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program made by `shira program`, and two adapters for it."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "factory.py").write_text(FACTORY)
    code = cli.main(["program", f"{folder}/factory.py:make", "-o", f"{folder}/model.pte"])
    assert code == 0
    torch.manual_seed(0)
    weight = torch.nn.Linear(32, 16).weight.detach().numpy()
    for name, step in (("de", 3), ("fr", 7)):
        at = np.arange(0, 512, step)
        entries = tensor_entries("0.weight", weight, at, np.full(at.size, 0.25))
        (folder / f"{name}.shb").write_bytes(adapter_bytes(name, entries))
    return folder


def shira_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    capsys.readouterr()
    assert cli.main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_program_reports_its_constants(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = shira_json(
        capsys,
        "program",
        f"{folder}/factory.py:make",
        "--output",
        tmp_path / "x.pte",
        "--data",
        tmp_path / "x.ptd",
    )
    assert set(report["tensors"]) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert (tmp_path / "x.ptd").stat().st_size > 512 * 4
    assert cli.main(["program", f"{folder}/factory.py:make", "-o", f"{folder}/model.pte"]) == 1
    assert "exists" in capsys.readouterr().err
    assert cli.main(["program", f"{folder}/factory.py:none", "-o", f"{tmp_path}/y.pte"]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_inspect_lists_named_constants(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = shira_json(capsys, "inspect", folder / "model.pte")
    assert shown["kind"] == "pte"
    constants = {tensor["name"]: tensor for tensor in shown["tensors"]}
    assert constants["0.weight"]["shape"] == [16, 32]
    assert constants["0.weight"]["switchable"] is True
    assert cli.main(["inspect", f"{folder}/model.pte"]) == 0
    assert "4 named constants, 4 of them switchable" in capsys.readouterr().out


def test_verify_against_a_program(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", f"{folder}/de.shb", "--base", f"{folder}/model.pte"]) == 0
    assert "made for" in capsys.readouterr().out


def test_run_gives_the_outputs_of_the_active_adapters(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = np.linspace(-1, 1, 64, dtype=np.float32).reshape(2, 32)
    np.save(tmp_path / "x.npy", inputs)
    program = load_program(folder / "model.pte")
    for name in ("de", "fr"):
        program.add_adapter(folder / f"{name}.shb")
    program.switch({"de": 1.0, "fr": 0.5})
    wanted = program.forward(inputs)[0].numpy()
    shown = shira_json(
        capsys,
        *("run", folder / "model.pte", folder / "de.shb", folder / "fr.shb"),
        *("--input", tmp_path / "x.npy", "--scale", "fr=0.5"),
        *("-o", tmp_path / "outputs"),
    )
    assert shown["active"] == {"de": 1.0, "fr": 0.5}
    assert shown["outputs"][0]["shape"] == [2, 4]
    saved = np.load(tmp_path / "outputs" / "output_0.npy")
    assert saved.tobytes() == wanted.tobytes()
    again = ["run", f"{folder}/model.pte", "-o", f"{tmp_path}/outputs", "--force"]
    assert cli.main(again) == 0  # without --input: ones
    assert not np.array_equal(np.load(tmp_path / "outputs" / "output_0.npy"), saved)
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == ["output_0.npy"]


@pytest.mark.parametrize("taken", ["outputs", "outputs/output_0.npy", "outputs/output_7.npy"])
def test_run_does_not_overwrite(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    taken: str,
) -> None:
    (tmp_path / taken).parent.mkdir(exist_ok=True)
    (tmp_path / taken).write_text("precious")
    # Refused before the model is loaded.
    monkeypatch.setattr("shira_runtime.commands.run_program.load_program", None)
    assert cli.main(["run", f"{folder}/model.pte", "-o", f"{tmp_path}/outputs"]) == 1
    assert taken in capsys.readouterr().err
    assert (tmp_path / taken).read_text() == "precious"


def test_a_program_that_does_not_load_is_a_bad_file(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = (folder / "model.pte").read_bytes()
    assert content.count(b"aten::relu") == 1
    (tmp_path / "x.pte").write_bytes(content.replace(b"aten::relu", b"aten::rely"))
    for command in ("run", "bench"):
        capsys.readouterr()
        assert (
            cli.main([command, f"{tmp_path}/x.pte", *[f"{folder}/de.shb"] * (command == "bench")])
            == 1
        )
        errors = [e for e in capsys.readouterr().err.splitlines() if e.startswith("error:")]
        assert len(errors) == 1
        assert f"{tmp_path}/x.pte: ExecuTorch cannot load 'forward'" in errors[0]


@pytest.mark.parametrize(
    "misuse",
    [("--scale", "de=nan"), ("--scale", "es=1"), ("{de}",), ("-a", "es")],
    ids=["no number", "a stranger", "one adapter twice", "a name that no pack has"],
)
def test_misuse_is_found_before_the_model_is_loaded(
    folder: Path, capsys: pytest.CaptureFixture[str], misuse: tuple[str, ...]
) -> None:
    given = [argument.format(de=folder / "de.shb") for argument in misuse]
    assert cli.main(["run", "none.pte", f"{folder}/de.shb", *given]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_run_refuses_wrong_inputs_in_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "x.npy", np.zeros((3, 3), np.float32))
    assert cli.main(["run", f"{folder}/model.pte", "-i", f"{tmp_path}/x.npy"]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "float32[3, 3]" in errors[0]
    (tmp_path / "x.npy").write_bytes(b"not an array")
    assert cli.main(["run", f"{folder}/model.pte", "-i", f"{tmp_path}/x.npy"]) == 1


@pytest.mark.parametrize("adapters", [("de", "fr"), ("de",)])
def test_bench_measures_switches_and_forwards(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], adapters: tuple[str, ...]
) -> None:
    shown = shira_json(
        capsys,
        *("bench", folder / "model.pte", *(folder / f"{name}.shb" for name in adapters)),
        *("--rounds", 20, "--forward-rounds", 3, "-o", tmp_path / "bench" / "out.json"),
    )
    other = "fr" if len(adapters) == 2 else "base"
    assert set(shown["later_switches"]) == {f"de -> {other}", f"{other} -> de"}
    assert shown["first_switch"]["base -> de"]["elements_written"] == 171
    for summary in shown["later_switches"].values():
        assert len(summary["samples"]["total_ns"]) == 20
        assert min(summary["samples"]["total_ns"]) <= summary["median"]["total_ns"]
        assert summary["median"]["total_ns"] <= summary["p95"]["total_ns"]
        assert summary["counts"]["elements_written"] > 0  # it did switch each time
    assert set(shown["forward_ns"]) == {"base", "de"}
    assert json.loads((tmp_path / "bench" / "out.json").read_text()) == shown


def test_bench_without_a_model_says_where_it_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench"]) == 2
    assert "build/demo/minilm.pte" in capsys.readouterr().err
