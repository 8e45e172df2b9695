# SPDX-License-Identifier: Apache-2.0
"""What an adapter says about itself: the keys of FORMAT.md section 9, none of them a path."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .checkpoint import Checkpoint


def adapter_metadata(
    checkpoint: Checkpoint, base: Path | None, license_name: str | None, description: str | None
) -> dict[str, Any]:
    """Describe where an adapter comes from; of paths and hub names only the last component."""
    config = checkpoint.config
    source_format = checkpoint.source_format
    if isinstance(config.get("peft_version"), str):
        source_format += f" {config['peft_version']}"
    trained_on = str(base.resolve() if base else config.get("base_model_name_or_path") or "")
    metadata = {
        "created_by": f"shira-runtime {package_version()}",
        "source": checkpoint.path.resolve().name,
        "source_format": source_format,
        "base": trained_on.rstrip("/\\").replace("\\", "/").rpartition("/")[2],
        "mask": _mask(config),
        "license": license_name,
        "description": description,
    }
    return {key: value for key, value in metadata.items() if value}


def _mask(config: Mapping[str, Any]) -> dict[str, Any]:
    """What PEFT's configuration says of the mask."""
    known = {"type": "mask_type", "seed": "random_seed", "r": "r"}
    return {key: config[name] for key, name in known.items() if config.get(name) is not None}


def package_version() -> str:
    """Give the installed version of the whole package."""
    try:
        return importlib.metadata.version("shira-runtime")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"
