# SPDX-License-Identifier: Apache-2.0
"""The command shira-export: exit codes, the two output streams, JSON, and what it leaves behind."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from export_inputs import Q_PROJ, peft_tensors, random_pairs, weights, write_peft, write_safetensors
from shb_reader import read_shb

from shira_runtime.export.cli import main

SHAPE = (12, 20)
NAME = "layers.0.q_proj.weight"


class Result(NamedTuple):
    """What a command left behind."""

    code: int
    stdout: str
    stderr: str


Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs the console script's function in an empty folder that holds an adapter and a base."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    write_peft(tmp_path / "de", peft_tensors(*random_pairs(SHAPE, 32)))
    write_safetensors(tmp_path / "base.safetensors", {NAME: weights(SHAPE)})

    def run_command(*arguments: str) -> Result:
        monkeypatch.setattr("sys.argv", ["shira-export", *arguments])
        with pytest.raises(SystemExit) as exit_info:
            main()
        captured = capsys.readouterr()
        # Some CI systems make the command line library colour its messages.
        out, err = (re.sub(r"\x1b\[[0-9;]*m", "", text) for text in captured)
        return Result(int(exit_info.value.code or 0), out, err)

    return run_command


def test_an_export_reports_on_standard_output(run: Run) -> None:
    result = run("de", "-o", "german.shb", "--base", "base.safetensors")
    assert (result.code, result.stderr) == (0, "")
    size = Path("german.shb").stat().st_size
    for expected in (
        "adapter german",
        f"{NAME} .*12x20 .*rice .*target .*32 .*13.333% .*0.00% .*4.[56]",
        "read de: peft-shira, f32, scale 1",
        f"wrote german.shb: {size:,} bytes, 1 tensors, 32 f32 target values .*bound to base.safe",
        f"bytes per entry: {size / 32:.2f} with header and names; PEFT 12; entropy bound",
        rf"names matched as unwrapped \(1\):\n  {Q_PROJ}.weight -> {NAME}",
    ):
        assert re.search(expected, result.stdout), expected


def test_json_goes_to_standard_output_and_words_to_standard_error(run: Run) -> None:
    result = run("de", "-o", "a.shb", "--shapes", f"{NAME}=12x20", "--json", "--values", "bf16")
    report = json.loads(result.stdout)
    assert result.code == 0
    assert result.stderr.startswith("note: unbound: ")
    assert set(report) == {
        *("schema", "output", "file_bytes", "content_digest", "name", "source", "source_format"),
        *("base", "bound", "kind", "scale", "tensor_count", "entry_count", "no_op_entry_count"),
        *("density", "bytes_per_entry", "peft_bytes_per_entry", "entropy_bound_bytes_per_entry"),
        *("tensors", "names", "skipped", "unchanged_count", "notes", "metadata"),
        *("relative_error", "value_alternatives", "snapped"),
    }
    assert set(report["tensors"][0]) == {
        *("name", "source", "shape", "dtype", "source_dtype", "tier", "kind", "values"),
        *("value_bytes", "entry_count", "no_op_entry_count", "rounding_error", "relative_error"),
        *("delta_norm", "index_codec", "block_length", "index_bytes", "index_sizes_bytes"),
        *("index_refusals", "density", "entropy_bound_bytes", "peft_bytes"),
    }
    assert (report["schema"], report["kind"], report["bound"]) == (2, "delta", False)
    assert report["tensors"][0]["shape"] == [12, 20]
    assert report["names"] == [{"source": f"{Q_PROJ}.weight", "target": NAME, "how": "unwrapped"}]
    assert report["content_digest"] == read_shb("a.shb")["content_digest"]


def test_a_terminal_sees_progress_apart_from_the_report(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    result = run("de", "-o", "a.shb", "--base", "base.safetensors", "--json")
    assert json.loads(result.stdout)["entry_count"] == 32
    assert f"1/1 tensors {NAME}" in result.stderr


def test_options_reach_the_file(run: Run) -> None:
    Path("shapes.json").write_text(json.dumps({"renamed.weight": [12, 20]}))
    result = run(
        *("de", "--output", "a.shb", "--shapes", "shapes.json"),
        *("--rename", r".*\.weight=renamed.weight"),
        *("--name", "Deutsch", "--license", "MIT", "--description", "ein Satz", "--dtype", "f16"),
        *("--scale", "0.5", "--index", "runs", "--values", "f16"),
    )  # fmt: skip
    assert result.code == 0, result.stderr
    read = read_shb("a.shb")
    tensor = read["tensors"]["renamed.weight"]
    assert (read["name"], read["metadata"]["license"]) == ("Deutsch", "MIT")
    assert read["metadata"]["description"] == "ein Satz"
    assert (tensor["codec"], tensor["dtype"], tensor["value_dtype"]) == ("runs", "f16", "f16")
    expected = (random_pairs(SHAPE, 32)[1] * np.float32(0.5)).astype(np.float16)
    assert tensor["values"].tobytes() == expected.tobytes()


def test_sizes_are_explained(run: Run) -> None:
    arguments = ("de", "-o", "a.shb", "--base", "base.safetensors", "--explain-size", "--force")
    result = run(*arguments)
    assert (result.code, result.stderr) == (0, "")
    for expected in (
        r"tensor .*gaps8 .*gaps16 .*rice .*runs .*struct .*random .*topk .*entropy bound",
        rf"{NAME} +\d+ +\d+ +\d+ \* +\d+ +- +- +- +\d+ +\d\.\d\d",
        r"target +[\d,]+ +\d+\.\d+ +0\.00%",
        r"int1 +[\d,]+ +\d+\.\d+ +\d\d\.\d\d%",
        r"\(PEFT\) +384 +12\.000",
        "no random: it does not have one block in each stratum",
        "no topk: it is not that of the largest base values as deployed",
    ):
        assert re.search(expected, result.stdout), expected
    report = json.loads(run(*arguments, "--json").stdout)
    assert len(report["value_alternatives"]) == 8
    assert report["value_alternatives"][0]["file_bytes"] == report["file_bytes"]
    assert set(report["tensors"][0]["index_sizes_bytes"]) == {"gaps8", "gaps16", "rice", "runs"}


def test_tiers_are_made_and_cut(run: Run) -> None:
    made = run("de", "-o", "a.shb", "--base", "base.safetensors", "--tiers", "0.25,0.5,1")
    assert made.code == 0, made.stderr
    assert "first tier: 8 entries\nfirst 2 tiers: 16 entries\n" in made.stdout
    assert f"{NAME} (tier 2)" in made.stdout
    cut = run("a.shb", "-o", "b.shb", "--tiers", "2")
    sizes = [Path(name).stat().st_size for name in ("a.shb", "b.shb")]
    assert (cut.code, cut.stderr, cut.stdout.splitlines()) == (
        0,
        "",
        [
            f"read a.shb: {sizes[0]:,} bytes, 3 tiers, 32 entries",
            f"wrote b.shb: {sizes[1]:,} bytes, 2 tiers, 16 entries",
        ],
    )
    assert read_shb("b.shb")["tensors"][NAME]["indices"].size == 16
    report = json.loads(run("a.shb", "-o", "c.shb", "--tiers", "1", "--json").stdout)
    assert report["tier_counts"] == [3, 1]
    assert report["content_digest"] == read_shb("c.shb")["content_digest"]
    assert run("a.shb", "-o", "c.shb", "--tiers", "1").code == 1
    for arguments, message in (
        (["--tiers", "4"], "a.shb: has 3 tiers, so 4 cannot be kept"),
        (["--tiers", "0.5,1"], "give their number"),
        ([], "give their number"),
        (["--tiers", "1", "--values", "int8"], "is not for cutting a .shb file"),
        (["--tiers", "1", "--base", "base.safetensors"], "is not for cutting a .shb file"),
    ):
        result = run("a.shb", "-o", "d.shb", *arguments)
        assert result.code == (1 if "has 3 tiers" in message else 2)
        assert message in re.sub(r"[\s│]+", " ", result.stderr)
        assert not Path("d.shb").exists()


def test_codings_are_chosen_by_options(run: Run) -> None:
    base = ("--base", "base.safetensors")
    assert run("de", "-o", "a.shb", *base, "--values", "int4", "--group", "64").code == 0
    tensor = read_shb("a.shb")["tensors"][NAME]
    assert (tensor["value_dtype"], tensor["value_group"]) == ("q4", 64)
    assert run("de", "-o", "b.shb", *base, "--index-from", "a.shb").code == 0
    with pytest.raises(ValueError, match="MISSING_INDEX"):
        read_shb("b.shb")
    size_kib = Path("a.shb").stat().st_size / 1024
    pytest.importorskip("scipy")
    assert run("de", "-o", "c.shb", *base, "--budget-kib", str(size_kib)).code == 0
    assert Path("c.shb").stat().st_size <= size_kib * 1024
    assert run("de", "-o", "d.shb", *base, "--budget-kib", "1").code == 1


def test_a_long_report_is_cut_unless_all_is_asked_for(run: Run) -> None:
    modules = [f"base_model.model.layers.{i:02}.q_proj" for i in range(20)]
    pairs = random_pairs(SHAPE, 32)
    write_peft(Path("many"), {k: v for m in modules for k, v in peft_tensors(*pairs, m).items()})
    base = {f"layers.{i:02}.q_proj.weight": weights(SHAPE) for i in range(20)}
    write_safetensors(Path("many.safetensors"), base)
    short = run("many", "-o", "a.shb", "--base", "many.safetensors").stdout
    assert "(8 more: --all shows them)" in short
    assert "layers.12.q_proj.weight" not in short
    long = run("many", "-o", "b.shb", "--base", "many.safetensors", "--all").stdout
    assert all(name in long for name in base)


REFUSALS: dict[str, tuple[list[str], str]] = {
    "no such file": (["nothing", "-o", "a.shb"], "nothing"),
    "no shapes": (["de", "-o", "a.shb"], "give --shapes"),
    "no such base": (["de", "-o", "a.shb", "--base", "x.pte"], "x.pte"),
    "not a base": (["de", "-o", "a.shb", "--base", "de"], "de: has no model.safetensors"),
    "not shapes": (["de", "-o", "a.shb", "--shapes", "x.json"], "x.json: is neither FQN=ROWSxCOLS"),
    "two shapes": (
        ["de", "-o", "a.shb", "--shapes", "a=2x2", "--shapes", "a=2x3"],
        "a has another shape",
    ),
    "no folder": (["de", "-o", "x/a.shb", "--base", "base.safetensors"], "folder x does not exist"),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSALS.values(), ids=REFUSALS)
def test_what_is_refused_exits_with_1(run: Run, arguments: list[str], message: str) -> None:
    before = sorted(Path().iterdir())
    result = run(*arguments)
    assert (result.code, result.stdout) == (1, "")
    assert result.stderr.startswith("shira-export: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert sorted(Path().iterdir()) == before


MISUSE: dict[str, tuple[list[str], str]] = {
    "nothing": ([], "ADAPTER"),
    "no output": (["de"], "--output"),
    "unknown option": (["de", "-o", "a.shb", "--fast"], "--fast"),
    "dtype": (["de", "-o", "a.shb", "--dtype", "int8"], "int8"),
    "index": (["de", "-o", "a.shb", "--index", "blocks8"], "blocks8"),
    "scale": (["de", "-o", "a.shb", "--scale", "x"], "--scale"),
    "infinite scale": (["de", "-o", "a.shb", "--scale", "inf"], "scale is inf"),
    "density": (["de", "-o", "a.shb", "--max-density", "2"], "--max-density"),
    "rename": (["de", "-o", "a.shb", "--rename", "abc"], "REGEX=SUB"),
    "regular expression": (["de", "-o", "a.shb", "--rename", "(=x"], "--rename"),
    "group": (["de", "-o", "a.shb", "--rename", r"(a)=\2"], "--rename"),
    "values": (["de", "-o", "a.shb", "--values", "int3"], "int3"),
    "targets without base": (["de", "-o", "a.shb", "--values", "target"], "target needs a base"),
    "scales": (["de", "-o", "a.shb", "--group", "12"], "group is 12"),
    "tiers": (["de", "-o", "a.shb", "--tiers", "0.5"], "ascending shares"),
    "number of tiers": (["de", "-o", "a.shb", "--tiers", "2"], "ascending shares"),
    "budget": (["de", "-o", "a.shb", "--budget-kib", "-1"], "--budget-kib"),
    "infinite budget": (["de", "-o", "a.shb", "--budget-kib", "inf"], "not a finite number"),
}


@pytest.mark.parametrize(("arguments", "message"), MISUSE.values(), ids=MISUSE)
def test_misuse_exits_with_2(run: Run, arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert (result.code, result.stdout) == (2, "")
    assert result.stderr.startswith("shira-export: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert not Path("a.shb").exists()


def test_help_names_every_option(run: Run) -> None:
    result = run("--help")
    assert result.code == 0
    for option in ("--base", "--rename", "--shapes", "--scale", "--force", "--json", "Exit codes"):
        assert option in result.stdout


def test_an_existing_file_is_replaced_only_by_force(run: Run) -> None:
    Path("a.shb").write_bytes(b"old")
    arguments = ("de", "-o", "a.shb", "--base", "base.safetensors")
    result = run(*arguments)
    assert (result.code, result.stdout) == (1, "")
    assert result.stderr == "shira-export: a.shb: exists already; --force replaces it\n"
    assert Path("a.shb").read_bytes() == b"old"
    assert run(*arguments, "--force").code == 0
    assert read_shb("a.shb")["name"] == "a"


def test_a_full_disk_leaves_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = sorted(Path().iterdir())
    monkeypatch.setattr(os, "fsync", fail)
    result = run("de", "-o", "a.shb", "--base", "base.safetensors")
    assert (result.code, result.stdout) == (1, "")
    assert result.stderr == "shira-export: a.shb: No space left on device\n"
    assert sorted(Path().iterdir()) == before


def test_a_missing_file_is_named_first(run: Run) -> None:
    result = run("nothing", "-o", "a.shb")
    assert (result.code, result.stderr) == (1, "shira-export: nothing: No such file or directory\n")


def test_the_version_is_printed(run: Run) -> None:
    result = run("--version")
    assert (result.code, result.stderr) == (0, "")
    assert re.fullmatch(r"shira-export \d+\.\d+\S*\n", result.stdout)


def test_a_seed_that_explains_nothing_is_said(run: Run) -> None:
    note = "note: --mask-seed 7 gives none of the masks"
    arguments = ("de", "-o", "a.shb", "--base", "base.safetensors", "--force")
    assert note in run(*arguments, "--mask-seed", "7").stdout
    assert "--mask-seed" not in run(*arguments).stdout


def test_control_characters_in_names_are_shown_not_sent(run: Run) -> None:
    name = "a\x1b[31m.shb"
    assert run("de", "-o", "a.shb", "--base", "base.safetensors").code == 0
    Path("a.shb").rename(name)
    result = run(name, "-o", "b\x1b[0m.shb", "--tiers", "1")
    assert result.code == 0
    for shown in (result, run(name, "-o", "b.shb", "--tiers", "9"), run("x\x1b", "-o", "c.shb")):
        assert "\x1b" not in shown.stdout + shown.stderr
        assert r"\x1b" in shown.stdout + shown.stderr
    made = run("de", "-o", "c\x1b.shb", "--base", "base.safetensors", "--name", "c")
    assert (made.code, "\x1b" in made.stdout) == (0, False)


def test_brackets_in_names_are_not_markup(run: Run) -> None:
    result = run("de", "-o", "[red]a.shb", "--base", "base.safetensors")
    assert "adapter [red]a" in result.stdout
    assert "wrote [red]a.shb" in result.stdout
    assert "[red]x" in run("[red]x", "-o", "b.shb").stderr
