# SPDX-License-Identifier: Apache-2.0
"""Adapters that PEFT trained and saved, exported and compared with what PEFT itself computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shb_reader import read_shb

from shira_runtime.export import export_adapter

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore")  # of PEFT and transformers


def tiny_llama(dtype: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
    )
    return transformers.LlamaForCausalLM(config).to(dtype)


def train(model: Any, mask_fn: Any = None) -> Any:
    """Trains SHiRA on random tokens for a few steps."""
    config = peft.ShiraConfig(
        r=2, target_modules=["q_proj", "v_proj", "down_proj"], random_seed=3, task_type="CAUSAL_LM"
    )
    if mask_fn is not None:
        config.mask_fn = mask_fn
    trained = peft.get_peft_model(model, config)
    optimizer = torch.optim.AdamW([p for p in trained.parameters() if p.requires_grad], lr=0.05)
    tokens = torch.randint(0, 64, (2, 16))
    for _ in range(4):
        loss = trained(input_ids=tokens, labels=tokens).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return trained


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(folder with base and adapter, weights before, deltas by PEFT, weights merged by PEFT)."""
    folder = tmp_path_factory.mktemp(request.param)
    model = tiny_llama(getattr(torch, request.param))
    model.save_pretrained(folder / "base")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with_adapter = train(model)
    with_adapter.save_pretrained(folder / "adapter")
    deltas = {
        f"{name.removeprefix('base_model.model.')}.weight": module.get_delta_weight("default")
        .detach()
        .to_dense()
        for name, module in with_adapter.named_modules()
        if hasattr(module, "shira_weight")
    }
    merged = with_adapter.merge_and_unload().state_dict()
    assert len(deltas) == 6
    assert all(delta.dtype == torch.float32 and delta.any() for delta in deltas.values())
    return folder, before, deltas, merged


def test_targets_are_what_peft_merges(trained: Any, tmp_path: Path) -> None:
    folder, before, deltas, merged = trained
    report = export_adapter(folder / "adapter", tmp_path / "a.shb", base=folder / "base")
    read = read_shb(tmp_path / "a.shb")
    assert set(read["tensors"]) == set(deltas)
    assert read["metadata"]["source_format"] == f"peft-shira {peft.__version__}"
    for name, tensor in read["tensors"].items():
        delta, base = deltas[name], before[name]
        exact = (base.float() + delta).to(base.dtype).reshape(-1)
        found = base.clone().reshape(-1)
        found[torch.from_numpy(tensor["indices"])] = torch.from_numpy(
            tensor["values"].astype(np.float32)
        ).to(base.dtype)
        assert torch.equal(found, exact)
        assert tensor["shape"] == tuple(base.shape)
        # Every weight that PEFT's merge changes is an entry; the masks hold r (rows + columns).
        changed = (merged[name] != base).reshape(-1).nonzero().reshape(-1)
        assert set(changed.tolist()) <= set(tensor["indices"].tolist())
        assert tensor["indices"].size == 2 * sum(base.shape)
        assert torch.equal(found, merged[name].reshape(-1))
    assert report.skipped == ()


def test_deltas_without_a_base_are_peft_s(trained: Any, tmp_path: Path) -> None:
    folder, _, deltas, _ = trained
    shapes = {name: tuple(delta.shape) for name, delta in deltas.items()}
    export_adapter(folder / "adapter", tmp_path / "a.shb", shapes=shapes)
    for name, tensor in read_shb(tmp_path / "a.shb")["tensors"].items():
        dense = np.zeros(deltas[name].numel(), np.float32)
        dense[tensor["indices"]] = tensor["values"]
        assert dense.tobytes() == deltas[name].numpy().tobytes()


def test_other_ways_to_save_give_the_same_file(trained: Any, tmp_path: Path) -> None:
    folder, _, _, _ = trained
    model = tiny_llama(torch.float32)
    loaded = peft.PeftModel.from_pretrained(model, folder / "adapter")
    torch.save(peft.get_peft_model_state_dict(loaded), tmp_path / "state.pt")
    loaded.save_pretrained(tmp_path / "bin", safe_serialization=False)
    for i, source in enumerate((folder / "adapter", tmp_path / "state.pt", tmp_path / "bin")):
        export_adapter(source, tmp_path / f"{i}.shb", base=folder / "base", name="x")
    tensors = [read_shb(tmp_path / f"{i}.shb")["tensors"] for i in range(3)]
    for other in tensors[1:]:
        assert {n: t["values"].tobytes() for n, t in other.items()} == {
            n: t["values"].tobytes() for n, t in tensors[0].items()
        }


def test_block_masks_are_found(tmp_path: Path) -> None:
    def blocks(base_layer: Any, r: int, **_: Any) -> Any:
        mask = torch.zeros_like(base_layer.weight)
        runs = mask.view(-1, 16)
        runs[torch.randperm(runs.shape[0])[: r * sum(mask.shape) // 16]] = 1
        return mask

    model = tiny_llama(torch.float32)
    model.save_pretrained(tmp_path / "base")
    train(model, blocks).save_pretrained(tmp_path / "adapter")
    report = export_adapter(tmp_path / "adapter", tmp_path / "a.shb", base=tmp_path / "base")
    assert {tensor.block_length for tensor in report.tensors} == {16}


def test_masks_that_follow_a_rule_are_stored_as_one(tmp_path: Path) -> None:
    from shira_runtime.export import masks

    def seeded(base_layer: Any, r: int, **_: Any) -> Any:
        return masks.seeded_random_mask(base_layer, r, random_seed=5, block_length=8)

    for mask_function, codec in ((seeded, "random"), (masks.magnitude_mask, "topk")):
        model = tiny_llama(torch.float32)
        model.save_pretrained(tmp_path / "base")
        folder = tmp_path / codec
        train(model, mask_function).save_pretrained(folder)
        output = tmp_path / f"{codec}.shb"
        report = export_adapter(folder, output, base=tmp_path / "base", mask_seed=5)
        assert all(codec in tensor.index_sizes_bytes for tensor in report.tensors)
        assert codec in {tensor.index_codec for tensor in report.tensors}
        # The seed is that of the base as stored; which weights are largest, rounding changes.
        report = export_adapter(
            folder, output, base=tmp_path / "base", mask_seed=5, dtype="bf16", force=True
        )
        found = [codec in tensor.index_sizes_bytes for tensor in report.tensors]
        assert all(found) == (codec == "random")
