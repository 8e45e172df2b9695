# SPDX-License-Identifier: Apache-2.0
"""Output files appear whole or not at all, and replace nothing by accident."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from shira_runtime.export import output
from shira_runtime.export.errors import ExportError
from shira_runtime.export.output import check_output, write_output


def test_a_new_file_gets_the_usual_permissions(tmp_path: Path) -> None:
    write_output(tmp_path / "a.shb", b"content", force=False)
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "a.shb").read_bytes() == b"content"
    assert (tmp_path / "a.shb").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert {path.name for path in tmp_path.iterdir()} == {"a.shb", "plain"}


def test_an_existing_file_is_replaced_only_by_force(tmp_path: Path) -> None:
    path = tmp_path / "a.shb"
    path.write_bytes(b"old")
    for refuse in (lambda: check_output(path, False), lambda: write_output(path, b"new", False)):
        with pytest.raises(ExportError, match=r"a.shb: exists already; --force replaces it"):
            refuse()
    assert path.read_bytes() == b"old"
    write_output(path, b"new", force=True)
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("force", [False, True])
def test_links_folders_and_missing_folders_are_refused(tmp_path: Path, force: bool) -> None:
    (tmp_path / "file").write_bytes(b"precious")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "folder").mkdir()
    for name, message in (
        ("link", "symbolic link"),
        ("dangling", "symbolic link"),
        ("folder", "not a regular file"),
        ("nowhere/a.shb", "does not exist"),
    ):
        with pytest.raises(ExportError, match=message):
            write_output(tmp_path / name, b"new", force)
    assert (tmp_path / "file").read_bytes() == b"precious"
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("call", ["fsync", "link", "replace"])
@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_a_failure_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, failure: BaseException
) -> None:
    path = tmp_path / "a.shb"
    force = call == "replace"
    if force:
        path.write_bytes(b"old")

    def fail(*_: Any, **__: Any) -> None:
        raise failure

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(type(failure)):
        write_output(path, b"new", force)
    assert [p.name for p in tmp_path.iterdir()] == (["a.shb"] if force else [])
    assert not force or path.read_bytes() == b"old"


def test_a_file_that_appears_meanwhile_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.shb"
    monkeypatch.setattr(output, "check_output", lambda *_: path.write_bytes(b"somebody else's"))
    with pytest.raises(ExportError, match="exists already"):
        write_output(path, b"mine", force=False)
    assert path.read_bytes() == b"somebody else's"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_system_without_hard_links_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: Any) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", no_links)
    write_output(tmp_path / "a.shb", b"content", force=False)
    assert (tmp_path / "a.shb").read_bytes() == b"content"
    assert list(tmp_path.iterdir()) == [tmp_path / "a.shb"]
