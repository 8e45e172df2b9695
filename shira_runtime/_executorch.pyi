# SPDX-License-Identifier: Apache-2.0
# Types of the extension module csrc/python/executorch.cpp; the C++ headers are its contracts.
from collections.abc import Sequence
from typing import Any, TypeAlias, final

from numpy.typing import NDArray

from shira_runtime import _core

EXECUTORCH_VERSION: str

_Slot: TypeAlias = tuple[str, str, tuple[int, ...], tuple[int, ...]]  # kind, dtype, sizes, order
_Argument: TypeAlias = (
    tuple[NDArray[Any], str, Sequence[int], Sequence[int]] | int | float | bool | None
)

@final
class ExecutorchProgram:
    @staticmethod
    def load(
        path: str | bytes, data_paths: Sequence[str | bytes], methods: Sequence[str]
    ) -> ExecutorchProgram: ...
    def program(self) -> _core.Program: ...
    def unpatchable(self) -> dict[str, str]: ...
    def methods(
        self,
    ) -> list[tuple[str, list[_Slot], list[_Slot], tuple[str, ...]]]: ...  # name, ..., backends
    def execute(self, method: str, inputs: list[_Argument]) -> list[Any]: ...
    def packed_weights(self) -> list[tuple[str, int, int]]: ...  # name, offset, size in bytes
    def load_report(self) -> dict[str, int]: ...  # the fields of LoadReport
