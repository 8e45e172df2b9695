# SPDX-License-Identifier: Apache-2.0
"""Value codecs: what the independent reader gets back, how far off it is, and the choices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export_inputs import peft_tensors, random_pairs, weights, write_peft, write_safetensors
from hypothesis import given
from hypothesis import strategies as st
from shb_reader import parse_shb, read_shb

from shira_runtime.export import export_adapter
from shira_runtime.export.build import AdapterTensor, build_adapter
from shira_runtime.export.encode_values import CodedValues, encode_integer_codes, encode_scaled
from shira_runtime.export.errors import ExportError
from shira_runtime.export.image import SCALED_CODECS, ValueCodec
from shira_runtime.export.sizes import value_bytes

NAME = "layers.0.q_proj.weight"


def read_back(coded: CodedValues, **changes: Any) -> dict[str, Any]:
    count = coded.decoded.size
    fields: dict[str, Any] = {"kind": "delta", "dtype": "f32", **changes}
    tensor = AdapterTensor("a", indices=np.arange(count), shape=(count,), values=coded, **fields)
    return parse_shb(build_adapter("x", [tensor]).content)["tensors"]["a"]


def deltas(count: int, scale: float, seed: int) -> Any:
    generator = np.random.default_rng(seed)
    return (scale * generator.standard_normal(count)).astype(np.float32)


@given(
    st.sampled_from(SCALED_CODECS),
    st.integers(1, 300),
    st.sampled_from([64, 72, 128, 1024]),
    st.sampled_from([0.0, 1e-38, 1e-9, 0.01, 1.0, 1e30]),
    st.integers(0, 99),
)
def test_scaled_values_are_read_as_the_encoder_says(
    codec: ValueCodec, count: int, group: int, scale: float, seed: int
) -> None:
    coded = encode_scaled(deltas(count, scale, seed), codec, group)
    assert len(coded.stream) == value_bytes(codec, count, group)
    tensor = read_back(coded)
    assert (tensor["value_dtype"], tensor["value_group"]) == (codec.name.lower(), group)
    assert tensor["values"].tobytes() == coded.decoded.tobytes()


def test_scales_are_normal_numbers_however_small_the_deltas() -> None:
    for scale in (1e-12, 1e-4, 1e10):
        for codec in SCALED_CODECS:
            coded = encode_scaled(deltas(640, scale, 1), codec, 64)
            scales = np.frombuffer(coded.stream[:20], "<f2")
            assert scales.min() >= np.finfo(np.float16).smallest_normal
            assert -64 <= coded.scale_exponent <= 64


# Of the scales that a simple rule gives, none may be better than the one that was searched.
SIMPLE_SCALES = {
    ValueCodec.Q8: lambda group: np.abs(group).max() / 127,
    ValueCodec.Q4: lambda group: np.abs(group).max() / 7,
    ValueCodec.Q2: lambda group: group.std() / 2,
    ValueCodec.Q1: lambda group: np.abs(group).mean(),
}


@pytest.mark.parametrize("codec", SCALED_CODECS, ids=lambda codec: codec.name)
@pytest.mark.parametrize("law", ["normal", "laplace", "uniform"])
def test_scales_are_at_least_as_good_as_simple_ones(codec: ValueCodec, law: str) -> None:
    generator = np.random.default_rng(3)
    values = getattr(generator, law)(size=6400).astype(np.float32)
    coded = encode_scaled(values, codec, 64)
    simple = np.empty_like(values)
    for start in range(0, values.size, 64):
        group = values[start : start + 64].astype(np.float64)
        scale = SIMPLE_SCALES[codec](group)
        if codec in (ValueCodec.Q8, ValueCodec.Q4):
            top = 127 if codec == ValueCodec.Q8 else 7
            levels = np.clip(np.rint(group / scale), -top - 1, top)
        else:
            top = 3 if codec == ValueCodec.Q2 else 1
            levels = np.clip(2 * np.floor(group / scale / 2) + 1, -top, top)
        simple[start : start + 64] = levels * scale
    ours = np.square(coded.decoded - values, dtype=np.float64).sum()
    # The scales are stored in 11 bits, which the simple ones here are not.
    assert ours <= 1.001 * np.square(simple - values, dtype=np.float64).sum()
    if codec == ValueCodec.Q4 and law == "normal":
        assert ours < 0.9 * np.square(simple - values, dtype=np.float64).sum()


@pytest.mark.parametrize(("dtype", "codes"), [("i8", [-128, 127, 0]), ("i4", [-8, 7, 0, -1, 5])])
def test_integer_codes_are_kept(dtype: str, codes: list[int]) -> None:
    hashes = {"fingerprint": bytes(16), "base_digest": bytes(16)}
    coded = encode_integer_codes(np.array(codes, np.int8), dtype)
    tensor = read_back(coded, dtype=dtype, kind="target", **hashes)
    assert (tensor["dtype"], tensor["value_dtype"]) == (dtype, dtype)
    assert tensor["values"].tolist() == codes


def test_codes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="codes from -9 to 7 do not fit i4"):
        encode_integer_codes(np.array([-9, 7], np.int8), "i4")
    with pytest.raises(ExportError, match="tensor a: deltas are for floating point"):
        read_back(encode_integer_codes(np.array([1], np.int8), "i8"), dtype="i8")


SHAPE = (48, 80)
LIMITS = {
    "f32": 0.0,
    "f16": 1e-3,
    "bf16": 5e-3,
    "int8": 0.01,
    "int4": 0.12,
    "int2": 0.4,
    "int1": 0.7,
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_peft(tmp_path / "de", peft_tensors(*random_pairs(SHAPE, 640)), r=5)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_safetensors(tmp_path / "base.safetensors", {NAME: weights(SHAPE)})


@pytest.mark.parametrize("values", LIMITS)
def test_every_choice_is_written_and_its_error_reported(
    tmp_path: Path, source: Path, base: Path, values: str
) -> None:
    report = export_adapter(source, tmp_path / "a.shb", base=base, values=values)
    tensor = read_shb(tmp_path / "a.shb")["tensors"][NAME]
    exact = random_pairs(SHAPE, 640)[1].astype(np.float64)
    error = tensor["values"].astype(np.float64) - exact
    relative = np.sqrt(np.square(error).sum() / np.square(exact).sum())
    assert relative <= LIMITS[values]
    assert (tensor["kind"], report.kind) == ("delta", "delta")
    assert report.tensors[0].relative_error == pytest.approx(relative, abs=1e-9)
    assert report.relative_error == pytest.approx(relative, abs=1e-9)
    assert report.tensors[0].rounding_error == pytest.approx(np.abs(error).max(), abs=1e-9)
    assert tensor["matches"](weights(SHAPE))
    assert any(f"rounding to {values}" in note for note in report.notes) == (values != "f32")


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_deltas_in_full_precision_give_the_same_weights(
    tmp_path: Path, source: Path, base: Path, dtype: str
) -> None:
    for values in ("target", "f32"):
        export_adapter(source, tmp_path / f"{values}.shb", base=base, dtype=dtype, values=values)
    targets, deltas = (
        read_shb(tmp_path / f"{values}.shb")["tensors"][NAME] for values in ("target", "f32")
    )
    deployed = weights(SHAPE).astype(targets["values"].dtype).reshape(-1)[deltas["indices"]]
    computed = (deployed.astype(np.float32) + deltas["values"]).astype(deployed.dtype)
    assert computed.tobytes() == targets["values"].tobytes()


def test_alternatives_are_the_files_that_would_be_written(
    tmp_path: Path, source: Path, base: Path
) -> None:
    report = export_adapter(source, tmp_path / "a.shb", base=base, explain_size=True, name="x")
    assert [a.values for a in report.value_alternatives] == ["target", *LIMITS]
    for tiers in ((1.0,), (0.3, 1.0)):
        report = export_adapter(
            *(source, tmp_path / "a.shb"), base=base, explain_size=True, name="x", force=True,
            tiers=tiers,
        )  # fmt: skip
        for alternative in report.value_alternatives:
            written = export_adapter(
                *(source, tmp_path / "b.shb"), base=base, values=alternative.values, name="x",
                force=True, tiers=tiers,
            )  # fmt: skip
            assert written.file_bytes == alternative.file_bytes
            assert written.relative_error == pytest.approx(alternative.relative_error)


def test_smaller_groups_err_less_and_take_more(tmp_path: Path, source: Path) -> None:
    options: dict[str, Any] = {"shapes": {NAME: SHAPE}, "values": "int4", "force": True}
    small = export_adapter(source, tmp_path / "a.shb", group=64, **options)
    large = export_adapter(source, tmp_path / "a.shb", group=640, **options)
    assert small.relative_error < large.relative_error
    assert small.tensors[0].value_bytes == large.tensors[0].value_bytes + 18
