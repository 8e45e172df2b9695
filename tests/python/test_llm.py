# SPDX-License-Identifier: Apache-2.0
"""The language model's wrapper, cache and switches: a tiny random model through the same code."""

from __future__ import annotations

import copy
import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("executorch.runtime")
pytest.importorskip("gguf")

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))

import shira_runtime  # noqa: E402
from examples.smollm2 import adapters, memory, tasks  # noqa: E402
from examples.smollm2.export_program import export_decoder, quantize_decoder  # noqa: E402
from examples.smollm2.generate import EagerModel, Session  # noqa: E402
from examples.smollm2.model import Config, Decoder  # noqa: E402
from examples.smollm2.train import SparseLinear, make_sparse  # noqa: E402
from shira_runtime.export import export_adapter  # noqa: E402

CONFIG = Config(
    vocabulary=96, width=64, hidden_width=96, layers=1, heads=4, key_value_heads=2, cache_length=80
)
TOKENS = [int(token) for token in np.random.default_rng(3).integers(0, 96, 70)]
Entries = Mapping[str, Mapping[str, Any]]


def make_decoder(layers: int = 1) -> Decoder:
    torch.manual_seed(5)
    decoder = Decoder(dataclasses.replace(CONFIG, layers=layers)).eval().requires_grad_(False)
    for parameter in decoder.parameters():
        if parameter.dim() == 2:
            parameter.mul_(2)
    return decoder


def make_entries(decoder: Decoder, seed: int) -> Entries:
    """Differences of one or two whole steps of the grid, so that all change codes."""
    generator = torch.Generator().manual_seed(seed)
    entries = {}
    for name, weight in decoder.named_parameters():
        if adapters.is_target(name):
            positions = adapters.positions(weight, seed, rank=1)
            codes = 1.0 + torch.randint(2, (len(positions),), generator=generator)
            signs = torch.where(weight.view(-1)[positions] < 0, 1.0, -1.0)
            steps = adapters.grid_steps(weight)[positions // adapters.GROUP]
            values = signs * codes * steps
            entries[name] = {"indices": positions, "values": values, "shape": tuple(weight.shape)}
    return entries


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llm")
    decoder = make_decoder()
    export_decoder(copy.deepcopy(decoder), folder / "base.pte")
    for seed, name in ((1, "a"), (2, "b")):
        torch.save(make_entries(decoder, seed), folder / f"{name}.pt")
        export_adapter(folder / f"{name}.pt", folder / f"{name}.shb", base=folder / "base.pte")
    return folder


@pytest.fixture
def program(folder: Path) -> shira_runtime.Program:
    program = shira_runtime.load_program(folder / "base.pte")
    for name in ("a", "b"):
        program.add_adapter(folder / f"{name}.shb")
    return program


def logits_of(model: Any, tokens: list[int], **options: Any) -> np.ndarray[Any, Any]:
    session = Session(model, **options)
    session.append(tokens)
    return session.logits()


def test_the_cache_gives_what_whole_sequences_give() -> None:
    decoder = make_decoder(layers=3)
    states = decoder.states(torch.tensor([TOKENS]))
    expected = decoder.lm_head(states)[0].numpy()
    session = Session(EagerModel(decoder), longest_read=7)
    for end in (1, 2, 9, 40, 70):
        session.append(TOKENS[len(session.tokens) : end])
        np.testing.assert_allclose(session.logits(), expected[end - 1], atol=2e-5)
        assert session.cached_count == end


def test_a_program_in_float32_gives_what_torch_gives(tmp_path: Path) -> None:
    decoder = make_decoder()
    report = export_decoder(decoder, tmp_path / "float.pte", "f32")
    assert {name for name in report.packed if adapters.is_target(name)} == {
        name for name, _ in decoder.named_parameters() if adapters.is_target(name)
    }
    program = shira_runtime.load_program(report.program_path)
    found = logits_of(program, TOKENS)
    np.testing.assert_allclose(found, logits_of(EagerModel(decoder), TOKENS), atol=2e-5)


def test_a_switched_program_is_one_exported_with_the_codes(
    program: shira_runtime.Program, folder: Path, tmp_path: Path
) -> None:
    base = logits_of(program, TOKENS)
    assert program.switch("a").elements_changed > 500
    decoder = make_decoder()
    entries = make_entries(decoder, 1)
    quantize_decoder(decoder)
    for name, entry in entries.items():
        weight = decoder.get_parameter(name)
        step = weight.scale.repeat_interleave(32, dim=1).flatten()[entry["indices"]].double()
        codes = weight.qdata.view(-1)
        codes[entry["indices"]] += (entry["values"].double() / step).round().to(torch.int8)
        assert codes.abs().max() <= 8
    export_decoder(decoder, tmp_path / "merged.pte", quantized=True)
    merged = shira_runtime.load_program(tmp_path / "merged.pte")
    assert logits_of(program, TOKENS).tobytes() == logits_of(merged, TOKENS).tobytes()
    assert logits_of(program, TOKENS).tobytes() != base.tobytes()
    program.switch(None)
    assert logits_of(program, TOKENS).tobytes() == base.tobytes()
    program.verify_base()


def test_a_session_reads_again_after_a_switch(program: shira_runtime.Program) -> None:
    session = Session(program)
    session.append(TOKENS[:20])
    session.logits()
    for members in ("a", {"a": 0.5, "b": 1.0}, "b", None):
        program.switch(members)
        found = session.logits()
        assert found.tobytes() == logits_of(program, session.tokens).tobytes()
        session.append([TOKENS[len(session.tokens)]])
        session.logits()
    assert session.reread_count == 20 + 21 + 22 + 23


def test_a_stale_cache_gives_something_else(program: shira_runtime.Program) -> None:
    session = Session(program, keep_stale_cache=True)
    session.append(TOKENS[:20])
    session.logits()
    program.switch("a")
    stale = session.logits()
    assert np.abs(stale - logits_of(program, TOKENS[:20])).max() > 1e-3


def test_a_switch_that_changes_nothing_keeps_the_cache(program: shira_runtime.Program) -> None:
    program.switch("a")
    session = Session(program)
    session.append(TOKENS[:10])
    session.logits()
    program.switch("a")
    session.append([TOKENS[10]])
    session.logits()
    assert session.reread_count == 0


def test_memory_is_measured_in_a_process_of_its_own(folder: Path) -> None:
    shb = {name: folder / f"{name}.shb" for name in ("a", "b")}
    figures = memory.measure(folder / "base.pte", TOKENS[:5], shb, "a")
    assert 1e6 < figures["private"] <= figures["proportional"] <= figures["resident"] < 1e9


def test_training_changes_only_the_masked_entries() -> None:
    decoder = make_decoder()
    before = {name: tensor.clone() for name, tensor in decoder.named_parameters()}
    layers = make_sparse(decoder, seed=4)
    name, layer = next(iter(layers.items()))
    assert isinstance(layer, SparseLinear)
    layer.set_entries(is_snapped=True)
    as_built = layer.weight.clone()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        decoder.states(torch.tensor([TOKENS[:8]])).square().sum().backward()
    gradient = layer.difference.grad
    assert gradient is not None
    assert gradient.abs().max() > 0
    layer.difference.data.fill_(1.0)
    layer.set_entries(is_snapped=False)
    is_changed = layer.weight != as_built
    assert set(is_changed.flatten().nonzero().flatten().tolist()) == set(layer.positions.tolist())
    assert layer.positions.tolist() == adapters.positions(before[name], 4).tolist()


def test_stored_adapters_come_back(tmp_path: Path) -> None:
    decoder = make_decoder()
    state = dict(decoder.named_parameters())
    differences = {
        name: torch.randn(len(adapters.positions(weight, 9)))
        for name, weight in state.items()
        if adapters.is_target(name)
    }
    adapters.save_adapter(tmp_path / "x.safetensors", differences, seed=9)
    entries = adapters.load_entries(tmp_path / "x.safetensors", state)
    assert entries.keys() == differences.keys()
    for name, entry in entries.items():
        assert torch.equal(entry["values"], differences[name].half().float())
        assert torch.equal(entry["indices"], adapters.positions(state[name], 9))


RECORD = tasks.Example("Ann, 30.\nGive name and age as JSON.", '{"name": "Ann", "age": 30}')


@pytest.mark.parametrize(
    ("answer", "is_strict", "is_right"),
    [
        ('{"name": "Ann", "age": 30}', True, True),
        ('{\n "name": "Ann",\n "age": 31}', True, False),
        ('{"age": 30, "name": "Ann"}', False, False),
        ('{"name": "Ann"}', False, False),
        ('{"name": "Ann", "age": [30]}', False, False),
        ('Here it is: {"name": "Ann", "age": 30}', False, False),
        ("", False, False),
    ],
)
def test_the_check_of_json(answer: str, is_strict: bool, is_right: bool) -> None:
    assert tasks.json_is_strict(RECORD, answer) == is_strict
    assert tasks.json_is_right(RECORD, answer) == is_right


@pytest.mark.parametrize(
    ("answer", "is_strict"),
    [
        ("RAIN IS WATER STOP IT FALLS STOP", True),
        ("RAIN IS WATER", False),
        ("RAIN IS WATER. STOP", False),
        ("RAIN is WATER STOP", False),
        ("STOP STOP STOP STOP STOP", False),
        ("STOP", False),
        ("", False),
    ],
)
def test_the_check_of_telegrams(answer: str, is_strict: bool) -> None:
    assert tasks.telegram_is_strict(tasks.Example("What is rain?"), answer) == is_strict


def test_training_and_check_share_no_prompt() -> None:
    trained = {example.prompt.split("\n")[0] for example in tasks.json_training(1)}
    assert not trained & {example.prompt.split("\n")[0] for example in tasks.json_check()}
    assert len(tasks.json_check()) >= 50
    questions = {example.prompt for example in tasks.telegram_training(1)}
    assert not questions & {example.prompt for example in tasks.telegram_check()}
    assert len(tasks.telegram_check()) >= 50
