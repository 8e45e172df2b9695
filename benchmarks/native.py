# SPDX-License-Identifier: Apache-2.0
"""The extension `_bench`, built from benchmarks/cpp/native when it is first needed."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "bench"


@contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """A folder for a suite's files, gone afterwards.

    It is beside the build, since /tmp may be memory, from which no page can be dropped.
    """
    BUILD.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{prefix}-", dir=BUILD) as folder:
        yield Path(folder)


@cache
def native() -> ModuleType:
    """Build what has changed, and import the extension.

    Raises:
        RuntimeError: it cannot be built; the message ends with what the build said.
    """
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / "native.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes
        if not (BUILD / "build.ninja").is_file():
            options = ["CMAKE_BUILD_TYPE=Release", "SHIRA_BUILD_BENCHMARKS=ON"]
            options.append(f"Python_EXECUTABLE={sys.executable}")
            configure = ["-S", str(ROOT), "-B", str(BUILD), "-G", "Ninja"]
            _call(configure + [f"-D{option}" for option in options])
        _call(["--build", str(BUILD), "--target", "_bench"])
    (found,) = BUILD.glob("_bench.*.so")
    specification = importlib.util.spec_from_file_location("_bench", found)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def _call(arguments: list[str]) -> None:
    beside = Path(sys.executable).with_name("cmake")
    program = str(beside) if beside.is_file() else shutil.which("cmake")
    if program is None:
        raise RuntimeError("the benchmarks' extension needs cmake, which is not installed")
    done = subprocess.run(
        [program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        # ninja may be beside Python only.
        env={**_environment(), "CMAKE_BUILD_PARALLEL_LEVEL": "2"},
    )
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip().splitlines()[-20:]
        raise RuntimeError("the benchmarks' extension cannot be built:\n" + "\n".join(said))


def _environment() -> dict[str, str]:
    folder = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": folder + os.pathsep + os.environ.get("PATH", "")}
