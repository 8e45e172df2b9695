# SPDX-License-Identifier: Apache-2.0
"""Header, section table, checksums, digests and signature: steps 1 and 2 of FORMAT.md 13."""

from __future__ import annotations

import hashlib
import re
import struct
from dataclasses import dataclass

import google_crc32c

from .model import ReaderError

MAGIC = b"\x89SHB\r\n\x1a\n"
HEADER_BYTES = 256
SECTION_ROW_BYTES = 64
FIRST_OPTIONAL_KIND = 32_768
ADAPTERS, TENSORS, NAMES, METADATA, INDEX, VALUES, INDEX_REFERENCE = range(1, 8)

_KNOWN_FEATURES = 0
_NOT_ZERO = re.compile(rb"[^\0]")
_SIGNATURE_CONTEXT = b"shb-signature-1\0"


def check(condition: bool, status: str, offset_bytes: int, message: str) -> None:
    """Refuse the file unless the condition holds."""
    if not condition:
        raise ReaderError(status, offset_bytes, message)


def check_zero(data: bytes, begin: int, end: int, what: str) -> None:
    """Refuse the file if a byte of data[begin:end] is not zero."""
    found = _NOT_ZERO.search(data, begin, end)
    if found:
        raise ReaderError("RESERVED_NOT_ZERO", found.start(), f"{what} is not zero")


def align(offset: int, alignment: int) -> int:
    """Round up to a multiple of the alignment."""
    return -(-offset // alignment) * alignment


@dataclass(frozen=True)
class Header:
    """The header's fields that later steps need; counts are in range."""

    version_minor: int
    section_count: int
    adapter_count: int
    tensor_count: int
    tier_count: int
    section_table_crc32c: int
    content_digest: bytes
    signature_kind: int
    public_key: bytes
    signature: bytes


@dataclass(frozen=True)
class Section:
    """One row of the section table; `row` is where the row itself lies in the file."""

    row: int
    kind: int
    crc32c: int
    offset: int
    size: int
    tier: int
    index_count: int
    sha256: bytes

    @property
    def end(self) -> int:
        """Where in the file the section ends."""
        return self.offset + self.size

    @property
    def size_field(self) -> int:
        """Where in the file its size_bytes stands."""
        return self.row + 16

    @property
    def index_count_field(self) -> int:
        """Where in the file its index_count stands."""
        return self.row + 28


@dataclass(frozen=True)
class Container:
    """The file's bytes with its parts found and all CRCs checked."""

    data: bytes
    header: Header
    sections: tuple[Section, ...]

    def index(self, tier: int) -> Section:
        """Give the tier's INDEX or INDEX_REFERENCE section."""
        return self.sections[4 + 2 * tier]

    def values(self, tier: int) -> Section:
        """Give the tier's VALUES section."""
        return self.sections[5 + 2 * tier]


def open_container(data: bytes) -> Container:
    """Make steps 1 and 2 of the order of checks."""
    header = _read_header(data)
    return Container(data, header, _read_section_table(data, header))


def _read_header(data: bytes) -> Header:
    size = len(data)
    check(size >= 8, "TRUNCATED", size, "the file ends inside its magic")
    check(data[:8] == MAGIC, "BAD_MAGIC", 0, "this is not a .shb file")
    check(size >= 12, "TRUNCATED", size, "the file ends inside its version")
    major, minor = struct.unpack_from("<HH", data, 8)
    check(major == 1, "UNSUPPORTED_VERSION", 8, f"version {major}.{minor}")
    check(size >= HEADER_BYTES, "TRUNCATED", size, "the file ends inside its header")
    (stored_crc,) = struct.unpack_from("<I", data, 252)
    check(
        google_crc32c.value(data[:252]) == stored_crc,
        "HEADER_CHECKSUM",
        252,
        "the header's CRC32C is wrong",
    )
    header_bytes, file_bytes, required = struct.unpack_from("<IQQ", data, 12)
    check(required & ~_KNOWN_FEATURES == 0, "UNSUPPORTED_FEATURE", 24, f"features {required:#x}")
    check(header_bytes == HEADER_BYTES, "BAD_LAYOUT", 12, f"header of {header_bytes} bytes")
    check(file_bytes <= size, "TRUNCATED", 16, f"{size} of {file_bytes} bytes")
    check(file_bytes >= size, "TRAILING_BYTES", 16, f"{size} bytes where {file_bytes} are declared")
    sections, adapters, tensors, tiers, table_crc = struct.unpack_from("<5I", data, 40)
    check(6 <= sections <= 64, "BAD_COUNT", 40, f"{sections} sections")
    check(1 <= adapters <= 1024, "BAD_COUNT", 44, f"{adapters} adapters")
    check(1 <= tensors <= 65_536, "BAD_COUNT", 48, f"{tensors} rows of TENSORS")
    check(1 <= tiers <= 8 and 4 + 2 * tiers <= sections, "BAD_COUNT", 52, f"{tiers} tiers")
    check_zero(data, 60, 64, "a reserved field of the header")
    (signature_kind,) = struct.unpack_from("<I", data, 96)
    check(signature_kind <= 1, "BAD_ENUM", 96, f"signature of kind {signature_kind}")
    check_zero(data, 100, 128, "a reserved field of the header")
    if signature_kind == 0:
        check_zero(data, 128, 224, "the key or signature of an unsigned file")
    check_zero(data, 224, 252, "a reserved field of the header")
    check(
        size >= HEADER_BYTES + SECTION_ROW_BYTES * sections,
        "TRUNCATED",
        size,
        "the file ends inside its section table",
    )
    return Header(
        version_minor=minor,
        section_count=sections,
        adapter_count=adapters,
        tensor_count=tensors,
        tier_count=tiers,
        section_table_crc32c=table_crc,
        content_digest=data[64:96],
        signature_kind=signature_kind,
        public_key=data[128:160],
        signature=data[160:224],
    )


def _read_section_table(data: bytes, header: Header) -> tuple[Section, ...]:
    table_end = HEADER_BYTES + SECTION_ROW_BYTES * header.section_count
    check(
        google_crc32c.value(data[HEADER_BYTES:table_end]) == header.section_table_crc32c,
        "HEADER_CHECKSUM",
        56,
        "the section table's CRC32C is wrong",
    )
    sections: list[Section] = []
    end = table_end
    for number in range(header.section_count):
        row = HEADER_BYTES + SECTION_ROW_BYTES * number
        section = Section(row, *struct.unpack_from("<IIQQII32s", data, row))
        _check_section_row(section, number, header.tier_count, align(end, 64), len(data))
        sections.append(section)
        end = section.end
    check(end == len(data), "BAD_LAYOUT", sections[-1].size_field, "bytes behind the last section")
    end = table_end
    for section in sections:
        check_zero(data, end, section.offset, "padding between sections")
        check(
            google_crc32c.value(data[section.offset : section.end]) == section.crc32c,
            "SECTION_CHECKSUM",
            section.row + 4,
            f"the CRC32C of a section of kind {section.kind} is wrong",
        )
        end = section.end
    return tuple(sections)


def _check_section_row(
    section: Section, number: int, tier_count: int, place: int, file_bytes: int
) -> None:
    """Check one row, which has to begin at `place` in a file of file_bytes."""
    tier, is_values = divmod(number - 4, 2) if 4 <= number < 4 + 2 * tier_count else (0, 0)
    is_index = False
    if number < 4:
        kind_fits = section.kind == number + 1
    elif number >= 4 + 2 * tier_count:
        kind_fits = section.kind >= FIRST_OPTIONAL_KIND
    else:
        is_index = not is_values
        kind_fits = section.kind in ((VALUES,) if is_values else (INDEX, INDEX_REFERENCE))
    check(kind_fits, "BAD_LAYOUT", section.row, f"section {number} is of kind {section.kind}")
    check(
        section.offset == place,
        "BAD_LAYOUT",
        section.row + 8,
        f"section {number} begins at {section.offset} instead of {place}",
    )
    check(
        section.size >= 1 and section.end <= file_bytes,
        "BAD_LAYOUT",
        section.size_field,
        f"section {number} of {section.size} bytes is empty or leaves the file",
    )
    check(
        section.tier == tier,
        "BAD_LAYOUT",
        section.row + 24,
        f"section {number} is of tier {section.tier} instead of {tier}",
    )
    count_fits = 1 <= section.index_count <= 65_536 if is_index else section.index_count == 0
    check(
        count_fits,
        "BAD_COUNT",
        section.index_count_field,
        f"section {number} has {section.index_count} index rows",
    )


def check_container_digests(container: Container, public_key: bytes | None) -> bytes:
    """Check every SHA-256, content_digest and, given a key, the signature (FORMAT.md 12).

    Returns:
        The content digest, 32 bytes.
    """
    data, header = container.data, container.header
    for section in container.sections:
        check(
            hashlib.sha256(data[section.offset : section.end]).digest() == section.sha256,
            "DIGEST_MISMATCH",
            section.row + 32,
            f"the SHA-256 of a section of kind {section.kind} is wrong",
        )
    check(
        content_digest(data, header.section_count) == header.content_digest,
        "DIGEST_MISMATCH",
        64,
        "the content digest is wrong",
    )
    if public_key is not None:
        check(header.signature_kind != 0, "NOT_SIGNED", 96, "the file is not signed")
        check(header.public_key == public_key, "WRONG_KEY", 128, "the file names another key")
        _check_signature(header)
    return header.content_digest


def content_digest(data: bytes, section_count: int) -> bytes:
    """Compute the content digest of a file from its header and section table."""
    table_end = HEADER_BYTES + SECTION_ROW_BYTES * section_count
    header = data[:64] + bytes(160) + data[224:252] + bytes(4)
    return hashlib.sha256(header + data[HEADER_BYTES:table_end]).digest()


def _check_signature(header: Header) -> None:
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError as error:
        message = "the package cryptography is not installed"
        raise ReaderError("NO_CRYPTOGRAPHY", 160, message) from error
    try:
        key = Ed25519PublicKey.from_public_bytes(header.public_key)
        key.verify(header.signature, _SIGNATURE_CONTEXT + header.content_digest)
    except (InvalidSignature, ValueError) as error:
        raise ReaderError("BAD_SIGNATURE", 160, "the signature does not verify") from error
