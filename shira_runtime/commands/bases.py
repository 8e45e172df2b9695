# SPDX-License-Identifier: Apache-2.0
"""A base model on disk, seen through an adapter's tensor names."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shira_runtime import Adapter, from_numpy
from shira_runtime.program import Program

if TYPE_CHECKING:
    from shira_runtime.export.names import NameMatch
    from shira_runtime.export.tensor_files import StoredTensor

__all__ = ["DTYPES", "Base"]

#: What an adapter changes: type in the files of the base -> name among the runtime's dtypes.
DTYPES = {"f32": "f32", "f16": "f16", "bf16": "bf16", "i8": "int8", "i4": "int4"}


class Base:
    """The tensors of a Hugging Face folder, a .safetensors, .pte, .ptd or PyTorch file.

    Args:
        path: the folder or file.
    """

    def __init__(self, path: Path) -> None:
        try:
            from shira_runtime.export.names import NameMatcher
            from shira_runtime.export.program_weights import read_program_weights
            from shira_runtime.export.tensor_files import file_kind, open_tensors
        except ModuleNotFoundError as error:
            raise ImportError(
                f"reading a base needs {error.name}: pip install 'shira-runtime[cli,format]'"
            ) from None
        self.path = path
        self._tensors = open_tensors(path)
        if path.is_file() and file_kind(path) == "program":
            delegated = read_program_weights(path)
            self._tensors |= {name: weight.tensor for name, weight in delegated.items()}
        self._matcher = NameMatcher(tuple(self._tensors), {}, (), str(path))

    def find(self, name: str) -> StoredTensor | None:
        """Give the tensor that an adapter's name means: of the same name, or the only suffix."""
        match = self._match(name)
        return None if match is None else self._tensors[match.target]

    def require_distinct(self, names: Iterable[str]) -> None:
        """Check that no two names mean one tensor, which only one of them could be written to.

        Raises:
            ValueError: two do.
        """
        from shira_runtime.export.names import refuse_shared_targets

        matches = [match for name in names if (match := self._match(name)) is not None]
        refuse_shared_targets(matches, str(self.path))

    def read(self, name: str) -> NDArray[Any]:
        """Read one tensor into memory of its own.

        Raises:
            KeyError: the base has none that `find` gives.
        """
        stored = self.find(name)
        if stored is None:
            raise KeyError(name)
        return np.array(stored.read())

    def program(self, adapters: Iterable[Adapter]) -> tuple[Program, dict[str, NDArray[Any]]]:
        """Copy the tensors that adapters name into memory, as a program to switch.

        Tensors that the base has not, or not in a dtype that adapters change, are left out: adding
        the adapter then says so.

        Raises:
            ValueError: two of the adapters' names mean one tensor.
        """
        names = sorted({name for adapter in adapters for name in adapter.tensors})
        self.require_distinct(names)
        arrays, dtypes = {}, {}
        for name in names:
            stored = self.find(name)
            if stored is not None and stored.dtype in DTYPES:
                arrays[name] = self.read(name)
                dtypes[name] = DTYPES[stored.dtype]
        return from_numpy(arrays, dtypes), arrays

    def _match(self, name: str) -> NameMatch | None:
        return self._matcher.match(name, f"tensor {name}")
