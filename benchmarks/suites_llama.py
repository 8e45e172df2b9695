# SPDX-License-Identifier: Apache-2.0
"""Suite "llama7b": from a warm adapter file to ready weights, on 13 GB of weights in memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from shira_runtime import AdapterFile, from_numpy
from shira_runtime.bench import Arm, Case, Scalar, Suite, stages_of

from .baselines import Factors, check_close, equal_rank, lora_factors
from .masks import Kind
from .native import native, scratch_folder
from .resident import (
    DTYPE,
    INDEX,
    Layout,
    Plan,
    ResidentModel,
    have_memory_at_hand,
    layouts,
    make_plans,
    some_rows,
)
from .weights import PAGES, as_tensor, check_equal, element_bytes, numbers

_MODEL = "llama2-7b"
_DENSITY = 0.01
_THREADS = 2


@dataclass(frozen=True)
class _Size:
    model: str
    layers: int | None
    rounds: int
    slow_rounds: int


def llama7b(quick: bool, layers: int | None = None) -> Suite:
    """The suite.

    Args:
        quick: a much smaller model.
        layers: only so many layers of the model.
    """
    size = _Size("smollm2-135m", 1, 1, 1) if quick else _Size(_MODEL, layers, 7, 2)

    def cases() -> Iterator[Case]:
        torch.set_num_threads(1)
        with scratch_folder("llama") as folder:
            bench = _Bench(size, folder)
            yield bench.fast_case()
            yield bench.slow_case()
            bench.set_pages(huge_pages=True)
            yield bench.fast_case()

    return Suite(
        "llama7b-quick" if quick else "llama7b",
        "LLaMA2-7B's linear layers in f16, 13 GB in memory: adapter file to ready weights",
        cases,
    )


class _Bench:
    """Adapters for all linear layers, and the weights in memory of one kind at a time."""

    def __init__(self, size: _Size, folder: Path) -> None:
        self._size = size
        self._model = layouts(size.model, size.layers)
        kinds: tuple[Kind, ...] = ("random", "rows")
        paths = {(kind, 11 + n): folder / f"{kind}.shb" for n, kind in enumerate(kinds)}
        _, self._plans = make_plans(self._model, _DENSITY, paths, _THREADS)
        self._huge_pages = False
        self._live = ResidentModel(self._model, self._huge_pages, _THREADS)
        self._program = from_numpy(
            {name: numbers(bits, DTYPE) for name, bits in self._live.bits.items()}
        )
        self._program.threads = _THREADS
        self._counts: dict[str, dict[str, int]] = {}

    def set_pages(self, huge_pages: bool) -> None:
        """Make the weights anew on pages of the other size."""
        self._huge_pages = huge_pages
        self._live.set_pages(huge_pages)

    def fast_case(self) -> Case:
        """Ours, torch's index_copy_ and the rooflines."""
        arms = [self._ours(plan) for plan in self._plans]
        arms += [self._torch_copy(plan, "index_copy_") for plan in self._plans]
        arms += [self._touch(self._plans[0]), self._read()]
        return Case(self._fields(), arms, rounds=self._size.rounds, warmup_rounds=1)

    def slow_case(self) -> Case:
        """Fused LoRA and torch's scatter_, with ours again beside them."""
        arms = [self._ours(plan) for plan in self._plans]
        # Its time depends on the number of entries alone: one mask is enough.
        arms += [self._torch_copy(self._plans[0], "scatter_"), self._eigen(), self._addmm()]
        fields = self._fields() | {"baselines": "slow ones"}
        return Case(fields, arms, rounds=self._size.slow_rounds, warmup_rounds=1)

    def _fields(self) -> dict[str, Scalar]:
        return {
            "model": self._size.model,
            "layers": self._size.layers or "all",
            "what": "adapter file to ready weights, all linear layers",
            "dtype": DTYPE,
            "density": _DENSITY,
            "pages": PAGES[self._huge_pages],
        }

    # --- ours ---

    def _ours(self, plan: Plan) -> Arm:
        """Open the file, bind it to the weights, switch: the first time this adapter is seen."""
        program = self._program

        def run() -> Mapping[str, int]:
            started = time.perf_counter_ns()
            file = AdapterFile.open(plan.path, keep_content=False, threads=_THREADS)
            opened = time.perf_counter_ns()
            program.add_adapter(file)
            bound = time.perf_counter_ns()
            report = program.switch(plan.kind)
            self._counts[plan.kind] = {
                "entries": report.elements_written,
                "bytes": report.bytes_written,
                "pages": report.pages_touched,
                "file_bytes": file.adapter().file_bytes,
                "weight_bytes": sum(layout.size_bytes for layout in self._model),
            }
            return {"open": opened - started, "bind": bound - opened} | stages_of(report)

        def finish() -> None:
            program.switch(None)
            program.remove_adapter(plan.kind)

        return Arm(
            f"open to ready, {plan.kind}",
            run,
            prepare=have_memory_at_hand,
            check=lambda: self._live.check(plan.digests),
            finish=finish,
            files=(plan.path,),
            counts=lambda: self._counts[plan.kind],
            threads=_THREADS,
            notes=[
                f"{plan.kind}: the file codes positions as {INDEX[plan.kind]}",
                "before each sample of ours free memory is taken and given back: a virtual"
                " machine's host takes it away while other arms run, and would have to find it"
                " again within the sample",
            ],
        )

    # --- torch's scatters ---

    def _torch_copy(self, plan: Plan, method: str) -> Arm:
        """Positions and values are tensors in memory already, so this leaves out all loading."""
        flat = {n: as_tensor(b, DTYPE).view(-1) for n, b in self._live.bits.items()}
        index = {n: torch.from_numpy(c.mask.indices) for n, c in plan.changes.items()}
        values = {n: as_tensor(c.bits, DTYPE) for n, c in plan.changes.items()}
        originals = {n: as_tensor(bits, DTYPE) for n, bits in plan.originals.items()}

        def store(layout: Layout) -> None:
            name = layout.name
            getattr(flat[name], method)(0, index[name], values[name])

        def restore(layout: Layout) -> None:
            name = layout.name
            flat[name].index_copy_(0, index[name], originals[name])

        return self._baseline(
            f"torch {method}, {plan.kind}",
            store,
            check=lambda: self._live.check(plan.digests),
            finish=lambda: self._live.each(restore),
            counts={"entries": plan.entry_count},
            notes=["torch's scatters start with tensors in memory: no file is read"],
        )

    # --- LoRA ---

    def _eigen(self) -> Arm:
        """W += B A in f16 through tiles of float32."""
        factors = self._factors()

        def fuse(layout: Layout) -> None:
            up, down = factors[layout.shape]
            native().fuse_lora(self._live.bits[layout.name], DTYPE, up, down, 1.0)

        return self._lora("C++ Eigen LoRA fusion", DTYPE, fuse, factors)

    def _addmm(self) -> Arm:
        """addmm_ of bf16 on the same bytes, since torch has no fast product of f16 here."""
        factors = self._factors()
        rounded = {
            shape: tuple(torch.from_numpy(part).to(torch.bfloat16) for part in pair)
            for shape, pair in factors.items()
        }

        def fuse(layout: Layout) -> None:
            up, down = rounded[layout.shape]
            as_tensor(self._live.bits[layout.name], "bf16").addmm_(up, down)

        return self._lora("torch addmm_ LoRA fusion, bytes taken as bf16", "bf16", fuse, factors)

    def _factors(self) -> dict[tuple[int, int], Factors]:
        return {
            shape: lora_factors(shape, equal_rank(round(_DENSITY * shape[0] * shape[1]), shape), 3)
            for shape in {layout.shape for layout in self._model}
        }

    def _lora(
        self,
        name: str,
        dtype: str,
        fuse: Callable[[Layout], None],
        factors: dict[tuple[int, int], Factors],
    ) -> Arm:
        def check() -> None:
            for layout in self._model:
                up, down = factors[layout.shape]
                for row, base in some_rows(layout):
                    wanted = numbers(base, dtype).astype(np.float32) + up[row] @ down
                    expected = wanted.astype(numbers(base, dtype).dtype).view(np.uint16)
                    check_close(self._live.bits[layout.name][row], expected, dtype)

        ranks = [up.shape[1] for up, _ in factors.values()]
        parameters = sum(
            factors[layout.shape][0].shape[1] * sum(layout.shape) for layout in self._model
        )
        return self._baseline(
            f"{name}, equal parameters",
            fuse,
            check=check,
            finish=self._live.fill,
            counts={"parameters": parameters, "rank": max(ranks), "rank_least": min(ranks)},
            notes=["LoRA fusion starts with factors in memory, shared by matrices of one shape"],
        )

    # --- limits ---

    def _touch(self, plan: Plan) -> Arm:
        width = element_bytes(DTYPE)
        lines = {name: change.mask.lines(width) for name, change in plan.changes.items()}

        def touch(layout: Layout) -> None:
            native().touch(self._live.bits[layout.name].reshape(-1), lines[layout.name], 64)

        def check() -> None:
            for name, index in lines.items():
                change = plan.changes[name]
                places = np.searchsorted(change.mask.indices, index)
                live = self._live.bits[name].reshape(-1)[index]
                check_equal(live, plan.originals[name][places] ^ 1)

        def finish() -> None:
            self._live.each(touch)  # the second time undoes the first

        return self._baseline(
            f"touch roofline, {plan.kind}, prefetch 64",
            touch,
            check=check,
            finish=finish,
            counts={"lines": sum(each.size for each in lines.values())},
            role_roofline=True,
        )

    def _read(self) -> Arm:
        def read(layout: Layout) -> None:
            native().read_all(self._live.bits[layout.name].reshape(-1).view(np.uint64))

        counts = {"bytes": sum(layout.size_bytes for layout in self._model)}
        return self._baseline("read all weights", read, counts=counts, role_roofline=True)

    def _baseline(
        self,
        name: str,
        work: Callable[[Layout], None],
        check: Callable[[], object] = lambda: None,
        finish: Callable[[], object] = lambda: None,
        counts: Mapping[str, int] | None = None,
        notes: list[str] | None = None,
        role_roofline: bool = False,
    ) -> Arm:
        """Work on every matrix, on as many threads as ours."""

        def run() -> None:
            self._live.each(work)

        return Arm(
            name,
            run,
            role="roofline" if role_roofline else "baseline",
            check=check,
            finish=finish,
            counts=counts or {},
            notes=notes or [],
            threads=_THREADS,
        )
