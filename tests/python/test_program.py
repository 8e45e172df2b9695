# SPDX-License-Identifier: Apache-2.0
"""Program over numpy arrays: switching, using(), state, checks, and what importing it costs."""

from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy_model import SHAPES, Model
from shb_files import adapter, adapter_bytes, tensor_entries

import shira_runtime
from shira_runtime import BaseMismatchError, ShiraError, UsageError, from_numpy


def test_switching_there_and_back(model: Model) -> None:
    program = model.program
    assert program.adapters == ("de", "fr")
    assert program.active == {}
    report = program.switch("de")
    assert report.tensors_matched == 2
    assert report.elements_written == report.elements_changed == 40
    assert report.bytes_written == 20 * 4 + 20 * 2
    assert report.epoch == program.epoch
    assert report.total_ns >= report.check_ns + report.plan_ns + report.store_ns
    assert program.active == {"de": 1.0}
    for name, tensor in model.de.tensors.items():
        live = model.arrays[name].reshape(-1)[tensor.indices()]
        np.testing.assert_array_equal(live.astype(np.float32), tensor.values())
    program.revert()
    assert model.bytes() == model.before
    assert program.active == {}


def test_a_report_is_frozen_and_becomes_a_dict(model: Model) -> None:
    report = model.program.switch("de")
    assert report.to_dict()["elements_written"] == 40
    with pytest.raises(AttributeError):
        report.epoch = 0  # type: ignore[misc]


def test_scales_stacks_and_order(model: Model) -> None:
    program = model.program
    program.switch({"de": 0.5, "fr": 0.25})
    stacked = model.bytes()
    program.switch("fr")
    program.switch({"fr": 0.25, "de": 0.5})
    assert model.bytes() == stacked
    program.switch({"de": 0.0, "fr": 1.0})
    assert program.active == {"fr": 1.0}
    program.switch({"de": 0.0})
    assert model.bytes() == model.before


def test_epoch_and_digest_change_exactly_with_the_weights(model: Model) -> None:
    program = model.program
    assert len(program.digest) == 32
    base, epoch = program.digest, program.epoch
    program.switch("de")
    de = program.digest
    assert program.epoch == epoch + 1
    assert de != base
    assert program.switch({"de": 1.0, "fr": 0.0}).elements_written == 0
    assert (program.epoch, program.digest) == (epoch + 1, de)
    program.switch("fr")
    assert program.digest not in (base, de)
    program.switch("de")
    assert (program.epoch, program.digest) == (epoch + 3, de)
    program.switch(None)
    assert (program.epoch, program.digest) == (epoch + 4, base)


def test_using_restores_what_was_active(model: Model) -> None:
    program = model.program
    program.switch({"de": 0.5})
    with program.using("fr") as report:
        assert report.elements_written > 0
        assert program.active == {"fr": 1.0}
        with program.using(None):
            assert model.bytes() == model.before
        assert program.active == {"fr": 1.0}
    assert program.active == {"de": 0.5}
    with pytest.raises(KeyError), program.using("fr"):
        raise KeyError
    assert program.active == {"de": 0.5}
    with pytest.raises(UsageError), program.using("es"):
        pytest.fail("the body must not run")
    assert program.active == {"de": 0.5}


def test_names_and_removal(model: Model) -> None:
    program = model.program
    assert program.add_adapter(model.de, name="german") == "german"
    program.switch("german")
    with pytest.raises(UsageError) as caught:
        program.remove_adapter("german")
    assert caught.value.status == "ADAPTER_IN_USE"
    program.switch("de")
    program.remove_adapter("german")
    assert program.adapters == ("de", "fr")


def test_an_adapter_can_be_added_by_path(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "grüße.shb"
    path.write_bytes(
        adapter_bytes(
            "path", tensor_entries("b.bias", model.arrays["b.bias"], np.array([1]), np.ones(1))
        )
    )
    assert model.program.add_adapter(path) == "path"
    assert model.program.add_adapter(str(path), "again") == "again"


def test_tensors_are_listed(model: Model) -> None:
    assert {n: (t.shape, t.dtype) for n, t in model.program.tensors.items()} == SHAPES
    assert model.program.unpatchable == {}
    assert repr(model.program) == "<Program: 3 tensors, 2 adapters, base>"
    model.program.switch({"de": 0.5})
    assert repr(model.program) == "<Program: 3 tensors, 2 adapters, 0.5 de>"


def test_weights_are_read_as_copies(model: Model) -> None:
    program = model.program
    program.switch("de")
    for name, array in model.arrays.items():
        copy = program.read(name)
        assert (copy.itemsize, copy.shape) == (array.itemsize, array.shape)
        assert copy.tobytes() == array.tobytes()
        copy[:] = 0
    assert program.read(name).any()
    with pytest.raises(ShiraError, match='the program has no weight "nowhere"'):
        program.read("nowhere")


@pytest.mark.parametrize(
    ("dtype", "bits"), [("bf16", np.uint16), ("int8", np.int8), ("int4", np.int8)]
)
def test_bits_and_codes_are_read_as_they_are(dtype: str, bits: type) -> None:
    array = np.arange(-8, 8, dtype=np.int8).astype(bits).reshape(2, 8)
    copy = from_numpy({"w": array}, dtypes={"w": dtype}).read("w")
    assert copy.dtype == bits
    np.testing.assert_array_equal(copy, array)


def test_threads_do_not_change_bytes(model: Model) -> None:
    program = model.program
    seen = set()
    for threads in (1, 2, 4):
        program.threads = threads
        assert program.threads == threads
        program.switch({"de": 0.7, "fr": 1.3})
        seen.add(tuple(model.bytes().values()))
        program.switch(None)
    assert len(seen) == 1
    for bad in (0, 65):
        with pytest.raises(UsageError):
            program.threads = bad


def test_check_adapter_finds_a_patched_base_without_writing(model: Model) -> None:
    model.program.check_adapter("de")
    model.program.switch("fr")
    model.program.check_adapter("de")  # against the base below fr
    model.program.switch(None)
    model.arrays["c.weight"].reshape(-1)[12] = 9
    before = model.bytes()
    with pytest.raises(BaseMismatchError, match=r"c\.weight") as caught:
        model.program.check_adapter("de")
    assert caught.value.status == "BASE_MISMATCH"
    assert model.bytes() == before


def test_verify_base_finds_a_patch_anywhere(model: Model) -> None:
    program = model.program
    size = sum(array.nbytes for array in model.arrays.values())
    for state in (None, "de", {"de": 0.5, "fr": 2.0}):
        program.switch(state)
        report = program.verify_base()
        assert (report.tensors_checked, report.bytes_checked) == (3, size)
    model.arrays["a.weight"][7, 23] += 1  # no adapter touches it
    with pytest.raises(BaseMismatchError, match=r"1 of 3 tensors.*a\.weight") as caught:
        program.verify_base()
    assert caught.value.status == "BASE_MODIFIED"
    assert caught.value.tensor == "a.weight"


def test_verify_base_tells_a_changed_weight_from_an_adapter_for_another_base(model: Model) -> None:
    base = model.arrays["a.weight"]
    other = base.copy()
    other[7, 23] += 1  # outside the entries, so that their fingerprints fit
    for name in ("es", "it"):
        entries = tensor_entries("a.weight", other, np.array([1]), np.ones(1))
        model.program.add_adapter(adapter(name, entries))
    with pytest.raises(BaseMismatchError) as caught:
        model.program.verify_base()
    assert caught.value.message == (
        '1 of 3 tensors are not the base that adapter "es" was made for: a.weight;'
        ' 1 of 3 tensors are not the base that adapter "it" was made for: a.weight'
    )
    assert (caught.value.status, caught.value.tensor) == ("BASE_MODIFIED", "a.weight")
    base[7, 22] += 1
    with pytest.raises(BaseMismatchError, match="1 of 3 tensors differ from their source"):
        model.program.verify_base()


# --- what is imported, and what the documentation says ---


def test_switching_needs_numpy_only(tmp_path: Path) -> None:
    base = np.zeros((2, 3), np.float32)
    (tmp_path / "ones.shb").write_bytes(
        adapter_bytes("ones", tensor_entries("w", base, np.array([1, 5]), np.ones(2)))
    )
    script = """
import sys
for name in ("torch", "executorch", "ml_dtypes", "typer", "rich", "safetensors", "xxhash"):
    sys.modules[name] = None  # importing it raises ImportError
import numpy, shira_runtime
array = numpy.zeros((2, 3), numpy.float32)
program = shira_runtime.from_numpy({"w": array})
program.add_adapter("ones.shb")
program.switch({"ones": 0.5})
assert array.sum() == 1
program.verify_base()
program.switch(None)
assert not array.any()
packages = {name.partition(".")[0] for name in sys.modules} - {"torch", "executorch"}
print(sorted(packages & {"torch", "typer", "scipy"}))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_a_missing_extension_is_one_helpful_sentence(tmp_path: Path) -> None:
    script = """
import sys
sys.modules["shira_runtime._core"] = None
try:
    import shira_runtime
except ImportError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "pip install" in done.stdout
    assert len(done.stdout.splitlines()) == 1


def test_documented_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    base = np.zeros((2, 3), np.float32)
    Path("ones.shb").write_bytes(
        adapter_bytes("ones", tensor_entries("layer.weight", base, np.array([1, 5]), np.ones(2)))
    )
    ran = doctest.testmod(shira_runtime.program, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert ran.attempted >= 8
    assert ran.failed == 0


def test_public_names_are_sorted_and_there() -> None:
    assert shira_runtime.__all__ == sorted(shira_runtime.__all__)
    for name in shira_runtime.__all__:
        assert hasattr(shira_runtime, name)
