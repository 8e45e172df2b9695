# SPDX-License-Identifier: Apache-2.0
"""Exported programs: names, places, sharing, layout, and what the checks refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from _models import load_forward, tensor_bytes, tiny_encoder, tiny_ids, torch
from torch import nn

from shira_runtime.export import program as program_module
from shira_runtime.export.errors import ExportError
from shira_runtime.export.program import export_program, program_command
from shira_runtime.export.program_file import read_name_map, read_program_tensors, shared_storage

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@pytest.fixture(
    scope="session", params=[f"{dtype}-{place}" for dtype in DTYPES for place in ("pte", "ptd")]
)
def exported(request, tmp_path_factory):
    """(module, report) for each dtype, with the weights in the .pte and in a .ptd."""
    dtype, place = request.param.split("-")
    folder = tmp_path_factory.mktemp("tiny")
    module = tiny_encoder(DTYPES[dtype])
    report = export_program(
        module,
        (tiny_ids(),),
        folder / "tiny.pte",
        data_path=folder / "tiny.ptd" if place == "ptd" else None,
    )
    return module, report


def constants(module: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def test_every_constant_has_its_name_and_bytes_in_the_live_program(exported):
    module, report = exported
    forward = load_forward(report.program_path, report.data_path)
    assert set(report.tensors) == set(constants(module))
    for name, tensor in constants(module).items():
        live = forward._method.get_attribute(name)
        assert live.dtype == tensor.dtype
        assert live.shape == tensor.shape
        assert tensor_bytes(live) == tensor_bytes(tensor)


def test_places_equal_a_search_for_the_bytes(exported):
    module, report = exported
    for name, tensor in constants(module).items():
        place = report.tensors[name]
        assert place.file == (report.data_path or report.program_path)
        content = place.file.read_bytes()
        assert content.count(tensor_bytes(tensor)) == 1
        assert place.offset_bytes == content.find(tensor_bytes(tensor))
        assert place.size_bytes == len(tensor_bytes(tensor))
        assert place.shape == tuple(tensor.shape)
        assert place.read().tobytes() == tensor_bytes(tensor)
        assert str(tensor.dtype) == f"torch.{place.dtype}"


def test_the_report_says_what_the_files_say(exported):
    _, report = exported
    files = [report.program_path, *([report.data_path] if report.data_path else [])]
    found = {name: t for path in files for name, t in read_program_tensors(path).items()}
    assert found == report.tensors
    assert all(tensor.is_contiguous for tensor in found.values())
    assert json.loads(report.to_json())["backend"] == "portable"
    assert (report.delegated, report.unused, report.missing, report.shared) == ((), (), (), ())


def test_the_program_computes_what_the_module_computes(exported):
    module, report = exported
    forward = load_forward(report.program_path, report.data_path)
    (output,) = forward.execute([tiny_ids()])
    expected = module(tiny_ids())
    tolerance = {torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 2e-1}[expected.dtype]
    torch.testing.assert_close(output, expected, rtol=tolerance, atol=tolerance)


def test_linear_is_preserved(exported):
    _, report = exported
    content = report.program_path.read_bytes()
    assert b"aten::linear" in content
    assert b"aten::addmm" not in content


class Pair(nn.Module):
    """Two linear layers without bias, whose weights a test may tie or make equal."""

    def __init__(self, bias: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8, bias=bias)
        self.second = nn.Linear(8, 8, bias=bias)
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))


PAIR_INPUTS = (torch.ones(2, 8),)


@pytest.mark.parametrize("is_tied", [True, False], ids=["tied", "equal"])
@pytest.mark.parametrize("is_external", [True, False], ids=["ptd", "pte"])
def test_weights_that_share_storage_are_refused_and_named(tmp_path, is_tied, is_external):
    module = Pair()
    if is_tied:
        module.second.weight = module.first.weight
    else:
        module.second.weight.data.copy_(module.first.weight)
    data_path = tmp_path / "pair.ptd" if is_external else None
    with pytest.raises(ExportError, match=r"first\.weight = second\.weight"):
        export_program(module, PAIR_INPUTS, tmp_path / "pair.pte", data_path=data_path)
    assert list(tmp_path.iterdir()) == []
    report = export_program(
        module, PAIR_INPUTS, tmp_path / "pair.pte", data_path=data_path, allow_shared=True
    )
    assert report.shared == (("first.weight", "second.weight"),)


def test_equal_biases_are_listed_and_not_refused(tmp_path):
    module = Pair(bias=True)
    module.first.bias.data.zero_()
    module.second.bias.data.zero_()
    report = export_program(module, PAIR_INPUTS, tmp_path / "pair.pte")
    assert report.shared == (("first.bias", "second.bias"),)
    assert shared_storage(report.tensors.values()) == [("first.bias", "second.bias")]


def test_a_parameter_that_shares_with_a_compiler_constant_is_listed(tmp_path):
    class Doubled(Pair):
        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.tensor(2.0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * self.factor + torch.tensor(2.0)

    report = export_program(Doubled().eval(), PAIR_INPUTS, tmp_path / "doubled.pte")
    (group,) = report.shared
    assert len(group) == 2
    assert group[1] == "factor"
    assert set(report.tensors) == {"factor", "first.weight", "second.weight"}


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def test_weights_that_are_not_row_major_are_refused(tmp_path):
    module = Convolution().eval().to(memory_format=torch.channels_last)
    inputs = (torch.ones(1, 3, 6, 6),)
    with pytest.raises(ExportError, match=r"layer\.weight \(0, 2, 3, 1\)"):
        export_program(module, inputs, tmp_path / "convolution.pte")
    assert list(tmp_path.iterdir()) == []
    module.to(memory_format=torch.contiguous_format)
    assert export_program(module, inputs, tmp_path / "convolution.pte").shared == ()


def test_reshaped_parameters_keep_their_own_shape(tmp_path):
    class Scaled(Pair):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.arange(8.0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * self.scale.view(1, 8) + self.scale.view(2, 4).sum()

    module = Scaled().eval()
    for data_path in (None, tmp_path / "scaled.ptd"):
        path = tmp_path / "scaled.pte"
        report = export_program(module, PAIR_INPUTS, path, data_path=data_path, force=True)
        assert report.tensors["scale"].shape == (8,)
        forward = load_forward(path, data_path)
        torch.testing.assert_close(forward.execute(list(PAIR_INPUTS))[0], module(*PAIR_INPUTS))
        assert forward._method.get_attribute("scale").shape == (8,)


def test_buffers_that_forward_changes_are_not_offered(tmp_path):
    class Counter(Pair):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls.add_(1.0)
            return super().forward(x) + self.calls

    report = export_program(Counter().eval(), PAIR_INPUTS, tmp_path / "counter.pte")
    assert set(report.tensors) == {"first.weight", "second.weight"}
    forward = load_forward(report.program_path)
    first, second = (forward.execute(list(PAIR_INPUTS))[0].clone() for _ in range(2))
    torch.testing.assert_close(second, first + 1.0)
    with pytest.raises(RuntimeError, match="calls"):
        forward._method.get_attribute("calls")


def test_unused_parameters_are_listed(tmp_path):
    class Partial(Pair):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.first(x)

    report = export_program(Partial(), PAIR_INPUTS, tmp_path / "partial.pte")
    assert report.unused == ("second.weight",)
    assert set(report.tensors) == {"first.weight"}


def test_delegated_weights_are_listed_and_not_offered(tmp_path):
    class Reused(Pair):
        """The delegate takes first.weight for the layer, while the lookup stays outside."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            row = nn.functional.embedding(torch.tensor([1]), self.first.weight)
            return super().forward(x) + row

    module, path = Reused(), tmp_path / "reused.pte"
    report = export_program(module, PAIR_INPUTS, path, backend="xnnpack")
    assert report.delegated == ("first.weight", "second.weight")
    assert set(report.packed) == {"second.weight"}
    assert report.tensors == {}
    output = load_forward(path).execute(list(PAIR_INPUTS))[0]
    torch.testing.assert_close(output, module(*PAIR_INPUTS))
    with pytest.raises(ExportError, match="no constant is left"):
        export_program(
            module,
            PAIR_INPUTS,
            tmp_path / "other.pte",
            data_path=tmp_path / "other.ptd",
            backend="xnnpack",
        )


def test_a_delegated_program_still_offers_what_the_delegate_leaves(tmp_path):
    module = tiny_encoder()
    path, data_path = tmp_path / "tiny.pte", tmp_path / "tiny.ptd"
    report = export_program(module, (tiny_ids(),), path, data_path=data_path, backend="xnnpack")
    assert {"wide.weight", "narrow.weight"} <= set(report.delegated)
    assert {"embedding.weight", "norm.weight"} <= set(report.tensors)
    assert not set(report.delegated) & set(report.tensors)
    forward = load_forward(path, data_path)
    torch.testing.assert_close(forward.execute([tiny_ids()])[0], module(tiny_ids()))


@pytest.mark.parametrize("harm", ["lost", "changed"])
def test_parameters_that_the_program_lost_or_changed_are_refused(tmp_path, monkeypatch, harm):
    module = Pair()
    real_lower, real_read = program_module.lower, program_module.read_program_tensors

    def lower(*arguments):
        lowered = real_lower(*arguments)
        if harm == "changed":
            module.first.weight.data[3, 3] += 1.0
        return lowered

    def read(path, **options):
        found = real_read(path, **options)
        return {n: t for n, t in found.items() if harm == "changed" or n != "first.weight"}

    monkeypatch.setattr(program_module, "lower", lower)
    monkeypatch.setattr(program_module, "read_program_tensors", read)
    with pytest.raises(ExportError, match=r"first\.weight"):
        export_program(module, PAIR_INPUTS, tmp_path / "pair.pte")
    assert list(tmp_path.iterdir()) == []
    report = export_program(module, PAIR_INPUTS, tmp_path / "pair.pte", allow_missing=True)
    assert report.missing == ("first.weight",)


def test_the_name_map_is_stored_and_read_without_executorch(tmp_path):
    path = tmp_path / "pair.pte"
    name_map = {"first.weight": "encoder.näch.weight"}
    report = export_program(Pair(), PAIR_INPUTS, path, name_map=name_map)
    assert read_name_map(path) == name_map == report.name_map
    load_forward(path).execute(list(PAIR_INPUTS))
    export_program(Pair(), PAIR_INPUTS, path, force=True)
    assert read_name_map(path) == {}


@pytest.mark.parametrize(
    ("name_map", "problem"),
    [
        ({"absent.weight": "x"}, r"module lacks.*absent\.weight"),
        ({"first.weight": "second.weight"}, r"one name to several.*second\.weight"),
    ],
)
def test_a_wrong_name_map_is_refused(tmp_path, name_map, problem):
    with pytest.raises(ExportError, match=problem):
        export_program(Pair(), PAIR_INPUTS, tmp_path / "pair.pte", name_map=name_map)
    assert list(tmp_path.iterdir()) == []


def test_existing_files_stay_unless_forced(tmp_path):
    program_path, data_path = tmp_path / "pair.pte", tmp_path / "pair.ptd"
    for taken in (program_path, data_path):
        taken.write_bytes(b"precious")
        with pytest.raises(ExportError, match="exists already"):
            export_program(Pair(), PAIR_INPUTS, program_path, data_path=data_path)
        assert list(tmp_path.iterdir()) == [taken]
        assert taken.read_bytes() == b"precious"
        taken.unlink()


def test_a_failed_export_leaves_the_old_program(tmp_path):
    path = tmp_path / "pair.pte"
    module = Pair()
    export_program(module, PAIR_INPUTS, path)
    before = path.read_bytes()
    module.second.weight.data.copy_(module.first.weight)
    with pytest.raises(ExportError, match="stores equal contents once"):
        export_program(module, PAIR_INPUTS, path, force=True)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"output": "pair.bin"}, r"ends in \.pte"),
        ({"data_path": "pair.bin"}, r"ends in \.ptd"),
        ({"backend": "gpu"}, "unknown backend 'gpu'"),
        ({"module": Pair().train()}, "training mode"),
    ],
)
def test_requests_that_make_no_sense_are_refused(tmp_path, monkeypatch, change, problem):
    monkeypatch.chdir(tmp_path)
    arguments = {"module": Pair(), "example_inputs": PAIR_INPUTS, "output": "pair.pte", **change}
    with pytest.raises(ExportError, match=problem):
        export_program(**arguments)
    assert list(tmp_path.iterdir()) == []


FACTORIES = """
import torch
from torch import nn

class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(4, 4)

    def forward(self, x):
        return self.encoder(x)

def plain():
    return Wrapped().eval(), (torch.ones(2, 4),)

def dynamic():
    rows = torch.export.Dim("rows", min=1, max=8)
    return Wrapped().eval(), (torch.ones(2, 4),), ({0: rows},)

def wrong():
    return Wrapped().eval()

def no_tuple():
    return Wrapped().eval(), torch.ones(2, 4)

number = 3
"""


@pytest.fixture
def factories(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("shira_test_factories.py").write_text(FACTORIES, encoding="utf-8")


@pytest.mark.usefixtures("factories")
def test_the_command_exports_what_a_function_returns():
    program_command("shira_test_factories.py:plain", "plain.pte", data_path="plain.ptd")
    assert set(read_program_tensors("plain.ptd")) == {"encoder.weight", "encoder.bias"}
    report = program_command("shira_test_factories:dynamic", "dynamic.pte", rename=["^encoder="])
    assert read_name_map("dynamic.pte") == {"encoder.weight": ".weight", "encoder.bias": ".bias"}
    forward = load_forward(report.program_path)
    assert forward.execute([torch.ones(7, 4)])[0].shape == (7, 4)


@pytest.mark.usefixtures("factories")
@pytest.mark.parametrize(
    ("factory", "rename", "problem"),
    [
        ("shira_test_factories", [], r"expected package\.module:function"),
        ("absent.py:plain", [], "no such file"),
        ("absent_module:plain", [], "absent_module"),
        ("shira_test_factories.py:absent", [], "has no function absent"),
        ("shira_test_factories.py:number", [], "has no function number"),
        ("shira_test_factories.py:wrong", [], r"must return \(module, example_inputs\)"),
        ("shira_test_factories.py:no_tuple", [], "example_inputs must be a tuple"),
        ("shira_test_factories.py:plain", ["encoder"], "expected REGEX=SUB"),
        ("shira_test_factories.py:plain", ["(=x"], r"\(=x"),
    ],
)
def test_the_command_refuses(factory, rename, problem):
    with pytest.raises(ExportError, match=problem):
        program_command(factory, "out.pte", rename=rename)
    assert not Path("out.pte").exists()


@pytest.mark.slow
def test_minilm_takes_any_batch_and_computes_what_the_module_computes(tmp_path):
    pytest.importorskip("transformers")
    from examples.minilm import export_program as minilm

    encoder, inputs, _ = minilm.example()
    report = minilm.export_minilm(tmp_path / "minilm.pte", encoder=encoder)
    assert set(report.tensors) >= {name for name, _ in encoder.named_parameters()}
    assert (report.shared, report.unused, report.missing) == ((), (), ())
    forward = load_forward(report.program_path)
    for rows, tokens in [(2, inputs[0].shape[1]), (1, 2), (minilm.MAX_BATCH, minilm.MAX_TOKENS)]:
        ids = torch.arange(rows * tokens).reshape(rows, tokens) + 1000
        mask = torch.ones_like(ids)
        mask[0, 1:] = 0
        (embeddings,) = forward.execute([ids, mask])
        torch.testing.assert_close(embeddings, encoder(ids, mask), rtol=0.0, atol=1e-5)
