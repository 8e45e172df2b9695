# SPDX-License-Identifier: Apache-2.0
"""Program over torch modules: which weights are covered, and when they have moved away."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from shb_files import adapter, tensor_entries

from shira_runtime import Adapter, AttachError, BaseMismatchError, Program, from_torch

torch = pytest.importorskip("torch")
nn = torch.nn


class Small(nn.Module):  # type: ignore[misc, name-defined]
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
        self.register_buffer("shift", torch.zeros(4))
        self.register_buffer("steps", torch.arange(4))

    def forward(self, x: Any) -> Any:
        return self.inner(x) + self.shift


def small_adapter(module: Any, name: str = "inner.0.weight", at: int = 3) -> Adapter:
    base = module.state_dict()[name].numpy()
    return adapter("x", tensor_entries(name, base, np.array([at, at + 1]), np.array([2.0, -2.0])))


@pytest.fixture
def module() -> Any:
    return Small().eval().requires_grad_(False)


def switched(module: Any) -> Program:
    program = from_torch(module)
    program.add_adapter(small_adapter(module))
    program.switch("x")
    return program


def test_a_module_computes_with_the_switched_weights(module: Any) -> None:
    inputs = torch.ones(2, 6)
    before, weights = module(inputs), {n: t.clone() for n, t in module.state_dict().items()}
    program = switched(module)
    merged = Small().eval()
    merged.load_state_dict(weights)
    with torch.no_grad():
        merged.inner[0].weight.view(-1)[3:5] = torch.tensor([2.0, -2.0])
        assert torch.equal(program.forward(inputs), merged(inputs))
    assert torch.equal(module(inputs), program.forward(inputs))
    program.switch(None)
    assert torch.equal(program.forward(inputs), before)
    assert all(torch.equal(t, weights[n]) for n, t in module.state_dict().items())


def test_parameters_and_buffers_are_covered_others_named(module: Any) -> None:
    program = from_torch(module)
    assert {n: t.shape for n, t in program.tensors.items()} == {
        "inner.0.weight": (8, 6),
        "inner.0.bias": (8,),
        "inner.2.weight": (4, 8),
        "inner.2.bias": (4,),
        "shift": (4,),
    }
    assert program.unpatchable == {"steps": "its dtype is int64, not f32, f16 or bf16"}


def test_an_adapter_for_an_uncovered_weight_is_told_why() -> None:
    module = nn.Module()
    module.register_buffer("wide", torch.zeros(4, dtype=torch.float64))
    module.register_buffer("turned", torch.zeros(4, 3).T)
    module.register_buffer("nothing", torch.zeros(0))
    module.register_buffer("single", torch.zeros(4))
    module.register_buffer("elsewhere", torch.zeros(4, device="meta"))
    program = from_torch(module)
    assert list(program.tensors) == ["single"]
    assert "float64" in program.unpatchable["wide"]
    assert "meta" in program.unpatchable["elsewhere"]
    entries = tensor_entries("turned", np.zeros((3, 4), np.float32), np.array([1]), np.ones(1))
    file = adapter("x", entries)
    with pytest.raises(BaseMismatchError, match=r"cannot be patched: .*row-major") as caught:
        program.add_adapter(file)
    assert (caught.value.status, caught.value.tensor) == ("UNKNOWN_TENSOR", "turned")


def test_tied_parameters_are_refused_under_each_name() -> None:
    module = nn.Module()
    module.embed = nn.Embedding(5, 4)
    module.head = nn.Linear(4, 5, bias=False)
    module.head.weight = module.embed.weight
    module.requires_grad_(False)
    program = from_torch(module)
    for name in ("embed.weight", "head.weight"):
        with pytest.raises(BaseMismatchError) as caught:
            program.add_adapter(small_adapter(module, name))
        assert caught.value.status == "SHARED_STORAGE"


def test_a_weight_with_a_transposed_view_is_not_covered() -> None:
    module = nn.Module()
    module.embed = nn.Embedding(5, 4)
    module.register_buffer("head", module.embed.weight.detach().T)
    program = from_torch(module)
    assert program.tensors == {}
    assert "shares its storage with head" in program.unpatchable["embed.weight"]


def test_two_weights_in_one_buffer_are_two_weights() -> None:
    whole = torch.zeros(8)
    module = nn.Module()
    module.register_buffer("low", whole[:4])
    module.register_buffer("high", whole[4:])
    program = from_torch(module)
    program.add_adapter(small_adapter(module, "high", at=1))
    program.switch("x")
    assert whole.tolist() == [0, 0, 0, 0, 0, 2, -2, 0]


MOVES: dict[str, Any] = {
    "half": lambda m: m.half(),
    "data": lambda m: setattr(m.inner[0].weight, "data", m.inner[0].weight.data.clone()),
    "parameter": lambda m: setattr(m.inner[0], "weight", nn.Parameter(torch.zeros(8, 6))),
    "buffer": lambda m: setattr(m, "shift", torch.ones(4)),
    "deleted": lambda m: delattr(m, "shift"),
    "set_": lambda m: m.inner[0].weight.set_(torch.zeros(8, 6)),
}


@pytest.mark.parametrize("what", MOVES)
def test_weights_that_moved_are_detected_before_a_store(module: Any, what: str) -> None:
    program = switched(module)
    facts = (program.active, program.epoch, program.digest)
    MOVES[what](module)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    for call in (lambda: program.switch(None), program.verify_base):
        with pytest.raises(AttachError, match="make a new Program") as caught:
            call()
        assert caught.value.status == "DETACHED"
        assert caught.value.tensor in ("inner.0.weight", "shift")
    assert (program.active, program.epoch, program.digest) == facts
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])


def is_mapped(address: int) -> bool:
    with open("/proc/self/maps") as lines:
        areas = [line.split()[0].split("-") for line in lines]
    return any(int(start, 16) <= address < int(end, 16) for start, end in areas)


def test_memory_that_a_weight_has_left_is_kept() -> None:
    module = nn.Linear(4096, 4096, bias=False)  # 64 MiB: the allocator would return them at once
    program = from_torch(module)
    address = module.weight.data_ptr()
    module.weight.data = torch.zeros(1)
    assert is_mapped(address)
    with pytest.raises(AttachError):
        program.verify_base()
    del program
    assert not is_mapped(address)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_weight_cannot_be_resized_below_a_program(dtype: Any) -> None:
    """A switch that waits would otherwise store into memory that was given back."""
    module = nn.Linear(8, 6, dtype=dtype)
    assert set(from_torch(module).tensors) == {"weight", "bias"}
    for resize in (module.weight.data.resize_, module.bias.untyped_storage().resize_):
        with pytest.raises(RuntimeError, match="resiz"):
            resize(1 << 22)


def test_moving_nothing_is_fine(module: Any) -> None:
    program = switched(module)
    module.to(torch.float32).cpu().float()
    program.switch(None)


def test_the_program_keeps_the_module(module: Any) -> None:
    program = from_torch(Small().eval())
    assert program.forward(torch.ones(1, 6)).shape == (1, 4)
    program.verify_base()
