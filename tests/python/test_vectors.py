# SPDX-License-Identifier: Apache-2.0
"""The test vectors: both readers decode every good file alike and refuse every bad one alike."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

pytest.importorskip("google_crc32c")
pytest.importorskip("xxhash")

import example
import make_vectors
import samples
import shb_writer as shb
from hostile import Hostile
from native import Outcome, read_in_python, read_natively

from shira_runtime import _core
from shira_runtime.export import reader

ENTRIES: list[dict[str, Any]] = json.loads(make_vectors.MANIFEST.read_text("utf-8"))
GOOD = [entry for entry in ENTRIES if "status" not in entry]
BAD = [entry for entry in ENTRIES if "status" in entry]

FOLDER = make_vectors.FOLDER

# The files of the release, which no later one may change: lines of SHA256SUMS and their SHA-256.
RELEASED_LINES = 394
RELEASED_SHA256 = "4d035426011746f9d52637a4f6e975c5e98d79288cbc7d8764d0e729baea0f6b"

# Small files that between them have all kinds of sections and most codecs.
CUT_AND_FLIPPED = [
    "smallest",
    "unbound",
    "rice",
    "runs",
    "struct_masks",
    "random_masks",
    "scaled_q2",
    "tiers_scaled",
    "pack_shared",
    "reference",
    "optional_sections",
    "signed",
]


def path_of(entry: dict[str, Any]) -> str:
    return str(entry["path"])


def read_vector(path: str) -> bytes:
    return (FOLDER / path).read_bytes()


def read_good(name: str) -> tuple[bytes, list[bytes]]:
    """Give a good vector and the vectors that it refers to."""
    names = (name, *samples.SOURCES.get(name, ()))
    data, *sources = [read_vector(make_vectors.good_path(each)) for each in names]
    return data, sources


def outcomes(data: bytes, **options: Any) -> tuple[Outcome, Outcome]:
    return read_natively(data, **options), read_in_python(data, **options)


def test_released_vectors_stay_as_they_are() -> None:
    lines = make_vectors.SUMS.read_text("utf-8").splitlines(keepends=True)
    released = "".join(lines[:RELEASED_LINES]).encode()
    assert hashlib.sha256(released).hexdigest() == RELEASED_SHA256
    for line in lines:
        digest, path = line.split()
        assert hashlib.sha256(read_vector(path)).hexdigest() == digest, path


def test_the_lists_name_the_same_files() -> None:
    on_disk = {path.relative_to(FOLDER).as_posix() for path in FOLDER.glob("*/*.shb")}
    assert sorted(map(path_of, ENTRIES)) == sorted(on_disk)
    assert make_vectors.TABLE.read_text("utf-8") == "".join(map(make_vectors.table_row, ENTRIES))
    sums = [f"{entry['sha256']}  {entry['path']}" for entry in ENTRIES]
    assert make_vectors.SUMS.read_text("utf-8").splitlines() == sums


def test_the_generators_still_make_the_vectors() -> None:
    pytest.importorskip("cryptography")
    made = {
        entry["path"]: entry
        for _, entry in (*make_vectors.good_entries(), *make_vectors.bad_entries())
    }
    assert [made.get(path_of(entry)) for entry in ENTRIES] == ENTRIES


@pytest.mark.parametrize("entry", GOOD, ids=path_of)
def test_both_readers_decode_a_good_vector(entry: dict[str, Any]) -> None:
    data = read_vector(entry["path"])
    sources = [read_vector(source) for source in entry["index_sources"]]
    native, python = outcomes(data, index_sources=sources)
    assert (native.status, python.status) == ("OK", "OK")
    assert hashlib.sha256(python.content).hexdigest() == entry["dump_sha256"]
    assert hashlib.sha256(native.content).hexdigest() == entry["dump_sha256"]
    reader.check_digests(data)


@pytest.mark.parametrize("entry", BAD, ids=path_of)
def test_both_readers_refuse_a_bad_vector(entry: dict[str, Any]) -> None:
    options: dict[str, Any] = {"index_sources": list(map(read_vector, entry["index_sources"]))}
    if "public_key" in entry:
        pytest.importorskip("cryptography")
        options["public_key"] = bytes.fromhex(entry["public_key"])
    expected = Outcome(entry["status"], entry["offset_bytes"])
    assert read_in_python(read_vector(entry["path"]), **options) == expected
    if "public_key" not in entry or _core.cryptography_available():
        assert read_natively(read_vector(entry["path"]), **options) == expected


def test_the_catalogue_is_large_and_covers_every_status_of_a_file() -> None:
    refusals = {number: name for number, name, _, _ in _core.STATUS_TABLE}
    of_files = {name for number, name in refusals.items() if 20 <= number < 50}
    of_files -= {"BAD_PROGRAM_FILE"}
    of_files |= {"MISSING_INDEX", "NOT_SIGNED", "WRONG_KEY", "BAD_SIGNATURE"}
    assert {entry["status"] for entry in BAD} == of_files
    assert len(Hostile) > 300
    assert len({entry["sha256"] for entry in BAD}) == len(BAD)


@pytest.mark.parametrize("tiers", range(1, 9))
@pytest.mark.parametrize("name", ["tiers", "tiers_scaled", "tiers_most", "pack_in_tiers"])
def test_both_readers_give_the_same_of_the_lower_tiers(name: str, tiers: int) -> None:
    native, python = outcomes(read_vector(make_vectors.good_path(name)), tiers=tiers)
    assert native == python
    assert native.status in ("OK", "INVALID_ARGUMENT")


def test_a_broken_stream_of_a_tier_that_is_not_read_is_left_alone() -> None:
    image = shb.Image(read_vector("good/tiers.shb"))
    image.put(image.value_stream(4), 0x7E00, 2)
    image.put(image.index_stream(0, tier=2), 0xFF, 1)
    for tiers, expected in [(2, "OK"), (3, "BAD_INDEX"), (None, "BAD_INDEX")]:
        native, python = outcomes(image.mended(), tiers=tiers)
        assert (native, native.status) == (python, expected)


def test_a_reference_of_a_tier_that_is_not_read_is_still_missed() -> None:
    data = read_vector("bad/reference_of_unread_tier.shb")
    native, python = outcomes(data, tiers=1)
    assert (native, native.status) == (python, "MISSING_INDEX")


def test_the_largest_base_values_are_found() -> None:
    data = read_vector("good/topk.shb")
    tensors = reader.read(data).adapters[0].tensors
    (native,) = _core.AdapterFile.from_bytes(data, "topk", 0, None, []).adapters
    for dtype, theirs in zip((shb.F32, shb.F16, shb.BF16), native.tensors, strict=True):
        base = samples.topk_base(dtype)
        own = tensors[theirs.name]
        expected = shb.top_positions(base, own.nnz)
        assert own.positions(base.patterns).tolist() == expected
        assert own.matches(base.patterns)
        floats = base.patterns if dtype == shb.BF16 else base.patterns.view(f"<f{base.width}")
        assert theirs.indices(base=floats).tolist() == expected


def test_fingerprints_and_base_digests_are_those_of_the_base() -> None:
    bases = {"b": shb.make_base(shb.F16, (30, 30), 300), "a": shb.make_base(shb.F32, (25, 8), 301)}
    tensors = reader.read(read_vector("good/tiers.shb")).adapters[0].tensors
    for name, base in bases.items():
        assert tensors[name].matches(base.patterns)
        assert tensors[name].base_digest == base.digest()
        patched = base.patterns.copy()
        patched[tensors[name].positions()[-1]] ^= 1
        assert not tensors[name].matches(patched)


def test_a_signature_is_accepted() -> None:
    pytest.importorskip("cryptography")
    key, _ = samples.sign_with_test_key(b"")
    for name in ("signed", "signed_pack"):
        data = read_vector(make_vectors.good_path(name))
        assert read_in_python(data, public_key=key).status == "OK"
        if _core.cryptography_available():
            assert read_natively(data, public_key=key).status == "OK"


@pytest.mark.parametrize("name", CUT_AND_FLIPPED)
def test_a_file_cut_at_any_length_is_refused_alike(name: str) -> None:
    data = read_vector(make_vectors.good_path(name))
    sources = [
        read_vector(make_vectors.good_path(source)) for source in samples.SOURCES.get(name, ())
    ]
    for size in range(len(data)):
        native, python = outcomes(data[:size], index_sources=sources)
        assert native == python, size
        assert native.status == "TRUNCATED", size


@pytest.mark.parametrize("name", CUT_AND_FLIPPED)
def test_any_flipped_bit_is_detected(name: str) -> None:
    data = read_vector(make_vectors.good_path(name))
    sources = [
        read_vector(make_vectors.good_path(source)) for source in samples.SOURCES.get(name, ())
    ]
    for place in range(len(data)):
        for mask in (1 << place % 8, 0xFF):
            flipped = bytearray(data)
            flipped[place] ^= mask
            native, python = outcomes(bytes(flipped), index_sources=sources)
            assert native == python, (place, mask)
            assert native.status != "OK", (place, mask)


@pytest.mark.parametrize("name", CUT_AND_FLIPPED)
def test_a_flipped_bit_under_mended_checksums_is_judged_alike(name: str) -> None:
    data = read_vector(make_vectors.good_path(name))
    sources = [
        read_vector(make_vectors.good_path(source)) for source in samples.SOURCES.get(name, ())
    ]
    statuses = set()
    for place in range(len(data)):
        for mask in (1 << place % 8, 0xFF):
            flipped = bytearray(data)
            flipped[place] ^= mask
            native, python = outcomes(shb.mend(bytes(flipped)), index_sources=sources)
            assert native == python, (place, mask)
            statuses.add(native.status)
    assert {"OK", "BAD_LAYOUT", "BAD_COUNT", "BAD_ENUM"} <= statuses


def test_good_streams_are_not_walked_unit_by_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the slow pass is for finding the broken unit")

    for name in ("_find_bad_digits", "_find_bad_rice", "_find_bad_run"):
        monkeypatch.setattr(reader.indices, name, refuse)
    for entry in GOOD:
        sources = [read_vector(source) for source in entry["index_sources"]]
        assert read_in_python(read_vector(entry["path"]), index_sources=sources).status == "OK"
    with pytest.raises(AssertionError, match="slow pass"):
        reader.read(read_vector("bad/gaps8_leaves.shb"))


def test_the_example_of_the_specification_is_current() -> None:
    page = example.PAGE.read_text("utf-8")
    assert page == example.updated(page), "run `python tests/vectors/example.py`"


def test_the_example_explains_every_byte() -> None:
    data = read_vector("good/smallest.shb")
    explained = 0
    for line in example.explain(data):
        if line[:5].strip():
            assert int(line[:5]) == explained
            shown = line[7:54].split("  ")[0].strip()
            explained += int(shown[4:].split()[0]) if "times" in shown else len(shown.split())
    assert explained == len(data)
    with pytest.raises(ValueError, match="not explained"):
        list(example.explain(data + b"\0"))
