# SPDX-License-Identifier: Apache-2.0
"""The reader written from docs/FORMAT.md alone agrees with the manifest about every test vector."""

from __future__ import annotations

import hashlib
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest
from cleanroom_reader import Adapter, RefusedError, read
from dump import TensorDump, dump_adapter

FOLDER = Path(__file__).resolve().parents[1] / "vectors"


class Row(NamedTuple):
    """A row of manifest.tsv, where "-" stands for nothing."""

    path: str
    status: str
    offset_bytes: str
    dump_sha256: str
    index_sources: str
    public_key: str


ROWS = [Row(*line.split("\t")) for line in (FOLDER / "manifest.tsv").read_text().splitlines()]


def sources_of(row: Row) -> list[bytes]:
    paths = [] if row.index_sources == "-" else row.index_sources.split(",")
    return [(FOLDER / path).read_bytes() for path in paths]


def judge(row: Row) -> tuple[str, str, str]:
    """Give what the clean-room reader makes of a file, as the manifest writes it."""
    key = None if row.public_key == "-" else bytes.fromhex(row.public_key)
    data = (FOLDER / row.path).read_bytes()
    try:
        adapters = read(data, index_sources=sources_of(row), public_key=key, ed25519_verify=verify)
    except RefusedError as error:
        return error.status, str(error.offset), "-"
    return "OK", "-", hashlib.sha256(b"".join(map(dump, adapters))).hexdigest()


def dump(adapter: Adapter) -> bytes:
    tensors = [
        TensorDump(
            tensor.name,
            tensor.dtype,
            tensor.shape,
            tensor.value_codec,
            tensor.value_kind,
            tensor.fingerprint,
            tensor.base_digest,
            len(tensor.values),
            None if tensor.needs_base else tensor.positions,
            tensor.values,
        )
        for tensor in adapter.tensors
    ]
    return dump_adapter(adapter.name, adapter.bound, adapter.metadata.encode(), tensors)


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except InvalidSignature:
        return False
    return True


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.path)
def test_the_manifest_is_right_about(row: Row) -> None:
    if row.public_key != "-":
        pytest.importorskip("cryptography")
    assert judge(row) == (row.status, row.offset_bytes, row.dump_sha256)


@pytest.mark.parametrize("path", ["good/signed.shb", "good/signed_pack.shb"])
def test_a_signed_vector_is_accepted_with_its_key(path: str) -> None:
    pytest.importorskip("cryptography")
    data = (FOLDER / path).read_bytes()
    assert read(data, public_key=data[128:160], ed25519_verify=verify)


def test_the_core_judges_mutated_vectors_alike() -> None:
    pytest.importorskip("google_crc32c")
    pytest.importorskip("xxhash")
    from mutate import mutate
    from native import Outcome, read_natively

    statuses = set()
    good = [row for row in ROWS if row.status == "OK"]
    for seed in range(400):
        random = Random(seed)
        row = random.choice(good)
        tiers = random.choice([None, 1])
        data, sources = mutate((FOLDER / row.path).read_bytes(), random), sources_of(row)
        try:
            adapters = read(data, tiers, sources)
            own = Outcome("OK", content=b"".join(map(dump, adapters)))
        except RefusedError as error:
            own = Outcome(error.status, error.offset)
        assert own == read_natively(data, tiers=tiers, index_sources=sources), (row.path, seed)
        statuses.add(own.status)
    assert len(statuses) > 10
