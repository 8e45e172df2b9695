# SPDX-License-Identifier: Apache-2.0
"""Compares the C++ reader of .shb files with the independent Python reader.

Run from the repository's root: ``python tests/fuzz/differential.py --server PROGRAM FOLDER...``.
Both read every file of the folders and then, until the time is over, mutations of those that they
accept, mostly with mended checksums. They must accept and refuse the same files, with the same
status at the same offset, and decode the same adapters. What they disagree on is kept in
``build/fuzz/findings``.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import random
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from run import ROOT, VECTORS, commit, report

from shira_runtime.export.reader import Adapter, File, Mask, ReaderError, Tensor, read

sys.path.append(str(VECTORS))
from mutate import mutate

DTYPES = {"F32": 1, "F16": 2, "BF16": 3, "I8": 4, "I4": 5}
VALUE_CODECS = {**DTYPES, "Q8": 6, "Q4": 7, "Q2": 8, "Q1": 9}
INDEX_CODECS = ("GAPS8", "GAPS16", "RICE", "RUNS", "STRUCT", "RANDOM", "TOPK")
BASE_TYPES = {"F32": np.uint32, "F16": np.uint16, "BF16": np.uint16}
MAX_EXPANDED_ELEMENTS = 1 << 16
MAX_FILE_BYTES = 8192


class Server:
    """The C++ reader, in a process of its own that may die."""

    def __init__(self, program: Path, sources: Sequence[Path]) -> None:
        self._command = [program, *sources]
        self._process = self._start()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def read(self, data: bytes, tiers: int) -> str:
        """What it makes of a file; what it said when it died of it."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(struct.pack("<II", len(data), tiers) + data)
            process.stdin.flush()
            (size_bytes,) = struct.unpack("<I", process.stdout.read(4))
            return process.stdout.read(size_bytes).decode()
        except (OSError, struct.error):
            _, words = process.communicate()
            self._process = self._start()
            return f"died with code {process.returncode}\n{words.decode(errors='replace')}"


def positions_text(tensor: Tensor) -> str:
    """The flat indices; those of the largest values in a base with known bytes."""
    masks = [part.mask for part in tensor.parts]
    if not is_derived(masks[0]):
        return tensor.positions().tobytes().hex()
    if tensor.element_count > MAX_EXPANDED_ELEMENTS:
        return "by rule"
    width = np.dtype(BASE_TYPES.get(tensor.dtype, np.uint8)).itemsize
    numbers = np.arange(tensor.element_count * width, dtype=np.uint64)
    base = ((numbers * 167 + 13) % 251).astype(np.uint8)
    typed: NDArray[np.generic] = base.view(BASE_TYPES.get(tensor.dtype, np.uint8))
    return tensor.positions(typed).tobytes().hex()


def is_derived(mask: Mask) -> bool:
    """Whether the positions follow from a rule."""
    return mask.codec in ("STRUCT", "RANDOM", "TOPK")


def tensor_lines(tensor: Tensor) -> Iterator[str]:
    """What tests/fuzz/reader_server.cpp says about a tensor."""
    yield f"tensor {tensor.name.encode().hex()}"
    yield f"dtype {DTYPES[tensor.dtype]}"
    yield f"kind {int(tensor.value_kind == 'delta')}"
    yield f"value_codec {VALUE_CODECS[tensor.value_codec]}"
    yield " ".join(["shape", *map(str, tensor.shape)])
    yield f"base_digest {tensor.base_digest.hex()}"
    yield f"fingerprint {tensor.parts[-1].fingerprint.hex()}"
    for part in tensor.parts:
        mask = part.mask
        yield (
            f"part {part.tier} {part.index_number} {1 + INDEX_CODECS.index(mask.codec)} "
            f"{mask.rice_bits} {mask.block_length} {mask.unit_count} {mask.size_bytes}"
        )
    yield f"positions {positions_text(tensor)}"
    yield f"values {tensor.values().astype('<f4').tobytes().hex()}"


def adapter_lines(adapter: Adapter) -> Iterator[str]:
    """The same about an adapter."""
    yield f"adapter {adapter.name.encode().hex()}"
    yield f"bound {int(adapter.is_bound)}"
    yield f"metadata {adapter.metadata_json.hex()}"
    for name in sorted(adapter.tensors, key=str.encode):
        yield from tensor_lines(adapter.tensors[name])


def file_text(file: File) -> str:
    """The same about a file."""
    head = f"OK {file.version[1]} {file.tier_count} {file.content_digest.hex()}"
    lines = itertools.chain([head], *map(adapter_lines, file.adapters))
    return "".join(f"{line}\n" for line in lines)


def read_in_python(data: bytes, tiers: int, sources: Sequence[File]) -> str:
    """What the Python reader makes of a file, in the words of the C++ one."""
    try:
        return file_text(read(data, tiers=tiers or None, index_sources=sources))
    except ReaderError as error:
        return f"{error.status} {error.offset_bytes}\n"


def first_difference(ours: str, theirs: str) -> str:
    """The first lines that differ, shortened."""
    for one, other in itertools.zip_longest(ours.splitlines(), theirs.splitlines()):
        if one != other:
            return f"C++ says {str(one)[:300]!r}, Python says {str(other)[:300]!r}"
    return "no difference"


class Comparison:
    """Reads files with both readers and keeps those that they disagree on."""

    def __init__(self, server: Server, sources: Sequence[File], findings: Path) -> None:
        self._server = server
        self._sources = sources
        self._folder = findings
        self.executions = 0
        self.accepted = 0
        self.findings: list[str] = []

    def compare(self, data: bytes, tiers: int) -> bool:
        """Reads one file; true when it is accepted."""
        ours = self._server.read(data, tiers)
        theirs = read_in_python(data, tiers, self._sources)
        self.executions += 1
        self.accepted += theirs.startswith("OK")
        if ours == theirs:
            return theirs.startswith("OK")
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{hashlib.sha1(data).hexdigest()}.shb"
        path.write_bytes(data)
        if len(self.findings) < 10:
            print(f"{path} ({tiers or 'all'} tiers): {first_difference(ours, theirs)}")
            if ours.startswith("died"):
                print(ours)
        self.findings.append(path.name)
        return False


def main(arguments: Sequence[str] | None = None) -> int:
    """Compares the readers; returns 1 when they disagreed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="folders of .shb files")
    parser.add_argument("--server", type=Path, required=True, help="the program reader_server")
    parser.add_argument("--source", type=Path, action="append", default=[], help="has positions")
    parser.add_argument("--seconds", type=float, default=60, help="default 60")
    parser.add_argument("--seed", type=int, default=None, help="of the mutations")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "fuzz")
    options = parser.parse_args(arguments)
    paths = sorted(path for folder in options.folders for path in folder.glob("**/*"))
    small = [path for path in paths if path.is_file() and path.stat().st_size <= MAX_FILE_BYTES]
    files = sorted({path.read_bytes() for path in small})
    if not files:
        parser.error("there are no files")
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    chance = random.Random(seed)
    sources = [read(path.read_bytes()) for path in options.source]
    started = time.monotonic()
    with Server(options.server, options.source) as server:
        comparison = Comparison(server, sources, options.output / "findings" / "differential")
        good = [data for data in files if comparison.compare(data, 0)]
        while good and time.monotonic() - started < options.seconds:
            data = mutate(chance.choice(good), chance)
            comparison.compare(data, chance.choice((0, 0, 0, 1)))
    seconds = time.monotonic() - started
    record = {
        "target": "differential",
        "seconds": round(seconds, 1),
        "executions": comparison.executions,
        "executions_per_second": round(comparison.executions / seconds),
        "corpus_files": len(files),
        "accepted": comparison.accepted,
        "seed": seed,
        "exit_code": int(bool(comparison.findings)),
        "findings": sorted(set(comparison.findings)),
        "commit": commit(),
    }
    (options.output / "differential.json").write_text(json.dumps(record, indent=2) + "\n")
    print(report(record))
    return int(record["exit_code"])


if __name__ == "__main__":
    sys.exit(main())
