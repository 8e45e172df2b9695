# SPDX-License-Identifier: Apache-2.0
"""Program: live base weights, the adapters added to them, and the switch between them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from numpy.typing import NDArray

from shira_runtime import _core
from shira_runtime.adapter import Adapter, AdapterFile, key_bytes
from shira_runtime.errors import BaseMismatchError, error_of
from shira_runtime.reports import (
    AdapterPages,
    LoadReport,
    MemoryReport,
    SwitchReport,
    TensorInfo,
    VerifyReport,
)

__all__ = ["Members", "Program", "Source"]

_ORIGINALS = ("memory", "file")  # as Originals in csrc/runtime/program.h
_FIRST_TOUCHES = ("auto", "populate", "huge")  # as FirstTouch in csrc/runtime/region.h

Members = str | Mapping[str, float] | None
"""What to make active: nothing (the base), one adapter at scale 1, or adapters with scales."""


class Source(Protocol):
    """Where a program's weights live, and how to run it; see shira_runtime/sources.py."""

    unpatchable: Mapping[str, str]
    """Names that no adapter can touch, with the reason."""

    def check_attached(self) -> None:
        """Raise DETACHED if a weight is no longer in the memory that was registered."""

    def forward(self, inputs: tuple[Any, ...], method: str | None) -> Any:
        """Run the model, or the method of this name."""


class Program:
    """Live weights of one model, with adapters to switch between.

    Made by `load_program` (ExecuTorch), `from_torch` and `from_numpy`; the weights are patched
    where they are, so whoever else uses them sees every switch. The Program keeps them alive.
    Dropping it leaves the weights as they are: switch to None first to leave the base.

    Every failed call leaves weights and state as they were. Any thread may call any method; a
    switch waits for the forward passes that run through `forward`, and they wait for it. Other ways
    to run the model are not held back by this.

    Example::

        >>> import numpy, shira_runtime
        >>> weight = numpy.zeros((2, 3), numpy.float32)
        >>> program = shira_runtime.from_numpy({"layer.weight": weight})
        >>> program.add_adapter("ones.shb")
        'ones'
        >>> program.switch("ones").elements_written
        2
        >>> weight
        array([[0., 1., 0.],
               [0., 0., 1.]], dtype=float32)
        >>> with program.using({"ones": 0.5}):
        ...     weight.sum()
        np.float32(1.0)
        >>> program.active
        {'ones': 1.0}
        >>> report = program.switch(None)
        >>> weight.any()
        np.False_
    """

    def __init__(
        self,
        core: _core.Program,
        source: Source,
        public_key: bytes | None = None,
        load_report: LoadReport | None = None,
    ) -> None:
        self._core = core
        self._source = source
        self._load_report = load_report
        self._forwards = threading.local()
        self._public_key: bytes | None = None
        if public_key is not None:
            self.require_signature(public_key)

    # --- adapters ---

    def add_adapter(
        self,
        source: str | os.PathLike[str] | Adapter | AdapterFile,
        name: str | None = None,
        *,
        adapter: str | None = None,
        allow_unverified_base: bool = False,
        allow_partial: bool = False,
    ) -> str:
        """Bind an adapter to the weights by their names; nothing is written.

        Args:
            source: a path of a .shb file, or an opened file or adapter.
            name: what to call it here; by default the name stored in the file.
            adapter: which adapter of the file, by its name; needed where it holds several.
            allow_unverified_base: accept a file without base fingerprints. Nothing then tells
                whether it was made for these weights.
            allow_partial: accept a file with tensors that the program does not have, as long as one
                matches.

        Returns:
            The name it goes by.

        Raises:
            BaseMismatchError: UNKNOWN_TENSOR, SHAPE_MISMATCH, DTYPE_MISMATCH, SHARED_STORAGE or
                UNVERIFIED_BASE; the values themselves are compared at the first switch, or by
                `check_adapter`.
            UsageError: DUPLICATE_NAME, UNKNOWN_ADAPTER, INVALID_ARGUMENT: the file holds several
                adapters and none is named; MISSING_INDEX: open such a file with `Adapter.open`.
            SignatureError: see `require_signature`.
            AttachError: a mask of the largest base values cannot be found in memory that is no
                longer the one that was attached.
            BusyError: the call comes from inside a forward pass of the same thread.
            FormatError, UnsupportedError, FileError: see `Adapter.open`.
        """
        self._require_no_forward("add_adapter")
        if isinstance(source, AdapterFile):
            source = source.adapter(adapter)
        elif not isinstance(source, Adapter):
            # Opened with the key, so that no unsigned byte is looked at.
            source = Adapter.open(
                source,
                adapter,
                public_key=self._public_key,
                keep_content=False,
                threads=self.threads,
            )
        elif adapter is not None:
            source = source.file.adapter(adapter)
        try:
            return self._core.add_adapter(
                source._core, name or "", allow_unverified_base, allow_partial
            )
        except BaseMismatchError as error:
            reason = self._source.unpatchable.get(error.tensor or "")
            if error.status != "UNKNOWN_TENSOR" or reason is None:
                raise
            raise error_of(
                "UNKNOWN_TENSOR", f"cannot be patched: {reason}", tensor=error.tensor
            ) from None

    def require_signature(self, public_key: bytes) -> None:
        """Accept only adapters that the secret half of this key has signed, from now on.

        Args:
            public_key: the 32 bytes of an Ed25519 key.

        Raises:
            SignatureError: NOT_SIGNED, WRONG_KEY, BAD_SIGNATURE, or NO_CRYPTOGRAPHY where this
                build cannot tell: an adapter that was added does not pass. Later `add_adapter`
                raises it for those that do not.
            FormatError: DIGEST_MISMATCH, likewise.
        """
        public_key = key_bytes(public_key)
        self._core.require_signature(public_key)
        self._public_key = public_key

    def remove_adapter(self, name: str) -> None:
        """Forget an adapter that is not active.

        Raises:
            UsageError: ADAPTER_IN_USE or UNKNOWN_ADAPTER.
            BusyError: the call comes from inside a forward pass of the same thread.
        """
        self._require_no_forward("remove_adapter")
        self._core.remove_adapter(name)

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters added."""
        return tuple(self._core.adapter_names())

    def check_adapter(self, name: str) -> None:
        """Compare an adapter's fingerprints with the base, without writing.

        Raises:
            BaseMismatchError: BASE_MISMATCH, naming the first tensor that differs.
            UsageError: UNKNOWN_ADAPTER.
        """
        self._require_no_forward("check_adapter")
        self._source.check_attached()
        self._core.check_adapter(name)

    # --- switching ---

    def switch(self, adapters: Members = None, *, wait: bool = True) -> SwitchReport:
        """Make exactly these adapters active, in one step from whatever is active now.

        The weights become a function of the base, the adapters and the scales alone: neither
        history nor order matters. A position that one adapter touches at scale 1 takes the exported
        value as it is. None restores the base byte for byte. Every check precedes the first store.

        Args:
            adapters: None (the base), a name (at scale 1), or names with scales (the paper's
                alpha; a scale of 0 is the same as leaving the adapter out).
            wait: wait for forward passes and other switches in flight; else raise BusyError.

        Returns:
            What was done. Switching to what is active already does nothing and reports zeros.

        Raises:
            UsageError: UNKNOWN_ADAPTER, or INVALID_ARGUMENT for a scale that is not finite.
            BaseMismatchError: BASE_MISMATCH (wrong or already patched base), or NON_FINITE_RESULT.
            OutOfMemoryError: DIRTY_LIMIT: see `max_dirty_bytes`; or memory is short.
            AttachError: DETACHED or READ_ONLY: the memory is no longer the one that was attached,
                or the program's file has become shorter below its weights.
            BusyError: something is in flight and `wait` is false; or the call comes from inside a
                forward pass of the same thread, which could never end.
        """
        members = _parse_members(adapters)
        self._require_no_forward("switch")
        self._source.check_attached()
        return SwitchReport(**self._core.switch_to(members, wait))

    def try_switch(self, adapters: Members = None) -> SwitchReport:
        """Switch if that is possible at once, as `switch` with ``wait=False``.

        Raises:
            BusyError: a forward pass or another switch is in flight; and as `switch`.
        """
        return self.switch(adapters, wait=False)

    def revert(self) -> SwitchReport:
        """Restore the base, as ``switch(None)``."""
        return self.switch(None)

    def hard_revert(self) -> SwitchReport:
        """Restore the base by dropping the memory's private pages, so that the file shows through.

        Frees the memory that switching has cost, undoes what anybody else has written, and makes
        the next switch pay its page faults again. Slow: it first compares every weight with the
        file, so that the report and the epoch are exact.

        Raises:
            UsageError: NOT_SUPPORTED: the weights do not come from a mapped file.
            AttachError: DETACHED: the file or the memory is another one by now.
        """
        self._require_no_forward("hard_revert")
        self._source.check_attached()
        return SwitchReport(**self._core.hard_revert())

    # --- pages of an attached program, which are copied on write ---

    def adapter_pages(self, name: str) -> AdapterPages:
        """Count the pages that an adapter touches: what it costs at most in private memory.

        Known as soon as the adapter is added.

        Raises:
            UsageError: UNKNOWN_ADAPTER.
        """
        page_bytes, tensors = self._core.adapter_pages(name)
        return AdapterPages(page_bytes, {name: (pages, total) for name, pages, total in tensors})

    def memory(self) -> MemoryReport:
        """Measure what switching has cost in memory. Asks the kernel about every page: not fast.

        Raises:
            FileError: IO_ERROR: the system does not tell.
            BusyError: the call comes from inside a forward pass of the same thread.
        """
        self._require_no_forward("memory")
        return MemoryReport(**self._core.memory())

    def release_pages(self) -> int:
        """Give back private pages whose bytes are those of the file, as after ``switch(None)``.

        Weights, active adapters and epoch stay as they are; the next switch has to make the pages
        private again. Compares all pages that switches have made private, so it is for times when
        memory is short. Makes nothing of memory that others own.

        Returns:
            How many bytes were given back.

        Raises:
            AttachError: DETACHED: the file or the memory is another one by now.
            BusyError: the call comes from inside a forward pass of the same thread.
        """
        self._require_no_forward("release_pages")
        self._source.check_attached()
        return self._core.release_pages()

    @property
    def max_dirty_bytes(self) -> int | None:
        """Limit on the memory that switches may make private, over all files; may be set.

        A switch that would need more is refused (DIRTY_LIMIT) before anything is touched, unless it
        makes no more pages private than there are. None: no limit. Only pages of attached files
        count: other memory is private already.
        """
        return self._core.max_dirty_bytes() or None

    @max_dirty_bytes.setter
    def max_dirty_bytes(self, limit_bytes: int | None) -> None:
        if limit_bytes is not None and not 1 <= limit_bytes < 2**64:
            raise error_of(
                "INVALID_ARGUMENT", f"max_dirty_bytes is {limit_bytes}, expected 1 or more, or None"
            )
        self._core.set_max_dirty_bytes(limit_bytes or 0)

    @property
    def first_touch(self) -> str:
        """How pages of an attached file become private before they are stored to; may be set.

        "populate": the kernel copies the pages that are needed, and only these. "huge": wherever a
        page is needed, the whole huge page that it belongs to is copied and moved over the mapping,
        which is faster where many pages are needed and takes the memory of all. "auto": "huge"
        where nearly all pages of a huge page are needed, else "populate". Setting "huge" raises
        UsageError (NOT_SUPPORTED) where the system has no huge pages to use.
        """
        return _FIRST_TOUCHES[self._core.first_touch()]

    @first_touch.setter
    def first_touch(self, first_touch: str) -> None:
        if first_touch not in _FIRST_TOUCHES:
            known = ", ".join(map(repr, _FIRST_TOUCHES))
            raise error_of(
                "INVALID_ARGUMENT", f"first_touch is {first_touch!r}, expected one of {known}"
            )
        self._core.set_first_touch(_FIRST_TOUCHES.index(first_touch))

    @property
    def originals(self) -> str:
        """Where base values stay that lie under active adapters; may be set.

        "memory": saved when they are replaced, and kept for the next time. "file": let go after
        every switch, and read again from the attached file when a switch, a scale or a check needs
        them. That takes no memory between switches and makes them slower. If the file is no longer
        what it was, they raise AttachError (DETACHED) or BaseMismatchError (BASE_MISMATCH), and the
        adapters stay. Setting "file" raises UsageError (NOT_SUPPORTED) for weights without a file.
        """
        return _ORIGINALS[self._core.originals()]

    @originals.setter
    def originals(self, originals: str) -> None:
        if originals not in _ORIGINALS:
            known = ", ".join(map(repr, _ORIGINALS))
            raise error_of(
                "INVALID_ARGUMENT", f"originals is {originals!r}, expected one of {known}"
            )
        self._require_no_forward("originals")
        self._core.set_originals(_ORIGINALS.index(originals))

    @contextmanager
    def using(self, adapters: Members) -> Iterator[SwitchReport]:
        """Switch for the length of a ``with`` block, then go back to what was active before.

        Also goes back when the block raises; blocks may be nested.

        Args:
            adapters: as for `switch`.

        Yields:
            The report of the switch.
        """
        before = self.active
        report = self.switch(adapters)
        try:
            yield report
        finally:
            self.switch(before)

    # --- running ---

    def forward(self, *inputs: Any, method: str | None = None) -> Any:
        """Run the model while no switch can happen.

        Args:
            inputs: for an ExecuTorch program numpy arrays, tensors (whatever has ``__array__`` or
                ``__dlpack__``) or Python numbers, in the shapes and dtypes of the exported method;
                for a torch module whatever it takes.
            method: the method of an ExecuTorch program, by default the one named to `load_program`.

        Returns:
            For an ExecuTorch program a list with an item per output of the method: numpy arrays,
            bfloat16 as `ml_dtypes.bfloat16`, and Python numbers; with ``engine="torch"`` torch
            tensors. The arrays are the caller's own. For a torch module whatever it returns.

        Raises:
            UsageError: INVALID_ARGUMENT for inputs that the method refuses; NOT_SUPPORTED for plain
                arrays, and for delegated methods in a process that was forked after loading.
        """
        depth = getattr(self._forwards, "depth", 0)
        if depth == 0:
            self._core.begin_forward()
        self._forwards.depth = depth + 1
        try:
            return self._source.forward(inputs, method)
        finally:
            self._forwards.depth = depth
            if depth == 0:
                self._core.end_forward()

    # --- state ---

    def verify_base(self) -> VerifyReport:
        """Compare every weight with its source, with the active adapters' entries put back.

        The source is the program's file, or for torch and numpy a digest taken when the weight was
        registered. Finds what anybody has written anywhere, and the adapters added that were made
        for other weights, also where they differ outside their entries.

        Raises:
            BaseMismatchError: BASE_MODIFIED, naming the tensors that differ, and from what.
        """
        self._require_no_forward("verify_base")
        self._source.check_attached()
        tensors_checked, bytes_checked, modified = self._core.verify_base()
        if modified:
            findings: dict[str, list[str]] = {}
            for name, offset, adapter in modified:
                finding = (
                    f'are not the base that adapter "{adapter}" was made for'
                    if adapter
                    else "differ from their source outside the active adapters"
                )
                place = name if offset is None else f"{name} (from byte {offset} on)"
                findings.setdefault(finding, []).append(place)
            message = "; ".join(
                f"{len(places)} of {tensors_checked} tensors {finding}: {', '.join(places)}"
                for finding, places in findings.items()
            )
            raise error_of("BASE_MODIFIED", message, tensor=modified[0][0])
        return VerifyReport(tensors_checked, bytes_checked)

    @property
    def active(self) -> dict[str, float]:
        """The active adapters with their scales; empty for the base."""
        return dict(self._core.active())

    @property
    def epoch(self) -> int:
        """A number that grows by one exactly when weights change."""
        return self._core.epoch()

    @property
    def digest(self) -> str:
        """32 hex digits over what differs from the base: equal exactly when the weights are equal.

        A key for whatever was computed with the weights, such as KV and prompt caches.
        """
        return self._core.digest().hex()

    @property
    def threads(self) -> int:
        """Threads for checks and stores, 1 to 64; may be set, and never changes a result."""
        return self._core.thread_count()

    @threads.setter
    def threads(self, count: int) -> None:
        self._core.set_thread_count(count)

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        """The weights that adapters can touch, by name."""
        return {name: TensorInfo(dtype, shape) for name, dtype, shape, _ in self._core.tensors()}

    def read(self, name: str) -> NDArray[Any]:
        """A copy of a live weight, with the active adapters in it, wherever its elements lie.

        Returns:
            Array of the weight's shape: float32, float16, uint16 for the bits of bfloat16, or int8
            for the codes of "int8" and "int4".

        Raises:
            ShiraError: UNKNOWN_TENSOR; DETACHED if the memory went away; BUSY inside a forward.
        """
        self._require_no_forward("read")
        self._source.check_attached()
        return self._core.read_tensor(name)

    @property
    def unpatchable(self) -> dict[str, str]:
        """Weights that no adapter can touch, by name, each with the reason."""
        return dict(self._source.unpatchable)

    @property
    def load_report(self) -> LoadReport | None:
        """How long loading took, by stages; None unless `load_program` did it by its own engine."""
        return self._load_report

    def __repr__(self) -> str:
        active = " + ".join(f"{scale:g} {name}" for name, scale in self.active.items()) or "base"
        return f"<Program: {len(self.tensors)} tensors, {len(self.adapters)} adapters, {active}>"

    def _require_no_forward(self, call: str) -> None:
        if getattr(self._forwards, "depth", 0) > 0:
            raise error_of("BUSY", f"{call} was called inside a forward pass of the same thread")


def _parse_members(adapters: Members) -> list[tuple[str, float]]:
    if adapters is None:
        return []
    if isinstance(adapters, str):
        return [(adapters, 1.0)]
    if not isinstance(adapters, Mapping):
        raise error_of(
            "INVALID_ARGUMENT",
            f"expected None, a name or a mapping of names to scales, got {type(adapters).__name__}",
        )
    members = []
    for name, scale in adapters.items():
        try:
            members.append((str(name), float(scale)))
        except (TypeError, ValueError):
            raise error_of(
                "INVALID_ARGUMENT", f"scale of {name} is {scale!r}, not a number"
            ) from None
    return members
