# SPDX-License-Identifier: Apache-2.0
"""Lets torch 2.13.0 and executorch 1.5.1 lower a module with less work, to the same program."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from executorch.exir.backend import backend_api
from torch.fx import GraphModule
from torch.fx.traceback import NodeSource

# The garbage collector looks at young objects after so many new ones, instead of 700 or 2,000.
_YOUNG_OBJECTS = 100_000


@contextmanager
def faster_lowering() -> Iterator[None]:
    """Within the block lowering takes less time, most of all with a partition for each layer.

    Not for several threads at a time: it replaces functions of torch and executorch meanwhile.
    """
    with _code_written_once(), _shared_sources(), _rare_collections():
        yield


@contextmanager
def _code_written_once() -> Iterator[None]:
    """Partitioning writes the code of each graph when it is through with all partitions.

    Without it, one partition after the other is moved out of the graph, and after each of them
    torch writes the code of what is left anew, which nobody runs meanwhile: a time that grows with
    the square of the partitions.
    """
    create_partitions = backend_api._create_partitions_in_graph_module
    recompile = GraphModule.recompile

    def create_all(*arguments: Any, **options: Any) -> Any:
        waiting: dict[int, GraphModule] = {}

        def remember(graph: GraphModule) -> None:
            waiting[id(graph)] = graph

        GraphModule.recompile = remember  # type: ignore[method-assign,assignment]
        try:
            return create_partitions(*arguments, **options)
        finally:
            GraphModule.recompile = recompile  # type: ignore[method-assign]
            for graph in waiting.values():
                graph.recompile()

    backend_api._create_partitions_in_graph_module = create_all
    try:
        yield
    finally:
        backend_api._create_partitions_in_graph_module = create_partitions


@contextmanager
def _shared_sources() -> Iterator[None]:
    """Records of where a node came from are not copied; nobody changes one.

    Without it, each pass copies every node's whole chain of them, which each pass makes longer.
    """

    def same(source: NodeSource, _: dict[int, Any]) -> NodeSource:
        return source

    NodeSource.__deepcopy__ = same  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del NodeSource.__deepcopy__  # type: ignore[attr-defined]


@contextmanager
def _rare_collections() -> Iterator[None]:
    """Python looks for garbage less often among the millions of objects that tracing makes."""
    thresholds = gc.get_threshold()
    gc.set_threshold(_YOUNG_OBJECTS, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
