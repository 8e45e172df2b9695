# SPDX-License-Identifier: Apache-2.0
"""The 26-style network: module and ExecuTorch program paint what the original paints."""

from __future__ import annotations

import numpy as np
import pytest
from _models import load_forward, tensor_bytes, torch
from _style import PICTURE, PIXELS, TOLERANCE, largest_difference, paint_original

from examples.style import network
from shira_runtime.export.program import export_program

STYLES = range(network.STYLE_COUNT)


@pytest.fixture(scope="module")
def originals():
    """What the original network paints, style by style: (1, 3, PIXELS, PIXELS) each."""
    return [paint_original({style: 1.0}) for style in STYLES]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The report of style 0 exported for the portable kernels."""
    path = tmp_path_factory.mktemp("style") / "style.pte"
    return export_program(network.load_network(0), (PICTURE,), path)


def test_the_styles_are_apart(originals):
    # The premise of the comparisons below: no style passes for another.
    for style in STYLES[1:]:
        for other in range(style):
            assert largest_difference(originals[style], originals[other]) > 100 * TOLERANCE


def test_two_styles_differ_in_990_of_141354_values():
    assert sum(tensor.numel() for tensor in network.style_state_dict(0).values()) == 141_354
    for style in STYLES[1:]:
        difference = network.style_difference(style)
        assert sum(len(indices) for indices, _, _ in difference.values()) == 990
        assert all(".norm." in name for name in difference)
    assert network.style_difference(3, base=3) == {}


def test_a_difference_makes_one_style_of_another():
    state = network.style_state_dict(4)
    for name, (indices, values, shape) in network.style_difference(11, base=4).items():
        assert state[name].shape == shape
        state[name].view(-1)[torch.from_numpy(indices)] = torch.from_numpy(values)
    for name, tensor in network.style_state_dict(11).items():
        assert tensor_bytes(state[name]) == tensor_bytes(tensor)


@pytest.mark.parametrize("style", [-1, network.STYLE_COUNT])
def test_styles_that_do_not_exist_are_refused(style):
    with pytest.raises(ValueError, match="expected 0 to 25"):
        network.style_state_dict(style)


def test_the_picture_is_the_same_everywhere():
    assert PICTURE.shape == (1, 3, PIXELS, PIXELS)
    assert PICTURE.dtype == torch.float32
    assert 0.0 <= float(PICTURE.min()) < 0.2 < 0.8 < float(PICTURE.max()) <= 1.0
    assert tensor_bytes(PICTURE) == tensor_bytes(network.reference_picture(PIXELS))


def test_the_module_paints_every_style_as_the_original_does(originals):
    for style in STYLES:
        painted = network.load_network(style)(PICTURE)
        assert largest_difference(painted, originals[style]) < TOLERANCE


def test_every_value_of_the_program_can_be_switched(exported):
    assert set(exported.tensors) == set(network.style_state_dict(0))
    assert (exported.shared, exported.missing, exported.unused) == ((), (), ())


def test_the_program_paints_every_style_from_patched_bytes(exported, originals, tmp_path):
    base = exported.program_path.read_bytes()
    path = tmp_path / "patched.pte"
    for style in STYLES:
        content = bytearray(base)
        for name, (indices, values, _) in network.style_difference(style).items():
            place = exported.tensors[name]
            stored = np.frombuffer(
                content, np.float32, count=place.size_bytes // 4, offset=place.offset_bytes
            )
            stored[indices] = values
        path.write_bytes(content)
        (painted,) = load_forward(path).execute([PICTURE])
        assert largest_difference(painted, originals[style]) < TOLERANCE


@pytest.mark.slow
def test_styles_stay_switchable_when_the_convolutions_are_delegated(originals, tmp_path):
    path = tmp_path / "delegated.pte"
    report = export_program(network.load_network(0), (PICTURE,), path, backend="xnnpack")
    assert set(report.tensors) == set(network.style_difference(1))
    assert largest_difference(load_forward(path).execute([PICTURE])[0], originals[0]) < TOLERANCE
