# SPDX-License-Identifier: Apache-2.0
"""Where the shapes of an adapter without a base come from."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from .base import Base
from .entries import RawEntries
from .errors import ExportError
from .names import NameMatcher, Renames
from .shapes import Shape


class UnboundShapes:
    """Finds shapes without a base: in the checkpoint, in --shapes, in a local base it names.

    Args:
        given: name in the program -> shape.
        config: of PEFT; a base_model_name_or_path that is a folder on this machine is opened when
            no other source has a shape, and nothing is ever downloaded.
        renames: as for the matching of names with a base.
    """

    def __init__(
        self, given: Mapping[str, Shape], config: Mapping[str, Any], renames: Renames
    ) -> None:
        self._given = given
        self._base_name = config.get("base_model_name_or_path")
        self._renames = renames
        #: The local base that some shape was taken from.
        self.used_base: Path | None = None
        self._why_no_base = ""

    def find(self, raw: RawEntries, name: str) -> Shape:
        """Give the shape of the tensor that `raw` changes and that the program calls `name`.

        Raises:
            ExportError: no source has it, or two disagree.
        """
        given = self._given.get(name)
        if raw.shape is not None and given is not None and given != raw.shape:
            raise ExportError(
                f"{raw.where}: has shape {raw.shape} in the file and {given} in --shapes"
            )
        if raw.shape is not None or given is not None:
            return raw.shape or given or ()
        base, matcher = self._local
        match = matcher.match(raw.name, raw.where) if matcher else None
        if base and match:
            self.used_base = base.path
            return base.tensors[match.target].shape
        raise ExportError(
            f"{raw.where}: the shape of {name} is not in the file; give the model as --base, name a"
            " local folder as base_model_name_or_path in adapter_config.json, or give --shapes"
            f"{self._why_no_base}"
        )

    @cached_property
    def _local(self) -> tuple[Base, NameMatcher] | tuple[None, None]:
        """The base that the configuration names, if it can be opened here."""
        try:
            if isinstance(name := self._base_name, str) and name and Path(name).is_dir():
                base = Base(Path(name))
                return base, base.matcher(self._renames)
        except (ExportError, OSError) as error:
            self._why_no_base = f" (the folder that it names is of no use: {error})"
        return None, None
