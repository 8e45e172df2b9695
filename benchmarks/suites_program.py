# SPDX-License-Identifier: Apache-2.0
"""Suite "program": what adapters cost an ExecuTorch program, per forward pass and per exchange."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shira_runtime import AdapterFile, Program, load_program
from shira_runtime.bench import (
    ALL_WARM,
    COLD_CACHE,
    COLD_FILE,
    Arm,
    Case,
    Scalar,
    Suite,
    WrongBytes,
    stages_of,
)
from shira_runtime.bench.record import Role

from .baselines import equal_rank, lora_factors
from .masks import make_mask
from .native import scratch_folder
from .weights import Change, adapter_content

_DENSITY = 0.01
_RANK = 64
_POOL = "ExecuTorch runs its operators on a thread pool of its own choice"


@dataclass(frozen=True)
class _Size:
    width: int
    layers: int
    rounds: int


def program(quick: bool) -> Suite:
    """The suite."""
    size = _Size(64, 2, 1) if quick else _Size(2048, 4, 20)

    def cases() -> Iterator[Case]:
        torch.set_num_threads(1)
        with scratch_folder("program") as folder:
            bench = _Bench(size, folder)
            yield bench.forward_case()
            yield bench.exchange_case()

    return Suite(
        "program-quick" if quick else "program",
        "an ExecuTorch program: forward passes switched, unfused and delegated; reloading it",
        cases,
    )


class _Perceptron(nn.Module):
    """Square linear layers with rectifiers between them."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.layers = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(layers))
        for layer in self.layers:
            values = torch.randn(width, width, generator=generator) * (2.0 / width) ** 0.5
            layer.weight = nn.Parameter(values, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


class _WithLora(nn.Module):
    """A linear layer with an adapter beside it: W x + B (A x)."""

    def __init__(self, base: nn.Linear, rank: int, seed: int) -> None:
        super().__init__()
        self.base = base
        up, down = lora_factors((base.out_features, base.in_features), rank, seed)
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)
        self.down.weight = nn.Parameter(torch.from_numpy(down), requires_grad=False)
        self.up.weight = nn.Parameter(torch.from_numpy(up), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        wide: Tensor = self.base(x) + self.up(self.down(x))
        return wide


def _with_lora(module: _Perceptron, rank: int) -> _Perceptron:
    tuned = copy.deepcopy(module)
    for number, layer in enumerate(tuned.layers):
        assert isinstance(layer, nn.Linear)
        tuned.layers[number] = _WithLora(layer, rank, number)
    return tuned


class _Bench:
    """The programs, an adapter for the base, and what each of them has to answer."""

    def __init__(self, size: _Size, folder: Path) -> None:
        self._size = size
        self._folder = folder
        self._input = torch.linspace(-1.0, 1.0, size.width).reshape(1, size.width)
        module = _Perceptron(size.width, size.layers).eval()
        changes = self._changes(module)
        self._entries = sum(change.bits.size for _, change in changes.values())
        self._adapter = folder / "A.shb"
        self._adapter.write_bytes(adapter_content("A", changes, "f32"))
        fused = copy.deepcopy(module)
        for name, (base, change) in changes.items():
            values = torch.from_numpy(change.applied_to(base).view(np.float32))
            fused.get_parameter(name).data.copy_(values)
        self._modules: dict[str, nn.Module] = {"base": module, "A": fused}
        self._paths = {name: self._export(name, each) for name, each in self._modules.items()}
        shape = (size.width, size.width)
        ranks = (equal_rank(self._entries // size.layers, shape), min(_RANK, size.width))
        self._lora = {f"unfused LoRA, rank {rank}": rank for rank in ranks}
        for name, rank in self._lora.items():
            self._modules[name] = _with_lora(module, rank)
            self._paths[name] = self._export(name, self._modules[name])
        for name in ("base", *list(self._lora)[-1:]):
            delegated = f"{name}, XNNPACK"
            self._modules[delegated] = self._modules[name]
            self._paths[delegated] = self._export(delegated, self._modules[name], "xnnpack")
        self._program = load_program(self._paths["base"])
        self._program.add_adapter(str(self._adapter))

    def _changes(self, module: nn.Module) -> dict[str, tuple[Any, Change]]:
        changes = {}
        for number, (name, weight) in enumerate(module.named_parameters()):
            base = weight.detach().numpy().view(np.uint32)
            mask = make_mask("random", (self._size.width,) * 2, _DENSITY, 4, number)
            changes[name] = (base, Change.random(mask, "f32", 100 + number))
        return changes

    def _export(self, name: str, module: nn.Module, backend: str = "portable") -> Path:
        from shira_runtime.export.program import export_program

        path = self._folder / f"{name.replace(', ', '-').replace(' ', '_')}.pte"
        export_program(module, (self._input,), path, backend=backend)  # type: ignore[arg-type]
        return path

    def _fields(self, what: str) -> dict[str, Scalar]:
        width, layers = self._size.width, self._size.layers
        return {
            "what": what,
            "model": f"{layers} linear layers of {width}x{width}, batch 1",
            "dtype": "f32",
            "mask": "random",
            "density": _DENSITY,
        }

    # --- forward passes ---

    def forward_case(self) -> Case:
        """One forward pass, with nothing to exchange."""
        arms = [
            self._forward("base", self._program, None),
            self._forward("A", self._program, "A", {"entries": self._entries}),
        ]
        for name in (*self._lora, *(n for n in self._paths if n.endswith("XNNPACK"))):
            parameters = sum(p.numel() for p in self._modules[name].parameters())
            counts = {"parameters": parameters, "bytes": self._paths[name].stat().st_size}
            arms.append(self._forward(name, load_program(self._paths[name]), None, counts))
        fields = self._fields("forward passes")
        return Case(fields, arms, regimes=(ALL_WARM,), rounds=self._size.rounds)

    def _forward(
        self,
        name: str,
        program: Program,
        state: str | None,
        counts: Mapping[str, int] | None = None,
    ) -> Arm:
        outputs: list[Any] = []

        def run() -> None:
            outputs[:] = program.forward(self._input)

        def prepare() -> None:
            if program.active != ({} if state is None else {state: 1.0}):
                program.switch(state)

        return Arm(
            f"forward in {name}",
            run,
            role="forward",
            prepare=prepare,
            check=lambda: self._check(name, outputs),
            counts=counts or {},
            notes=[_POOL],
        )

    # --- exchanges ---

    def exchange_case(self) -> Case:
        """From base or file to the first answer of adapter A."""

        def switch() -> tuple[Program, dict[str, int]]:
            return self._program, stages_of(self._program.switch("A"))

        def open_and_switch() -> tuple[Program, dict[str, int]]:
            started = time.perf_counter_ns()
            file = AdapterFile.open(self._adapter, keep_content=False)
            self._program.add_adapter(file)
            opened = time.perf_counter_ns() - started
            return self._program, {"open": opened, **stages_of(self._program.switch("A"))}

        def reload() -> tuple[Program, dict[str, int]]:
            started = time.perf_counter_ns()
            loaded = load_program(self._paths["A"])
            return loaded, {"load": time.perf_counter_ns() - started}

        def added() -> None:
            if "A" not in self._program.adapters:
                self._program.add_adapter(str(self._adapter))
            self._program.switch("A")
            self._program.switch(None)

        def removed() -> None:
            self._program.switch(None)
            if "A" in self._program.adapters:
                self._program.remove_adapter("A")

        files = (self._adapter, self._paths["A"])
        arms = [
            self._exchange("switch base -> A, forward", switch, added, files),
            self._exchange("open A, switch base -> A, forward", open_and_switch, removed, files),
            self._exchange("reload a program with A, forward", reload, removed, files, "baseline"),
        ]
        return Case(
            self._fields("exchange and first forward pass"),
            arms,
            regimes=(COLD_CACHE, COLD_FILE),
            rounds=self._size.rounds,
        )

    def _exchange(
        self,
        name: str,
        exchange: Callable[[], tuple[Program, dict[str, int]]],
        prepare: Callable[[], None],
        files: Sequence[Path],
        role: Role = "shira",
    ) -> Arm:
        outputs: list[Any] = []
        loaded: list[Program] = []

        def run() -> Mapping[str, int]:
            program, stages = exchange()
            loaded[:] = [program]
            started = time.perf_counter_ns()
            outputs[:] = program.forward(self._input)
            return {**stages, "forward": time.perf_counter_ns() - started}

        def finish() -> None:
            loaded.clear()
            self._program.switch(None)

        return Arm(
            name,
            run,
            role=role,
            prepare=prepare,
            check=lambda: self._check("A", outputs),
            finish=finish,
            files=files,
            counts={"entries": self._entries, "bytes": self._paths["A"].stat().st_size},
            notes=[_POOL],
        )

    def _check(self, name: str, outputs: Sequence[Any]) -> None:
        """Compare an answer with torch's."""
        with torch.no_grad():
            expected = self._modules[name](self._input)
        nearly = 1e-3 * float(expected.abs().max())
        answers = [torch.as_tensor(output) for output in outputs]
        if len(answers) != 1 or not torch.allclose(answers[0], expected, rtol=0.0, atol=nearly):
            raise WrongBytes(f"the answer of {name} is not torch's")
