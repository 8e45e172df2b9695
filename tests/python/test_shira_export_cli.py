# SPDX-License-Identifier: Apache-2.0
"""The command shira-export: exit codes, the two output streams, JSON, and what it leaves behind."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_inputs import Shira
from export_inputs import Q_PROJ, peft_tensors, random_pairs, weights, write_peft, write_safetensors
from shb_reader import read_shb

SHAPE = (12, 20)
NAME = "layers.0.q_proj.weight"


@pytest.fixture
def run(shira_export: Shira, tmp_path: Path) -> Shira:
    """Runs the command in a folder that holds an adapter and a base."""
    write_peft(tmp_path / "de", peft_tensors(*random_pairs(SHAPE, 32)))
    write_safetensors(tmp_path / "base.safetensors", {NAME: weights(SHAPE)})
    return shira_export


def test_an_export_reports_on_standard_output(run: Shira) -> None:
    result = run("de", "-o", "german.shb", "--base", "base.safetensors")
    assert (result.code, result.err) == (0, "")
    size = Path("german.shb").stat().st_size
    for expected in (
        "adapter german",
        f"{NAME} .*12x20 .*rice .*target .*32 .*13.333% .*0.00% .*4.[56]",
        "read de: peft-shira, f32, scale 1",
        f"wrote german.shb: {size:,} bytes, 1 tensors, 32 f32 target values .*bound to base.safe",
        f"bytes per entry: {size / 32:.2f} with header and names; PEFT 12; entropy bound",
        rf"names matched as unwrapped \(1\):\n  {Q_PROJ}.weight -> {NAME}",
    ):
        assert re.search(expected, result.out), expected


def test_json_goes_to_standard_output_and_words_to_standard_error(run: Shira) -> None:
    result = run("de", "-o", "a.shb", "--shapes", f"{NAME}=12x20", "--json", "--values", "bf16")
    report = result.json
    assert result.code == 0
    assert result.err.startswith("note: unbound: ")
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
    run: Shira, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    result = run("de", "-o", "a.shb", "--base", "base.safetensors", "--json")
    assert result.json["entry_count"] == 32
    assert f"1/1 tensors {NAME}" in result.err


def test_options_reach_the_file(run: Shira) -> None:
    Path("shapes.json").write_text(json.dumps({"renamed.weight": [12, 20]}))
    result = run(
        *("de", "--output", "a.shb", "--shapes", "shapes.json"),
        *("--rename", r".*\.weight=renamed.weight"),
        *("--name", "Deutsch", "--license", "MIT", "--description", "ein Satz", "--dtype", "f16"),
        *("--scale", "0.5", "--index", "runs", "--values", "f16"),
    )  # fmt: skip
    assert result.code == 0, result.err
    read = read_shb("a.shb")
    tensor = read["tensors"]["renamed.weight"]
    assert (read["name"], read["metadata"]["license"]) == ("Deutsch", "MIT")
    assert read["metadata"]["description"] == "ein Satz"
    assert (tensor["codec"], tensor["dtype"], tensor["value_dtype"]) == ("runs", "f16", "f16")
    expected = (random_pairs(SHAPE, 32)[1] * np.float32(0.5)).astype(np.float16)
    assert tensor["values"].tobytes() == expected.tobytes()


def test_sizes_are_explained(run: Shira) -> None:
    arguments = ("de", "-o", "a.shb", "--base", "base.safetensors", "--explain-size", "--force")
    result = run(*arguments)
    assert (result.code, result.err) == (0, "")
    for expected in (
        r"tensor .*gaps8 .*gaps16 .*rice .*runs .*struct .*random .*topk .*entropy bound",
        rf"{NAME} +\d+ +\d+ +\d+ \* +\d+ +- +- +- +\d+ +\d\.\d\d",
        r"target +[\d,]+ +\d+\.\d+ +0\.00%",
        r"int1 +[\d,]+ +\d+\.\d+ +\d\d\.\d\d%",
        r"\(PEFT\) +384 +12\.000",
        "no random: it does not have one block in each stratum",
        "no topk: it is not that of the largest base values as deployed",
    ):
        assert re.search(expected, result.out), expected
    report = run(*arguments, "--json").json
    assert len(report["value_alternatives"]) == 8
    assert report["value_alternatives"][0]["file_bytes"] == report["file_bytes"]
    assert set(report["tensors"][0]["index_sizes_bytes"]) == {"gaps8", "gaps16", "rice", "runs"}


def test_tiers_are_made_and_cut(run: Shira) -> None:
    made = run("de", "-o", "a.shb", "--base", "base.safetensors", "--tiers", "0.25,0.5,1")
    assert made.code == 0, made.err
    assert "first tier: 8 entries\nfirst 2 tiers: 16 entries\n" in made.out
    assert f"{NAME} (tier 2)" in made.out
    cut = run("a.shb", "-o", "b.shb", "--tiers", "2")
    sizes = [Path(name).stat().st_size for name in ("a.shb", "b.shb")]
    assert (cut.code, cut.err, cut.out.splitlines()) == (
        0,
        "",
        [
            f"read a.shb: {sizes[0]:,} bytes, 3 tiers, 32 entries",
            f"wrote b.shb: {sizes[1]:,} bytes, 2 tiers, 16 entries",
        ],
    )
    assert read_shb("b.shb")["tensors"][NAME]["indices"].size == 16
    report = run("a.shb", "-o", "c.shb", "--tiers", "1", "--json").json
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
        assert message in re.sub(r"[\s│]+", " ", result.err)
        assert not Path("d.shb").exists()


def test_codings_are_chosen_by_options(run: Shira) -> None:
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


def test_a_long_report_is_cut_unless_all_is_asked_for(run: Shira) -> None:
    modules = [f"base_model.model.layers.{i:02}.q_proj" for i in range(20)]
    pairs = random_pairs(SHAPE, 32)
    write_peft(Path("many"), {k: v for m in modules for k, v in peft_tensors(*pairs, m).items()})
    base = {f"layers.{i:02}.q_proj.weight": weights(SHAPE) for i in range(20)}
    write_safetensors(Path("many.safetensors"), base)
    short = run("many", "-o", "a.shb", "--base", "many.safetensors").out
    assert "(8 more: --all shows them)" in short
    assert "layers.12.q_proj.weight" not in short
    long = run("many", "-o", "b.shb", "--base", "many.safetensors", "--all").out
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
def test_what_is_refused_exits_with_1(run: Shira, arguments: list[str], message: str) -> None:
    before = sorted(Path().iterdir())
    result = run(*arguments)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("shira-export: ")
    assert message in result.err
    assert result.err.count("\n") == 1
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
def test_misuse_exits_with_2(run: Shira, arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("shira-export: ")
    assert result.err.count("\n") == 1
    assert message in result.err
    assert not Path("a.shb").exists()


def test_help_names_every_option(run: Shira) -> None:
    result = run("--help")
    assert result.code == 0
    for option in ("--base", "--rename", "--shapes", "--scale", "--force", "--json", "Exit codes"):
        assert option in result.out


def test_an_existing_file_is_replaced_only_by_force(run: Shira) -> None:
    Path("a.shb").write_bytes(b"old")
    arguments = ("de", "-o", "a.shb", "--base", "base.safetensors")
    result = run(*arguments)
    assert (result.code, result.out) == (1, "")
    assert result.err == "shira-export: a.shb: exists already; --force replaces it\n"
    assert Path("a.shb").read_bytes() == b"old"
    assert run(*arguments, "--force").code == 0
    assert read_shb("a.shb")["name"] == "a"


def test_a_full_disk_leaves_nothing(run: Shira, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = sorted(Path().iterdir())
    monkeypatch.setattr(os, "fsync", fail)
    result = run("de", "-o", "a.shb", "--base", "base.safetensors")
    assert (result.code, result.out) == (1, "")
    assert result.err == "shira-export: a.shb: No space left on device\n"
    assert sorted(Path().iterdir()) == before


def test_a_missing_file_is_named_first(run: Shira) -> None:
    result = run("nothing", "-o", "a.shb")
    assert (result.code, result.err) == (1, "shira-export: nothing: No such file or directory\n")


def test_the_version_is_printed(run: Shira) -> None:
    result = run("--version")
    assert (result.code, result.err) == (0, "")
    assert re.fullmatch(r"shira-export \d+\.\d+\S*\n", result.out)


def test_a_seed_that_explains_nothing_is_said(run: Shira) -> None:
    note = "note: --mask-seed 7 gives none of the masks"
    arguments = ("de", "-o", "a.shb", "--base", "base.safetensors", "--force")
    assert note in run(*arguments, "--mask-seed", "7").out
    assert "--mask-seed" not in run(*arguments).out


def test_control_characters_in_names_are_shown_not_sent(run: Shira) -> None:
    name = "a\x1b[31m.shb"
    assert run("de", "-o", "a.shb", "--base", "base.safetensors").code == 0
    Path("a.shb").rename(name)
    result = run(name, "-o", "b\x1b[0m.shb", "--tiers", "1")
    assert result.code == 0
    for shown in (result, run(name, "-o", "b.shb", "--tiers", "9"), run("x\x1b", "-o", "c.shb")):
        assert "\x1b" not in shown.out + shown.err
        assert r"\x1b" in shown.out + shown.err
    made = run("de", "-o", "c\x1b.shb", "--base", "base.safetensors", "--name", "c")
    assert (made.code, "\x1b" in made.out) == (0, False)


def test_brackets_in_names_are_not_markup(run: Shira) -> None:
    result = run("de", "-o", "[red]a.shb", "--base", "base.safetensors")
    assert "adapter [red]a" in result.out
    assert "wrote [red]a.shb" in result.out
    assert "[red]x" in run("[red]x", "-o", "b.shb").err
