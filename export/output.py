# SPDX-License-Identifier: Apache-2.0
"""Write a file whole or not at all, and never over another one by accident."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from pathlib import Path

from .errors import ExportError


def check_output(path: Path, force: bool) -> None:
    """Refuse an output path that `write_output` would refuse, before the work is done.

    Raises:
        ExportError: the path is a symbolic link, not a regular file, or taken and not `force`.
    """
    if path.is_symlink():
        raise ExportError(f"{path}: is a symbolic link; name the file that it points to")
    if not path.parent.is_dir():
        raise ExportError(f"{path}: the folder {path.parent} does not exist")
    if not path.exists():
        return
    if not path.is_file():
        raise ExportError(f"{path}: exists and is not a regular file")
    if not force:
        raise _already_exists(path)


def write_output(path: Path, content: bytes | memoryview, force: bool) -> None:
    """Write a file through a temporary one beside it, so that nobody ever sees a part of it.

    Raises:
        ExportError: as for `check_output`.
        OSError: the file system refused, for reasons that name `path`, which is as it was before.
    """
    check_output(path, force)
    try:
        _write_output(path, content, force)
    except OSError as error:
        # Not the temporary file's name, which tells a user nothing.
        raise OSError(error.errno, error.strerror, str(path)) from None


def _write_output(path: Path, content: bytes | memoryview, force: bool) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    try:
        with os.fdopen(os.open(temporary, flags, 0o666), "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        if force:
            os.replace(temporary, path)
        else:
            _publish_new(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
    _sync_folder(path.parent)


def _publish_new(temporary: Path, path: Path) -> None:
    """Give the temporary file its name unless the name is taken, in one step where possible."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise _already_exists(path) from None
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        # A file system without hard links: a name taken since check_output would be lost.
        os.replace(temporary, path)


def _sync_folder(folder: Path) -> None:
    """Make the new name durable; folders cannot be opened everywhere."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _already_exists(path: Path) -> ExportError:
    return ExportError(f"{path}: exists already; --force replaces it")
