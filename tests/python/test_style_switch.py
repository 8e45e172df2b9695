# SPDX-License-Identifier: Apache-2.0
"""One live ExecuTorch program, switched through 26 styles: each picture is the original's."""

from __future__ import annotations

import pytest
from _style import PICTURE, TOLERANCE, largest_difference, paint_original
from safetensors.torch import save_file

import shira_runtime
from examples.style import network
from shira_runtime.export import export_adapter
from shira_runtime.export.program import export_program


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """Style 0 as the base, styles 1 to 25 as adapters made from plain checkpoints."""
    folder = tmp_path_factory.mktemp("style")
    base = folder / "style.pte"
    export_program(network.load_network(0), (PICTURE,), base)
    program = shira_runtime.load_program(base)
    for style in range(1, network.STYLE_COUNT):
        checkpoint = folder / f"{style}.safetensors"
        save_file(network.style_state_dict(style), checkpoint)
        adapter = folder / f"style-{style}.shb"
        export_adapter(checkpoint, adapter, base=base)
        program.add_adapter(adapter)
    return program


def test_every_style_is_the_originals_picture(program):
    before = program.forward(PICTURE)[0]
    assert largest_difference(before, paint_original({0: 1.0})) < TOLERANCE
    for style in range(1, network.STYLE_COUNT):
        report = program.switch(f"style-{style}")
        # From style 1 on every switch overwrites the same positions.
        assert report.elements_written == 990
        painted = program.forward(PICTURE)[0]
        assert largest_difference(painted, paint_original({style: 1.0})) < TOLERANCE
    assert program.switch(None).elements_written == 990
    assert (program.forward(PICTURE)[0] == before).all()
    program.verify_base()


def test_a_blend_is_the_originals_blend(program):
    weights = {3: 0.5, 8: 0.25, 21: 0.25}
    with program.using({f"style-{style}": weight for style, weight in weights.items()}):
        painted = program.forward(PICTURE)[0]
    assert largest_difference(painted, paint_original(weights)) < TOLERANCE
