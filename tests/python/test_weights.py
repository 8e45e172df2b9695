# SPDX-License-Identifier: Apache-2.0
"""What is read about a program's packed and quantized weights, and how `shira inspect` shows it.

programs/weights.pte was exported by ExecuTorch (programs/make_weights.py); weights.json has the
digests of what its layers held.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_inputs import Shira
from numpy.typing import NDArray

from shira_runtime import FileError, FormatError, UsageError
from shira_runtime.weights import program_weights

PROGRAMS = Path(__file__).resolve().parents[1] / "programs"
PROGRAM = PROGRAMS / "weights.pte"
DIGESTS = json.loads((PROGRAMS / "weights.json").read_text())
TWINS = {"twin.weight", "twice.weight"}  # equal codes: whose scales are whose is not known
UNNAMED = {"plain.weight": "xnnpack:"}  # layers that the program gives no name


def digest(array: NDArray[Any] | None) -> str | None:
    return None if array is None else hashlib.sha256(array.tobytes()).hexdigest()


@pytest.mark.parametrize("layer", sorted(set(DIGESTS) - TWINS))
def test_numbers_are_those_of_the_layer(layer: str) -> None:
    weights = program_weights(PROGRAM)
    name = layer
    if layer in UNNAMED:
        (name,) = [n for n, w in weights.items() if w.dtype == "f32" and w.storage == "packed"]
        assert name.startswith(UNNAMED[layer])
    weight = weights[name]
    codes = weight.codes()
    assert codes.shape == weight.shape
    assert codes.dtype == (np.float32 if weight.dtype == "f32" else np.int8)
    assert [digest(codes), digest(weight.scales()), digest(weight.bias())] == DIGESTS[layer]
    assert weight.zero_points() is None


def test_descriptions() -> None:
    weights = program_weights(str(PROGRAM))
    group = weights["group.weight"]
    assert (group.dtype, group.shape, group.group_length) == ("int4", (6, 64), 32)
    assert (group.owner, group.node) == ("XnnpackBackend", "XNNFullyConnected")
    assert (group.storage, group.methods) == ("packed", ("again", "forward"))
    assert group.why_not == group.shares_storage_with == ""
    assert len(group.key) == len(group.bias_key) == 64
    assert group.scale_key.startswith("scale_")
    scales = group.scales()
    assert scales is not None
    assert scales.shape == (6, 2)
    assert repr(group) == "<ProgramWeight 'group.weight' int4 6x64 of XnnpackBackend>"
    assert group.packed_name == group.key + group.bias_key
    bias = weights[f"xnnpack:{group.key[:16]}.bias"]
    assert (bias.storage, bias.beside, bias.dtype) == ("packed bias", "group.weight", "f32")
    assert (bias.shape, bias.key, bias.packed_name) == ((6,), group.bias_key, "")
    assert bias.why_not == group.beside == ""
    assert np.array_equal(bias.codes(), group.bias())
    channel = weights["channel.weight"]
    scales = channel.scales()
    assert scales is not None
    assert (channel.dtype, channel.group_length, scales.shape) == ("int8", 0, (6, 1))
    assert weights["tables.codes"].storage == "nibble table"
    assert weights["tables.head"].storage == "byte table"


def test_what_cannot_be_switched_says_why() -> None:
    weights = program_weights(PROGRAM)
    found = [[digest(weights[n].codes()), digest(weights[n].scales()), None] for n in TWINS]
    assert sorted(found) == sorted(DIGESTS[name] for name in TWINS)
    twin, twice = weights["twin.weight"], weights["twice.weight"]
    assert twin.key == twice.key
    assert twin.shares_storage_with == "twice.weight"
    assert "packs equal codes once" in twice.why_not
    (convolution,) = [w for w in weights.values() if "Conv" in w.node]
    assert "only weights of fully connected layers" in convolution.why_not
    assert convolution.dtype is None
    with pytest.raises(UsageError, match="fully connected"):
        convolution.codes()


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(FileError):
        program_weights(tmp_path / "none.pte")
    other = tmp_path / "other.pte"
    other.write_bytes(b"PK" + bytes(100))
    with pytest.raises(FormatError, match="neither"):
        program_weights(other)
    with pytest.raises(FormatError, match=r"has to be a \.ptd"):
        program_weights(PROGRAM, PROGRAM)
    with pytest.raises(UsageError):
        program_weights("zero\0byte.pte")


def test_a_file_that_became_shorter(tmp_path: Path) -> None:
    path = tmp_path / "short.pte"
    path.write_bytes(PROGRAM.read_bytes())
    weight = program_weights(path)["group.weight"]
    path.write_bytes(PROGRAM.read_bytes()[:17800])
    with pytest.raises(FormatError) as raised:
        weight.codes()
    assert raised.value.tensor == "group.weight"


def test_damage_is_refused_or_harmless(tmp_path: Path) -> None:
    content = bytearray(PROGRAM.read_bytes())
    path = tmp_path / "damaged.pte"
    generator = np.random.default_rng(5)
    for _ in range(300):
        damaged = bytearray(content)
        for at in generator.integers(0, len(content), 8):
            damaged[at] = generator.integers(0, 256)
        path.write_bytes(damaged)
        weights = {}
        with contextlib.suppress(FormatError):
            weights = program_weights(path)
        for weight in weights.values():
            if not weight.why_not:
                assert weight.codes().shape == weight.shape


def test_inspect_says_how_each_weight_is_switched(shira: Shira) -> None:
    pytest.importorskip("typer")
    described = shira("inspect", PROGRAM, "--json").json
    tensors = {tensor["name"]: tensor for tensor in described["tensors"]}
    assert [tensor["name"] for tensor in described["tensors"]] == sorted(tensors)
    modes = {name: tensor["mode"] for name, tensor in tensors.items()}
    assert modes["norm"] == modes["tables.scales"] == "mapped"
    assert modes["group.weight"] == modes["channel.weight"] == "packed"
    assert modes["tables.codes"] == "nibble table"
    biases = [name for name, mode in modes.items() if mode == "packed bias"]
    assert len(biases) == 2
    assert all(tensors[name]["shape"] == [6] for name in biases)
    assert modes["tables.head"] == "byte table"
    assert modes["twin.weight"] is None
    assert tensors["group.weight"]["methods"] == ["again", "forward"]
    assert tensors["tables.head"]["why_not"] is None  # not the constant's: its dtype is int8
    for tensor in tensors.values():
        assert tensor["switchable"] == (tensor["mode"] is not None) == (tensor["why_not"] is None)

    out = shira("inspect", PROGRAM).out
    assert "with 13 named weights, 10 of them switchable" in out
    assert "packed: packed by XNNPACK when a method is loaded" in out
    assert "packed bias: floats, stored between the rows" in out
    assert "int4 of 32" in out
    assert "twin.weight has the same with another scale" in out


def test_inspect_takes_data_files_of_programs_only(shira: Shira, tmp_path: Path) -> None:
    pytest.importorskip("typer")
    assert shira("inspect", PROGRAM, "--data", PROGRAM).code == 1
    assert shira("inspect", PROGRAM, "--data", tmp_path / "none.ptd").code == 1
    note = tmp_path / "x.shb"
    note.write_bytes(bytes(100))
    assert shira("inspect", note, "--data", PROGRAM).code == 2
