# SPDX-License-Identifier: Apache-2.0
"""Shows that every fuzz target and sanitizer finds a bug: plants one and expects it to be found.

Run from the repository's root: ``python tests/fuzz/planted.py --address BUILD --thread BUILD``,
with the build folders of ``make test-sanitizers``. The product's sources stay as they are: a copy
of one file gets the bug, is compiled with the file's own command, and is linked in front of the
library that holds the intact one.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from run import unpack

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 60  # to find a bug in; most take one


@dataclass(frozen=True)
class Bug:
    """A change of one source file, and what has to notice it.

    Attributes:
        name: of the bug.
        source: the file, from the repository's root.
        old: text that stands in it exactly once.
        new: what it is replaced by.
        target: the program that is linked with it.
        finds: what the program, or the comparison that uses it, says then.
        arguments: of the program; the fuzz targets and the reader need none.
    """

    name: str
    source: str
    old: str
    new: str
    target: str
    finds: str
    arguments: tuple[str, ...] = ()


BUGS = (
    Bug(
        "a store behind the end of an array",
        "csrc/format/value_codec.cpp",
        "for (uint64_t i = 0; i < stream.entry_count; ++i) {\n    const unsigned code",
        "for (uint64_t i = 0; i <= stream.entry_count; ++i) {\n    const unsigned code",
        "fuzz_values",
        "AddressSanitizer: heap-buffer-overflow",
    ),
    Bug(
        "a shift by more bits than there are",
        "csrc/format/index_codec.cpp",
        "for (unsigned shift = 0; shift < 35; shift += 7)",
        "for (unsigned shift = 0; shift < 77; shift += 7)",
        "fuzz_index",
        "runtime error: shift exponent 70 is too large",
    ),
    Bug(
        "memory for what the file only announces",
        "csrc/format/adapter_texts.cpp",
        "file->names.ranges.reserve(adapter_count);",
        "file->names.ranges.reserve(adapter_count + file->header.tensor_count);",
        "fuzz_open",
        "check failed: peak_bytes",
    ),
    Bug(
        "a revert that stores the adapter's values again",
        "csrc/runtime/tile_pass.cpp",
        "part_of(step.from->originals->data(), step, tile.a)",
        "part_of(step.from->values.get(), step, tile.a)",
        "fuzz_apply",
        "fuzz_apply.cpp",
    ),
    Bug(
        "a switch that forgets what only the old adapter touches",
        "csrc/runtime/tile_pass.cpp",
        "  if (step.from != nullptr)\n    store(kernels_, spec,",
        "  if (step.from != nullptr && step.to == nullptr)\n    store(kernels_, spec,",
        "fuzz_apply",
        "fuzz_apply.cpp",
    ),
    Bug(
        "stores over a wrong base that stay",
        "csrc/runtime/switch_plan.cpp",
        "  pass.undo();\n",
        "",
        "fuzz_apply",
        "check failed: arena.live() == pristine",
    ),
    Bug(
        "coded values that are given back before they are decoded",
        "csrc/format/adapter_parser.cpp",
        "      unpack_values(*packed_[i].stream, packed_[i].out);\n"
        "      spent.spend(bytes.data(), bytes.data() + bytes.size());\n",
        "      spent.spend(bytes.data(), bytes.data() + bytes.size());\n"
        "      unpack_values(*packed_[i].stream, packed_[i].out);\n",
        "fuzz_open",
        "AddressSanitizer: use-after-poison",
    ),
    Bug(
        "a segment behind the end of the file",
        "csrc/attach/program_tables.cpp",
        "} else if (end_bytes > file_bytes && buffer->ok()) {",
        "} else if (end_bytes > 2 * file_bytes && buffer->ok()) {",
        "fuzz_pte",
        "check failed: offset_bytes <= file_bytes",
    ),
    Bug(
        "a delegate's weight that is larger than its data",
        "csrc/attach/program_weights.cpp",
        "if (needed_bytes > bytes->range.size_bytes) {",
        "if (needed_bytes > UINT64_MAX - bytes->range.size_bytes) {",
        "fuzz_pte",
        "check failed: offset_bytes <= file_bytes",
    ),
    Bug(
        "the same for a .ptd",
        "csrc/attach/program_tables.cpp",
        "} else if (end_bytes > file_bytes && buffer->ok()) {",
        "} else if (end_bytes > 2 * file_bytes && buffer->ok()) {",
        "fuzz_ptd",
        "check failed: offset_bytes <= file_bytes",
    ),
    Bug(
        "a packed weight whose end overflows",
        "csrc/packed/cache_index.cpp",
        "!range_fits(entry.offset_bytes, entry.size_bytes, data_end_)",
        "entry.offset_bytes + entry.size_bytes > data_end_",
        "fuzz_xnn_cache",
        "check failed: entry.size_bytes > 0",
    ),
    Bug(
        "a value decoded with the wrong sign",
        "csrc/format/value_codec.cpp",
        "code < 8 ? code : code - 16",
        "code < 9 ? code : code - 16",
        "reader_server",
        "C++ says 'values",
    ),
    Bug(
        "an unlocked read",
        "csrc/runtime/program_adapters.cpp",
        "std::vector<TensorSpec> Program::tensors() const {\n"
        "  const std::lock_guard<std::mutex> lock(state_->mutex);\n",
        "std::vector<TensorSpec> Program::tensors() const {\n",
        "program_threads_test",
        "ThreadSanitizer: data race",
        ("--gtest_filter=GrowingProgram.*",),
    ),
    Bug(
        "threads that cut their positions from one piece of memory",
        "csrc/format/adapter_index.cpp",
        "decoder.decode_group(groups[i], &pools[i])",
        "decoder.decode_group(groups[i], &pools[0])",
        "format_threads_test",
        "ThreadSanitizer: data race",
        ("--gtest_filter=OpenThreads.FilesAndMemoryAreReadAlike",),
    ),
)


class Build:
    """A build folder made by CMake and Ninja."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        commands = json.loads((self.folder / "compile_commands.json").read_text())
        # The first one is the library's; tests may compile the file again.
        self._compile = {Path(c["file"]).resolve(): c["command"] for c in reversed(commands)}

    def compile(self, source: Path, changed: Path, output: Path) -> None:
        """Compiles ``changed`` as ``source`` is compiled."""
        command = shlex.split(self._compile[source.resolve()])
        command[command.index("-o") + 1] = str(output)
        command[command.index("-c") + 1] = str(changed)
        subprocess.run(command, cwd=self.folder, check=True)

    def link(self, target: str, first: Path, output: Path) -> None:
        """Links a program, with the object file ``first`` in front of the libraries."""
        listed = subprocess.run(
            ["ninja", "-C", self.folder, "-t", "commands", target],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        own = next(
            piece
            for piece in reversed(listed.replace("\n", " && ").split(" && "))
            if f"-o {target} " in piece or f"-o tests/fuzz/{target} " in piece
        )
        command = shlex.split(own)
        place = command.index("-o") + 1
        command[place : place + 1] = [str(output), str(first)]
        subprocess.run(command, cwd=self.folder, check=True)


def changed_source(bug: Bug) -> str:
    """The text of the bug's file with the bug in it.

    Raises:
        ValueError: the text to replace does not stand in the source exactly once.
    """
    text = (ROOT / bug.source).read_text()
    if text.count(bug.old) != 1:
        raise ValueError(f"{bug.name}: {bug.source} has its text {text.count(bug.old)} times")
    return text.replace(bug.old, bug.new)


def plant(bug: Bug, build: Build, folder: Path) -> Path:
    """Builds the bug's target with it; returns the program."""
    source = ROOT / bug.source
    folder.mkdir(parents=True, exist_ok=True)
    changed = folder / source.name
    changed.write_text(changed_source(bug))
    build.compile(source, changed, changed.with_suffix(".o"))
    program = folder / bug.target
    build.link(bug.target, changed.with_suffix(".o"), program)
    return program


def command_of(bug: Bug, program: Path, inputs: Path, folder: Path) -> list[str | Path]:
    """What runs the program so that it may find the bug."""
    if bug.target == "reader_server":
        driver: list[str | Path] = [sys.executable, Path(__file__).with_name("differential.py")]
        options = [f"--server={program}", f"--output={folder}", "--seconds=2"]
        return [*driver, *options, inputs / "fuzz_open"]
    if not bug.target.startswith("fuzz_"):
        return [program, *bug.arguments]
    kept = unpack(bug.target, folder / "kept")
    limits = [f"-max_total_time={SECONDS}", "-max_len=4096", f"-artifact_prefix={folder}/"]
    return [program, *limits, folder / "corpus", inputs / bug.target, kept]


def find(bug: Bug, builds: dict[str, Build], output: Path) -> tuple[bool, str]:
    """Plants the bug and looks for it; returns whether it was found, and a line about that."""
    build = builds["thread" if bug.target.endswith("_test") else "address"]
    folder = output / f"{bug.target}-{BUGS.index(bug)}"
    program = plant(bug, build, folder)
    (folder / "corpus").mkdir(exist_ok=True)
    started = time.monotonic()
    process = subprocess.run(
        command_of(bug, program, output / "seeds", folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
        env={**os.environ, "TSAN_OPTIONS": "halt_on_error=1"},
    )
    (folder / "log.txt").write_text(process.stdout)
    found = process.returncode != 0 and bug.finds in process.stdout
    verdict = "found" if found else "NOT FOUND"
    seconds = time.monotonic() - started
    return found, f"{bug.target:<21} {verdict} in {seconds:>4.1f} s: {bug.name}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Plants all bugs; returns 1 when one was not found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--address", type=Path, required=True, help="build with fuzz targets")
    parser.add_argument("--thread", type=Path, required=True, help="build with thread sanitizer")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "fuzz" / "planted")
    parser.add_argument("--jobs", type=int, default=1, help="bugs at a time")
    options = parser.parse_args(arguments)
    builds = {"address": Build(options.address), "thread": Build(options.thread)}
    output = options.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    subprocess.run([options.address / "tests/fuzz/make_seeds", output / "seeds"], check=True)
    started = time.monotonic()
    missed = 0
    with ThreadPoolExecutor(options.jobs) as pool:
        for found, line in pool.map(lambda bug: find(bug, builds, output), BUGS):
            missed += not found
            print(line, flush=True)
    seconds = time.monotonic() - started
    print(f"{len(BUGS) - missed} planted bugs passed, {missed} failed in {seconds:.0f} s")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
