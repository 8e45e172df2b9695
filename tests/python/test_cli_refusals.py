# SPDX-License-Identifier: Apache-2.0
"""What the commands refuse, with which exit code, and that it is one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cli_inputs import Files, Shira
from shb_files import resealed, section_range

pytest.importorskip("typer")
pytest.importorskip("safetensors")

MISUSE: dict[str, tuple[tuple[str, ...], str]] = {
    "no such command": (("fly",), "fly"),
    "no argument": (("inspect",), "file"),
    "no such option": (("inspect", "{de}", "--loud"), "--loud"),
    "no output": (("apply", "{base}", "{de}"), "output"),
    "scale without number": (
        ("apply", "{base}", "{de}", "-o", "{out}", "--scale", "de=big"),
        "NAME=NUMBER",
    ),
    "scale that is not finite": (
        ("apply", "{base}", "{de}", "-o", "{out}", "--scale", "de=-inf"),
        "finite",
    ),
    "scale of a stranger": (
        ("apply", "{base}", "{de}", "-o", "{out}", "--scale", "es=1"),
        "no adapter 'es'",
    ),
    "two of one name": (("apply", "{base}", "{de}", "{de}", "-o", "{out}"), "one name"),
    "base of another kind": (("apply", "{de}", "{de}", "-o", "{out}"), ".safetensors"),
    "no checkout": (("demo", "--dir", "{folder}"), "examples"),
    "nothing to measure": (("bench", "{de}"), "one or two adapters"),
    "one adapter to measure twice": (("bench", "{out}", "{de}", "{de}"), "one name"),
}


@pytest.mark.parametrize("what", MISUSE)
def test_misuse_is_one_line_and_code_2(
    shira: Shira, files: Files, tmp_path: Path, what: str
) -> None:
    arguments, words = MISUSE[what]
    places = {
        "de": files.de,
        "base": files.base,
        "out": tmp_path / "out.safetensors",
        "folder": tmp_path,
    }
    ran = shira(*(argument.format(**places) for argument in arguments))
    assert ran.code == 2
    assert ran.out == ""
    assert ran.err.startswith("error: ")
    assert words in ran.err
    assert len(ran.err.splitlines()) == 1
    assert not (tmp_path / "out.safetensors").exists()


BAD_FILES: dict[str, Callable[[Files], tuple[object, ...]]] = {
    "missing": lambda f: ("inspect", f.de.with_name("none.shb")),
    "a folder": lambda f: ("inspect", f.de.parent),
    "not an adapter": lambda f: ("inspect", f.base),
    "not an adapter to verify": lambda f: ("verify", f.base),
    "no base": lambda f: ("verify", f.de, "--base", f.de.with_name("none")),
    "base of one byte": lambda f: (
        "verify",
        f.de,
        "--base",
        (f.base.write_bytes(b"\x80"), f.base)[1],
    ),
    "adapter as base": lambda f: ("verify", f.de, "--base", f.fr),
    "diff with a base": lambda f: ("diff", f.de, f.base),
    "run an adapter": lambda f: ("run", f.de),
}


@pytest.mark.parametrize("what", BAD_FILES)
def test_a_bad_file_is_one_line_and_code_1(shira: Shira, files: Files, what: str) -> None:
    ran = shira(*BAD_FILES[what](files))
    assert ran.code == 1
    assert ran.out == ""
    assert ran.err.startswith("error: ")
    assert len(ran.err.splitlines()) == 1
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("size_bytes", [0, 4, 7, 300])
def test_a_cut_file_is_code_1(shira: Shira, files: Files, size_bytes: int) -> None:
    files.de.write_bytes(files.de.read_bytes()[:size_bytes])
    for command in ("inspect", "verify"):
        assert shira(command, files.de).code == 1


def test_a_damaged_value_is_named_with_its_byte(shira: Shira, files: Files) -> None:
    content = bytearray(files.de.read_bytes())
    at = section_range(content, "values").start
    content[at : at + 4] = b"\x00\x00\xc0\x7f"
    files.de.write_bytes(resealed(content))
    ran = shira("verify", files.de)
    assert ran.code == 1
    assert f"{files.de}: byte {at}: tensor layer.a.weight: " in ran.err
