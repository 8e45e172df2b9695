# SPDX-License-Identifier: Apache-2.0
"""From checkpoints to .shb files without PyTorch: values, bindings, shapes, and refusals."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import xxhash
from export_inputs import (
    BF16,
    CONFIG,
    Q_PROJ,
    peft_tensors,
    random_pairs,
    weights,
    write_peft,
    write_safetensors,
)
from hypothesis import example, given
from hypothesis import strategies as st
from shb_reader import read_shb

from shira_runtime.export import ExportError, export_adapter

SHAPE = (12, 20)
NNZ = 32  # what PEFT gives r = 1 for this shape
NAME = "layers.0.q_proj.weight"


@pytest.fixture
def pairs() -> tuple[Any, Any]:
    return random_pairs(SHAPE, NNZ)


@pytest.fixture
def adapter(tmp_path: Path, pairs: tuple[Any, Any]) -> Path:
    return write_peft(tmp_path / "de", peft_tensors(*pairs))


def base_file(tmp_path: Path, dtype: Any = np.float32, **more: Any) -> Path:
    tensors = {NAME: weights(SHAPE, dtype), "layers.0.k_proj.weight": weights(SHAPE), **more}
    return write_safetensors(tmp_path / f"base-{np.dtype(dtype).name}.safetensors", tensors)


def refused(tmp_path: Path, message: str, source: Path, **options: Any) -> None:
    output = tmp_path / "refused.shb"
    with pytest.raises(ExportError, match=message):
        export_adapter(source, output, **options)
    assert not output.exists()
    assert not list(tmp_path.glob(".*"))


# --- Values ---


@pytest.mark.parametrize("dtype", [np.float32, np.float16, BF16])
@pytest.mark.parametrize("scale", [1.0, 0.3, -2.0])
def test_targets_are_the_base_plus_the_scaled_delta_rounded_once(
    tmp_path: Path, adapter: Path, pairs: tuple[Any, Any], dtype: Any, scale: float
) -> None:
    base = weights(SHAPE, dtype)
    export_adapter(adapter, tmp_path / "a.shb", base=base_file(tmp_path, dtype), scale=scale)
    read = read_shb(tmp_path / "a.shb")
    tensor = read["tensors"][NAME]
    indices, deltas = pairs
    dense = np.zeros(SHAPE, np.float32)
    dense[tuple(indices)] = deltas
    expected = (base.astype(np.float32) + np.float32(scale) * dense).astype(dtype)
    flat = np.flatnonzero(dense)
    assert read["bound"]
    assert (tensor["kind"], tensor["shape"]) == ("target", SHAPE)
    assert tensor["values"].dtype == dtype
    assert tensor["indices"].tolist() == flat.tolist()
    assert tensor["values"].tobytes() == expected.reshape(-1)[flat].tobytes()
    touched = base.reshape(-1)[flat].tobytes()
    assert tensor["fingerprint"] == xxhash.xxh3_128(touched).digest()
    assert tensor["base_digest"] == xxhash.xxh3_128(base.tobytes()).digest()


def test_without_a_base_deltas_stay_deltas(
    tmp_path: Path, adapter: Path, pairs: tuple[Any, Any]
) -> None:
    report = export_adapter(adapter, tmp_path / "a.shb", shapes={NAME: SHAPE}, scale=0.5)
    read = read_shb(tmp_path / "a.shb")
    tensor = read["tensors"][NAME]
    assert not read["bound"]
    assert (tensor["kind"], tensor["dtype"], tensor["value_dtype"]) == ("delta", "f32", "f32")
    assert tensor["values"].tobytes() == (pairs[1] * np.float32(0.5)).tobytes()
    assert tensor["fingerprint"] is None
    assert report.base is None
    assert "unbound" in report.notes[0]


@pytest.mark.parametrize("values", ["f16", "bf16"])
def test_deltas_can_be_stored_in_two_bytes_and_the_loss_is_reported(
    tmp_path: Path, adapter: Path, pairs: tuple[Any, Any], values: str
) -> None:
    numpy_type = {"f16": np.float16, "bf16": BF16}[values]
    report = export_adapter(
        adapter, tmp_path / "a.shb", shapes={NAME: SHAPE}, values=values, dtype="bf16"
    )
    tensor = read_shb(tmp_path / "a.shb")["tensors"][NAME]
    rounded = pairs[1].astype(numpy_type)
    assert (tensor["dtype"], tensor["value_dtype"]) == ("bf16", values)
    assert tensor["values"].tobytes() == rounded.tobytes()
    loss = np.abs(rounded.astype(np.float32) - pairs[1]).max()
    assert 0 < report.tensors[0].rounding_error == pytest.approx(loss)
    assert any(f"rounding to {values}" in note for note in report.notes)


def test_a_base_is_converted_first_when_another_dtype_is_deployed(
    tmp_path: Path, adapter: Path
) -> None:
    report = export_adapter(adapter, tmp_path / "a.shb", base=base_file(tmp_path), dtype="f16")
    export_adapter(adapter, tmp_path / "b.shb", base=base_file(tmp_path, np.float16))
    a, b = (read_shb(tmp_path / f"{name}.shb")["tensors"][NAME] for name in "ab")
    assert a["dtype"] == "f16"
    assert (a["values"].tobytes(), a["fingerprint"], a["base_digest"]) == (
        b["values"].tobytes(),
        b["fingerprint"],
        b["base_digest"],
    )
    assert "converted to f16" in report.notes[0]


def test_a_base_in_double_precision_needs_a_dtype(tmp_path: Path, adapter: Path) -> None:
    base = base_file(tmp_path, np.float64)
    refused(tmp_path, f"{NAME}: has type float64", adapter, base=base)
    export_adapter(adapter, tmp_path / "a.shb", base=base, dtype="f32")


def test_a_base_with_values_too_large_for_the_dtype_is_refused(
    tmp_path: Path, adapter: Path
) -> None:
    large = weights(SHAPE)
    large[3, 4] = 1e6
    base = write_safetensors(tmp_path / "base.safetensors", {NAME: large})
    message = f"{NAME}: 1 values are too large for f16, .* at flat index {3 * 20 + 4}"
    refused(tmp_path, message, adapter, base=base, dtype="f16")


def test_a_target_too_large_for_the_base_is_refused(tmp_path: Path, pairs: tuple[Any, Any]) -> None:
    indices, deltas = pairs
    deltas[5] = 1e5
    adapter = write_peft(tmp_path / "de", peft_tensors(indices, deltas))
    position = int(np.ravel_multi_index(tuple(indices[:, 5]), SHAPE))
    message = f"{Q_PROJ}: 1 values are too large for f16, .* at flat index {position}$"
    refused(tmp_path, message, adapter, base=base_file(tmp_path, np.float16))
    refused(tmp_path, message, adapter, shapes={NAME: SHAPE}, values="f16")
    deltas[5] = 3e38
    adapter = write_peft(tmp_path / "de", peft_tensors(indices, deltas))
    message = f"{Q_PROJ}: 1 new values are NaN or infinite, the first at flat index {position}"
    refused(tmp_path, message, adapter, base=base_file(tmp_path), scale=2.0)
    refused(tmp_path, message, adapter, shapes={NAME: SHAPE}, scale=2.0)


def test_a_base_that_is_not_finite_at_a_touched_position_is_refused(
    tmp_path: Path, adapter: Path, pairs: tuple[Any, Any]
) -> None:
    broken = weights(SHAPE)
    broken[tuple(pairs[0][:, 0])] = np.nan
    base = write_safetensors(tmp_path / "base.safetensors", {NAME: broken})
    refused(tmp_path, f"{Q_PROJ}: 1 new values are NaN", adapter, base=base)


def test_entries_that_change_nothing_are_kept_and_counted(
    tmp_path: Path, pairs: tuple[Any, Any]
) -> None:
    indices, deltas = pairs
    deltas[:7] = 0
    deltas[7] = 1e-12  # lost when it is added to a weight
    adapter = write_peft(tmp_path / "de", peft_tensors(indices, deltas))
    bound = export_adapter(adapter, tmp_path / "a.shb", base=base_file(tmp_path))
    unbound = export_adapter(adapter, tmp_path / "b.shb", shapes={NAME: SHAPE})
    assert [r.tensors[0].no_op_entry_count for r in (bound, unbound)] == [8, 7]
    assert bound.entry_count == unbound.entry_count == NNZ


@pytest.mark.parametrize("options", [{"base": True}, {"shapes": {NAME: SHAPE}}])
def test_an_adapter_without_effect_is_refused(
    tmp_path: Path, pairs: tuple[Any, Any], adapter: Path, options: dict[str, Any]
) -> None:
    if "base" in options:
        options = {"base": base_file(tmp_path)}
    untrained = write_peft(tmp_path / "untrained", peft_tensors(pairs[0], np.zeros(NNZ, "f4")))
    refused(tmp_path, "no entry changes a weight at scale 1", untrained, **options)
    refused(tmp_path, "no entry changes a weight at scale 0", adapter, scale=0.0, **options)


# --- PEFT's layout ---


def test_windows_indices_unsorted_entries_and_16_bit_values_are_read(
    tmp_path: Path, pairs: tuple[Any, Any], adapter: Path
) -> None:
    indices, deltas = pairs
    order = np.random.default_rng(3).permutation(NNZ)
    base = base_file(tmp_path)
    export_adapter(adapter, tmp_path / "a.shb", base=base, name="x")
    expected = read_shb(tmp_path / "a.shb")["tensors"][NAME]
    for i, (changed, values) in enumerate(
        [
            (indices.astype(np.float32), deltas),
            (indices.astype(np.int64), deltas),
            (indices[:, order], deltas[order]),
        ]
    ):
        other = write_peft(tmp_path / f"other{i}", peft_tensors(changed, values))
        export_adapter(other, tmp_path / f"{i}.shb", base=base)
        found = read_shb(tmp_path / f"{i}.shb")["tensors"][NAME]
        assert found["indices"].tolist() == expected["indices"].tolist()
        assert found["values"].tobytes() == expected["values"].tobytes()
    half = write_peft(tmp_path / "half", peft_tensors(indices, deltas.astype(BF16)))
    report = export_adapter(half, tmp_path / "half.shb", base=base)
    assert report.tensors[0].source_dtype == "bf16"


def test_fan_in_fan_out_swaps_rows_and_columns(tmp_path: Path, pairs: tuple[Any, Any]) -> None:
    indices, deltas = pairs
    adapter = write_peft(tmp_path / "de", peft_tensors(indices, deltas), fan_in_fan_out=True)
    base = write_safetensors(tmp_path / "base.safetensors", {NAME: weights(SHAPE[::-1])})
    report = export_adapter(adapter, tmp_path / "a.shb", base=base)
    tensor = read_shb(tmp_path / "a.shb")["tensors"][NAME]
    expected = np.zeros(SHAPE[::-1], np.float32)
    expected[indices[1], indices[0]] = 1
    assert tensor["indices"].tolist() == np.flatnonzero(expected).tolist()
    assert any("fan_in_fan_out" in note for note in report.notes)


def test_the_weights_file_alone_is_read_with_its_config_or_without(
    tmp_path: Path, adapter: Path
) -> None:
    base = base_file(tmp_path)
    weights_file = adapter / "adapter_model.safetensors"
    beside = export_adapter(weights_file, tmp_path / "a.shb", base=base)
    assert beside.metadata["source_format"] == "peft-shira 0.21.2"
    alone = weights_file.rename(tmp_path / "renamed.safetensors")
    report = export_adapter(alone, tmp_path / "b.shb", base=base)
    assert report.metadata["source_format"] == "peft-shira"
    a, b = (read_shb(tmp_path / f"{n}.shb")["tensors"][NAME] for n in "ab")
    assert a["values"].tobytes() == b["values"].tobytes()


def test_an_adapter_name_in_the_keys_is_taken_off(tmp_path: Path, pairs: tuple[Any, Any]) -> None:
    tensors = {f"{key}.german": value for key, value in peft_tensors(*pairs).items()}
    source = write_safetensors(tmp_path / "state.safetensors", tensors)
    report = export_adapter(source, tmp_path / "a.shb", base=base_file(tmp_path))
    assert [t.name for t in report.tensors] == [NAME]
    tensors |= {f"{key}.french": value for key, value in peft_tensors(*pairs).items()}
    both = write_safetensors(tmp_path / "both.safetensors", tensors)
    refused(tmp_path, r"holds 2 adapters \(french, german\)", both, base=base_file(tmp_path))


@pytest.mark.parametrize("part", ["shira_weight", "shira_indices"])
def test_half_a_pair_is_refused(tmp_path: Path, pairs: tuple[Any, Any], part: str) -> None:
    tensors = peft_tensors(*pairs)
    del tensors[f"{Q_PROJ}.{part}"]
    adapter = write_peft(tmp_path / "de", tensors)
    message = f"adapter_model.safetensors: tensor {Q_PROJ}: has no {part}"
    refused(tmp_path, message, adapter, base=base_file(tmp_path))


def test_lengths_and_forms_that_peft_never_writes_are_refused(
    tmp_path: Path, pairs: tuple[Any, Any]
) -> None:
    indices, deltas = pairs
    base = base_file(tmp_path)
    short = write_peft(tmp_path / "short", peft_tensors(indices[:, 1:], deltas))
    refused(tmp_path, f"tensor {Q_PROJ}: indices of shape .2, 31. do not", short, base=base)
    flat = write_peft(tmp_path / "flat", peft_tensors(indices[0], deltas))
    refused(tmp_path, f"tensor {Q_PROJ}: shira_indices have shape .32,.", flat, base=base)


def test_the_number_of_entries_must_fit_r_and_the_shape(tmp_path: Path, adapter: Path) -> None:
    wrong = write_safetensors(tmp_path / "wrong.safetensors", {NAME: weights((20, 20))})
    message = f"tensor {Q_PROJ}: has 32 entries, but r = 1 .* 40 for shape .20, 20."
    refused(tmp_path, message, adapter, base=wrong)
    refused(tmp_path, message, adapter, shapes={NAME: (20, 20)})


def test_a_transposed_base_is_refused(tmp_path: Path, adapter: Path) -> None:
    base = write_safetensors(tmp_path / "base.safetensors", {NAME: weights(SHAPE[::-1])})
    refused(tmp_path, f"tensor {Q_PROJ}: the index along axis 1 .* 0 to 11", adapter, base=base)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "LORA"}, "is a LORA adapter; only SHIRA"),
        ({"peft_type": "LORA", "use_dora": True}, r"is a LORA \(DoRA\) adapter"),
        ({"peft_type": None}, "is a None adapter"),
    ],
)
def test_other_peft_methods_are_refused_by_their_config(
    tmp_path: Path, pairs: tuple[Any, Any], config: dict[str, Any], message: str
) -> None:
    adapter = write_peft(tmp_path / "other", peft_tensors(*pairs), **config)
    refused(tmp_path, f"adapter_config.json: {message}", adapter, base=base_file(tmp_path))


@pytest.mark.parametrize(
    ("keys", "method"),
    [
        (["lora_A.weight", "lora_B.weight"], "LoRA"),
        (["lora_A.weight", "lora_B.weight", "lora_magnitude_vector"], "DoRA"),
        (["ia3_l"], "IA3"),
    ],
)
def test_other_peft_methods_are_refused_by_their_keys(
    tmp_path: Path, keys: list[str], method: str
) -> None:
    tensors = {f"{Q_PROJ}.{key}": np.zeros((2, 2), np.float32) for key in keys}
    source = write_safetensors(tmp_path / "lora.safetensors", tensors)
    refused(tmp_path, f"lora.safetensors: is a {method} adapter", source)


def test_extra_tensors_are_listed_and_left_out_only_on_demand(
    tmp_path: Path, pairs: tuple[Any, Any]
) -> None:
    head = {"base_model.model.lm_head.weight": np.ones((2, 2), np.float32)}
    adapter = write_peft(tmp_path / "de", {**peft_tensors(*pairs), **head})
    base = base_file(tmp_path)
    message = "1 tensors would be left out.*lm_head.weight: not a SHiRA"
    refused(tmp_path, message, adapter, base=base)
    report = export_adapter(adapter, tmp_path / "a.shb", base=base, allow_skipped=True)
    assert [s.name for s in report.skipped] == ["base_model.model.lm_head.weight"]
    assert list(read_shb(tmp_path / "a.shb")["tensors"]) == [NAME]


def test_damaged_folders_are_refused(tmp_path: Path, adapter: Path) -> None:
    refused(tmp_path, "has no model.safetensors.* and no adapter_config", tmp_path)
    (adapter / "adapter_config.json").write_text("{")
    refused(tmp_path, "adapter_config.json: is not JSON", adapter)
    (adapter / "adapter_config.json").write_text("[1]")
    refused(tmp_path, "adapter_config.json: expected a JSON object", adapter)
    (adapter / "adapter_config.json").write_text(json.dumps(CONFIG))
    (adapter / "adapter_model.safetensors").unlink()
    refused(tmp_path, "has no adapter_model.safetensors or adapter_model.bin", adapter)
    write_safetensors(adapter / "adapter_model.safetensors", {"x": np.zeros(1, np.float32)})
    refused(tmp_path, "holds no shira_weight", adapter)


def test_damaged_files_are_refused(tmp_path: Path, adapter: Path) -> None:
    content = (adapter / "adapter_model.safetensors").read_bytes()
    cases = {
        "short": (content[:-1], "is not a sound safetensors"),
        "long": (content + b"\0", "is not a sound safetensors"),
        "empty": (b"", "is no safetensors, PyTorch or ExecuTorch file"),
        "text": (b"hello, world", "is no safetensors"),
        "shb": (b"\x89SHB\r\n\x1a\n", "is already a .shb file"),
        "gguf": (b"GGUF\x03\0\0\0\0", "is a GGUF file"),
        "pte": (b"\x1c\0\0\0ET12eh00", "is an ExecuTorch program; programs are"),
    }
    for name, (damaged, message) in cases.items():
        path = tmp_path / name
        path.write_bytes(damaged)
        refused(tmp_path, f"{name}: {message}", path)
    with pytest.raises(FileNotFoundError):
        export_adapter(tmp_path / "nothing", tmp_path / "a.shb")


STARTS = [b"\x80", b"PK\x03\x04", b"\x89SHB", b"GGUF", b"{", b"\0\0\0\0ET12", b"\0\0\0\0FT01", b""]


@given(st.sampled_from(STARTS), st.binary(max_size=16), st.integers(0, 16))
@example(b"\x80", b"", 16)
@example(b"\2\0\0\0\0\0\0\0", b"{}", 16)
@example(b"\2\0\0\0\0\0\0\0", b"[]", 16)
def test_a_file_of_few_bytes_is_refused_as_adapter_and_as_base(
    start: bytes, rest: bytes, size_bytes: int
) -> None:
    content = (start + rest)[:size_bytes]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "small")
        path.write_bytes(content)
        with pytest.raises(ExportError, match="small"):
            export_adapter(path, Path(folder, "a.shb"))
        adapter = write_peft(Path(folder, "de"), peft_tensors(*random_pairs(SHAPE, NNZ)))
        with pytest.raises(ExportError, match="small"):
            export_adapter(adapter, Path(folder, "a.shb"), base=path)


def test_two_tensors_of_one_name_in_a_safetensors_file_are_refused(tmp_path: Path) -> None:
    entry = b'"a.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    header = b"{" + entry + b"," + entry + b"}"
    path = tmp_path / "twice.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    refused(tmp_path, "twice.safetensors: .*a.weight is given twice", path)


# --- Shapes without a base ---


def test_a_missing_shape_names_the_three_ways_to_give_it(tmp_path: Path, adapter: Path) -> None:
    message = (
        f"tensor {Q_PROJ}: the shape of {NAME} is not in the file; give the model as --base,"
        ".*base_model_name_or_path in adapter_config.json, or give --shapes"
    )
    refused(tmp_path, message, adapter)
    refused(tmp_path, message, adapter, shapes={"another.weight": (2, 2)})


def test_shapes_come_from_a_local_base_and_nothing_is_downloaded(
    tmp_path: Path, pairs: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "local-model"
    folder.mkdir()
    write_safetensors(folder / "model.safetensors", {f"model.{NAME}": weights(SHAPE)})
    adapter = write_peft(tmp_path / "de", peft_tensors(*pairs), base_model_name_or_path=str(folder))
    report = export_adapter(adapter, tmp_path / "a.shb")
    tensor = read_shb(tmp_path / "a.shb")["tensors"][NAME]
    assert (tensor["shape"], tensor["kind"]) == (SHAPE, "delta")
    assert report.metadata["base"] == "local-model"
    assert str(folder) not in (tmp_path / "a.shb").read_bytes().decode("latin1")
    assert any("shapes were taken from" in note for note in report.notes)
    # Given shapes win over the local base.
    refused(tmp_path, "r = 1", adapter, shapes={NAME: (12, 21)})


def test_a_folder_of_the_bases_name_without_weights_counts_as_no_base(
    tmp_path: Path, pairs: tuple[Any, Any]
) -> None:
    folder = tmp_path / "local-model"
    folder.mkdir()
    adapter = write_peft(tmp_path / "de", peft_tensors(*pairs), base_model_name_or_path=str(folder))
    message = f"shape of {NAME} is not in the file; .*give --shapes .*local-model: has no model"
    refused(tmp_path, message, adapter)
    report = export_adapter(adapter, tmp_path / "a.shb", shapes={NAME: SHAPE})
    assert not any("shapes were taken from" in note for note in report.notes)


def test_bad_shapes_are_refused(tmp_path: Path, adapter: Path) -> None:
    for shape in ((), (0, 2), (-1, 2), (1.5, 2), "12x20"):
        refused(tmp_path, f"shape of {NAME}: ", adapter, shapes={NAME: shape})


# --- Bases ---


def test_folders_shards_and_single_files_are_the_same_base(tmp_path: Path, adapter: Path) -> None:
    tensors = {NAME: weights(SHAPE), "other.weight": weights((3, 3))}
    single = write_safetensors(tmp_path / "single.safetensors", tensors)
    folder, sharded = tmp_path / "folder", tmp_path / "sharded"
    folder.mkdir()
    sharded.mkdir()
    write_safetensors(folder / "model.safetensors", tensors)
    weight_map = {}
    for i, (name, array) in enumerate(tensors.items()):
        write_safetensors(sharded / f"part-{i}.safetensors", {name: array})
        weight_map[name] = f"part-{i}.safetensors"
    index = sharded / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    values = []
    for i, base in enumerate((single, folder, sharded)):
        export_adapter(adapter, tmp_path / f"{i}.shb", base=base)
        values.append(read_shb(tmp_path / f"{i}.shb")["tensors"][NAME]["values"].tobytes())
    assert values[0] == values[1] == values[2]
    for broken, message in (
        ({"weight_map": {NAME: "../single.safetensors"}}, "not the name of a file beside it"),
        ({"weight_map": {NAME: "part-1.safetensors"}}, f"part-1.safetensors has no tensor {NAME}"),
        ({"weight_map": [1]}, "has no weight_map"),
        ({"weight_map": {NAME: 1}}, "1 is not the name of a file beside it"),
        ({"weight_map": {NAME: ""}}, "'' is not the name of a file beside it"),
        ([], "expected a JSON object"),
    ):
        index.write_text(json.dumps(broken))
        refused(tmp_path, f"index.json: .*{message}", adapter, base=sharded)
    index.write_text("[" * 100_000)
    refused(tmp_path, "index.json: is not JSON", adapter, base=sharded)


def test_names_are_matched_with_the_base(tmp_path: Path, adapter: Path) -> None:
    longer = write_safetensors(tmp_path / "a.safetensors", {f"text.{NAME}": weights(SHAPE)})
    report = export_adapter(adapter, tmp_path / "a.shb", base=longer)
    assert list(read_shb(tmp_path / "a.shb")["tensors"]) == [f"text.{NAME}"]
    assert [(m.source, m.how) for m in report.matches] == [(f"{Q_PROJ}.weight", "suffix")]
    twins = {f"{side}.{NAME}": weights(SHAPE) for side in ("left", "right")}
    two = write_safetensors(tmp_path / "two.safetensors", twins)
    message = f"tensor {Q_PROJ}: 2 tensors of .*left.{NAME}, right.{NAME}"
    refused(tmp_path, message, adapter, base=two)
    renames = [(r"^base_model\.model\.", "right.")]
    export_adapter(adapter, tmp_path / "b.shb", base=two, renames=renames)
    assert list(read_shb(tmp_path / "b.shb")["tensors"]) == [f"right.{NAME}"]
    none = write_safetensors(tmp_path / "none.safetensors", {"x.weight": weights(SHAPE)})
    refused(tmp_path, f"{Q_PROJ}.weight: no such tensor in .*none", adapter, base=none)
    refused(tmp_path, "no tensor is left", adapter, base=none, allow_skipped=True)


def test_two_tensors_for_one_name_are_refused(tmp_path: Path, pairs: tuple[Any, Any]) -> None:
    tensors = peft_tensors(*pairs) | peft_tensors(*pairs, module="base_model.model.layers.1.q_proj")
    adapter = write_peft(tmp_path / "de", tensors)
    options = {"renames": [(r"layers\.\d", "layers.0")]}
    for more in ({"base": base_file(tmp_path)}, {"shapes": {NAME: SHAPE}}):
        refused(tmp_path, f"both become {NAME}", adapter, **options, **more)


def test_types_that_no_adapter_changes_are_refused(tmp_path: Path, adapter: Path) -> None:
    for dtype in (np.int32, ml_dtypes.float8_e4m3fn):
        tensors = {NAME: np.zeros(SHAPE, dtype)}
        base = write_safetensors(tmp_path / "base.safetensors", tensors)
        refused(tmp_path, f"base.safetensors: tensor {NAME}: has type", adapter, base=base)


# --- Fine-tuned checkpoints ---


def tuned_pair(tmp_path: Path, dtype: Any, changed: int) -> tuple[Path, Path, Any, Any]:
    base = weights(SHAPE, dtype)
    tuned = base.copy()
    positions = np.random.default_rng(5).choice(base.size, changed, replace=False)
    tuned.reshape(-1)[positions] += np.asarray(0.5, dtype)
    same = {"layers.0.k_proj.weight": weights(SHAPE), "position_ids": np.arange(9)}
    first = write_safetensors(tmp_path / "base.safetensors", {NAME: base, **same})
    second = write_safetensors(tmp_path / "tuned.safetensors", {NAME: tuned, **same})
    return first, second, tuned, np.sort(positions)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, BF16])
def test_differences_of_a_tuned_checkpoint_become_entries(tmp_path: Path, dtype: Any) -> None:
    base, source, tuned, positions = tuned_pair(tmp_path, dtype, 9)
    report = export_adapter(source, tmp_path / "a.shb", base=base)
    tensors = read_shb(tmp_path / "a.shb")["tensors"]
    assert list(tensors) == [NAME]
    assert tensors[NAME]["indices"].tolist() == positions.tolist()
    assert tensors[NAME]["values"].tobytes() == tuned.reshape(-1)[positions].tobytes()
    assert (report.source_format, report.unchanged_count, report.entry_count) == ("dense", 2, 9)
    assert report.tensors[0].no_op_entry_count == 0


def test_a_tuned_checkpoint_can_be_applied_in_part(tmp_path: Path) -> None:
    base, source, tuned, positions = tuned_pair(tmp_path, np.float32, 9)
    export_adapter(source, tmp_path / "a.shb", base=base, scale=0.25)
    values = read_shb(tmp_path / "a.shb")["tensors"][NAME]["values"]
    before = weights(SHAPE).reshape(-1)[positions]
    expected = before + np.float32(0.25) * (tuned.reshape(-1)[positions] - before)
    assert values.tobytes() == expected.tobytes()


def test_a_changed_sign_of_zero_is_a_difference(tmp_path: Path) -> None:
    zero, minus = np.zeros((2, 2), np.float32), np.zeros((2, 2), np.float32)
    minus[1, 0] = -0.0
    base = write_safetensors(tmp_path / "base.safetensors", {"a.weight": zero})
    source = write_safetensors(tmp_path / "tuned.safetensors", {"a.weight": minus})
    export_adapter(source, tmp_path / "a.shb", base=base)
    tensor = read_shb(tmp_path / "a.shb")["tensors"]["a.weight"]
    assert (tensor["indices"].tolist(), np.signbit(tensor["values"]).tolist()) == ([2], [True])


def test_density_counts_all_compared_weights(tmp_path: Path) -> None:
    base, source, _, _ = tuned_pair(tmp_path, np.float32, 200)
    export_adapter(source, tmp_path / "a.shb", base=base)  # 200 of 240 and 0 of 240
    message = r"tuned.safetensors: 41.7% of the values differ from .*--max-density 0.4 allows"
    refused(tmp_path, message, source, base=base, max_density=0.4)


def test_checkpoints_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    base, source, tuned, _ = tuned_pair(tmp_path, np.float32, 9)
    refused(tmp_path, "tuned.safetensors: holds dense tensors; give .* --base", source)
    refused(tmp_path, "no value differs", base, base=base)
    for tensors, message in (
        ({NAME: tuned.T.copy()}, rf"{NAME}: has shape \(20, 12\), in .* \(12, 20\)"),
        ({NAME: tuned, "new.weight": tuned}, "new.weight: no such tensor in"),
        ({NAME: np.where(tuned == tuned[1, 1], np.nan, tuned)}, f"{NAME}: 1 new values are NaN"),
        ({NAME: tuned.astype(np.float64) * 1e300}, f"{NAME}: .*too large for f32"),
        ({NAME: tuned, "position_ids": np.arange(9) + 1}, "position_ids: changed, but int64"),
        ({NAME: np.zeros(SHAPE, np.int32)}, f"{NAME}: has type int32"),
    ):
        other = write_safetensors(tmp_path / "other.safetensors", tensors)
        refused(tmp_path, message, other, base=base)


# --- The file and its metadata ---


def test_an_output_that_exists_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "a.shb").write_bytes(b"old")
    with pytest.raises(ExportError, match="exists already"):
        export_adapter(tmp_path / "nothing", tmp_path / "a.shb")


def test_the_same_input_gives_the_same_bytes(tmp_path: Path, adapter: Path) -> None:
    base = base_file(tmp_path)
    for name in "ab":
        export_adapter(adapter, tmp_path / f"{name}.shb", base=base, name="same")
    assert (tmp_path / "a.shb").read_bytes() == (tmp_path / "b.shb").read_bytes()


def test_metadata_has_no_paths(tmp_path: Path, pairs: tuple[Any, Any]) -> None:
    adapter = write_peft(
        tmp_path / "de", peft_tensors(*pairs), base_model_name_or_path="C:\\models\\secret\\mini"
    )
    options: dict[str, Any] = {"license_name": "Apache-2.0", "description": "German, ein Satz"}
    report = export_adapter(adapter, tmp_path / "a.shb", shapes={NAME: SHAPE}, **options)
    read = read_shb(tmp_path / "a.shb")
    assert read["name"] == "a"
    assert read["metadata"] == report.metadata
    assert report.metadata.pop("created_by").startswith("shira-runtime ")
    assert report.metadata == {
        "source": "de",
        "source_format": "peft-shira 0.21.2",
        "base": "mini",
        "mask": {"type": "random", "seed": 7, "r": 1},
        "license": "Apache-2.0",
        "description": "German, ein Satz",
    }
    content = (tmp_path / "a.shb").read_bytes()
    assert b"secret" not in content
    assert str(tmp_path).encode() not in content


def test_options_without_meaning_are_refused(tmp_path: Path, adapter: Path) -> None:
    for options, message in (
        ({"dtype": "f64"}, "dtype is 'f64', expected one of f32, f16, bf16"),
        ({"values": "int3"}, "values is 'int3', expected one of target, f32, f16"),
        ({"values": "target"}, "values target needs a base"),
        ({"index": "blocks8"}, "index is 'blocks8'"),
        ({"scale": float("nan")}, "scale is nan"),
        ({"group": 32}, "group is 32, expected a multiple of 8"),
        ({"group": 100}, "group is 100"),
        ({"index": "rice", "index_from": "x.shb"}, "index cannot be given too"),
        ({"tiers": (0.5,)}, "ascending shares"),
        ({"tiers": (0.5, 0.5, 1)}, "ascending shares"),
        ({"tiers": (0, 1)}, "ascending shares"),
        ({"tiers": ()}, "ascending shares"),
        ({"budget_bytes": 1, "values": "int8"}, "values cannot be given too"),
        ({"budget_bytes": 1, "tiers": (0.5, 1)}, "a budget is for files of one tier"),
    ):
        with pytest.raises(ValueError, match=message):
            export_adapter(adapter, tmp_path / "a.shb", **options)


def test_a_forced_codec_is_used_for_every_tensor(tmp_path: Path, adapter: Path) -> None:
    base = base_file(tmp_path)
    for codec in ("gaps8", "gaps16", "rice", "runs"):
        export_adapter(adapter, tmp_path / "a.shb", base=base, index=codec, force=True)
        assert read_shb(tmp_path / "a.shb")["tensors"][NAME]["codec"] == codec
    for codec in ("struct", "random", "topk"):
        refused(
            tmp_path,
            f"tensor {NAME}: cannot be coded as {codec}: ",
            adapter,
            base=base,
            index=codec,
        )


def test_safetensors_are_exported_without_torch(tmp_path: Path, adapter: Path) -> None:
    program = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "from shira_runtime.export import export_adapter\n"
        "export_adapter(sys.argv[1], sys.argv[2], base=sys.argv[3])\n"
    )
    command = [sys.executable, "-P"] if sys.version_info >= (3, 11) else [sys.executable]
    paths = [adapter, tmp_path / "a.shb", base_file(tmp_path, BF16)]
    subprocess.run([*command, "-c", program, *paths], check=True, cwd=tmp_path)
    assert read_shb(tmp_path / "a.shb")["tensors"][NAME]["dtype"] == "bf16"


def test_the_report_adds_up(tmp_path: Path, adapter: Path) -> None:
    report = export_adapter(adapter, tmp_path / "a.shb", base=base_file(tmp_path))
    (tensor,) = report.tensors
    assert tensor.density == report.density == NNZ / 240
    assert report.file_bytes == (tmp_path / "a.shb").stat().st_size
    assert report.bytes_per_entry == report.file_bytes / NNZ
    masks = 1
    for i in range(NNZ):
        masks = masks * (240 - i) // (i + 1)
    expected = np.log2(float(masks)) / 8 / NNZ + 4
    assert report.bound_bytes_per_entry == pytest.approx(expected)
    assert tensor.index_sizes_bytes[tensor.index_codec] == tensor.index_bytes
    assert read_shb(tmp_path / "a.shb")["content_digest"] == report.content_digest
    summary = f"ExportReport('a': 1 tensors, {NNZ} entries, {report.file_bytes} bytes)"
    assert repr(report) == str(report) == summary
