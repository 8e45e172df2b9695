# SPDX-License-Identifier: Apache-2.0
"""Quantized and delegated programs: every weight under its name, with the codes it should have."""

from __future__ import annotations

import copy
import re
import warnings

import numpy as np
import pytest
from _models import load_forward, torch
from torch import nn

from shira_runtime.export import program as program_module
from shira_runtime.export.errors import ExportError, ProgramFormatError
from shira_runtime.export.lower import Lowered
from shira_runtime.export.program import export_program
from shira_runtime.export.program_file import (
    PACKED_KEYS_METHOD,
    read_named_data,
    read_packed_keys,
    read_packed_weights,
    read_program_tensors,
)
from shira_runtime.export.quantize import quantize_module
from shira_runtime.weights import program_weights


class Net(nn.Module):
    """(1, tokens) int64 ids below 50 -> (1, tokens, 64)."""

    def __init__(self) -> None:
        super().__init__()
        self.tok = nn.Embedding(50, 64)
        self.layers = nn.ModuleList([nn.Linear(64, 96), nn.Linear(96, 64, bias=False)])
        self.norm = nn.LayerNorm(64)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.tok(ids)
        return self.norm(x + self.layers[1](torch.relu(self.layers[0](x))))


INPUTS = (torch.tensor([[1, 2, 3]]),)
LINEAR_WEIGHTS = ["layers.0.weight", "layers.1.weight"]


def net(dtype: torch.dtype = torch.float32) -> Net:
    torch.manual_seed(0)
    return Net().to(dtype).eval().requires_grad_(False)


def stored_codes(path, name: str, bits: int, shape: tuple[int, int]) -> np.ndarray:
    """The codes of a packed weight in the file, read here in another way than they are written."""
    start, end = read_named_data(path)[read_packed_keys(path)[name]]
    content = np.fromfile(path, np.uint8, offset=start, count=end - start)
    if bits == 8:
        return content.view(np.int8).reshape(shape)
    pairs = np.stack([content & 15, content >> 4], axis=-1)
    return pairs.reshape(shape[0], -1)[:, : shape[1]].astype(np.int8) - 8


# Codes must be those of a plain rounding to the grid: bits, columns per scale, largest code.
QUANTIZED = {"8da8w": (8, 0), "8da4w": (4, 32), "8da4w-channel": (4, 0)}


@pytest.mark.parametrize("quantize", QUANTIZED)
def test_quantized_weights_are_named_and_have_their_codes(tmp_path, quantize):
    module, path = net(), tmp_path / "net.pte"
    before = copy.deepcopy(module.state_dict())
    report = export_program(module, INPUTS, path, backend="xnnpack", quantize=quantize)
    assert sorted(report.packed) == LINEAR_WEIGHTS
    assert set(LINEAR_WEIGHTS) <= set(report.delegated)
    assert (report.missing, report.unused) == ((), ())
    assert set(report.tensors) == {"tok.weight", "norm.weight", "norm.bias"}
    assert set(report.packed_biases) == {"layers.0.bias"}
    assert read_packed_keys(path) == report.packed | report.packed_biases
    bits, group = QUANTIZED[quantize]
    for name in LINEAR_WEIGHTS:
        weight = module.get_parameter(name).numpy()
        codes = stored_codes(path, name, bits, weight.shape)
        assert (codes.min() >= -(1 << bits - 1)) & (codes.max() < 1 << bits - 1)
        # The best scale for these codes gives the weight back to within a step.
        groups = weight.reshape(weight.shape[0], -1, group or weight.shape[1])
        levels = codes.reshape(groups.shape).astype(np.float64)
        scales = (groups * levels).sum(2, keepdims=True) / (levels**2).sum(2, keepdims=True)
        assert np.abs(levels - groups / scales).max() < 0.75
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])
    output, expected = load_forward(path).execute(list(INPUTS))[0], module(*INPUTS)
    error = (output - expected).norm() / expected.norm()
    assert error < (0.03 if bits == 8 else 0.3)


@pytest.fixture(scope="module")
def delegated(tmp_path_factory):
    """A float program for XNNPACK, and what its export reports."""
    path = tmp_path_factory.mktemp("delegated") / "net.pte"
    return path, export_program(net(), INPUTS, path, backend="xnnpack")


def test_delegated_floats_are_named_and_have_their_bytes(delegated, tmp_path):
    half = tmp_path / "half.pte"
    reports = {torch.float32: delegated}
    reports[torch.float16] = (
        half,
        export_program(net(torch.float16), INPUTS, half, backend="xnnpack"),
    )
    for dtype, (path, report) in reports.items():
        module, places = net(dtype), read_named_data(path)
        assert sorted(report.packed) == LINEAR_WEIGHTS
        for name in LINEAR_WEIGHTS:
            start, end = places[report.packed[name]]
            assert path.read_bytes()[start:end] == module.get_parameter(name).numpy().tobytes()
        start, end = places[report.packed_biases["layers.0.bias"]]
        assert path.read_bytes()[start:end] == module.layers[0].bias.numpy().tobytes()


@pytest.mark.parametrize("bits", [4, 8])
def test_portable_quantized_operators_keep_the_names(tmp_path, bits):
    import executorch.kernels.quantized  # noqa: F401

    module, path = net(), tmp_path / "net.pte"
    report = export_program(module, INPUTS, path, quantize="8w", embedding_bits=bits)
    assert report.packed == {}
    assert read_packed_keys(path) == {}
    tensors = read_program_tensors(path)
    for name in LINEAR_WEIGHTS:
        weight, scales = module.get_parameter(name), tensors[name.replace("weight", "scales")]
        codes = tensors[name].read()
        assert codes.dtype == np.int8
        assert np.abs(codes * scales.read()[:, None] - weight.numpy()).max() <= scales.read().max()
    table, scales = tensors["tok.weight"].read(), tensors["tok.scales"].read()
    if bits == 4:
        assert scales.shape == (50, 2)
        table = np.stack([table >> 4, table & 15], axis=-1).reshape(50, 64).astype(np.int8) - 8
    steps = scales.reshape(50, -1).repeat(64 // max(1, scales.size // 50), axis=1)
    assert np.abs(table * steps - module.tok.weight.numpy()).max() <= steps.max() / 2 * 1.001
    output, expected = load_forward(path).execute(list(INPUTS))[0], module(*INPUTS)
    assert (output - expected).norm() / expected.norm() < (0.2 if bits == 4 else 0.03)


def test_a_module_that_torchao_has_quantized_is_taken_as_it_is(tmp_path):
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig, PerGroup, quantize_

    module, path = net(), tmp_path / "net.pte"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize_(
            module.layers[0],
            Int8DynamicActivationIntxWeightConfig(
                weight_dtype=torch.int4, weight_granularity=PerGroup(32)
            ),
        )
        report = export_program(module, INPUTS, path, backend="xnnpack")
    assert sorted(report.packed) == LINEAR_WEIGHTS
    codes = stored_codes(path, "layers.0.weight", 4, (96, 64))
    assert np.array_equal(codes, module.layers[0].weight.qdata.numpy())


@pytest.mark.parametrize("quantize", [None, "8da4w"])
def test_layers_that_are_packed_apart_share_nothing(tmp_path, quantize):
    layers = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32)).eval()
    layers[1].weight.data = layers[0].weight.data.clone()  # their biases differ
    options = {"backend": "xnnpack", "quantize": quantize}
    report = export_program(layers, (torch.ones(1, 32),), tmp_path / "net.pte", **options)
    assert report.shared == ()
    # But one parameter is one, and a write to either copy alone would untie it.
    layers[1].weight = layers[0].weight
    with pytest.raises(ExportError, match=r"0\.weight = 1\.weight"):
        export_program(layers, (torch.ones(1, 32),), tmp_path / "tied.pte", **options)


def test_a_bias_that_is_used_otherwise_has_no_name(tmp_path):
    class Twofold(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(32, 32), nn.Linear(32, 32, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(torch.relu(self.a(x) * self.a.bias))

    path = tmp_path / "net.pte"
    export_program(Twofold().eval(), (torch.ones(1, 32),), path, backend="xnnpack")
    a, b = read_packed_weights(path)
    assert (a.name, a.bias) == ("a.weight", "")
    assert len(a.bias_key) == 64
    assert (b.name, b.bias, b.bias_key) == ("b.weight", "", "")
    (bias,) = [w for w in program_weights(path).values() if w.storage == "packed bias"]
    assert bias.name == f"xnnpack:{a.key[:16]}.bias"


def test_layers_with_equal_codes_are_refused_and_named(tmp_path):
    layers = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32)).eval()
    # Codes of W and of 2 W are the same, and XNNPACK packs both weights as one.
    layers[1].weight.data = 2 * layers[0].weight.data
    inputs, path = (torch.ones(1, 32),), tmp_path / "net.pte"
    options = {"backend": "xnnpack", "quantize": "8da8w"}
    with pytest.raises(ExportError, match=r"0\.weight = 1\.weight"):
        export_program(layers, inputs, path, **options)
    assert list(tmp_path.iterdir()) == []
    report = export_program(layers, inputs, path, **options, allow_shared=True)
    assert report.shared == (("0.weight", "1.weight"),)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantize": "8da8w"}, "only xnnpack has operators"),
        ({"quantize": "int3"}, "unknown quantization 'int3', expected one of 8da8w"),
        ({"quantize": "8da4w", "backend": "xnnpack", "group_size": 48}, "not a multiple of 32"),
        (
            {"quantize": "8da4w", "backend": "xnnpack", "group_size": 64},
            r"layers\.1: its 96 columns cannot be cut into groups of 64",
        ),
        ({"embedding_bits": 2}, "4 or 8 bits, not 2"),
    ],
)
def test_choices_without_meaning_are_refused(tmp_path, options, message):
    with pytest.raises(ExportError, match=message):
        export_program(net(), INPUTS, tmp_path / "net.pte", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("harm", ["names", "codes"])
def test_wrong_names_or_codes_are_noticed(tmp_path, monkeypatch, delegated, harm):
    sound, report = delegated

    def lower(module, inputs, path, *rest):
        content = bytearray(sound.read_bytes())
        if harm == "names":
            at = content.index(b"layers.0.weight\t")
        else:
            at = read_named_data(sound)[report.packed["layers.0.weight"]][0]
        content[at] ^= 1
        path.write_bytes(content)
        return Lowered(report.delegated, tuple(read_packed_weights(sound)), ())

    monkeypatch.setattr(program_module, "lower", lower)
    expected = {"names": "does not list the weights", "codes": r"bytes of layers\.0\.weight"}
    with pytest.raises(ExportError, match=expected[harm]):
        export_program(net(), INPUTS, tmp_path / "net.pte", backend="xnnpack")
    assert list(tmp_path.iterdir()) == []


def test_lines_without_a_key_are_refused(delegated, tmp_path):
    path, report = delegated
    assert PACKED_KEYS_METHOD.encode() in path.read_bytes()
    bias_key = report.packed_biases["layers.0.bias"]
    keys = (report.packed["layers.0.weight"], "layers.0.bias", bias_key)
    line = "\t".join(("layers.0.weight", *keys)).encode() + b"\n"
    assert line in path.read_bytes()
    last = b"_" + keys[-1].encode()
    for harmed in (
        line.replace(b"\t", b"_"),
        line.replace(b"\t", b"_", 1),
        line.replace(b"\n", b"_"),
        line.replace(b"\t" + keys[-1].encode(), last),
        line.replace(b"0.bias\t", b"0.bia\t\t"),
    ):
        (tmp_path / "bad.pte").write_bytes(path.read_bytes().replace(line, harmed))
        with pytest.raises(ProgramFormatError, match="a name, a tab and a key"):
            read_packed_keys(tmp_path / "bad.pte")


class Twice(nn.Module):
    """One layer used twice, and a weight that is no layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 64)
        self.matrix = nn.Parameter(torch.randn(8, 64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(self.layer(torch.relu(self.layer(x))), self.matrix)


def test_weights_keep_their_names_however_they_are_used(tmp_path):
    inputs = (torch.randn(2, 64),)
    module = Twice().eval().requires_grad_(False)
    report = export_program(
        module, inputs, tmp_path / "net.pte", backend="xnnpack", quantize="8da4w-channel"
    )
    assert set(report.packed) == {"layer.weight", "matrix"}
    assert module.layer.weight.dtype == torch.float32


class Tied(nn.Module):
    """A head whose weight is the embedding's."""

    def __init__(self) -> None:
        super().__init__()
        self.tok = nn.Embedding(50, 64)
        self.head = nn.Linear(64, 50, bias=False)
        self.head.weight = self.tok.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.tok(ids))


def test_layers_that_cannot_be_quantized_are_named():
    ids = (torch.tensor([[1, 2]]),)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ExportError, match=r"weight: cannot be quantized, because it is also"):
            quantize_module(Tied().eval(), ids, "8da4w-channel")
        with pytest.raises(ExportError, match="itself the layer to quantize"):
            quantize_module(nn.Linear(64, 8).eval(), (torch.randn(1, 64),), "8w")
        limited = nn.Sequential(nn.Embedding(50, 64, max_norm=1.0)).eval()
        with pytest.raises(ExportError, match="0: an embedding with max_norm"):
            quantize_module(limited, ids, None, embedding_bits=8)


FACTORY = """
import torch
def make():
    torch.manual_seed(1)
    layers = torch.nn.Sequential(torch.nn.Embedding(10, 128), torch.nn.Linear(128, 16)).eval()
    return layers, (torch.tensor([[1, 2]]),)
"""


def test_the_command_quantizes(shira, tmp_path):
    (tmp_path / "factory.py").write_text(FACTORY)
    path = tmp_path / "net.pte"
    arguments = [f"{tmp_path}/factory.py:make", "-o", path, "--backend", "xnnpack", "--force"]
    arguments += ["--quantize", "8da4w", "--group-size", "64", "--embedding-bits", "4"]
    ran = shira("program", *arguments)
    assert ran.code == 0, ran.err
    (weight,), tensors = read_packed_weights(path), read_program_tensors(path)
    name, key = weight.name, weight.key
    assert (name, weight.bias) == ("1.weight", "1.bias")
    assert re.search(rf"weight that XNNPACK packs +key.*1\.weight +{key[:16]} ", ran.out, re.DOTALL)
    assert tensors["0.scales"].shape == (10, 2)
    # int4 codes in groups of 64 columns: two scales a row, of 16 bits.
    sizes = sorted(end - start for start, end in read_named_data(path).values())
    assert sizes == [16 * 2 * 2, 16 * 4, 16 * 64]
    ran = shira("program", *arguments[:-4], "--json")
    assert ran.json["packed"] == {name: read_packed_keys(path)[name]}
    assert ran.json["packed"] != {name: key}
    ran = shira("program", *arguments, "--quantize", "int3")
    assert ran.code == 2
