# SPDX-License-Identifier: Apache-2.0
"""Switches and forward passes exclude each other, and neither waits for itself."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest
from numpy_model import Model

from shira_runtime import BusyError, Program


class SlowModule:
    """Stands for a torch module; runs until it is told to stop."""

    def __init__(self) -> None:
        self.started, self.stop = threading.Event(), threading.Event()

    def __call__(self, *_: Any) -> str:
        self.started.set()
        assert self.stop.wait(30)
        return "done"


def with_module(model: Model, module: Any) -> Program:
    program = model.program
    program._source._module = module  # type: ignore[attr-defined]
    return program


def test_no_store_while_a_forward_is_in_flight(model: Model) -> None:
    module = SlowModule()
    program = with_module(model, module)
    outputs: list[Any] = []
    reports: list[Any] = []
    forward = threading.Thread(target=lambda: outputs.append(program.forward()))
    forward.start()
    assert module.started.wait(30)
    with pytest.raises(BusyError) as caught:
        program.try_switch("de")
    assert caught.value.status == "BUSY"
    switch = threading.Thread(target=lambda: reports.append(program.switch("de")))
    switch.start()
    time.sleep(0.05)
    assert model.bytes() == model.before
    assert outputs == reports == []
    assert (program.active, program.adapters) == ({}, ("de", "fr"))  # asking does not block
    module.stop.set()
    forward.join(30)
    switch.join(30)
    assert outputs == ["done"]
    assert reports[0].wait_ns > 1_000_000
    assert program.active == {"de": 1.0}
    assert model.bytes() != model.before


@pytest.mark.parametrize("call", ["switch", "try_switch", "hard_revert", "verify_base"])
def test_a_switch_inside_its_own_forward_is_refused(model: Model, call: str) -> None:
    program = with_module(model, lambda: getattr(program, call)())
    with pytest.raises(BusyError, match=f"{call.removeprefix('try_')} .*same thread"):
        program.forward()
    program.switch("de")  # the gate is open again


@pytest.mark.parametrize("call", ["check_adapter", "remove_adapter"])
def test_what_waits_for_switches_is_refused_inside_a_forward(model: Model, call: str) -> None:
    # A switch that waits for the forward would make it wait for the switch: for ever.
    program = with_module(model, lambda: getattr(program, call)("de"))
    with pytest.raises(BusyError, match=f"{call} .*same thread"):
        program.forward()
    assert program.adapters == ("de", "fr")


def test_forwards_nest_and_fail_without_closing_the_gate(model: Model) -> None:
    depth = 0

    def module() -> None:
        nonlocal depth
        depth += 1
        if depth < 3:
            program.forward()
        raise KeyError(depth)

    program = with_module(model, module)
    with pytest.raises(KeyError):
        program.forward()
    assert depth == 3
    program.try_switch("de")


def test_a_nested_forward_does_not_wait_for_a_waiting_switch(model: Model) -> None:
    """The switch waits for the outer forward, so an inner one must not wait for the switch."""
    program = model.program
    switch = threading.Thread(target=lambda: program.switch("de"))
    results: list[Any] = []

    def module(depth: int) -> int:
        if depth == 0:
            switch.start()
            time.sleep(0.05)  # until it waits at the gate
            return int(program.forward(1))
        return depth

    with_module(model, module)
    forward = threading.Thread(target=lambda: results.append(program.forward(0)), daemon=True)
    forward.start()
    forward.join(20)
    assert results == [1]
    switch.join(20)
    assert program.active == {"de": 1.0}


def test_threads_that_switch_and_run_at_once(model: Model) -> None:
    """Every forward sees a whole state: one of those that were asked for, never a mixture."""
    program = with_module(model, lambda: tuple(model.bytes().values()))
    states: list[Any] = [None, "de", "fr", {"de": 0.5, "fr": 0.5}]
    whole = set()
    for state in states:
        program.switch(state)
        whole.add(program.forward())
    assert len(whole) == len(states)
    failures: list[Any] = []

    def switcher(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(150):
            program.switch(states[rng.integers(len(states))])

    def reader() -> None:
        for _ in range(150):
            if program.forward() not in whole:
                failures.append("mixture")

    threads = [threading.Thread(target=switcher, args=(seed,)) for seed in (1, 2)]
    threads += [threading.Thread(target=reader) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    program.switch(None)
    assert model.bytes() == model.before
