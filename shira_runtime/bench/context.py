# SPDX-License-Identifier: Apache-2.0
"""What a reader of a stored run must know about the machine and the build it was taken with."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import shira_runtime
from shira_runtime import _core

__all__ = ["NOT_EXPOSED", "machine_context"]

NOT_EXPOSED = "not exposed"
"""Stands for what the system does not tell, as in many virtual machines."""

_CPU = Path("/sys/devices/system/cpu")
_PACKAGES = ("numpy", "torch", "executorch", "peft", "transformers", "scipy")


def machine_context() -> dict[str, Any]:
    """Describe machine, system, build and versions, as of now.

    Returns:
        By name, for JSON. Sizes are in bytes; what the system does not tell is `NOT_EXPOSED`.
    """
    flags = _cpu_information("flags", "Features").split()
    return {
        "cpu": _cpu_information("model name", "CPU part"),
        "machine": platform.machine(),
        "cores": os.cpu_count() or 0,
        "usable_cores": len(os.sched_getaffinity(0)),
        "virtual_machine": "hypervisor" in flags,
        "governor": _text(_CPU / "cpu0/cpufreq/scaling_governor"),
        "caches": _caches(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "page_bytes": os.sysconf("SC_PAGE_SIZE"),
        "transparent_huge_pages": _chosen(Path("/sys/kernel/mm/transparent_hugepage/enabled")),
        "system": f"{platform.system()} {platform.release()}",
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "build": _build(),
        "kernels": [name for name, _, chosen in _core.kernels() if chosen],
        "commit": _commit(),
        "versions": _versions(),
    }


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return NOT_EXPOSED


def _chosen(path: Path) -> str:
    """The bracketed word of a file such as ``always [madvise] never``."""
    text = _text(path)
    return text.partition("[")[2].partition("]")[0] or text


def _cpu_information(*names: str) -> str:
    for line in _text(Path("/proc/cpuinfo")).splitlines():
        name, _, value = line.partition(":")
        if name.strip() in names:
            return value.strip()
    return NOT_EXPOSED


def _caches() -> dict[str, str]:
    """Sizes of the first core's caches as the system has them, such as ``{"L1d": "48K"}``."""
    letters = {"Data": "d", "Instruction": "i", "Unified": ""}
    found = {}
    for cache in sorted((_CPU / "cpu0/cache").glob("index*")):
        kind = letters.get(_text(cache / "type"), "?")
        found[f"L{_text(cache / 'level')}{kind}"] = _text(cache / "size")
    return found


def _build() -> dict[str, str]:
    """Compiler and flags of the extension, as CMake wrote them beside it."""
    try:
        described = json.loads(Path(_core.__file__).with_name("build.json").read_text())
    except (OSError, ValueError):
        return {"compiler": NOT_EXPOSED}
    return {str(name): str(value) for name, value in described.items()}


def _commit() -> str:
    """The checkout's commit, with "+" where files differ from it; nothing outside a checkout."""
    folder = Path(shira_runtime.__file__).parent
    if not (folder.parent / "CMakeLists.txt").is_file():
        return NOT_EXPOSED
    commit = _git(folder, ["rev-parse", "--short=12", "HEAD"])
    if not commit:
        return NOT_EXPOSED
    return commit + ("+" if _git(folder, ["status", "--porcelain", "-uno"]) else "")


def _git(folder: Path, arguments: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip()


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "shira_runtime": shira_runtime.__version__}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
