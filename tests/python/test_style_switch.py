# SPDX-License-Identifier: Apache-2.0
"""One live ExecuTorch program, switched through 26 styles: each picture is the original's."""

from __future__ import annotations

import numpy as np
import pytest
from _models import torch

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from safetensors.torch import save_file  # noqa: E402

import shira_runtime  # noqa: E402
from examples.style import network  # noqa: E402
from shira_runtime.export import export_adapter  # noqa: E402
from shira_runtime.export.program import export_program  # noqa: E402

PIXELS = 48
# The original computes in another order; the largest difference seen between the two is 1e-4, and
# any two styles are at least a hundred times further apart (test_style_export.py).
TOLERANCE = 5e-4


@pytest.fixture(scope="module")
def picture():
    return network.reference_picture(PIXELS)


@pytest.fixture(scope="module")
def original(picture):
    """Paints with the original network: style weights -> (1, 3, PIXELS, PIXELS)."""
    session = onnxruntime.InferenceSession(network.weights_path())

    def paint(weights: dict[int, float]):
        style_weights = np.zeros(network.STYLE_COUNT, np.float32)
        for style, weight in weights.items():
            style_weights[style] = weight
        feed = {"image": picture.numpy(), "style_weights": style_weights}
        return torch.from_numpy(session.run(None, feed)[0])

    return paint


@pytest.fixture(scope="module")
def program(tmp_path_factory, picture):
    """Style 0 as the base, styles 1 to 25 as adapters made from plain checkpoints."""
    folder = tmp_path_factory.mktemp("style")
    base = folder / "style.pte"
    export_program(network.load_network(0), (picture,), base)
    program = shira_runtime.load_program(base)
    for style in range(1, network.STYLE_COUNT):
        checkpoint = folder / f"{style}.safetensors"
        save_file(network.style_state_dict(style), checkpoint)
        adapter = folder / f"style-{style}.shb"
        export_adapter(checkpoint, adapter, base=base)
        program.add_adapter(adapter)
    return program


def largest_difference(first, second) -> float:
    return float((first - second).abs().max())


def test_every_style_is_the_originals_picture(program, picture, original):
    before = program.forward(picture)[0]
    assert largest_difference(before, original({0: 1.0})) < TOLERANCE
    for style in range(1, network.STYLE_COUNT):
        report = program.switch(f"style-{style}")
        # From style 1 on every switch overwrites the same positions.
        assert report.elements_written == 990
        painted = program.forward(picture)[0]
        assert largest_difference(painted, original({style: 1.0})) < TOLERANCE
    assert program.switch(None).elements_written == 990
    assert torch.equal(program.forward(picture)[0], before)
    program.verify_base()


def test_a_blend_is_the_originals_blend(program, picture, original):
    weights = {3: 0.5, 8: 0.25, 21: 0.25}
    with program.using({f"style-{style}": weight for style, weight in weights.items()}):
        painted = program.forward(picture)[0]
    assert largest_difference(painted, original(weights)) < TOLERANCE
