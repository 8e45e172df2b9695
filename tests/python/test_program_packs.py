# SPDX-License-Identifier: Apache-2.0
"""Packs, tiers, derived masks, coded values and references, opened and switched to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from packs import arrays, derived, largest, pack_bytes, tiered_bytes
from shb_files import adapter_bytes, tensor_entries

from shira_runtime import (
    Adapter,
    AdapterFile,
    BaseMismatchError,
    ShiraError,
    SignatureError,
    UsageError,
    _core,
    from_numpy,
)
from shira_runtime.export import build
from shira_runtime.export.encode_values import encode_scaled
from shira_runtime.export.image import ValueCodec

NAMES = ("de", "fr", "it", "es", "pt", "nl", "pl", "cs")


@pytest.fixture
def base() -> dict[str, NDArray[Any]]:
    return arrays()


@pytest.fixture
def pack(base: dict[str, NDArray[Any]], tmp_path: Path) -> Path:
    path = tmp_path / "pack.shb"
    path.write_bytes(pack_bytes(base, NAMES))
    return path


# --- packs ---


def test_a_pack_gives_each_of_its_adapters(pack: Path) -> None:
    file = AdapterFile.open(pack)
    assert tuple(file.adapters) == NAMES
    assert (file.path, file.version, file.tier_count) == (str(pack), (1, 0), 1)
    assert file.file_bytes == pack.stat().st_size
    assert file.signer is None
    assert "8 adapters" in repr(file)
    for name, adapter in file.adapters.items():
        assert adapter.name == name
        assert adapter.file is file
        assert adapter.metadata == {"description": f"adapter {name}"}
        assert adapter.content_digest == file.content_digest
    parts = [t.parts[0] for a in file.adapters.values() for t in a.tensors.values()]
    assert {part.index_number for part in parts} == {0, 1}
    assert Adapter.open(pack, "it").metadata == {"description": "adapter it"}
    assert Adapter.from_bytes(pack.read_bytes(), "x", "it").path == "x"


def test_an_opened_file_can_be_added(base: dict[str, NDArray[Any]], pack: Path) -> None:
    program, file = from_numpy(base), AdapterFile.open(pack)
    assert program.add_adapter(file, adapter="de") == "de"
    with pytest.raises(UsageError, match="name one"):
        program.add_adapter(file)


def test_a_zero_byte_does_not_end_a_path(pack: Path) -> None:
    with pytest.raises(UsageError, match="zero byte"):
        AdapterFile.open(f"{pack}\0.shb")


def test_a_pack_demands_a_name(pack: Path) -> None:
    with pytest.raises(UsageError) as caught:
        Adapter.open(pack)
    assert caught.value.status == "INVALID_ARGUMENT"
    assert f"{pack}: holds 8 adapters, name one: de, fr" in str(caught.value)
    with pytest.raises(UsageError) as caught:
        Adapter.open(pack, "english")
    assert caught.value.status == "UNKNOWN_ADAPTER"
    assert "'english', only de, fr, it, es, pt, nl, pl, cs" in str(caught.value)


def test_adapters_of_one_mask_switch_in_one_pass(base: dict[str, NDArray[Any]], pack: Path) -> None:
    live = {name: array.copy() for name, array in base.items()}
    program = from_numpy(live)
    for name in NAMES[:4]:
        assert program.add_adapter(pack, adapter=name) == name
    for adapter in list(AdapterFile.open(pack).adapters.values())[4:]:
        program.add_adapter(adapter)
    assert program.add_adapter(Adapter.open(pack, "de"), "polski", adapter="pl") == "polski"
    entry_count = sum(len(range(3, array.size, 7)) for array in base.values())
    for number in (0, 5, 3, 7, 1):
        report = program.switch(NAMES[number])
        assert report.elements_written == entry_count
        for name, array in live.items():
            expected = base[name].copy().reshape(-1)
            expected[3::7] = 1 + number
            assert array.tobytes() == expected.tobytes()
    # 1 + (2 - 1) + (3 - 1) at every touched position, whatever the base was
    program.switch({"de": 1.0, "fr": 1.0, "it": 1.0})
    a = live["layer.a.weight"].reshape(-1)[3::7]
    old = base["layer.a.weight"].reshape(-1)[3::7]
    total = (np.float32(1) - old) + (np.float32(2) - old) + (np.float32(3) - old)
    np.testing.assert_array_equal(a, old + total)
    program.switch(None)
    assert {n: x.tobytes() for n, x in live.items()} == {n: x.tobytes() for n, x in base.items()}


# --- tiers ---


def test_opened_tiers_give_their_entries(base: dict[str, NDArray[Any]]) -> None:
    tiers = ([5, 100], [0, 7, 101, 200], np.arange(8, 90, 3))
    content = tiered_bytes(base, "de", tiers)
    for opened in (1, 2, 3, None):
        count = opened or 3
        adapter = Adapter.from_bytes(content, tiers=opened)
        assert (adapter.file.tier_count, adapter.file.opened_tier_count) == (3, count)
        expected = np.zeros(240)
        for tier, at in enumerate(tiers[:count]):
            expected[np.asarray(at)] = 1 + tier
        for tensor in adapter.tensors.values():
            np.testing.assert_array_equal(tensor.indices(), np.flatnonzero(expected))
            np.testing.assert_array_equal(tensor.values(), expected[expected > 0])
            assert [part.tier for part in tensor.parts] == list(range(count))
        live = {name: array.copy() for name, array in base.items()}
        program = from_numpy(live)
        program.add_adapter(adapter)
        program.switch("de")
        for name, array in live.items():
            flat = base[name].reshape(-1).copy()
            flat[: expected.size] = np.where(expected > 0, expected, flat[: expected.size])
            assert array.tobytes() == flat.tobytes()


@pytest.mark.parametrize("tiers", [0, -1, 4, 9, 2**40, 1.0, "1", True])
def test_tiers_that_are_not_there_cannot_be_opened(
    base: dict[str, NDArray[Any]], tiers: Any
) -> None:
    content = tiered_bytes(base, "de", ([1], [2], [3]))
    with pytest.raises(UsageError) as caught:
        Adapter.from_bytes(content, tiers=tiers)
    assert caught.value.status == "INVALID_ARGUMENT"


# --- derived masks ---


def test_masks_by_rule_can_be_listed(base: dict[str, NDArray[Any]]) -> None:
    weight = base["layer.a.weight"]
    rows = np.arange(weight.size).reshape(weight.shape)[2::5].reshape(-1)
    tensor = derived("layer.a.weight", weight, rows)
    content = build.build_adapter("x", [tensor], index="struct").content
    opened = Adapter.from_bytes(content).tensors["layer.a.weight"]
    assert opened.is_derived
    assert (opened.parts[0].codec, opened.parts[0].stream_bytes) == ("struct", 16)
    np.testing.assert_array_equal(opened.indices(), rows)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_masks_of_the_largest_need_the_base(dtype: Any) -> None:
    weight = arrays()["layer.a.weight"].astype(dtype)
    at = largest(weight, 50)
    opened = Adapter.from_bytes(adapter_bytes("x", derived("w", weight, at))).tensors["w"]
    assert opened.parts[0].codec == "topk"
    with pytest.raises(UsageError) as caught:
        opened.indices()
    assert caught.value.tensor == "w"
    assert "give the base tensor" in caught.value.message
    np.testing.assert_array_equal(opened.indices(base=weight), at)
    if dtype == ml_dtypes.bfloat16:
        np.testing.assert_array_equal(opened.indices(weight.view(np.uint16)), at)
    other = np.float16 if dtype == np.float32 else np.float32
    for wrong in (weight[:-1], weight.T, weight.astype(other), weight.view(f"i{weight.itemsize}")):
        with pytest.raises(UsageError):
            opened.indices(wrong)


def test_a_mask_of_the_largest_is_found_below_what_is_active(
    base: dict[str, NDArray[Any]],
) -> None:
    weight = base["layer.a.weight"]
    at = largest(weight, 50)
    live = {"layer.a.weight": weight.copy()}
    program = from_numpy(live)
    everything = tensor_entries("layer.a.weight", weight, np.arange(480), np.linspace(3, 9, 480))
    program.add_adapter(Adapter.from_bytes(adapter_bytes("all", everything)))
    program.switch("all")
    top = derived("layer.a.weight", weight, at)
    assert any(len(rule.stream) == 0 for rule in top.rules)
    program.add_adapter(Adapter.from_bytes(adapter_bytes("top", top)))
    program.check_adapter("top")
    program.switch("top")
    expected = weight.reshape(-1).copy()
    expected[at] = 1
    assert live["layer.a.weight"].tobytes() == expected.tobytes()


# --- values ---


@pytest.mark.parametrize("codec", ["Q8", "Q4", "Q2", "Q1"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_scaled_deltas_are_added(codec: str, dtype: Any) -> None:
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((30, 40)).astype(dtype)
    at = np.flatnonzero(rng.random(weight.size) < 0.3)
    coded = encode_scaled(rng.standard_normal(at.size).astype(np.float32), ValueCodec[codec], 64)
    entries = replace(
        tensor_entries("w", weight, at, np.zeros(at.size, np.float32), "delta"), values=coded
    )
    adapter = Adapter.from_bytes(adapter_bytes("x", entries))
    tensor = adapter.tensors["w"]
    assert (tensor.value_codec, tensor.value_kind) == (codec.lower(), "delta")
    assert tensor.value_bits == int(codec[1])
    assert tensor.value_bytes == len(coded.stream)
    assert tensor.bits().dtype == np.uint32
    # The stream once more: f16 scales, then codes from the least significant bit on.
    scale_count = -(-at.size // 64)
    scales = np.frombuffer(coded.stream, np.float16, scale_count).astype(np.float32)
    codes_as_bits = np.unpackbits(
        np.frombuffer(coded.stream, np.uint8, offset=2 * scale_count), bitorder="little"
    )
    width = int(codec[1])
    codes = codes_as_bits[: at.size * width].reshape(-1, width) @ (1 << np.arange(width))
    levels = {
        "Q8": np.where(codes < 128, codes, codes - 256),
        "Q4": np.where(codes < 8, codes, codes - 16),
        "Q2": 2 * codes - 3,
        "Q1": 2 * codes - 1,
    }[codec]
    deltas = np.ldexp(
        levels.astype(np.float32) * scales[np.arange(at.size) // 64], coded.scale_exponent
    ).astype(np.float32)
    assert tensor.values().tobytes() == deltas.tobytes()
    live = weight.copy()
    program = from_numpy({"w": live})
    program.add_adapter(adapter)
    program.switch({"x": 0.5})
    expected = weight.reshape(-1).copy()
    expected[at] = (expected[at].astype(np.float32) + np.float32(0.5) * deltas).astype(dtype)
    assert live.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", ["i8", "i4"])
def test_integer_codes_are_read_and_fit_no_floats(dtype: str) -> None:
    codes = np.array([-8, 0, 7], np.int8)
    entries = build.AdapterTensor(
        "w", dtype, (4, 5), np.array([1, 7, 19]), codes, "target", bytes(16), bytes(16)
    )
    adapter = Adapter.from_bytes(adapter_bytes("x", entries))
    tensor = adapter.tensors["w"]
    assert tensor.dtype == tensor.value_codec == f"int{dtype[1]}"
    np.testing.assert_array_equal(tensor.values(), codes.astype(np.float32))
    np.testing.assert_array_equal(tensor.bits(), codes)
    program = from_numpy({"w": np.zeros((4, 5), np.float32)})
    with pytest.raises(BaseMismatchError) as caught:
        program.add_adapter(adapter)
    assert caught.value.status == "DTYPE_MISMATCH"
    assert "integer codes" in caught.value.message


# --- positions of another file ---


def test_positions_may_come_from_another_file(base: dict[str, NDArray[Any]]) -> None:
    from shira_runtime.export.reference import refer
    from shira_runtime.export.unpack import unpack_files

    def entries(value: float) -> list[build.AdapterTensor]:
        return [
            tensor_entries(name, weight, np.arange(2, 200, 5), np.full(40, value))
            for name, weight in base.items()
        ]

    first = build.build_adapter("first", entries(1))
    second = refer(build.build_adapter("second", entries(2)), *unpack_files([first.content]))
    with pytest.raises(UsageError) as caught:
        Adapter.from_bytes(second.content)
    assert caught.value.status == "MISSING_INDEX"
    source = Adapter.from_bytes(first.content)
    for given in ([source], [source.file], source, source.file):
        adapter = Adapter.from_bytes(second.content, index_from=given)
        np.testing.assert_array_equal(
            adapter.tensors["layer.a.weight"].indices(), np.arange(2, 200, 5)
        )
    wrong: Any = ["first.shb"]
    with pytest.raises(UsageError, match="index_from holds a str, expected opened files"):
        Adapter.from_bytes(second.content, index_from=wrong)
    live = {name: array.copy() for name, array in base.items()}
    program = from_numpy(live)
    program.add_adapter(source)
    program.add_adapter(adapter)
    program.switch("first")
    assert program.switch("second").elements_written == 80
    assert set(live["layer.b.weight"].reshape(-1)[2:200:5]) == {2}


# --- keys ---


def test_a_program_may_be_made_with_a_key(base: dict[str, NDArray[Any]], pack: Path) -> None:
    program = from_numpy(base, public_key=bytes(32))
    expected = "NOT_SIGNED" if _core.cryptography_available() else "NO_CRYPTOGRAPHY"
    for source in (pack, Adapter.open(pack, "de")):
        with pytest.raises(SignatureError) as caught:
            program.add_adapter(source, adapter="de")
        assert caught.value.status == expected
    with pytest.raises(ShiraError):
        from_numpy(base, public_key=b"short")


def test_a_key_in_hex_digits_is_refused_with_words(pack: Path) -> None:
    digits: Any = "00" * 32
    for use in (
        lambda: from_numpy({"a": np.zeros(2, np.float32)}, public_key=digits),
        lambda: Adapter.open(pack, "de", public_key=digits),
        lambda: AdapterFile.open(pack).check_signature(digits),
    ):
        with pytest.raises(UsageError, match=r"public key is a str, .* bytes\.fromhex"):
            use()


def test_a_torch_program_may_be_made_with_a_key(pack: Path) -> None:
    torch = pytest.importorskip("torch")
    import shira_runtime

    program = shira_runtime.from_torch(torch.nn.Linear(2, 2), public_key=bytes(32))
    with pytest.raises(SignatureError):
        program.add_adapter(pack, adapter="de")
