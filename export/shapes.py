# SPDX-License-Identifier: Apache-2.0
"""Shapes of tensors for checkpoints that do not hold them, as PEFT's do not."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .errors import ExportError
from .json_files import read_json_object

Shape = tuple[int, ...]


def parse_shapes(arguments: Iterable[str]) -> dict[str, Shape]:
    """Read `FQN=ROWSxCOLS` arguments and JSON files of `{"FQN": [ROWS, COLS]}`.

    Raises:
        ExportError: an argument is neither, or two of them disagree.
        OSError: a file cannot be read.
    """
    shapes: dict[str, Shape] = {}
    for argument in arguments:
        name, separator, dimensions = argument.rpartition("=")
        if separator and re.fullmatch(r"[0-9]+(x[0-9]+)*", dimensions):
            found = {name: [int(dimension) for dimension in dimensions.split("x")]}
        else:
            found = _read_shapes(Path(argument))
        for name, shape in found.items():
            checked = check_shape(shape, f"{argument}: shape of {name}")
            if shapes.setdefault(name, checked) != checked:
                raise ExportError(f"{argument}: {name} has another shape than {shapes[name]}")
    return shapes


def check_shape(shape: Any, where: str) -> Shape:
    """Make a tuple of a list of positive integers.

    Raises:
        ExportError: it is something else.
    """
    try:
        checked = tuple(shape)
    except TypeError:
        checked = ()
    if not checked or not all(type(n) is int and n > 0 for n in checked):
        raise ExportError(f"{where}: {shape!r} is not a list of positive whole numbers")
    return checked


def _read_shapes(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ExportError(f"{path}: is neither FQN=ROWSxCOLS nor a JSON file of shapes")
    return read_json_object(path, 'an object {"FQN": [ROWS, COLS], ...}')
