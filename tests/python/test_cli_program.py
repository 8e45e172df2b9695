# SPDX-License-Identifier: Apache-2.0
"""The commands of `shira` that load or make ExecuTorch programs: program, inspect, run, bench."""

from __future__ import annotations

import ctypes
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shb_files import adapter_bytes, tensor_entries

pytest.importorskip("typer")
models = pytest.importorskip("_models", exc_type=ImportError)
torch = models.torch

from shira_runtime import Program, SwitchReport, cli, load_program  # noqa: E402
from shira_runtime.bench import RunFile  # noqa: E402
from shira_runtime.commands.inspect_program import show_program  # noqa: E402

SUITES = """
from shira_runtime.bench import Arm, Case, Suite

def cases():
    yield Case({"dtype": "f32"}, [Arm("nothing", lambda: None)])

SUITES = {"tiny": Suite("tiny", "to see that suites run", cases)}
"""

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
    assert "4 named weights, 4 of them switchable" in capsys.readouterr().out


def test_inspect_sums_up_what_differs_in_numbers_only(capsys: pytest.CaptureFixture[str]) -> None:
    def weight(name: str, why_not: str | None, size_bytes: int) -> dict[str, Any]:
        shared = {"dtype": "f32", "shape": [size_bytes // 4], "group_length": 0, "owner": None}
        return shared | {
            "name": name,
            "methods": None,
            "offset_bytes": 640,
            "size_bytes": size_bytes,
            "mode": None if why_not else "mapped",
            "switchable": not why_not,
            "why_not": why_not,
        }

    tensors = [
        *(weight(f"constant{index}", "its rank is 0, not 1 to 8", 4) for index in range(91)),
        *(weight(f"layers.{index}.bias", None, 400) for index in range(30)),
        *(weight(f"layers.{index}.gain", f"has the same bytes as x{index}", 8) for index in (3, 4)),
        weight("layers.30.bias", None, 404),
        weight("head2", "its rank is 9, not 1 to 8", 16),
    ]
    program = {"kind": "pte", "file_bytes": 1 << 20, "tensors": tensors}
    show_program(program)
    printed = capsys.readouterr()
    rows = [re.split(" {2,}", line.strip()) for line in printed.out.splitlines()]
    assert ["layers.*.bias", "30", "100", "f32", "12,000", "mapped"] in rows
    assert ["layers.30.bias", "1", "101", "f32", "404", "mapped"] in rows
    assert ["constant*", "91", "1", "f32", "364", "its rank is 0, not 1 to 8"] in rows
    assert ["layers.*.gain", "2", "2", "f32", "16", "has the same bytes as x*"] in rows
    assert ["head2", "1", "4", "f32", "16", "its rank is 9, not 1 to 8"] in rows
    counts = [int(row[1]) for row in rows if len(row) > 4 and row[3] == "f32"]
    assert sum(counts) == len(tensors), "every weight is in a row"
    assert "--all" in printed.err

    show_program(program, lists_all=True)
    printed = capsys.readouterr()
    rows = [re.split(" {2,}", line.strip()) for line in printed.out.splitlines()]
    named = [row[0] for row in rows if "640" in row]
    assert sorted(named) == sorted(tensor["name"] for tensor in tensors)
    assert "--all" not in printed.err


def test_all_belongs_to_a_program(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", f"{folder}/model.pte", "--all"]) == 0
    assert "0.weight" in capsys.readouterr().out
    assert cli.main(["inspect", f"{folder}/de.shb", "--all"]) == 2
    assert "--all" in capsys.readouterr().err


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
    wanted = program.forward(inputs)[0]
    shown = shira_json(
        capsys,
        *("run", folder / "model.pte", folder / "de.shb", folder / "fr.shb"),
        *("--input", tmp_path / "x.npy", "--scale", "fr=0.5"),
        *("-o", tmp_path / "outputs"),
    )
    assert shown["active"] == {"de": 1.0, "fr": 0.5}
    assert shown["load"]["total_ns"] >= shown["load"]["methods_ns"] > 0
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


BENCH = ("--rounds", 5, "--first-rounds", 2, "--forward-rounds", 2)


@pytest.mark.parametrize("adapters", [("de", "fr"), ("de",)])
def test_bench_measures_switches_and_forwards(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], adapters: tuple[str, ...]
) -> None:
    output = tmp_path / "bench" / "out.json"
    shown = shira_json(
        capsys,
        *("bench", folder / "model.pte", *(folder / f"{name}.shb" for name in adapters)),
        *(*BENCH, "-o", output),
    )
    run = RunFile.read(output)
    assert json.loads(output.read_text()) == shown
    other = "fr" if len(adapters) == 2 else "base"
    directions = (f"de -> {other}", f"{other} -> de")
    counts: dict[tuple[str, str], int] = {}
    for record in run.records:
        counts[record.arm, record.regime] = len(record.samples)
        if "switch" in record.arm:
            assert record.counts["entries"] > 0  # it did switch each time
            assert {"check", "plan", "store"} <= set(record.stages)
            whole = record.stages["library"]
            inside = [times for name, times in record.stages.items() if name != "library"]
            assert all(part < t for part, t in zip(whole, record.samples, strict=True))
            parts = zip(*inside, strict=True)
            assert all(sum(p) < t for p, t in zip(parts, record.samples, strict=True))
    assert counts == {
        **{(f"open {n}.shb", r): 2 for n in adapters for r in ("cold file", "all warm")},
        ("first switch base -> de", "first touch"): 2,
        **{
            (f"switch {direction}", regime): 5
            for direction in directions
            for regime in ("warm file, cold cache", "all warm")
        },
        **{(f"forward in {state}", "all warm"): 2 for state in ("base", "de")},
        (f"first forward after {directions[1]}", "all warm"): 2,
        ("hard revert de -> base", "warm file, cold cache"): 2,
        ("revert de -> base, release pages", "warm file, cold cache"): 2,
    }
    released = next(record for record in run.records if "release" in record.arm)
    assert released.counts["released_bytes"] > 0
    first = next(record for record in run.records if record.regime == "first touch")
    assert first.counts["entries"] == 171


def test_bench_with_originals_in_the_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("bench", folder / "model.pte", folder / "de.shb", *BENCH, "--originals", "file")
    run = RunFile.from_json(shira_json(capsys, *command))
    assert run.context["run"]["originals"] == "file"
    read = {record.arm: record.counts.get("source_read_bytes", 0) for record in run.records}
    assert read["switch de -> base"] >= 171 * 4
    assert read["switch base -> de"] == 0


def test_bench_holds_a_limit(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["bench", f"{folder}/model.pte", f"{folder}/de.shb", *map(str, BENCH)]
    assert cli.main([*command, "--assert-p95-ms", "10000"]) == 0
    capsys.readouterr()
    output = ["-o", f"{tmp_path}/out.json"]
    assert cli.main([*command, *output, "--assert-p95-ms", "1e-6"]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 4  # two directions in two regimes; neither first switches nor forwards
    assert "switch de -> base (all warm): p95 " in errors[-2]
    assert "above the limit of 1e-06 ms" in errors[-2]
    assert (tmp_path / "out.json").exists()  # the bytes were right, so the samples are kept
    limit = ["--assert-arm", "open *", "--assert-p95-ms", "1e-6"]
    assert cli.main([*command, *limit]) == 1
    assert "open de.shb (cold file): p95" in capsys.readouterr().err
    assert cli.main([*command, "--assert-p95-ms", "1", "--assert-arm", "swift"]) == 2


def test_bench_ends_where_bytes_are_wrong(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A switch that stores one byte too much: it is found, and nothing is written."""
    switch = Program.switch

    def spoiled(self: Program, adapters: Any = None, *, wait: bool = True) -> SwitchReport:
        report = switch(self, adapters, wait=wait)
        address = next(a for name, _, _, a in self._core.tensors() if name == "0.weight")
        entry = (ctypes.c_ubyte * 8).from_address(address)
        if adapters == "de":
            entry[5] ^= 1  # the second entry, which the adapter leaves alone
        return report

    monkeypatch.setattr(Program, "switch", spoiled)
    command = ["bench", f"{folder}/model.pte", f"{folder}/de.shb", *map(str, BENCH)]
    assert cli.main([*command, "-o", f"{tmp_path}/out.json"]) == 1
    shown = capsys.readouterr()
    assert "error: wrong bytes: arm 'first switch base -> de': 0.weight" in shown.err
    assert shown.out == ""
    assert not (tmp_path / "out.json").exists()


def test_bench_runs_the_suites_of_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "benchmarks"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", sys.path[:])
    assert cli.main(["bench", "--suite", "tiny"]) == 2
    assert "no benchmarks/suites.py in" in capsys.readouterr().err
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "__init__.py").touch()
    (tmp_path / "benchmarks" / "suites.py").write_text(SUITES)
    assert cli.main(["bench", "--suite", "other"]) == 2
    assert "tiny: to see that suites run" in capsys.readouterr().err
    assert cli.main(["bench", "--suite", "tiny", "--rounds", "3"]) == 0
    (record,) = RunFile.read(tmp_path / "build" / "bench" / "runs" / "tiny.json").records
    assert (record.suite, record.arm, len(record.samples)) == ("tiny", "nothing", 3)
    assert cli.main(["bench", "model.pte", "--suite", "tiny"]) == 2
    for name in [name for name in sys.modules if name.partition(".")[0] == "benchmarks"]:
        monkeypatch.delitem(sys.modules, name)


def test_bench_without_a_model_says_where_it_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench"]) == 2
    assert "build/demo/minilm.pte" in capsys.readouterr().err
