# SPDX-License-Identifier: Apache-2.0
"""The exception tree and the core's list of codes say the same."""

from __future__ import annotations

import inspect
import pickle
import re
from pathlib import Path

import pytest

import shira_runtime
from shira_runtime import _core, errors

STATUS_DEF = Path(__file__).parents[2] / "csrc" / "include" / "shira" / "status.def"
BUILTIN_BASES = {
    "UsageError": ValueError,
    "FormatError": ValueError,
    "FileError": OSError,
    "OutOfMemoryError": MemoryError,
}


def test_the_table_is_the_list_of_the_core() -> None:
    lines = re.findall(r'^X\((\d+), (\w+), (\w+), "(.*)"\)$', STATUS_DEF.read_text(), re.MULTILINE)
    assert [(int(number), *rest) for number, *rest in lines] == list(_core.STATUS_TABLE)
    assert len({number for number, *_ in _core.STATUS_TABLE}) == len(_core.STATUS_TABLE) > 20


def test_every_class_is_the_parent_of_a_code_and_public() -> None:
    classes = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, errors.ShiraError)
    }
    assert classes == {parent for _, _, parent, _ in _core.STATUS_TABLE}
    assert classes == set(errors.__all__)
    assert classes <= set(shira_runtime.__all__)


@pytest.mark.parametrize(("number", "status", "parent"), [row[:3] for row in _core.STATUS_TABLE])
def test_each_code_becomes_its_exception(number: int, status: str, parent: str) -> None:
    error = errors.make_error(number, "is wrong", "x.shb", "a.weight", 128)
    assert type(error).__name__ == parent
    assert isinstance(error, BUILTIN_BASES.get(parent, Exception))
    assert (error.status, error.file, error.tensor) == (status, "x.shb", "a.weight")
    assert error.offset_bytes == 128
    assert str(error) == "x.shb: byte 128: tensor a.weight: is wrong"
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert vars(again) == vars(error)
    assert str(again) == str(error)


def test_places_that_do_not_apply_are_none_and_unsaid() -> None:
    error = errors.error_of("BUSY", "busy")
    assert (error.file, error.tensor, error.offset_bytes) == (None, None, None)
    assert str(error) == "busy"


def test_an_error_of_the_core_arrives_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "bad.shb"
    path.write_bytes(b"not an adapter at all" * 100)
    with pytest.raises(shira_runtime.FormatError) as caught:
        shira_runtime.Adapter.open(path)
    assert caught.value.status == "BAD_MAGIC"
    assert caught.value.file == str(path)
    assert caught.value.offset_bytes == 0


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere") as caught:
        shira_runtime.Adapter.open(tmp_path / "nowhere.shb")
    assert isinstance(caught.value, shira_runtime.FileError)
    assert caught.value.status == "IO_ERROR"
