# SPDX-License-Identifier: Apache-2.0
"""A program with a key takes the files that the key has signed, no others, and writes nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import struct
from collections.abc import Callable
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from shb_files import (
    SECTION_KINDS,
    adapter_bytes,
    random_arrays,
    resealed,
    section_range,
    tensor_entries,
)

pytest.importorskip("cryptography")

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shira_runtime import (
    Adapter,
    AdapterFile,
    FormatError,
    Program,
    ShiraError,
    SignatureError,
    UsageError,
    _core,
    from_numpy,
    signing,
)
from shira_runtime.export.build import build_adapter
from shira_runtime.export.image import IndexReference, sha256
from shira_runtime.export.writer import write_image

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC_KEY = KEY.public_key().public_bytes_raw()
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
OTHER_PUBLIC_KEY = OTHER_KEY.public_key().public_bytes_raw()

SIGNATURE_FIELDS, KEY_FIELD, SIGNATURE = slice(96, 224), slice(128, 160), slice(160, 224)

with_sodium = pytest.mark.skipif(
    not _core.cryptography_available(), reason="this build has no libsodium"
)

Opener = Callable[[Program, bytes], None]


def add_opened(program: Program, content: bytes) -> None:
    """The file is opened by itself; the program checks what it is given."""
    program.add_adapter(Adapter.from_bytes(content, "x.shb"))


def open_with_key(program: Program, content: bytes) -> None:
    """The file is opened with the key; the program has nothing to do with it."""
    Adapter.from_bytes(content, "x.shb", public_key=PUBLIC_KEY)


BOTH_WAYS = pytest.mark.parametrize("use", [add_opened, open_with_key])


class Signed:
    """A program that requires KEY, and one adapter for it, unsigned and signed."""

    def __init__(self) -> None:
        rng = np.random.default_rng(4)
        self.arrays = random_arrays(rng, {"a.weight": ((8, 24), "f32"), "b.bias": ((40,), "f16")})
        a, b = self.arrays.values()
        entries = [
            tensor_entries("a.weight", a, np.cumsum(np.arange(20)), rng.standard_normal(20)),
            tensor_entries("b.bias", b, np.arange(5, 15), rng.standard_normal(10)),
        ]
        self.built = build_adapter("de", entries, {"description": "to be trusted"})
        self.unsigned = self.built.content
        self.content = signing.sign(self.unsigned, KEY)
        self.before = self.bytes()
        self.program = from_numpy(self.arrays)
        self.program.require_signature(PUBLIC_KEY)

    def bytes(self) -> dict[str, bytes]:
        return {name: array.tobytes() for name, array in self.arrays.items()}

    def refusal(self, content: bytes, use: Opener = add_opened) -> ShiraError:
        """Gives the error of a file that must be refused, after a look at what it left behind."""
        with pytest.raises(ShiraError) as caught:
            use(self.program, content)
        assert self.program.adapters == ()
        assert self.bytes() == self.before
        assert (self.program.epoch, self.program.active) == (0, {})
        return caught.value


@pytest.fixture
def signed() -> Signed:
    return Signed()


def with_crc32c(content: bytes | bytearray) -> bytes:
    """Repairs the header's CRC32C, as everybody can."""
    crc32c = google_crc32c.value(bytes(content[:252]))
    return bytes(content[:252]) + struct.pack("<I", crc32c) + bytes(content[256:])


def replaced(content: bytes, where: slice, new: bytes) -> bytes:
    changed = bytearray(content)
    changed[where] = new
    assert len(changed) == len(content)
    return bytes(changed)


# --- Accepted ---


@with_sodium
def test_a_signed_file_is_taken_and_switched_to(signed: Signed) -> None:
    signed.program.add_adapter(Adapter.from_bytes(signed.content))
    assert signed.program.switch("de").elements_written == 30
    assert signed.bytes() != signed.before
    signed.program.switch(None)
    assert signed.bytes() == signed.before


@with_sodium
def test_a_signed_file_is_taken_by_its_path(signed: Signed, tmp_path: Path) -> None:
    path = tmp_path / "de.shb"
    path.write_bytes(signed.content)
    assert signed.program.add_adapter(path) == "de"
    path.write_bytes(signed.unsigned)
    with pytest.raises(SignatureError) as caught:
        signed.program.add_adapter(path, "again")
    assert (caught.value.status, caught.value.file) == ("NOT_SIGNED", str(path))
    assert signed.program.adapters == ("de",)


def test_a_program_without_a_key_takes_signed_and_unsigned(signed: Signed) -> None:
    program = from_numpy(signed.arrays)
    program.add_adapter(Adapter.from_bytes(signed.content), "signed")
    program.add_adapter(Adapter.from_bytes(signed.unsigned), "unsigned")
    garbled = with_crc32c(replaced(signed.content, SIGNATURE, bytes(64)))
    program.add_adapter(Adapter.from_bytes(garbled), "garbled")
    programs = []
    for name in ("signed", "unsigned", "garbled"):
        program.switch(name)
        programs.append(signed.bytes())
    assert programs[0] == programs[1] == programs[2] != signed.before


# --- Refused ---


@with_sodium
@BOTH_WAYS
def test_an_unsigned_file_is_refused(signed: Signed, use: Opener) -> None:
    error = signed.refusal(signed.unsigned, use)
    assert isinstance(error, SignatureError)
    assert (error.status, error.offset_bytes, error.file) == ("NOT_SIGNED", 96, "x.shb")


@with_sodium
@BOTH_WAYS
def test_a_file_without_its_signature_is_refused(signed: Signed, use: Opener) -> None:
    stripped = with_crc32c(replaced(signed.content, SIGNATURE_FIELDS, bytes(128)))
    assert stripped == signed.unsigned
    assert signed.refusal(stripped, use).status == "NOT_SIGNED"


@with_sodium
@BOTH_WAYS
def test_a_file_signed_by_somebody_else_is_refused(signed: Signed, use: Opener) -> None:
    error = signed.refusal(signing.sign(signed.unsigned, OTHER_KEY), use)
    assert isinstance(error, SignatureError)
    assert (error.status, error.offset_bytes) == ("WRONG_KEY", 128)
    assert OTHER_PUBLIC_KEY.hex() in error.message


@with_sodium
@BOTH_WAYS
def test_naming_the_key_does_not_make_a_signature(signed: Signed, use: Opener) -> None:
    forged = signing.sign(signed.unsigned, OTHER_KEY)
    error = signed.refusal(with_crc32c(replaced(forged, KEY_FIELD, PUBLIC_KEY)), use)
    assert isinstance(error, SignatureError)
    assert (error.status, error.offset_bytes) == ("BAD_SIGNATURE", 160)


@with_sodium
@BOTH_WAYS
def test_a_signature_of_another_file_is_refused(signed: Signed, use: Opener) -> None:
    a = signed.arrays["a.weight"]
    harmless = signing.sign(
        adapter_bytes("fr", tensor_entries("a.weight", a, np.array([1]), np.ones(1))), KEY
    )
    moved = replaced(signed.unsigned, SIGNATURE_FIELDS, harmless[SIGNATURE_FIELDS])
    assert signed.refusal(with_crc32c(moved), use).status == "BAD_SIGNATURE"


@with_sodium
@BOTH_WAYS
def test_a_second_signature_cannot_be_made_from_the_first(signed: Signed, use: Opener) -> None:
    order = 2**252 + 27742317777372353535851937790883648493
    s = int.from_bytes(signed.content[192:224], "little") + order
    unreduced = replaced(signed.content, slice(192, 224), s.to_bytes(32, "little"))
    assert signed.refusal(with_crc32c(unreduced), use).status == "BAD_SIGNATURE"


def harmful_change(signed: Signed, section: str) -> bytes:
    """Finds a change of a section that every check but the signature lets through."""
    at = section_range(signed.content, section)
    for position in reversed(range(at.start, at.stop)):
        changed = bytearray(signed.content)
        changed[position] ^= 1
        sealed = resealed(changed)  # CRCs, the section's SHA-256, the content digest
        with contextlib.suppress(ShiraError):
            from_numpy(signed.arrays).add_adapter(Adapter.from_bytes(sealed))
            return sealed
    raise AssertionError(f"every changed bit of {section} is refused without a signature, too")


@with_sodium
@BOTH_WAYS
@pytest.mark.parametrize("section", ["tensors", "metadata", "index", "values"])
def test_a_changed_section_is_refused(signed: Signed, use: Opener, section: str) -> None:
    """Whoever changes a section repairs what everybody can, and is found by what is left."""
    sealed = harmful_change(signed, section)
    assert sealed[SIGNATURE_FIELDS] == signed.content[SIGNATURE_FIELDS]
    error = signed.refusal(sealed, use)
    assert isinstance(error, SignatureError)
    assert error.status == "BAD_SIGNATURE"

    digest_kept = with_crc32c(replaced(sealed, slice(64, 96), signed.content[64:96]))
    error = signed.refusal(digest_kept, use)
    assert isinstance(error, FormatError)
    assert (error.status, error.offset_bytes) == ("DIGEST_MISMATCH", 64)

    hash_kept, offset_bytes = with_hash_of(signed.content, sealed, section)
    error = signed.refusal(hash_kept, use)
    assert (error.status, error.offset_bytes) == ("DIGEST_MISMATCH", offset_bytes)


def with_hash_of(original: bytes, changed: bytes, section: str) -> tuple[bytes, int]:
    """Makes a changed file declare the SHA-256 that a section had, and says where it stands."""
    row = 256 + 64 * SECTION_KINDS.index(section)
    where = slice(row + 32, row + 64)
    lying = replaced(changed, where, original[where])
    table = lying[256 : 256 + 64 * len(SECTION_KINDS)]
    lying = replaced(lying, slice(56, 60), struct.pack("<I", google_crc32c.value(table)))
    return with_crc32c(lying), where.start


@with_sodium
def test_positions_of_another_file_are_those_that_were_signed(signed: Signed) -> None:
    """The other file need not be signed: its positions are known by a hash that is."""
    section = signed.unsigned[section_range(signed.unsigned, "index")]
    reference = IndexReference(sha256(section), len(signed.built.image.index[0].streams))
    image = dataclasses.replace(signed.built.image, index=(reference,))
    content = signing.sign(write_image(image).content, KEY)

    def add(source: bytes) -> None:
        file = AdapterFile.from_bytes(source)
        signed.program.add_adapter(
            Adapter.from_bytes(content, public_key=PUBLIC_KEY, index_from=[file])
        )

    other_positions = harmful_change(signed, "index")
    lying, _ = with_hash_of(signed.unsigned, other_positions, "index")
    for source in (other_positions, lying):
        with pytest.raises(UsageError) as caught:
            add(source)
        assert caught.value.status == "MISSING_INDEX"
    add(signed.unsigned)
    assert signed.program.switch("de").elements_written == 30


# What a reader finds first when a byte of the header was changed and its CRC32C repaired. The file
# may be opened or not; what opens cannot pass.
FIELDS: dict[range, set[str]] = {
    range(8): {"BAD_MAGIC"},
    range(8, 10): {"UNSUPPORTED_VERSION"},
    range(10, 12): {"DIGEST_MISMATCH"},
    range(12, 16): {"BAD_LAYOUT"},
    range(16, 24): {"TRUNCATED", "TRAILING_BYTES"},
    range(24, 32): {"UNSUPPORTED_FEATURE"},
    range(32, 40): {"DIGEST_MISMATCH"},
    range(40, 44): {"BAD_COUNT", "HEADER_CHECKSUM", "TRUNCATED"},
    range(44, 52): {"BAD_COUNT", "BAD_LAYOUT", "DIGEST_MISMATCH"},
    range(52, 56): {"BAD_COUNT"},
    range(56, 60): {"HEADER_CHECKSUM"},
    range(60, 64): {"RESERVED_NOT_ZERO"},
    range(64, 96): {"DIGEST_MISMATCH"},
    range(96, 100): {"BAD_ENUM", "RESERVED_NOT_ZERO"},
    range(100, 128): {"RESERVED_NOT_ZERO"},
    range(128, 160): {"WRONG_KEY"},
    range(160, 224): {"BAD_SIGNATURE"},
    range(224, 252): {"RESERVED_NOT_ZERO"},
    range(252, 256): {"HEADER_CHECKSUM"},
}


@with_sodium
@BOTH_WAYS
@pytest.mark.parametrize("field", FIELDS, ids=lambda field: f"{field.start}-{field.stop - 1}")
def test_every_changed_byte_of_the_header_is_refused(
    signed: Signed, use: Opener, field: range
) -> None:
    for position in field:
        for mask in (0x01, 0x10, 0x80, 0xFF):
            changed = bytearray(signed.content)
            changed[position] ^= mask
            content = bytes(changed) if position >= 252 else with_crc32c(changed)
            assert signed.refusal(content, use).status in FIELDS[field], (position, mask)


def test_the_fields_cover_the_header() -> None:
    assert [position for field in FIELDS for position in field] == list(range(256))


# --- The key of a program ---


@with_sodium
def test_a_key_comes_too_late_for_what_it_has_not_signed(signed: Signed) -> None:
    program = from_numpy(signed.arrays)
    program.add_adapter(Adapter.from_bytes(signed.content), "signed")
    program.add_adapter(Adapter.from_bytes(signed.unsigned), "unsigned")
    with pytest.raises(SignatureError) as caught:
        program.require_signature(PUBLIC_KEY)
    assert caught.value.status == "NOT_SIGNED"
    program.add_adapter(Adapter.from_bytes(signed.unsigned), "still without a key")
    for name in ("unsigned", "still without a key"):
        program.remove_adapter(name)
    program.require_signature(PUBLIC_KEY)
    with pytest.raises(SignatureError):
        program.add_adapter(Adapter.from_bytes(signed.unsigned), "unsigned")
    assert program.adapters == ("signed",)


@with_sodium
def test_another_key_replaces_the_first(signed: Signed) -> None:
    theirs = Adapter.from_bytes(signing.sign(signed.unsigned, OTHER_KEY))
    signed.program.require_signature(OTHER_PUBLIC_KEY)
    assert signed.refusal(signed.content).status == "WRONG_KEY"
    assert signed.program.add_adapter(theirs) == "de"
    with pytest.raises(SignatureError) as caught:
        signed.program.require_signature(PUBLIC_KEY)
    assert caught.value.status == "WRONG_KEY"


@pytest.mark.parametrize("size_bytes", [0, 31, 33, 64])
def test_a_key_of_another_length_is_misuse(signed: Signed, size_bytes: int) -> None:
    with pytest.raises(UsageError) as caught:
        signed.program.require_signature(bytes(size_bytes))
    assert caught.value.status == "INVALID_ARGUMENT"


@with_sodium
def test_the_core_and_the_desktop_agree_on_digests(signed: Signed) -> None:
    for content in (signed.unsigned, signed.content):
        Adapter.from_bytes(content).file.check_digests()
        signing.check_digests(content, "x.shb")
        assert Adapter.from_bytes(content).file.content_digest == content[64:96].hex()


@with_sodium
def test_a_file_tells_who_signed_it_and_proves_it(signed: Signed) -> None:
    file = Adapter.from_bytes(signed.content).file
    assert file.signer == PUBLIC_KEY.hex()
    file.check_signature(PUBLIC_KEY)
    with pytest.raises(SignatureError):
        file.check_signature(OTHER_PUBLIC_KEY)
    assert Adapter.from_bytes(signed.unsigned).file.signer is None


@pytest.mark.skipif(_core.cryptography_available(), reason="this build has libsodium")
def test_without_libsodium_every_file_is_refused(signed: Signed) -> None:
    for content in (signed.content, signed.unsigned):
        assert signed.refusal(content).status == "NO_CRYPTOGRAPHY"
