# SPDX-License-Identifier: Apache-2.0
"""shira-export --base model.pte where the program is quantized or delegated: files and reports."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _models import torch
from cli_inputs import Shira
from export_inputs import random_pairs
from shb_reader import read_shb
from torch import nn

from shira_runtime import load_program
from shira_runtime.export import export_adapter
from shira_runtime.export.base import xxh3_128
from shira_runtime.export.errors import ExportError
from shira_runtime.export.program import export_program
from shira_runtime.export.program_checks import named_tensors
from shira_runtime.export.quantize import quantize_module, weight_codes
from shira_runtime.weights import program_weights


class Net(nn.Module):
    """(1, tokens) int64 ids below 50 -> (1, tokens, 64)."""

    def __init__(self) -> None:
        super().__init__()
        self.tok = nn.Embedding(50, 64)
        self.up = nn.Linear(64, 96)
        self.down = nn.Linear(96, 64, bias=False)
        self.norm = nn.LayerNorm(64)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.tok(ids)
        return self.norm(x + self.down(torch.relu(self.up(x))))


INPUTS = (torch.tensor([[1, 2, 3]]),)
SHAPES = {"tok.weight": (50, 64), "up.weight": (96, 64), "down.weight": (64, 96)}
KINDS: dict[str, dict[str, Any]] = {
    "f32": {"backend": "xnnpack"},
    "f16": {"backend": "xnnpack"},
    "8da8w": {"backend": "xnnpack", "quantize": "8da8w", "embedding_bits": 8},
    "8da4w": {"backend": "xnnpack", "quantize": "8da4w", "embedding_bits": 4},
    "8da4w-channel": {"backend": "xnnpack", "quantize": "8da4w-channel"},
    "8w": {"quantize": "8w", "embedding_bits": 4},
}


def net(kind: str = "f32") -> Net:
    torch.manual_seed(0)
    dtype = torch.float16 if kind == "f16" else torch.float32
    return Net().to(dtype).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the program of a kind; each is exported once."""
    folder = tmp_path_factory.mktemp("programs")

    def program(kind: str) -> Path:
        path = folder / f"{kind}.pte"
        if not path.exists():
            export_program(net(kind), INPUTS, path, **KINDS[kind])
        return path

    return program


def deltas(names: list[str], strength: float = 0.03, count: int = 300) -> dict[str, Any]:
    """Name -> (flat indices, float32 deltas)."""
    made = {}
    for seed, name in enumerate(names):
        pairs, values = random_pairs(SHAPES[name], count, seed)
        flat = np.ravel_multi_index(tuple(pairs), SHAPES[name])
        # The embedding's values, and so the steps of its grid, are larger.
        strength_here = strength * (10 if name == "tok.weight" else 1)
        made[name] = flat, values * np.float32(strength_here / 0.01)
    return made


def save_deltas(path: Path, made: dict[str, Any], **more: Any) -> Path:
    sparse = {
        name: {"indices": torch.from_numpy(flat), "values": torch.from_numpy(values)}
        for name, (flat, values) in {**made, **more}.items()
    }
    torch.save(sparse, path)
    return path


def dequantized(weight: Any) -> Any:
    """(rows, columns) float64."""
    codes, scales = weight.codes(), weight.scales()
    steps = np.repeat(scales, codes.shape[1] // scales.shape[1], axis=1)
    return codes * steps.astype(np.float64), steps.astype(np.float64)


@pytest.mark.parametrize("kind", ["8da8w", "8da4w", "8da4w-channel", "8w"])
def test_quantized_weights_get_the_nearest_codes(
    tmp_path: Path, programs: Callable[[str], Path], kind: str
) -> None:
    base = programs(kind)
    names = [name for name in SHAPES if name != "tok.weight" or kind != "8da4w-channel"]
    made = deltas(names)
    norm = np.array([3, 7, 9, 20, 50]), np.full(5, 0.25, np.float32)
    source = save_deltas(tmp_path / "de.pt", made, **{"norm.weight": norm})
    report = export_adapter(source, tmp_path / "de.shb", base=base)
    written = read_shb(tmp_path / "de.shb")
    weights = program_weights(base)
    assert set(written["tensors"]) == {*names, "norm.weight"}
    assert [snap.name for snap in report.snapped] == sorted(names)
    for snap in report.snapped:
        flat, values = made[snap.name]
        weight, tensor = weights[snap.name], written["tensors"][snap.name]
        before, steps = (array.reshape(-1)[flat] for array in dequantized(weight))
        codes = weight.codes().reshape(-1)
        bits = 8 if weight.dtype == "int8" else 4
        assert tensor["dtype"] == tensor["value_dtype"] == f"i{bits}"
        levels = np.rint((before + values) / steps)
        expected = np.clip(levels, -(1 << bits - 1), (1 << bits - 1) - 1)
        is_kept = expected != codes[flat]
        assert tensor["kind"] == "target"
        assert tensor["indices"].tolist() == flat[is_kept].tolist()
        assert tensor["values"].view(np.int8).tolist() == expected[is_kept].tolist()
        assert tensor["fingerprint"] == xxh3_128(np.ascontiguousarray(codes[flat[is_kept]]))
        assert tensor["base_digest"] == xxh3_128(codes)
        assert (snap.entry_count, snap.changed_count) == (300, is_kept.sum())
        assert snap.vanished_count == 300 - is_kept.sum()
        assert snap.clipped_count == (levels != expected).sum()
        left = expected * steps - before - values
        error = np.linalg.norm(left) / np.linalg.norm(values)
        assert snap.relative_error == pytest.approx(error, rel=1e-4)
        columns, numbers = (written["metadata"]["snapped"][key] for key in ("columns", "tensors"))
        assert dict(zip(columns, numbers[snap.name], strict=True))["changed"] == is_kept.sum()
    assert written["tensors"]["norm.weight"]["values"].tolist() == [1.25] * 5


@pytest.mark.parametrize("kind", ["f32", "8da8w", "8da4w", "8da4w-channel"])
def test_biases_beside_packed_weights_keep_their_floats(
    tmp_path: Path, programs: Callable[[str], Path], kind: str
) -> None:
    base = programs(kind)
    flat, values = np.array([0, 7, 95]), np.array([0.5, -0.25, 2], np.float32)
    source = save_deltas(tmp_path / "de.pt", deltas(["up.weight"]), **{"up.bias": (flat, values)})
    report = export_adapter(source, tmp_path / "de.shb", base=base)
    assert "up.bias" not in {snap.name for snap in report.snapped}
    bias = read_shb(tmp_path / "de.shb")["tensors"]["up.bias"]
    before = net().up.bias.numpy()
    assert (bias["dtype"], bias["kind"], bias["shape"]) == ("f32", "target", (96,))
    assert bias["indices"].tolist() == flat.tolist()
    assert bias["values"].tolist() == (before[flat] + values).tolist()
    assert bias["base_digest"] == xxh3_128(before)


@pytest.mark.parametrize("kind", ["f32", "f16"])
def test_adapters_of_the_float_model_fit_its_delegated_program(
    tmp_path: Path, programs: Callable[[str], Path], kind: str
) -> None:
    source = save_deltas(tmp_path / "de.pt", deltas(["up.weight", "down.weight"]))
    torch.save(net().state_dict(), tmp_path / "model.pt")
    contents = {}
    for name, options in {
        "program": {"base": programs(kind)},
        "model": {"base": tmp_path / "model.pt", "dtype": kind},
    }.items():
        report = export_adapter(source, tmp_path / f"{name}.shb", **options)
        assert report.snapped == ()
        contents[name] = read_shb(tmp_path / f"{name}.shb")["tensors"]
    for tensor in ("up.weight", "down.weight"):
        one, other = contents["program"][tensor], contents["model"][tensor]
        assert one["dtype"] == kind
        for what in ("fingerprint", "base_digest", "shape", "kind"):
            assert one[what] == other[what]
        assert (one["values"] == other["values"]).all()


def test_a_mask_that_is_shared_or_derived_keeps_all_entries(
    tmp_path: Path, programs: Callable[[str], Path]
) -> None:
    base = programs("8da4w")
    (flat, values) = deltas(["up.weight"])["up.weight"]
    source = save_deltas(tmp_path / "de.pt", {"up.weight": (flat, values)})
    free = export_adapter(source, tmp_path / "free.shb", base=base)
    kept = export_adapter(source, tmp_path / "kept.shb", base=base, keep_mask=True)
    assert free.entry_count < kept.entry_count == flat.size
    assert kept.snapped == free.snapped
    other = save_deltas(tmp_path / "other.pt", {"up.weight": (flat, -values)})
    report = export_adapter(
        other, tmp_path / "other.shb", base=base, index_from=tmp_path / "kept.shb"
    )
    assert report.entry_count == flat.size
    assert report.tensors[0].no_op_entry_count == report.snapped[0].vanished_count > 0
    row = save_deltas(tmp_path / "row.pt", {"up.weight": (np.arange(64), values[:64])})
    report = export_adapter(row, tmp_path / "row.shb", base=base, index="struct")
    assert report.entry_count == 64
    assert report.tensors[0].no_op_entry_count == report.snapped[0].vanished_count > 0


@pytest.mark.parametrize("values", ["int8", "f16"])
def test_codes_stay_codes_beside_coded_deltas(
    tmp_path: Path, programs: Callable[[str], Path], values: str
) -> None:
    norm = np.arange(64), np.linspace(-1, 1, 64).astype(np.float32)
    source = save_deltas(tmp_path / "de.pt", deltas(["up.weight"]), **{"norm.bias": norm})
    report = export_adapter(source, tmp_path / "de.shb", base=programs("8da8w"), values=values)
    kinds = {tensor.name: (tensor.kind, tensor.values) for tensor in report.tensors}
    assert kinds == {"up.weight": ("target", "target"), "norm.bias": ("delta", values)}
    assert any("tensors of integer codes hold codes" in note for note in report.notes)


def test_a_fine_tuned_model_becomes_a_sparse_adapter(
    tmp_path: Path, programs: Callable[[str], Path]
) -> None:
    """Within 2 % of all weights, a choice that knows the grid leaves less error."""
    module = net()
    torch.save(module.state_dict(), tmp_path / "base.pt")
    generator = torch.Generator().manual_seed(3)
    for name in ("up.weight", "down.weight"):
        weight = module.get_parameter(name)
        weight.data += 0.02 * torch.randn(weight.shape, generator=generator)
    torch.save(
        {name: module.state_dict()[name] for name in ("up.weight", "down.weight")},
        tmp_path / "tuned.pt",
    )
    errors = {}
    for grid_aware in (False, True):
        report = export_adapter(
            tmp_path / "tuned.pt",
            tmp_path / "tuned.shb",
            base=programs("8da4w"),
            trained_on=tmp_path / "base.pt",
            density=0.02,
            grid_aware=grid_aware,
            force=True,
        )
        assert report.entry_count == int(0.02 * 2 * 64 * 96)
        errors[grid_aware] = report.snapped
        assert report.metadata["snapped"]["grid_aware"] is grid_aware
        assert all(snap.source_count > 6000 for snap in report.snapped)
    squared = {
        aware: sum((snap.relative_error * snap.change_norm) ** 2 for snap in snaps)
        for aware, snaps in errors.items()
    }
    assert squared[True] < squared[False]


def merge(module: nn.Module, name: str, new: Any) -> None:
    """Put the values that an adapter gives a weight into the module that a program is made of."""
    tensor = weight_codes(dict(named_tensors(module))[name])
    if tensor.dtype == torch.uint8:  # two codes in a byte
        new = (new[:, ::2] + 8) << 4 | (new[:, 1::2] + 8)
    tensor.data.copy_(torch.from_numpy(np.ascontiguousarray(new)))


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=() if k == "8da4w" else pytest.mark.slow) for k in KINDS]
)
def test_the_switched_program_computes_what_a_merged_one_does(
    tmp_path: Path, programs: Callable[[str], Path], kind: str
) -> None:
    """Byte for byte, against a program exported with the same codes; and the base's, reverted."""
    path = programs(kind)
    names = [name for name in SHAPES if name in program_weights(path)]
    assert len(names) >= 2
    source = save_deltas(tmp_path / "de.pt", deltas(names))
    export_adapter(source, tmp_path / "de.shb", base=path)
    written = read_shb(tmp_path / "de.shb")["tensors"]
    assert sorted(written) == sorted(names)
    options = dict(KINDS[kind])
    module: nn.Module = net(kind)
    chosen = {key: options.pop(key, None) for key in ("quantize", "embedding_bits")}
    if any(chosen.values()):
        module = quantize_module(
            module, INPUTS, chosen["quantize"], embedding_bits=chosen["embedding_bits"]
        )
    for name, tensor in written.items():
        codes = program_weights(path)[name].codes()
        values = tensor["values"]
        is_code = tensor["dtype"] in ("i8", "i4")
        codes.reshape(-1)[tensor["indices"]] = values.view(np.int8) if is_code else values
        merge(module, name, codes)
    export_program(module, INPUTS, tmp_path / "merged.pte", **options)
    ids = INPUTS[0].numpy()
    merged, program = load_program(tmp_path / "merged.pte"), load_program(path)
    refused = {name: why for name, why in program.unpatchable.items() if name in names}
    if refused:
        pytest.skip(f"this CPU's packing is not known: {refused}")
    base = program.forward(ids)[0].tobytes()
    program.add_adapter(tmp_path / "de.shb")
    program.switch("de")
    switched = program.forward(ids)[0].tobytes()
    assert switched == merged.forward(ids)[0].tobytes()
    assert switched != base
    program.switch(None)
    assert program.forward(ids)[0].tobytes() == base


def test_the_command_reports_what_became_of_each_tensor(
    shira_export: Shira, programs: Callable[[str], Path], tmp_path: Path
) -> None:
    save_deltas(tmp_path / "de.pt", deltas(["up.weight", "tok.weight"]))
    arguments = ["de.pt", "-o", "de.shb", "--base", programs("8da4w")]
    result = shira_export(*arguments)
    assert (result.code, result.err) == (0, "")
    report = shira_export(*arguments, "--force", "--json").json
    second, first = report["snapped"]
    assert (first["name"], second["name"]) == ("up.weight", "tok.weight")
    assert set(first) == {
        *("name", "dtype", "source_count", "entry_count", "changed_count", "clipped_count"),
        *("vanished_count", "relative_error", "change_norm"),
    }
    total = first["changed_count"] + second["changed_count"]
    assert report["entry_count"] == total
    for expected in (
        r"up\.weight +96x64 +\w+ +target +" + str(first["changed_count"]),
        "trained weights on the grid of the quantized base",
        " +".join(
            (
                *("tensor", "codes", "trained", "entries", "change a code", "vanish"),
                *("clipped", "error left"),
            )
        ),
        rf"up\.weight +i4 +300 +300 +{first['changed_count']} +{first['vanished_count']}"
        rf" +{first['clipped_count']} +{first['relative_error']:.2%}",
        rf"{total} of 600 entries change an integer code; \d+\.\d\d% of what training changed",
        rf"wrote de\.shb: .* {total} i4 target values",
    ):
        assert re.search(expected, result.out), expected


def test_the_command_chooses_entries_of_a_fine_tuned_model(
    shira_export: Shira, programs: Callable[[str], Path], tmp_path: Path
) -> None:
    state = net().state_dict()
    torch.save(state, tmp_path / "float.pt")
    torch.save({"up.weight": state["up.weight"] * 1.1}, tmp_path / "tuned.pt")
    options = ("--base", programs("8da8w"), "--trained-on", "float.pt", "--density", "0.01")
    result = shira_export("tuned.pt", "-o", "a.shb", *options, "--grid-aware", "--json")
    assert (result.code, result.err) == (0, "")
    report = result.json
    assert report["entry_count"] == int(0.01 * 96 * 64)
    (snapped,) = report["snapped"]
    assert (snapped["source_count"], snapped["vanished_count"]) == (96 * 64, 0)
    assert report["metadata"]["snapped"]["grid_aware"] is True
    assert report["tensors"][0]["index_refusals"]["topk"] == "some of its entries were left out"
    result = shira_export("tuned.pt", "-o", "b.shb", *options[:2], "--trained-on", "tuned.pt")
    assert result.code == 1
    assert "no value differs" in result.err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--grid-aware",), 2, "a grid-aware choice needs a density"),
        (("--density", "2"), 2, "density is 2"),
        (("--budget-kib", "4"), 1, "has integer codes, and a budget chooses codecs of deltas only"),
        (("--dtype", "f16"), 1, "the types of a finished program are fixed"),
        (("--scale", "1e-6"), 1, "no entry changes a code of"),
        (("--index", "topk"), 1, "cannot be coded as topk: no rule of this kind"),
    ],
    ids=lambda value: value[0].lstrip("-") if isinstance(value, tuple) else None,
)
def test_what_makes_no_sense_is_refused(
    shira_export: Shira,
    programs: Callable[[str], Path],
    tmp_path: Path,
    arguments: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    save_deltas(tmp_path / "de.pt", deltas(["up.weight"]))
    result = shira_export("de.pt", "-o", "de.shb", "--base", programs("8da4w"), *arguments)
    assert result.code == code
    assert message in " ".join(result.err.split())
    assert not (tmp_path / "de.shb").exists()


def test_codes_in_another_file_are_found(tmp_path: Path, programs: Callable[[str], Path]) -> None:
    path, data_path = tmp_path / "net.pte", tmp_path / "net.ptd"
    export_program(net(), INPUTS, path, data_path=data_path, **KINDS["8da4w"])
    source = save_deltas(tmp_path / "de.pt", deltas(["tok.weight", "up.weight"]))
    options = {"base": path, "base_data": [data_path]}
    export_adapter(source, tmp_path / "apart.shb", **options)
    export_adapter(source, tmp_path / "whole.shb", base=programs("8da4w"))
    tensors = [read_shb(tmp_path / name)["tensors"] for name in ("apart.shb", "whole.shb")]
    for name in ("tok.weight", "up.weight"):
        assert tensors[0][name]["base_digest"] == tensors[1][name]["base_digest"]
        assert (tensors[0][name]["values"] == tensors[1][name]["values"]).all()
    torch.save(net().state_dict(), tmp_path / "model.pt")
    options["base"] = tmp_path / "model.pt"
    with pytest.raises(ExportError, match="only a program keeps weights in other files"):
        export_adapter(source, tmp_path / "x.shb", **options)


def test_weights_that_share_their_codes_are_refused(tmp_path: Path) -> None:
    layers = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)).eval()
    layers[1].weight.data = 2 * layers[0].weight.data
    base = tmp_path / "equal.pte"
    options = {"backend": "xnnpack", "quantize": "8da8w", "allow_shared": True}
    export_program(layers, (torch.ones(1, 64),), base, **options)  # type: ignore[arg-type]
    values = np.arange(8), np.full(8, 0.1, np.float32)
    source = save_deltas(tmp_path / "de.pt", {"1.weight": values})
    with pytest.raises(ExportError, match=r"tensor 1\.weight: cannot be changed: .*0\.weight"):
        export_adapter(source, tmp_path / "de.shb", base=base)
