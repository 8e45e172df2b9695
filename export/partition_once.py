# SPDX-License-Identifier: Apache-2.0
"""Lets ExecuTorch write a graph's Python code once for all of its partitions, not after each one.

executorch 1.5.1 moves one partition after the other out of the graph, and after each of them torch
writes the code of what is left anew, which nobody runs meanwhile. A program with one partition for
each linear layer then takes a time that grows with the square of its layers: minutes for a small
language model. What is exported is the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from executorch.exir.backend import backend_api
from torch.fx import GraphModule


@contextmanager
def code_written_once() -> Iterator[None]:
    """Within the block, partitioning writes the code of each graph when it is through with all.

    Not for several threads at a time: it replaces functions of torch and executorch meanwhile.
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
