# SPDX-License-Identifier: Apache-2.0
"""The exceptions: one class per kind of trouble, built over the core's one list of codes.

The list, csrc/include/shira/status.def, gives each code its number, name and exception class. The
code is in ``status``; the classes are few, so that ``except`` clauses stay short::

    ShiraError
        UsageError (ValueError)       a call that makes no sense: unknown adapter, bad scale
        BusyError                     a forward pass is in flight, and waiting was not asked for
        FormatError (ValueError)      a malformed .shb, .pte or .ptd file
        UnsupportedError              a file of another version
        BaseMismatchError             the adapter was not made for these weights
        AttachError                   the live memory cannot be patched, or is no longer there
        SignatureError                a key is required, and the adapter's signature does not fit it
        FileError (OSError)           the operating system refused to read the file
        OutOfMemoryError (MemoryError)
"""

from __future__ import annotations

from typing import Any

from shira_runtime import _core

__all__ = [
    "AttachError",
    "BaseMismatchError",
    "BusyError",
    "FileError",
    "FormatError",
    "OutOfMemoryError",
    "ShiraError",
    "SignatureError",
    "UnsupportedError",
    "UsageError",
]


class ShiraError(Exception):
    """Something was refused; nothing has changed.

    Attributes:
        status: the code's name in status.def, such as ``"BAD_INDEX"``.
        message: one sentence: what is wrong, what was expected and what was found.
        file: path of the file concerned, or None.
        tensor: name of the tensor concerned, or None.
        offset_bytes: position in `file`, in bytes, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        status: str,
        file: str | None = None,
        tensor: str | None = None,
        offset_bytes: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.file = file
        self.tensor = tensor
        self.offset_bytes = offset_bytes

    def __str__(self) -> str:
        place = [
            self.file,
            None if self.offset_bytes is None else f"byte {self.offset_bytes}",
            None if self.tensor is None else f"tensor {self.tensor}",
        ]
        return ": ".join([part for part in place if part is not None] + [self.message])

    def __reduce__(self) -> tuple[Any, ...]:
        # The default calls the class with the message alone, so a pickled error could not be read.
        return _rebuild, (type(self), self.message, self.__dict__.copy())


class UsageError(ShiraError, ValueError):
    """A call that makes no sense, such as a name that is taken or an adapter that was not added."""


class BusyError(ShiraError):
    """A forward pass or another switch is in flight, and the call was told not to wait."""


class FormatError(ShiraError, ValueError):
    """A file breaks a rule of its format; `offset_bytes` says where."""


class UnsupportedError(ShiraError):
    """A file has a version, or requires a feature, that this release does not know."""


class BaseMismatchError(ShiraError):
    """The adapter and the live weights do not belong together; `tensor` names the first misfit."""


class AttachError(ShiraError):
    """The live memory is read-only, is not the one that was attached, or cannot be found."""


class SignatureError(ShiraError):
    """A public key is required, and the adapter is unsigned, signed otherwise, or not checkable."""


class FileError(ShiraError, OSError):
    """The operating system refused to read a file."""


class OutOfMemoryError(ShiraError, MemoryError):
    """Memory could not be allocated."""


_NUMBERS = {name: number for number, name, _, _ in _core.STATUS_TABLE}
_NAMES_AND_CLASSES = {
    number: (name, globals()[parent]) for number, name, parent, _ in _core.STATUS_TABLE
}


def make_error(
    number: int,
    message: str,
    file: str | None = None,
    tensor: str | None = None,
    offset_bytes: int | None = None,
) -> ShiraError:
    """Build the exception for a code of status.def; the extension module calls this.

    Args:
        number: the code's number.
        message: one sentence; empty stands for the code's own text.
        file: path of the file concerned; empty or None where none is.
        tensor: name of the tensor concerned; empty or None where none is.
        offset_bytes: position in the file, in bytes.

    Returns:
        The exception, to be raised by the caller.
    """
    status, kind = _NAMES_AND_CLASSES[number]
    error: ShiraError = kind(
        message, status=status, file=file or None, tensor=tensor or None, offset_bytes=offset_bytes
    )
    return error


def error_of(
    status: str,
    message: str,
    *,
    file: str | None = None,
    tensor: str | None = None,
    offset_bytes: int | None = None,
) -> ShiraError:
    """Build the exception for a code by its name, for the Python side of the package."""
    return make_error(_NUMBERS[status], message, file, tensor, offset_bytes)


def _rebuild(kind: type[ShiraError], message: str, state: dict[str, Any]) -> ShiraError:
    error = kind(message, status=state["status"])
    error.__dict__.update(state)
    return error
