# SPDX-License-Identifier: Apache-2.0
"""Choose bits for each tensor so that the file fits a budget with the least squared error.

As LQ-LoRA does for the bits of quantized weights (arXiv 2311.12023, section 3.2), an integer linear
program picks one codec per tensor: it minimises the sum over all tensors of the squared error that
the codec makes, as measured on the adapter's own deltas, under the exact size of the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from .compute import ComputedTensor
from .errors import ExportError
from .values import StoredValues, store_values

#: What a tensor's deltas may be stored in under a budget, from the largest to the smallest.
BUDGET_CODECS = ("f16", "int8", "int4", "int2", "int1")

# Relative to the error at the optimum; far below what the choice of one tensor makes.
_GAP = 1e-6


def measure(tensors: Sequence[ComputedTensor], group: int) -> dict[str, list[StoredValues]]:
    """Code every tensor in each codec: tensor name -> in the order of BUDGET_CODECS.

    A codec that a tensor's deltas do not fit is left out.
    """
    measured: dict[str, list[StoredValues]] = {}
    for tensor in tensors:
        measured[tensor.name] = []
        for codec in BUDGET_CODECS:
            try:
                measured[tensor.name].append(store_values(tensor, codec, group))
            except ExportError:
                if codec != "f16":  # whose range is the only one that is limited
                    raise
    return measured


def allocate(
    measured: Mapping[str, Sequence[StoredValues]], other_bytes: int, budget_bytes: int
) -> dict[str, StoredValues]:
    """Choose for each tensor, in the order of the file, how its values are stored.

    Args:
        measured: tensor name -> its values in several codecs, in the order of the file's rows.
        other_bytes: size of the file without its values, which come last.
        budget_bytes: the file may have.

    Raises:
        ExportError: no choice fits; the message gives the smallest size possible.
    """
    try:
        from scipy.optimize import Bounds, LinearConstraint, milp
    except ImportError:
        raise ExportError(
            "a budget needs SciPy, which solves for it (pip install 'shira-runtime[export]')"
        ) from None
    owners, choices, sizes = [], [], []
    for number, (name, options) in enumerate(measured.items()):
        for stored in options:
            # A stream starts at a multiple of 8, but nothing follows the last one.
            padding = -len(stored.coded.stream) % 8 if number < len(measured) - 1 else 0
            owners.append(number)
            choices.append((name, stored))
            sizes.append(len(stored.coded.stream) + padding)
    size_of, owner_of = np.array(sizes, float), np.array(owners)
    room = budget_bytes - other_bytes
    least = sum(size_of[owner_of == number].min() for number in range(len(measured)))
    if least > room:
        smallest = other_bytes + int(least)
        raise ExportError(
            f"a budget of {budget_bytes / 1024:g} KiB cannot be met: the smallest file of these"
            f" entries has {smallest} bytes, {smallest / 1024:.1f} KiB"
        )
    errors = np.array([stored.squared_error for _, stored in choices])
    one_each = (owner_of == np.arange(len(measured))[:, None]).astype(float)
    limit = room
    while True:
        result = milp(
            errors / max(errors.max(), np.finfo(float).tiny),
            integrality=np.ones(len(choices)),
            bounds=Bounds(0, 1),
            constraints=[
                LinearConstraint(one_each, 1, 1),
                LinearConstraint(size_of[None, :], 0, limit),
            ],
            options={"mip_rel_gap": _GAP},
        )
        if result.x is None:
            raise ExportError(f"the budget could not be shared out: {result.message}")
        is_taken = result.x > 0.5
        excess = int(size_of[is_taken].sum()) - room
        if excess <= 0:
            break
        # The solver takes whole numbers and limits to a tolerance, which many bytes can exceed.
        limit -= excess
    taken = np.flatnonzero(is_taken)
    _use_the_rest(taken, size_of, owner_of, errors, room)
    return dict(choices[number] for number in taken)


def _use_the_rest(
    taken: NDArray[np.int64],
    sizes: NDArray[np.float64],
    owners: NDArray[np.int64],
    errors: NDArray[np.float64],
    room: int,
) -> None:
    """Improve tensors while there is room, for gains below the solver's tolerance."""
    while True:
        fits = sizes - sizes[taken][owners] <= room - sizes[taken].sum()
        gains = np.where(fits, errors[taken][owners] - errors, 0)
        best = int(np.argmax(gains))
        if gains[best] <= 0:
            return
        taken[owners[best]] = best
