# SPDX-License-Identifier: Apache-2.0
"""Program over ExecuTorch files: loading, switching what the program computes with, refusals."""

from __future__ import annotations

import functools
import gc
import hashlib
import os
import runpy
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from shb_files import adapter, tensor_entries

import shira_runtime
from shira_runtime import (
    Adapter,
    AttachError,
    BaseMismatchError,
    FileError,
    FormatError,
    Program,
    UsageError,
    load_program,
)

models = pytest.importorskip("_models", exc_type=ImportError)
torch = models.torch


@pytest.fixture(autouse=True, params=["executorch", "torch"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each test with each engine."""
    load = functools.partial(shira_runtime.load_program, engine=request.param)
    monkeypatch.setattr(sys.modules[__name__], "load_program", load)
    return str(request.param)


def bytes_of(output: Any) -> bytes:
    """Of an array or a tensor, of bfloat16 too."""
    array = bits_of(output) if isinstance(output, torch.Tensor) else output
    return bytes(np.asarray(array).tobytes())


def equal(one: Any, other: Any) -> bool:
    """Arrays or tensors with the same bytes."""
    return bytes_of(one) == bytes_of(other)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same small encoder as one file, with its weights in a .ptd, and delegated."""
    from shira_runtime.export.program import export_program

    folder = tmp_path_factory.mktemp("programs")
    paths = {name: folder / f"{name}.pte" for name in ("inline", "external", "delegated")}
    paths["data"] = folder / "external.ptd"
    module, inputs = models.tiny_encoder(), (models.tiny_ids(),)
    export_program(module, inputs, paths["inline"])
    export_program(module, inputs, paths["external"], data_path=paths["data"])
    export_program(module, inputs, paths["delegated"], backend="xnnpack")
    return paths


def open_program(files: dict[str, Path], kind: str) -> Program:
    return load_program(files[kind], files["data"] if kind == "external" else None)


def bits_of(weight: Any) -> Any:
    """A torch tensor as a numpy array of the same bytes."""
    if weight.dtype == torch.bfloat16:
        return weight.detach().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return weight.detach().numpy()


def wide_adapter(dtype: Any = torch.float32) -> Adapter:
    base = bits_of(models.tiny_encoder(dtype).wide.weight)
    narrow = bits_of(models.tiny_encoder(dtype).narrow.weight)
    indices = np.arange(5, 200, 7)
    return adapter(
        "x",
        tensor_entries("wide.weight", base, indices, np.full(indices.size, 3.0)),
        tensor_entries("narrow.weight", narrow, np.arange(32, 48), np.linspace(-1, 1, 16)),
    )


def merged_output(file: Adapter, dtype: Any = torch.float32) -> Any:
    module = models.tiny_encoder(dtype)
    for name, tensor in file.tensors.items():
        weight = module.get_parameter(name).view(-1)
        places = torch.from_numpy(tensor.indices().astype(np.int64))
        weight[places] = torch.from_numpy(tensor.values().astype(np.float32)).to(dtype)
    return module, module(models.tiny_ids())


@pytest.mark.parametrize("kind", ["inline", "external"])
def test_the_program_computes_with_the_switched_weights(
    files: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    from shira_runtime.export.program import export_program

    digests = {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in files.values()}
    program = open_program(files, kind)
    file = wide_adapter()
    (base,) = program.forward(models.tiny_ids())
    program.add_adapter(file)
    report = program.switch("x")
    assert report.elements_written == file.entry_count
    (output,) = program.forward(models.tiny_ids())
    # The same operators over merged weights, so equal to the last bit.
    module, eager = merged_output(file)
    export_program(module, (models.tiny_ids(),), tmp_path / "merged.pte")
    assert equal(output, load_program(tmp_path / "merged.pte").forward(models.tiny_ids())[0])
    assert np.allclose(output, eager, atol=1e-4)
    assert not equal(output, base)
    assert program.verify_base().tensors_checked == len(program.tensors)
    program.switch(None)
    assert equal(program.forward(models.tiny_ids())[0], base)
    program.switch({"x": 0.5})
    program.hard_revert()
    assert program.active == {}
    assert equal(program.forward(models.tiny_ids())[0], base)
    assert digests == {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in files.values()}


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_16_bit_weights_are_switched_to_those_of_a_merged_program(
    name: str, tmp_path: Path
) -> None:
    from shira_runtime.export.program import export_program

    dtype = getattr(torch, name)
    inputs = (models.tiny_ids(),)
    export_program(models.tiny_encoder(dtype), inputs, tmp_path / "base.pte")
    file = wide_adapter(dtype)
    module, _ = merged_output(file, dtype)
    export_program(module, inputs, tmp_path / "merged.pte")
    (merged,) = load_program(tmp_path / "merged.pte").forward(*inputs)
    program = load_program(tmp_path / "base.pte")
    (base,) = program.forward(*inputs)
    program.add_adapter(file)
    program.switch("x")
    assert equal(program.forward(*inputs)[0], merged)
    assert not equal(merged, base)
    program.switch(None)
    assert equal(program.forward(*inputs)[0], base)


@pytest.mark.parametrize("kind", ["inline", "external"])
def test_tensors_are_the_named_constants(files: dict[str, Path], kind: str) -> None:
    program = open_program(files, kind)
    assert program.tensors["wide.weight"].shape == (24, 16)
    assert program.tensors["wide.weight"].dtype == "f32"
    assert {"embedding.weight", "norm.weight", "narrow.weight", "offset"} <= set(program.tensors)
    assert "step" in program.unpatchable  # int64


def test_what_a_delegate_has_packed_is_switched_by_our_engine_alone(
    files: dict[str, Path], engine: str, tmp_path: Path
) -> None:
    from shira_runtime.export.program import export_program

    program = load_program(files["delegated"])
    if engine == "torch":
        assert "wide.weight" not in program.tensors
        with pytest.raises(BaseMismatchError) as caught:
            program.add_adapter(wide_adapter())
        assert caught.value.status == "UNKNOWN_TENSOR"
        assert program.forward(models.tiny_ids())[0].shape == (1, 5, 12)
        return
    (base,) = program.forward(models.tiny_ids())
    program.add_adapter(wide_adapter())
    program.switch("x")
    module, _ = merged_output(wide_adapter())
    export_program(module, (models.tiny_ids(),), tmp_path / "merged.pte", backend="xnnpack")
    (merged,) = load_program(tmp_path / "merged.pte").forward(models.tiny_ids())
    assert equal(program.forward(models.tiny_ids())[0], merged)
    assert not equal(merged, base)
    program.switch(None)
    assert equal(program.forward(models.tiny_ids())[0], base)


def test_two_programs_of_one_file_are_switched_apart(files: dict[str, Path]) -> None:
    one, other = load_program(files["inline"]), load_program(files["inline"])
    one.add_adapter(wide_adapter())
    (base,) = other.forward(models.tiny_ids())
    one.switch("x")
    assert equal(other.forward(models.tiny_ids())[0], base)
    assert not equal(one.forward(models.tiny_ids())[0], base)
    one.switch(None)


def test_loading_again_after_dropping_a_switched_program(files: dict[str, Path]) -> None:
    program = load_program(files["inline"])
    (base,) = program.forward(models.tiny_ids())
    program.add_adapter(wide_adapter())
    program.switch("x")
    del program
    gc.collect()
    assert equal(load_program(files["inline"]).forward(models.tiny_ids())[0], base)


def test_numpy_inputs(files: dict[str, Path]) -> None:
    program = load_program(files["inline"])
    ids = models.tiny_ids()
    frozen = ids.numpy().copy()
    frozen.flags.writeable = False
    assert equal(program.forward(frozen)[0], program.forward(ids)[0])


def test_inputs_that_the_method_refuses(files: dict[str, Path]) -> None:
    program = load_program(files["inline"])
    with pytest.raises(UsageError, match=r"int64\[2, 7\]") as caught:
        program.forward(torch.ones(2, 7, dtype=torch.int64))
    assert caught.value.status == "INVALID_ARGUMENT"
    program.try_switch(None)  # the gate is open again


def test_a_missing_or_broken_file(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(FileError):
        load_program(tmp_path / "none.pte")
    broken = tmp_path / "broken.pte"
    broken.write_bytes(files["inline"].read_bytes()[:300])
    with pytest.raises(FormatError) as caught:
        load_program(broken)
    assert caught.value.file == str(broken)


def test_a_method_that_is_not_there(files: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="no method 'backward', only forward"):
        load_program(files["inline"], method="backward")


def test_a_data_file_that_was_not_named(files: dict[str, Path]) -> None:
    with pytest.raises(FormatError, match="data_path") as caught:
        load_program(files["external"])
    assert caught.value.status == "BAD_PROGRAM_FILE"
    assert caught.value.file == str(files["external"])


def test_the_file_may_be_replaced_while_the_program_lives(
    files: dict[str, Path], tmp_path: Path
) -> None:
    path, other = tmp_path / "model.pte", tmp_path / "other.pte"
    path.write_bytes(files["inline"].read_bytes())
    program = load_program(path)
    (base,) = program.forward(models.tiny_ids())
    program.add_adapter(wide_adapter())
    program.switch("x")
    other.write_bytes(b"something else")
    os.replace(other, path)
    program.switch(None)
    assert equal(program.forward(models.tiny_ids())[0], base)
    program.switch("x")
    program.hard_revert()  # the mapping still shows the old file
    assert equal(program.forward(models.tiny_ids())[0], base)
    assert path.read_bytes() == b"something else"


def test_a_file_that_was_cut_short_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "model.pte"
    path.write_bytes(files["inline"].read_bytes())
    program = load_program(path)
    program.add_adapter(wide_adapter())
    os.truncate(path, 100)  # touching the weights now would end the process
    with pytest.raises(AttachError) as caught:
        program.switch("x")
    assert caught.value.status == "DETACHED"
    assert "truncated to 100 bytes" in str(caught.value)
    assert caught.value.tensor in ("wide.weight", "narrow.weight")
    assert program.active == {}


def test_wrong_base(files: dict[str, Path]) -> None:
    program = load_program(files["inline"])
    base = models.tiny_encoder(seed=1).wide.weight.detach().numpy()
    program.add_adapter(
        adapter("x", tensor_entries("wide.weight", base, np.array([1]), np.ones(1)))
    )
    (before,) = program.forward(models.tiny_ids())
    with pytest.raises(BaseMismatchError) as caught:
        program.switch("x")
    assert (caught.value.status, caught.value.tensor) == ("BASE_MISMATCH", "wide.weight")
    assert equal(program.forward(models.tiny_ids())[0], before)


def test_the_quickstart_runs(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(
        str(Path(__file__).parents[2] / "examples" / "quickstart.py"), run_name="__main__"
    )
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("switched 327 weights in ")
    assert printed[-1] == "the base is back: True"
