# SPDX-License-Identifier: Apache-2.0
"""What the commands refuse, with which exit code, and that it is one line."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cli_inputs import Files, Shira, safetensors_bytes
from shb_files import resealed, section_range

pytest.importorskip("typer")
pytest.importorskip("safetensors")

from shira_runtime.commands.inputs import read_array

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
    "one file to pack": (("pack", "{de}", "-o", "{out}"), "two or more files"),
    "an adapter that no file has": (("diff", "{de}", "{de}", "-a", "es"), "no such adapter among"),
    "a key without a name": (("keygen", "-o", ""), "names no file"),
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


@pytest.mark.parametrize("command", ["inspect", "verify", "sign"])
def test_what_is_no_regular_file_is_not_read(shira: Shira, tmp_path: Path, command: str) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    key = ("--key", tmp_path / "key") if command == "sign" else ()
    assert command != "sign" or shira("keygen", "-o", tmp_path / "key").code == 0
    for path in (pipe, "/dev/zero", tmp_path):
        ran = shira(command, path, *key)
        assert (ran.code, ran.out) == (1, "")
        assert ran.err.startswith(f"error: {path}: ")
        assert ran.err.endswith(" not a regular file\n")


def test_an_input_that_is_no_array_is_named(tmp_path: Path) -> None:
    for name, content in {"empty": b"", "text": b"hello", "archive": b"PK\x03\x04"}.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}: is no .npy file of numbers"):
            read_array(path)
    np.savez(tmp_path / "several.npz", a=np.ones(2))
    with pytest.raises(ValueError, match=r"several.npz: is no .npy file of numbers"):
        read_array(tmp_path / "several.npz")


def test_lack_of_memory_is_one_line(
    shira: Shira, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Path) -> bytes:
        raise MemoryError

    monkeypatch.setattr("shira_runtime.commands.verify.read_content", fail)
    ran = shira("verify", files.de)
    assert (ran.code, ran.err) == (1, "error: out of memory\n")


@pytest.mark.parametrize("size_bytes", [0, 4, 7, 300])
def test_a_cut_file_is_code_1(shira: Shira, files: Files, size_bytes: int) -> None:
    files.de.write_bytes(files.de.read_bytes()[:size_bytes])
    for command in ("inspect", "verify"):
        assert shira(command, files.de).code == 1


def test_messages_name_the_option_that_helps(shira: Shira, files: Files, tmp_path: Path) -> None:
    ran = shira("apply", files.base, files.delta, "-o", tmp_path / "x.safetensors")
    assert ran.code == 1
    assert "(--allow-unverified-base accepts that)" in ran.err
    vectors = Path(__file__).parents[1] / "vectors" / "good"
    reference = next(path for path in sorted(vectors.glob("*.shb")) if is_reference(path))
    ran = shira("inspect", reference)
    assert ran.code == 1
    assert ran.err.endswith("; name it with --index-from\n")


def is_reference(path: Path) -> bool:
    content = path.read_bytes()
    kinds = [int.from_bytes(content[at : at + 4], "little") for at in range(256, 2000, 64)]
    return 7 in kinds[: content[40]]  # INDEX_REFERENCE


def test_a_wrong_base_is_told_with_file_and_tensor(shira: Shira, files: Files) -> None:
    files.base.write_bytes(safetensors_bytes({"else": np.ones((2, 2), np.float32)}, {}))
    ran = shira("verify", files.fr, "--base", files.base)
    assert ran.code == 1
    assert ran.err == (
        f"error: {files.fr}: tensor layer.a.weight: the base has no such tensor"
        f" (2 of 2 tensors do not fit {files.base})\n"
    )


def test_a_damaged_value_is_named_with_its_byte(shira: Shira, files: Files) -> None:
    content = bytearray(files.de.read_bytes())
    at = section_range(content, "values").start
    content[at : at + 4] = b"\x00\x00\xc0\x7f"
    files.de.write_bytes(resealed(content))
    ran = shira("verify", files.de)
    assert ran.code == 1
    assert f"{files.de}: byte {at}: tensor layer.a.weight: " in ran.err
