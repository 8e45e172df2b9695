# SPDX-License-Identifier: Apache-2.0
"""Weights that XNNPACK has packed: switched byte for byte as if the program were packed anew."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

models = pytest.importorskip("_models", exc_type=ImportError)

import packed_models as packed  # noqa: E402
from engine_models import export_methods, rows, shared_layers  # noqa: E402

from shira_runtime import BaseMismatchError, ShiraError  # noqa: E402
from shira_runtime.export.program import export_program  # noqa: E402
from shira_runtime.weights import program_weights  # noqa: E402

Entries = dict[str, tuple[packed.Array, packed.Array]]


@dataclass
class Case:
    """A program of one kind, and two adapters for it whose masks overlap."""

    kind: str
    path: Path
    module: Any
    codes: dict[str, packed.Array]
    entries: dict[str, Entries]

    @property
    def dtype(self) -> str:
        return packed.KINDS[self.kind][1]

    def adapter(self, name: str) -> Any:
        return packed.make_adapter(name, self.dtype, self.codes, self.entries[name])

    def load(self, **options: Any) -> packed.Packed:
        """With both adapters added; skips where this processor has no kernel for the kind."""
        loaded = packed.Packed(self.path, **options)
        if self.kind == "f16" and not loaded.entries:
            reasons = loaded.program.unpatchable
            assert all("no kernel for f16" in reasons[name] for name in packed.WEIGHTS)
            pytest.skip("this processor computes in f32 what is f16")
        for name in self.entries:
            loaded.program.add_adapter(self.adapter(name))
        return loaded

    def merged(self, members: Mapping[str, float]) -> dict[str, packed.Array]:
        chosen = [(scale, self.entries[name]) for name, scale in members.items()]
        return packed.merged(self.dtype, self.codes, chosen)

    def fresh(self, codes: Mapping[str, packed.Array], folder: Path) -> packed.Packed:
        """A program with these codes in its file, packed by itself."""
        return packed.Packed(packed.rewrite(self.kind, self.path, codes, folder / "fresh.pte"))


@pytest.fixture(scope="session", params=packed.KINDS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    kind = request.param
    module = packed.make_module(kind)
    path = packed.export(kind, module, tmp_path_factory.mktemp(kind) / "base.pte")
    codes = packed.codes_of(module)
    rng = np.random.default_rng(7)
    dtype = packed.KINDS[kind][1]
    entries = {
        name: {
            tensor: packed.random_entries(dtype, codes[tensor], rng)
            for tensor in packed.WEIGHTS[: 1 + (name == "a")]
        }
        for name in ("a", "b")
    }
    return Case(kind, path, module, codes, entries)


def check_equal(live: packed.Packed, fresh: packed.Packed, kind: str) -> None:
    """The same outputs, and the same bytes of every weight whose rows fill their blocks."""
    assert live.outputs(kind) == fresh.outputs(kind)
    live_bytes, fresh_bytes = live.bytes(), fresh.bytes()
    assert live_bytes.keys() == fresh_bytes.keys()
    wide = max(live_bytes, key=lambda name: len(live_bytes[name]))
    assert live_bytes[wide] == fresh_bytes[wide]


def test_a_switch_is_a_fresh_export(case: Case, tmp_path: Path) -> None:
    live = case.load()
    base_outputs, base_bytes = live.outputs(case.kind), live.bytes()
    assert set(packed.WEIGHTS) <= set(live.program.tensors)
    live.program.switch("a")
    assert live.outputs(case.kind) != base_outputs
    codes = case.merged({"a": 1.0})
    module = packed.with_codes(case.module, codes)
    exported = packed.Packed(packed.export(case.kind, module, tmp_path / "merged.pte"))
    assert live.outputs(case.kind) == exported.outputs(case.kind)
    check_equal(live, case.fresh(codes, tmp_path), case.kind)
    for name in packed.WEIGHTS:
        assert live.program.read(name).tobytes() == codes[name].tobytes()
    live.program.verify_base()
    live.program.switch(None)
    assert live.outputs(case.kind) == base_outputs
    assert live.bytes() == base_bytes


@pytest.mark.parametrize(
    "members",
    [{"b": 1.0}, {"a": 0.5}, {"b": -1.25}, {"a": 1.0, "b": 1.0}, {"a": 0.75, "b": -0.5}],
    ids=str,
)
def test_scales_and_stacks(case: Case, members: dict[str, float], tmp_path: Path) -> None:
    live = case.load()
    before = live.bytes()
    live.program.switch(members)
    check_equal(live, case.fresh(case.merged(members), tmp_path), case.kind)
    live.program.switch(None)
    assert live.bytes() == before


@pytest.mark.parametrize("threads", [1, 2])
def test_any_way_leads_to_the_same_bytes(case: Case, threads: int) -> None:
    """The weights depend on the active set alone, and the way back leaves nothing."""
    live = case.load()
    live.program.threads = threads
    sets: list[Any] = [None, "a", "b", {"a": 0.5}, {"a": 0.3, "b": -2.0}, {"a": 1, "b": 1}]
    whole = []
    for members in sets:
        live.program.switch(None)
        live.program.switch(members)
        whole.append((live.bytes(), live.program.digest))
    assert len({digest for _, digest in whole}) == len(sets)
    generator = random.Random(threads)
    for _ in range(60):
        choice = generator.randrange(len(sets))
        live.program.switch(sets[choice])
        assert (live.bytes(), live.program.digest) == whole[choice]
    live.program.verify_base()
    live.program.hard_revert()
    assert live.bytes() == whole[0][0]


def test_the_base_is_checked(case: Case) -> None:
    """An adapter for other weights changes nothing, and a patch by others is found."""
    live = case.load()
    before = live.bytes()
    other = {name: np.roll(array, 1) for name, array in case.codes.items()}
    live.program.add_adapter(packed.make_adapter("other", case.dtype, other, case.entries["a"]))
    with pytest.raises(BaseMismatchError, match=r"narrow\.weight|wide\.weight"):
        live.program.switch("other")
    assert live.bytes() == before
    live.program.switch("a")
    patched = live.bytes()
    with pytest.raises(BaseMismatchError):
        live.program.switch("other")
    assert live.bytes() == patched
    offset, _ = next(iter(live.entries.values()))
    live.poke(offset + 9, 1)
    with pytest.raises(ShiraError, match=r"narrow\.weight|wide\.weight"):
        live.program.verify_base()


def test_originals_in_the_file(case: Case, tmp_path: Path) -> None:
    live = case.load()
    before = live.bytes()
    live.program.originals = "file"
    for members in ({"a": 1.0}, {"a": 0.5, "b": 1.0}, {"b": 1.0}):
        live.program.switch(members)
        check_equal(live, case.fresh(case.merged(members), tmp_path), case.kind)
    live.program.switch(None)
    assert live.bytes() == before


def test_programs_are_apart_and_unloading_leaves_nothing(case: Case) -> None:
    one, other = case.load(), case.load()
    base = other.outputs(case.kind)
    one.program.switch("a")
    assert other.outputs(case.kind) == base
    assert one.outputs(case.kind) != base
    other.program.switch("b")
    one.program.switch(None)
    assert one.outputs(case.kind) == base
    one.program.switch("a")
    del one  # not reverted
    again = case.load()
    assert again.outputs(case.kind) == base
    assert other.outputs(case.kind) != base


# --- Several methods, and layers that share what is packed ---


def two_methods(path: Path) -> tuple[Path, packed.Array]:
    """One f32 layer in two methods, without a name of its own in the program."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    layers = shared_layers()
    inputs = {name: (models.torch.ones(2, 16),) for name in layers}
    dynamic = {name: (rows(5),) for name in layers}
    export_methods(path, layers, inputs, dynamic, [XnnpackPartitioner()])
    return path, layers["forward"].layer.weight.detach().numpy()


def test_methods_share_what_is_packed(tmp_path: Path) -> None:
    path, weight = two_methods(tmp_path / "methods.pte")
    states = np.linspace(-1, 1, 48, dtype=np.float32).reshape(3, 16)
    for methods in (("forward", "doubled"), ("doubled",)):
        live = packed.Packed(path, methods=methods, method=methods[0])
        name, bias = live.program.tensors
        assert bias == f"{name}.bias"
        entries = packed.random_entries("f32", weight, np.random.default_rng(1))
        live.program.add_adapter(packed.make_adapter("a", "f32", {name: weight}, {name: entries}))

        def run(live: packed.Packed = live, methods: Any = methods) -> list[packed.Array]:
            return [live.program.forward(states, method=method)[0] for method in methods]

        before = run()
        live.program.switch("a")
        after = run()
        assert all((one != other).any() for one, other in zip(before, after, strict=True))
        assert (after[-1] == after[0] * (2 if len(methods) == 2 else 1)).all()
        live.program.switch(None)
        assert all((one == other).all() for one, other in zip(run(), before, strict=True))


class Pair(models.torch.nn.Module):  # type: ignore[misc,name-defined]
    """Two layers without bias; the second one's weights are the first one's times `factor`."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        models.torch.manual_seed(1)
        self.a, self.b = (models.torch.nn.Linear(64, 32, bias=False) for _ in "ab")
        self.b.weight.data = self.a.weight.data * factor

    def forward(self, states: Any) -> Any:
        return self.a(states) - self.b(states) * 3


def export_pair(factor: float, path: Path, quantize: str | None = "8da8w") -> Path:
    module = Pair(factor).eval().requires_grad_(False)
    inputs = (models.torch.linspace(-1, 1, 64)[None],)
    export_program(module, inputs, path, backend="xnnpack", quantize=quantize, allow_shared=True)
    return path


def test_layers_with_equal_codes_but_other_scales_are_refused(tmp_path: Path) -> None:
    """XNNPACK packs them once, with one layer's scales: it computes the other one wrongly."""
    live = packed.Packed(export_pair(2.0, tmp_path / "pair.pte"))
    assert len(live.entries) == 1
    reasons = live.program.unpatchable
    for name, other in (("a.weight", "b.weight"), ("b.weight", "a.weight")):
        assert name not in live.program.tensors
        assert other in reasons[name]
        assert "codes" in reasons[name]


def test_equal_layers_share_one_weight(tmp_path: Path) -> None:
    live = packed.Packed(export_pair(1.0, tmp_path / "pair.pte"))
    before = live.bytes()
    codes = {"a.weight": np.zeros((32, 64), np.int8)}
    entries = {"a.weight": (np.array([3]), np.array([1], np.int8))}
    with pytest.raises(ShiraError, match=r"b\.weight") as caught:
        live.program.add_adapter(packed.make_adapter("x", "i8", codes, entries))
    assert (caught.value.status, caught.value.tensor) == ("SHARED_STORAGE", "a.weight")
    assert live.bytes() == before


def test_constant_weights_are_refused(tmp_path: Path) -> None:
    """Nothing tells where the codes of such a matrix are."""
    module = Pair(2.0).eval().requires_grad_(False)
    module.a.weight.data.fill_(1.0)
    module.b.weight.data.fill_(-2.0)
    inputs = (models.torch.linspace(-1, 1, 64)[None],)
    path = tmp_path / "constant.pte"
    export_program(module, inputs, path, backend="xnnpack", allow_shared=True)
    live = packed.Packed(path)
    assert set(live.program.tensors).isdisjoint({"a.weight", "b.weight"})
    for name in ("a.weight", "b.weight"):
        assert "do not tell two packings apart" in live.program.unpatchable[name]


def test_other_constants_of_the_delegate_are_listed(tmp_path: Path) -> None:
    """Only the weights of linear layers are looked for in what XNNPACK packs."""
    module = models.torch.nn.Conv2d(3, 4, 3).eval().requires_grad_(False)
    path = tmp_path / "convolution.pte"
    export_program(module, (models.torch.ones(1, 3, 8, 8),), path, backend="xnnpack")
    program = packed.Packed(path).program
    assert program.tensors == {}
    assert program.unpatchable
    assert all("XNNConv2d" in reason for reason in program.unpatchable.values())


def test_names_that_no_weight_has(case: Case) -> None:
    live = case.load()
    before = live.bytes()
    codes = {"narrow.bias": np.zeros(20, np.float32)}
    entries = {"narrow.bias": (np.array([1]), np.array([1], np.float32))}
    with pytest.raises(ShiraError, match=r"narrow\.bias") as caught:
        live.program.add_adapter(packed.make_adapter("x", case.dtype, codes, entries))
    assert caught.value.status == "UNKNOWN_TENSOR"
    wrong = {"wide.weight": case.codes["wide.weight"].T.copy()}
    with pytest.raises(ShiraError, match=r"wide\.weight") as caught:
        live.program.add_adapter(
            packed.make_adapter(
                "y", case.dtype, wrong, {"wide.weight": case.entries["a"]["wide.weight"]}
            )
        )
    assert caught.value.status == "SHAPE_MISMATCH"
    assert live.bytes() == before


# --- Biases, which lie beside the rows of their weight ---


@dataclass
class Biased:
    """A case's program and two adapters: one with weights and the bias, one with the bias alone."""

    case: Case
    values: dict[str, packed.Array]
    entries: dict[str, Entries]

    def load(self) -> packed.Packed:
        live = self.case.load()
        for name, entries in self.entries.items():
            adapter = packed.make_adapter(name, self.case.dtype, self.values, entries)
            live.program.add_adapter(adapter)
        return live

    def merged(self, members: Mapping[str, float]) -> dict[str, packed.Array]:
        chosen = [(scale, self.entries[name]) for name, scale in members.items()]
        return packed.merged(self.case.dtype, self.values, chosen)


@pytest.fixture(scope="module")
def biased(case: Case) -> Biased:
    values = packed.codes_of(case.module, (*packed.WEIGHTS, packed.BIAS))
    rng = np.random.default_rng(13)
    drawn = [packed.random_entries(case.dtype, values[packed.BIAS], rng, 0.4) for _ in range(2)]
    whole = {**case.entries["a"], packed.BIAS: drawn[0]}
    return Biased(case, values, {"whole": whole, "bias": {packed.BIAS: drawn[1]}})


@pytest.mark.parametrize(
    "members",
    [{"bias": 1.0}, {"whole": 1.0}, {"bias": -0.5}, {"whole": 0.5, "bias": 1.5}],
    ids=str,
)
def test_a_switched_bias_is_a_fresh_export(
    biased: Biased, members: dict[str, float], tmp_path: Path
) -> None:
    case, live = biased.case, biased.load()
    dtype = "f16" if case.kind == "f16" else "f32"
    base_outputs, base_bytes = live.outputs(case.kind), live.bytes()
    assert live.program.tensors[packed.BIAS].shape == (96,)
    assert live.program.tensors[packed.BIAS].dtype == dtype
    epoch = live.program.epoch
    live.program.switch(members)
    assert live.program.epoch == epoch + 1
    assert live.outputs(case.kind) != base_outputs
    merged = biased.merged(members)
    check_equal(live, case.fresh(merged, tmp_path), case.kind)
    if members in ({"bias": 1.0}, {"whole": 1.0}):
        module = packed.with_codes(case.module, merged)
        exported = packed.Packed(packed.export(case.kind, module, tmp_path / "merged.pte"))
        assert live.outputs(case.kind) == exported.outputs(case.kind)
    live.program.verify_base()
    live.program.switch(None)
    assert live.bytes() == base_bytes
    live.program.switch(members)
    live.program.hard_revert()
    assert live.bytes() == base_bytes


def test_a_bias_that_others_changed_is_found(biased: Biased) -> None:
    live = biased.load()
    entry = max(live.entries, key=lambda name: live.entries[name][1])
    offset, _ = live.entries[entry]
    before = live.bytes()[entry]
    live.program.switch("bias")
    patched = live.bytes()[entry]
    live.program.verify_base()
    assert patched != before
    # Of an element that the adapter leaves alone, beside others that it changes.
    untouched = set(range(96)) - set(biased.entries["bias"][packed.BIAS][0].tolist())
    contents = [biased.values[packed.BIAS][row].tobytes() for row in sorted(untouched)]
    live.poke(offset + next(before.find(each) for each in contents if before.count(each) == 1), 1)
    with pytest.raises(ShiraError, match=r"wide\.bias"):
        live.program.verify_base()


class Layers(models.torch.nn.Module):  # type: ignore[misc,name-defined]
    """Two layers, which `change` may make alike."""

    def __init__(self, change: Any) -> None:
        super().__init__()
        models.torch.manual_seed(2)
        self.a, self.b = (models.torch.nn.Linear(64, 32) for _ in "ab")
        change(self.a, self.b)

    def forward(self, states: Any) -> Any:
        return self.a(states) - self.b(states) * 3


def export_layers(change: Any, path: Path, quantize: str | None) -> Any:
    module = Layers(change).eval().requires_grad_(False)
    inputs = (models.torch.linspace(-1, 1, 64)[None],)
    export_program(module, inputs, path, backend="xnnpack", quantize=quantize, allow_shared=True)
    return module


def same_weight(a: Any, b: Any) -> None:
    b.weight.data = a.weight.data.clone()


def doubled_weight(a: Any, b: Any) -> None:
    b.weight.data = a.weight.data * 2


def tied_bias(a: Any, b: Any) -> None:
    b.bias = a.bias


@pytest.mark.parametrize(
    ("change", "quantize"), [(same_weight, None), (same_weight, "8da4w"), (doubled_weight, "8da4w")]
)
def test_equal_codes_with_other_biases_are_packed_apart(
    change: Any, quantize: str | None, tmp_path: Path
) -> None:
    """Their names in XNNPACK's cache have the bias's key: each is what its own layer says."""
    module = export_layers(change, tmp_path / "layers.pte", quantize)
    live = packed.Packed(tmp_path / "layers.pte")
    assert len(live.entries) == 2
    assert {"a.weight", "a.bias", "b.weight", "b.bias"} == set(live.program.tensors)
    states = np.linspace(-1, 1, 64, dtype=np.float32)[None]
    before = live.program.forward(states)[0]
    biases = {name: module.get_parameter(name).numpy() for name in ("a.bias", "b.bias")}
    added = {"a.bias": 1.0, "b.bias": -3.0}
    for name, bias in biases.items():
        entries = {name: (np.array([5]), bias[5:6] + np.float32(1))}
        live.program.add_adapter(packed.make_adapter(name, "f32", biases, entries))
        live.program.switch(name)
        difference = live.program.forward(states)[0] - before
        assert np.allclose(difference[0, 5], added[name], atol=1e-5)
        assert not np.delete(difference, 5).any()
        live.program.switch(None)
        assert (live.program.forward(states)[0] == before).all()


def test_equal_codes_by_rows_are_packed_once_whatever_their_biases(tmp_path: Path) -> None:
    export_layers(same_weight, tmp_path / "layers.pte", "8da8w")
    live = packed.Packed(tmp_path / "layers.pte")
    assert len(live.entries) == 1
    assert not {"a.weight", "a.bias", "b.weight", "b.bias"} & set(live.program.tensors)
    reasons = live.program.unpatchable
    for name, other in (("a.weight", "b.weight"), ("b.weight", "a.weight")):
        assert f"{other} has the same with another scale, bias or use" in reasons[name]
    assert reasons["b.bias"] == f"it is packed beside b.weight: {reasons['b.weight']}"


@pytest.mark.parametrize("quantize", [None, "8da8w", "8da4w", "8da4w-channel"])
def test_one_bias_of_two_layers_is_refused_with_their_names(
    quantize: str | None, tmp_path: Path
) -> None:
    export_layers(tied_bias, tmp_path / "layers.pte", quantize)
    live = packed.Packed(tmp_path / "layers.pte")
    assert {"a.weight", "b.weight"} <= set(live.program.tensors)
    tied = {name: why for name, why in live.program.unpatchable.items() if "bias" in name}
    assert len(tied) == 2
    for name, why_not in tied.items():
        assert name not in live.program.tensors
        assert "a.weight" in why_not
        assert "b.weight" in why_not


def test_a_program_that_does_not_name_its_biases(tmp_path: Path) -> None:
    """As older exports: the bias goes by its weight's key, and is switched in the same way."""
    live = packed.Packed(Path(__file__).parents[1] / "programs" / "weights.pte", method="forward")
    name = next(name for name in live.program.tensors if name.endswith(".bias"))
    assert name.startswith("xnnpack:")
    weight = program_weights(Path(__file__).parents[1] / "programs" / "weights.pte")[name]
    assert weight.beside == "group.weight"
    values = {name: weight.codes()}
    entries = {name: (np.array([0, 5]), np.array([1, 2], np.float32))}
    before = live.bytes()
    live.program.add_adapter(packed.make_adapter("new", "f32", values, entries))
    live.program.switch("new")
    assert live.bytes() != before
    live.program.verify_base()
    live.program.switch(None)
    assert live.bytes() == before


@pytest.mark.slow
def test_a_hundred_thousand_switches(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Of int4 in groups, whose sums are floats: each state is what packing makes of it, always."""
    folder = tmp_path_factory.mktemp("many")
    module = packed.make_module("int4_group", seed=5)
    path = packed.export("int4_group", module, folder / "base.pte")
    codes = packed.codes_of(module)
    rng = np.random.default_rng(11)
    entries = {
        name: {
            tensor: packed.random_entries("i4", codes[tensor], rng, density)
            for tensor in packed.WEIGHTS
        }
        for name, density in (("a", 0.01), ("b", 0.02), ("c", 0.2), ("d", 0.001))
    }
    case = Case("int4_group", path, module, codes, entries)
    live = case.load()
    live.program.threads = 2
    generator = random.Random(3)
    sets: list[dict[str, float]] = [{}]
    while len(sets) < 40:
        names = generator.sample(sorted(entries), generator.randrange(1, 4))
        scales = (1.0, generator.choice([-1.5, 0.25, 0.5, 2.0]))
        sets.append({name: generator.choice(scales) for name in names})
    wanted = []
    for members in sets:
        live.program.switch(members)
        check_equal(live, case.fresh(case.merged(members), folder), case.kind)
        wanted.append(live.bytes())
    for _ in range(100_000):
        choice = generator.randrange(len(sets))
        live.program.switch(sets[choice])
        assert live.bytes() == wanted[choice]
    live.program.switch(None)
    live.program.verify_base()
    assert live.bytes() == wanted[0]
