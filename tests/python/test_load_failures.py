# SPDX-License-Identifier: Apache-2.0
"""Programs that cannot be loaded: the error names what is at fault, and guesses nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

models = pytest.importorskip("_models", exc_type=ImportError)

import packed_models as packed  # noqa: E402

from shira_runtime import FormatError, load_program  # noqa: E402
from shira_runtime.export.program import export_program  # noqa: E402
from shira_runtime.export.program_file import read_named_data  # noqa: E402
from shira_runtime.weights import program_weights  # noqa: E402

_HINT = "Then data_path names it"


@pytest.mark.parametrize("kind", ["int8", "int4_group", "int4_channel"])
@pytest.mark.parametrize("scale", ["nan", "inf", "0", "-0.5"])
def test_a_scale_that_is_none_is_named(tmp_path: Path, kind: str, scale: str) -> None:
    path = packed.export(kind, packed.make_module(kind), tmp_path / "m.pte")
    weight = program_weights(path)["narrow.weight"]
    start, _ = read_named_data(path)[weight.scale_key]
    bits = np.float32(scale).tobytes()
    content = bytearray(path.read_bytes())
    groups = 96 // (weight.group_length or 96)
    if weight.group_length:  # the upper half, as bfloat16 has it
        content[start + 14 * groups : start + 14 * groups + 2] = bits[2:]
    else:
        content[start + 28 : start + 32] = bits
    path.write_bytes(content)
    with pytest.raises(FormatError, match=f"a scale of row 7 is {scale}") as caught:
        load_program(path)
    assert caught.value.tensor == "narrow.weight"
    assert _HINT not in str(caught.value)


def test_missing_data_files_are_asked_for_and_nothing_else(tmp_path: Path) -> None:
    path, data = tmp_path / "m.pte", tmp_path / "m.ptd"
    module = packed.Net().eval().requires_grad_(False)
    export_program(module, (packed.example("f32"),), path, data_path=data)
    with pytest.raises(FormatError, match=_HINT):
        load_program(path)
    assert load_program(path, data).tensors
    path = packed.export("int8", packed.make_module("int8"), tmp_path / "x.pte")
    content = bytearray(path.read_bytes())
    graph = next(re.finditer(b"XH00", content)).start() - 4
    content[graph + 34 : graph + 38] = b"YN01"  # what ExecuTorch calls its format
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"m\.pte|x\.pte") as caught:
        load_program(path)
    assert _HINT not in str(caught.value)
