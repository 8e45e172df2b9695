# SPDX-License-Identifier: Apache-2.0
"""Paints with the original 26-style network; importing this skips where it cannot run."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from _models import torch

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from examples.style import network  # noqa: E402

PIXELS = 48
PICTURE = network.reference_picture(PIXELS)
# The original computes in another order; the largest difference seen between the two is 1e-4.
TOLERANCE = 5e-4


@functools.cache
def original() -> Any:
    return onnxruntime.InferenceSession(network.weights_path())


def paint_original(weights: Mapping[int, float]) -> torch.Tensor:
    """What the original network paints at style -> weight: (1, 3, PIXELS, PIXELS)."""
    style_weights = np.zeros(network.STYLE_COUNT, np.float32)
    style_weights[list(weights)] = list(weights.values())
    feed = {"image": PICTURE.numpy(), "style_weights": style_weights}
    return torch.from_numpy(original().run(None, feed)[0])


def largest_difference(first: Any, second: Any) -> float:
    """Between arrays or tensors."""
    return float(np.abs(np.asarray(first) - np.asarray(second)).max())
