# SPDX-License-Identifier: Apache-2.0
"""The commands of `shira`: what they print and write, what they refuse and with which code."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from shb_files import adapter_bytes, random_arrays, resealed, section_range, tensor_entries

pytest.importorskip("typer")
pytest.importorskip("safetensors")

from shira_runtime import cli, from_numpy
from shira_runtime.commands import diff as diff_command

SHAPES = {
    "layer.a.weight": ((12, 40), "f32"),
    "layer.b.weight": ((8, 30), "bf16"),
    "layer.c.bias": ((20,), "f16"),
}


class Ran(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


Shira = Callable[..., Ran]


def shira_process(
    folder: Path, *arguments: object, before: str = "pass", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, in a folder that is not the checkout."""
    given = [str(argument) for argument in arguments]
    script = f"import sys; {before}; from shira_runtime.cli import main; sys.exit(main({given!r}))"
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def shira(capsys: pytest.CaptureFixture[str]) -> Shira:
    def run(*arguments: object) -> Ran:
        code = cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


class Files:
    """A base of three weights as safetensors, and two bound adapters whose masks overlap."""

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(9)
        self.arrays = random_arrays(rng, SHAPES)
        self.base, self.de, self.fr = (folder / n for n in ("b.safetensors", "de.shb", "fr.shb"))
        self.base.write_bytes(safetensors_bytes(self.arrays, {"format": "pt", "who": "me"}))
        a, b, c = self.arrays.values()
        at_de, at_fr = np.arange(0, 200, 2), np.arange(0, 200, 5)
        self.targets = {
            "de": {"layer.a.weight": (at_de, rng.standard_normal(100).astype(a.dtype))},
            "fr": {
                "layer.a.weight": (at_fr, rng.standard_normal(40).astype(a.dtype)),
                "layer.b.weight": (np.arange(7, 39), np.linspace(-1, 1, 32).astype(b.dtype)),
            },
        }
        for name, targets in self.targets.items():
            entries = [tensor_entries(n, self.arrays[n], *t) for n, t in targets.items()]
            content = adapter_bytes(name, *entries, license="MIT", train={"steps": 3})
            (folder / f"{name}.shb").write_bytes(content)
        self.delta = folder / "delta.shb"
        self.delta.write_bytes(
            adapter_bytes(
                "delta",
                tensor_entries(
                    "layer.c.bias", c, np.array([3]), np.ones(1, np.float32), "delta", bound=False
                ),
            )
        )


def safetensors_bytes(arrays: dict[str, NDArray[Any]], metadata: dict[str, str]) -> bytes:
    types = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
    header: dict[str, Any] = {"__metadata__": metadata}
    at = 0
    for name, array in arrays.items():
        header[name] = {
            "dtype": types[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    body = b"".join(array.tobytes() for array in arrays.values())
    return len(text).to_bytes(8, "little") + text + body


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


# --- inspect ---


def test_inspect_shows_an_adapter(shira: Shira, files: Files) -> None:
    ran = shira("inspect", files.fr)
    assert ran.code == 0
    assert ran.err == ""
    assert ran.out.startswith("fr: .shb 0.1, bound to its base\n")
    for words in ("layer.a.weight", "12x40", "target bf16", "metadata", "MIT", "72 entries in 2"):
        assert words in ran.out
    shown = shira("inspect", files.fr, "--json").json
    assert (shown["kind"], shown["name"], shown["entry_count"]) == ("shb", "fr", 72)
    assert shown["file_bytes"] == files.fr.stat().st_size
    assert shown["metadata"] == {"license": "MIT", "train": {"steps": 3}}
    assert [s["kind"] for s in shown["sections"]][:2] == ["adapters", "tensors"]
    by_name = {tensor["name"]: tensor for tensor in shown["tensors"]}
    assert by_name["layer.b.weight"]["shape"] == [8, 30]
    assert by_name["layer.b.weight"]["density"] == 32 / 240
    assert "unbound" in shira("inspect", files.delta).out


# --- verify ---


def test_verify_a_file_alone(shira: Shira, files: Files) -> None:
    ran = shira("verify", files.de)
    assert (ran.code, ran.err) == (0, "")
    assert f"{files.de}: sound, 1 tensors, 100 entries" in ran.out
    assert shira("verify", files.de, "--json").json["ok"] is True


@pytest.mark.parametrize("where", ["section", "whole"])
def test_verify_finds_a_wrong_sha256_below_right_crcs(
    shira: Shira, files: Files, where: str
) -> None:
    content = bytearray(files.de.read_bytes())
    if where == "section":
        content[128 + 32] ^= 1  # the SHA-256 of the first section, in the section table
        good = resealed(content)
        content[:128] = good[:128]
        struct.pack_into("<I", content, 52, google_crc32c.value(bytes(content[128:512])))
    else:
        content[64] ^= 1
    struct.pack_into("<I", content, 124, google_crc32c.value(bytes(content[:124])))
    files.de.write_bytes(content)
    assert shira("inspect", files.de).code == 0  # the CRCs are right
    ran = shira("verify", files.de)
    assert ran.code == 1
    assert ("SHA-256 of section 1" if where == "section" else "content digest") in ran.err
    assert ran.out == ""


def test_verify_against_a_base(shira: Shira, files: Files, tmp_path: Path) -> None:
    assert shira("verify", files.fr, "--base", files.base).code == 0
    folder = tmp_path / "hf"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(files.base.read_bytes())
    assert shira("verify", files.fr, "--base", folder).code == 0


def with_prefix(arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {f"model.{name}": array for name, array in arrays.items()}


def test_verify_finds_a_base_with_a_prefix(shira: Shira, files: Files) -> None:
    files.base.write_bytes(safetensors_bytes(with_prefix(files.arrays), {}))
    assert shira("verify", files.fr, "--base", files.base).code == 0


WRONG_BASES: dict[str, tuple[Callable[[dict[str, NDArray[Any]]], Any], str]] = {
    "another value there": (
        lambda a: a["layer.b.weight"].reshape(-1).__setitem__(8, 5),
        "fingerprint",
    ),
    "another value elsewhere": (
        lambda a: a["layer.b.weight"].reshape(-1).__setitem__(200, 5),
        "elsewhere",
    ),
    "transposed": (
        lambda a: a.update({"layer.b.weight": a["layer.b.weight"].T.copy()}),
        "shape",
    ),
    "another dtype": (
        lambda a: a.update({"layer.b.weight": a["layer.b.weight"].astype(np.float32)}),
        "f32",
    ),
    "gone": (lambda a: a.pop("layer.b.weight"), "no such tensor"),
}


@pytest.mark.parametrize("what", WRONG_BASES)
def test_verify_names_what_does_not_fit(shira: Shira, files: Files, what: str) -> None:
    change, words = WRONG_BASES[what]
    change(files.arrays)
    files.base.write_bytes(safetensors_bytes(files.arrays, {}))
    ran = shira("verify", files.fr, "--base", files.base)
    assert ran.code == 1
    assert "tensor layer.b.weight: " in ran.err
    assert "1 of 2 tensors" in ran.err
    assert words in ran.err
    assert len(ran.err.splitlines()) == 1
    rows = json.loads(shira("verify", files.fr, "--base", files.base, "--json").out)["tensors"]
    assert [bool(row["problem"]) for row in rows] == [False, True]


def test_verify_refuses_an_unbound_file_for_any_base(shira: Shira, files: Files) -> None:
    assert shira("verify", files.delta).code == 0
    ran = shira("verify", files.delta, "--base", files.base)
    assert ran.code == 1
    assert "fingerprint" in ran.err


# --- diff ---


def test_diff_counts_overlap_and_sign_conflicts(shira: Shira, files: Files) -> None:
    shown = shira("diff", files.de, files.fr, "--base", files.base, "--json").json
    (row,) = shown["tensors"]
    assert (row["entries_first"], row["entries_second"], row["overlap"]) == (100, 40, 20)
    assert row["jaccard"] == 20 / 120
    deltas = {}
    for name in ("de", "fr"):
        at, values = files.targets[name]["layer.a.weight"]
        base = files.arrays["layer.a.weight"].reshape(-1)
        matrix = np.zeros(480)
        matrix[at] = values - base[at]
        deltas[name] = matrix
    assert row["sign_conflicts"] == int((deltas["de"] * deltas["fr"] < 0).sum()) > 0
    product = deltas["de"].reshape(12, 40).T @ deltas["fr"].reshape(12, 40)
    assert row["awom"] == pytest.approx(np.linalg.svd(product)[1][0], rel=1e-5)
    assert row["awor"] == 1 - np.count_nonzero(product) / 1600
    assert shown["only_in"] == [[], ["layer.b.weight"]]
    ran = shira("diff", files.de, files.fr)
    assert ran.code == 0
    assert "--base" in ran.err
    assert "only in B: layer.b.weight" in ran.err


def test_orthogonality_without_scipy_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("scipy")
    rng = np.random.default_rng(4)
    updates = []
    for _ in range(2):
        at = np.flatnonzero(rng.random(50 * 60) < 0.05).astype(np.uint32)
        updates.append((at, rng.standard_normal(at.size).astype(np.float32)))
    sparse = diff_command.orthogonality((50, 60), *updates)
    monkeypatch.setitem(sys.modules, "scipy.sparse", None)
    dense = diff_command.orthogonality((50, 60), *updates)
    assert sparse == pytest.approx(dense, rel=1e-6)
    assert diff_command.orthogonality((2, 5000), *updates) == (None, None)


def test_random_masks_are_as_orthogonal_as_theory_says() -> None:
    """Two independent random masks of density p leave (1 - p^2)^n of A1^T A2 zero."""
    rng = np.random.default_rng(6)
    updates = []
    for _ in range(2):
        at = np.flatnonzero(rng.random(256 * 256) < 0.01).astype(np.uint32)
        updates.append((at, rng.standard_normal(at.size).astype(np.float32)))
    _, awor = diff_command.orthogonality((256, 256), *updates)
    assert awor == pytest.approx((1 - 0.01**2) ** 256, abs=0.005)


def test_diff_of_equal_files(shira: Shira, files: Files) -> None:
    total = shira("diff", files.fr, files.fr, "--base", files.base, "--json").json["total"]
    assert (total["overlap"], total["jaccard"], total["sign_conflicts"]) == (72, 1.0, 0)


# --- apply ---


def read_back(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Read a safetensors file, written here once more so that the command's reader is not used."""
    content = path.read_bytes()
    header_bytes = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + header_bytes])
    metadata = header.pop("__metadata__")
    types = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
    arrays = {}
    for name, entry in header.items():
        start, end = (8 + header_bytes + offset for offset in entry["data_offsets"])
        arrays[name] = np.frombuffer(content[start:end], types[entry["dtype"]])
        arrays[name] = arrays[name].reshape(entry["shape"])
    return arrays, metadata


def test_apply_writes_what_a_switch_would_leave(shira: Shira, files: Files, tmp_path: Path) -> None:
    output, before = tmp_path / "fused.safetensors", files.base.read_bytes()
    ran = shira(
        "apply", files.base, files.de, files.fr, "-o", output, "--scale", "fr=0.5", "--json"
    )
    assert ran.json["scales"] == {"de": 1.0, "fr": 0.5}
    live = {name: array.copy() for name, array in files.arrays.items()}
    program = from_numpy(live)
    program.switch({program.add_adapter(files.de): 1.0, program.add_adapter(files.fr): 0.5})
    fused, metadata = read_back(output)
    assert metadata == {"format": "pt", "who": "me"}
    assert {n: a.tobytes() for n, a in fused.items()} == {n: a.tobytes() for n, a in live.items()}
    assert fused["layer.b.weight"].tobytes() != files.arrays["layer.b.weight"].tobytes()
    assert files.base.read_bytes() == before
    assert output.stat().st_size == files.base.stat().st_size
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "b.safetensors",
        "de.shb",
        "delta.shb",
        "fr.shb",
        "fused.safetensors",
    ]


def test_apply_to_tensors_at_odd_offsets_and_with_a_prefix(
    shira: Shira, files: Files, tmp_path: Path
) -> None:
    arrays = with_prefix(files.arrays)
    arrays = {"model.layer.c.bias": arrays.pop("model.layer.c.bias"), **arrays}
    content = safetensors_bytes(arrays, {"format": "pt"})
    header_bytes = int.from_bytes(content[:8], "little")
    odd = (header_bytes + 1).to_bytes(8, "little") + content[8 : 8 + header_bytes] + b" "
    files.base.write_bytes(odd + content[8 + header_bytes :])
    output = tmp_path / "fused.safetensors"
    assert shira("apply", files.base, files.fr, "-o", output).code == 0
    fused, _ = read_back(output)
    for name, (at, values) in files.targets["fr"].items():
        assert fused[f"model.{name}"].reshape(-1)[at].tobytes() == values.tobytes()


def test_apply_does_not_overwrite(shira: Shira, files: Files, tmp_path: Path) -> None:
    output = tmp_path / "fused.safetensors"
    output.write_text("precious")
    ran = shira("apply", files.base, files.de, "-o", output)
    assert ran.code == 1
    assert "--force" in ran.err
    assert output.read_text() == "precious"
    assert shira("apply", files.base, files.de, "-o", output, "--force").code == 0
    # Onto itself: the result is complete before it takes the name.
    assert shira("apply", files.base, files.de, "-o", files.base, "--force").code == 0
    assert files.base.read_bytes() == output.read_bytes()
    ran = shira("apply", files.base, files.de, "-o", output, "--force")
    assert ran.code == 1  # applied already
    assert "tensor layer.a.weight" in ran.err


def test_apply_asks_before_trusting_an_unbound_file(
    shira: Shira, files: Files, tmp_path: Path
) -> None:
    output = tmp_path / "fused.safetensors"
    assert shira("apply", files.base, files.delta, "-o", output).code == 1
    assert not output.exists()
    allowed = shira("apply", files.base, files.delta, "-o", output, "--allow-unverified-base")
    assert allowed.code == 0
    assert "1 weights written" in allowed.out


def test_apply_needs_no_torch(files: Files, tmp_path: Path) -> None:
    done = shira_process(
        tmp_path, "apply", files.base, files.fr, "-o", "x", before="sys.modules['torch'] = None"
    )
    assert done.returncode == 0, done.stderr


# --- what is refused ---


MISUSE: dict[str, tuple[tuple[str, ...], str]] = {
    "no such command": (("fly",), "fly"),
    "no argument": (("inspect",), "file"),
    "no such option": (("inspect", "{de}", "--loud"), "--loud"),
    "no output": (("apply", "{base}", "{de}"), "output"),
    "scale without number": (
        ("apply", "{base}", "{de}", "-o", "{out}", "--scale", "de=big"),
        "NAME=NUMBER",
    ),
    "scale of a stranger": (
        ("apply", "{base}", "{de}", "-o", "{out}", "--scale", "es=1"),
        "no adapter 'es'",
    ),
    "two of one name": (("apply", "{base}", "{de}", "{de}", "-o", "{out}"), "one name"),
    "base of another kind": (("apply", "{de}", "{de}", "-o", "{out}"), ".safetensors"),
    "no checkout": (("demo", "--dir", "{folder}"), "examples"),
    "nothing to measure": (("bench", "{de}"), "one or two adapters"),
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


# --- the rest ---


def test_kernels(shira: Shira, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = shira("kernels", "--json").json
    assert rows[-1]["name"] == "scalar"
    assert sum(row["chosen"] for row in rows) == 1
    assert "scalar" in shira("kernels").out


def test_a_forced_kernel_that_is_not_there_is_refused(tmp_path: Path) -> None:
    done = shira_process(tmp_path, "kernels", SHIRA_FORCE_KERNEL="abacus")
    assert done.returncode == 2
    assert "abacus" in done.stderr


def test_help_lists_the_commands(shira: Shira) -> None:
    for ran in (shira(), shira("--help")):
        assert ran.code == 0
        for command in ("inspect", "verify", "diff", "apply", "run", "bench", "program", "demo"):
            assert f"  {command} " in ran.out


def test_demo_runs_the_checkout_around_it(tmp_path: Path) -> None:
    folder = tmp_path / "checkout" / "examples" / "minilm"
    folder.mkdir(parents=True)
    (folder / "demo.py").write_text("def main(arguments):\n    print(arguments)\n    return 7\n")
    done = shira_process(tmp_path, "demo", "--dir", folder, "--output", "x", "y")
    assert (done.returncode, done.stdout) == (7, "['--output', 'x', 'y']\n")


@pytest.mark.parametrize("module", ["typer", "rich", "ml_dtypes"])
def test_a_missing_package_is_named_with_its_extra(
    files: Files, tmp_path: Path, module: str
) -> None:
    done = shira_process(
        tmp_path,
        *("apply", files.base, files.de, "-o", "fused.safetensors"),
        before=f"sys.modules[{module!r}] = None",
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert f"needs {module}: pip install 'shira-runtime[cli" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_closed_pipe_is_no_traceback(files: Files, tmp_path: Path) -> None:
    script = f"""
import sys
from shira_runtime.cli import main
sys.exit(main(["inspect", {str(files.de)!r}]))
"""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")
