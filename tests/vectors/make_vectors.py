# SPDX-License-Identifier: Apache-2.0
"""Adds new test vectors: `python tests/vectors/make_vectors.py`. It never changes or removes one.

Every function of samples.py becomes good/<name>.shb, every member of hostile.Hostile
bad/<name>.shb. manifest.json says of each where it comes from and what a reader has to make of it;
manifest.tsv says the same for programs without a JSON parser, in the columns

    path, status, offset_bytes, sha256 of the canonical dump, index sources, public key

where "-" stands for nothing and sources are separated by commas. SHA256SUMS pins the bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dump
import samples
from hostile import Hostile

FOLDER = Path(__file__).resolve().parent
MANIFEST, TABLE, SUMS = (FOLDER / name for name in ("manifest.json", "manifest.tsv", "SHA256SUMS"))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def good_path(name: str) -> str:
    return f"good/{name}.shb"


def good_entries() -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Give the bytes and the manifest entry of each sample; the reader has to be installed."""
    from shira_runtime.export import reader

    for name, make in samples.SAMPLES.items():
        data = make()
        sources = samples.SOURCES.get(name, ())
        file = reader.read(data, index_sources=[samples.SAMPLES[source]() for source in sources])
        yield (
            data,
            {
                "path": good_path(name),
                "sha256": sha256(data),
                "made_by": f"samples.{name}",
                "shows": make.__doc__,
                "index_sources": [good_path(source) for source in sources],
                "dump_sha256": dump.digest(file),
                "adapters": [_describe(adapter) for adapter in file.adapters],
            },
        )


def _describe(adapter: Any) -> dict[str, Any]:
    tensors = [
        {
            "name": tensor.name,
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "nnz": tensor.nnz,
            "value_codec": tensor.value_codec,
            "value_kind": tensor.value_kind,
            "index_codecs": {str(part.tier): part.mask.codec for part in tensor.parts},
        }
        for tensor in adapter.tensors.values()
    ]
    return {"name": adapter.name, "is_bound": adapter.is_bound, "tensors": tensors}


def bad_entries() -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Give the bytes and the manifest entry of each hostile case."""
    known = {make(): good_path(name) for name, make in samples.SAMPLES.items()}
    for case in Hostile:
        broken = case.build()
        entry: dict[str, Any] = {
            "path": f"bad/{case.name.lower()}.shb",
            "sha256": sha256(broken.data),
            "made_by": f"hostile.Hostile.{case.name}",
            "rule": f"FORMAT.md {broken.rule}",
            "status": broken.status,
            "offset_bytes": broken.offset_bytes,
            "index_sources": [known[source] for source in broken.index_sources],
        }
        if broken.public_key is not None:
            entry["public_key"] = broken.public_key.hex()
        yield broken.data, entry


def table_row(entry: dict[str, Any]) -> str:
    columns = [
        entry["path"],
        entry.get("status", "OK"),
        str(entry.get("offset_bytes", "-")),
        entry.get("dump_sha256", "-"),
        ",".join(entry["index_sources"]) or "-",
        entry.get("public_key", "-"),
    ]
    return "\t".join(columns) + "\n"


def main() -> None:
    entries = json.loads(MANIFEST.read_text("utf-8")) if MANIFEST.exists() else []
    listed = {entry["path"]: entry for entry in entries}
    for data, entry in (*good_entries(), *bad_entries()):
        old = listed.get(entry["path"])
        if old is not None:
            if old["sha256"] != entry["sha256"]:
                raise SystemExit(f"{entry['path']} is released: add a case under another name")
            continue
        path = FOLDER / entry["path"]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        entries.append(entry)
        print("added", entry["path"])
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
    MANIFEST.write_text(f"[\n{lines}\n]\n", "utf-8")
    TABLE.write_text("".join(map(table_row, entries)), "utf-8")
    SUMS.write_text("".join(f"{e['sha256']}  {e['path']}\n" for e in entries), "utf-8")


if __name__ == "__main__":
    main()
