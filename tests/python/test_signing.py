# SPDX-License-Identifier: Apache-2.0
"""Digests, signatures and keys, on a header and a section table that are laid out by hand."""

from __future__ import annotations

import hashlib
import shutil
import struct
import subprocess
from pathlib import Path

import google_crc32c
import pytest

pytest.importorskip("cryptography")

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from shira_runtime import FormatError, UsageError, signing

# docs/FORMAT.md, sections 4 and 5, written down once more
SECTIONS = (b"adapters" * 8, b"tensors" * 30, b"names", b"{}", b"index", b"values " * 99)
TABLE_END = 256 + 64 * len(SECTIONS)
DIGEST, CRC32C = slice(64, 96), slice(252, 256)
SIGNATURE_KIND, PUBLIC_KEY, SIGNATURE = slice(96, 100), slice(128, 160), slice(160, 224)
SIGNED_BYTES = {*range(96, 224), *range(252, 256)}
NOT_DIGESTED = {*range(64, 224), *range(252, 256)}

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
DAMAGED = "-----BEGIN {0}-----\nMCowBQYDK2VwAyEA\n-----END {0}-----\n"


def by_hand() -> bytes:
    """An unsigned file: what a header and a section table need for digests and signatures."""
    table, body, offset = b"", b"", TABLE_END
    for number, section in enumerate(SECTIONS):
        body += bytes(-(TABLE_END + len(body)) % 64)
        offset = TABLE_END + len(body)
        crc32c = google_crc32c.value(section)
        table += struct.pack("<IIQQII", number + 1, crc32c, offset, len(section), 0, 0)
        table += hashlib.sha256(section).digest()
        body += section
    header = bytearray(256)
    header[:12] = b"\x89SHB\r\n\x1a\n" + struct.pack("<HH", 1, 0)
    struct.pack_into("<IQ", header, 12, 256, TABLE_END + len(body))
    struct.pack_into("<I", header, 40, len(SECTIONS))
    header[DIGEST] = hashlib.sha256(header + table).digest()
    header[CRC32C] = struct.pack("<I", google_crc32c.value(bytes(header[:252])))
    return bytes(header) + table + body


FILE = by_hand()


def flipped(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 0x10]) + content[position + 1 :]


# --- Digests ---


def test_the_digests_of_a_sound_file() -> None:
    assert signing.content_digest(FILE) == FILE[DIGEST]
    signing.check_digests(FILE, "x.shb")
    signing.check_digests(signing.sign(FILE, KEY), "x.shb")


def test_the_content_digest_covers_all_but_the_signature() -> None:
    digest = signing.content_digest(FILE)
    for position in [*range(40), *range(44, TABLE_END)]:  # the rest says how long the table is
        changed = signing.content_digest(flipped(FILE, position)) != digest
        assert changed == (position not in NOT_DIGESTED), position


def test_a_longer_and_a_shorter_table_have_another_digest() -> None:
    for section_count in (len(SECTIONS) - 1, len(SECTIONS) + 1):
        content = bytearray(FILE)
        struct.pack_into("<I", content, 40, section_count)
        assert signing.content_digest(bytes(content)) != FILE[DIGEST]


def test_every_changed_byte_of_a_section_is_found_and_named() -> None:
    for number in range(len(SECTIONS)):
        row = 256 + 64 * number
        offset, size_bytes = struct.unpack_from("<QQ", FILE, row + 8)
        for position in (offset, offset + size_bytes - 1):
            with pytest.raises(FormatError, match=f"section {number} ") as caught:
                signing.check_digests(flipped(FILE, position), "x.shb")
            assert caught.value.status == "DIGEST_MISMATCH"
            assert (caught.value.file, caught.value.offset_bytes) == ("x.shb", row + 32)


def test_a_changed_header_and_a_changed_digest_are_found() -> None:
    for position in (17, 70, 230):
        with pytest.raises(FormatError, match="content digest") as caught:
            signing.check_digests(flipped(FILE, position), "x.shb")
        assert (caught.value.status, caught.value.offset_bytes) == ("DIGEST_MISMATCH", 64)


# --- Signatures ---


def test_signing_changes_the_fields_of_the_signature_only() -> None:
    signed = signing.sign(FILE, KEY)
    assert len(signed) == len(FILE)
    assert {i for i in range(len(FILE)) if signed[i] != FILE[i]} <= SIGNED_BYTES
    assert signed[SIGNATURE_KIND] == struct.pack("<I", 1)
    assert signed[100:128] == bytes(28)
    assert signed[CRC32C] == struct.pack("<I", google_crc32c.value(signed[:252]))
    assert signing.content_digest(signed) == FILE[DIGEST]


def test_the_signature_is_over_prefix_and_digest() -> None:
    signed = signing.sign(FILE, KEY)
    message = b"shb-signature-1\x00" + FILE[DIGEST]
    assert len(message) == 48
    assert signing.signature_message(FILE[DIGEST]) == message
    public_key = Ed25519PublicKey.from_public_bytes(signed[PUBLIC_KEY])
    assert public_key == KEY.public_key()
    public_key.verify(signed[SIGNATURE], message)
    for wrong in (FILE[DIGEST], message[:-1], b"shb-signature-2\x00" + FILE[DIGEST]):
        with pytest.raises(InvalidSignature):
            public_key.verify(signed[SIGNATURE], wrong)


def test_signing_again_leaves_nothing_of_the_first_signature() -> None:
    assert signing.sign(signing.sign(FILE, OTHER_KEY), KEY) == signing.sign(FILE, KEY)


# --- Keys ---


def test_new_keys_are_new_and_fit_each_other() -> None:
    keys = [signing.generate_keys() for _ in range(2)]
    assert keys[0].private_pem != keys[1].private_pem
    for pair in keys:
        private_key = serialization.load_pem_private_key(pair.private_pem, None)
        assert isinstance(private_key, Ed25519PrivateKey)
        public_key = serialization.load_pem_public_key(pair.public_pem)
        assert public_key == private_key.public_key()
        assert private_key.public_key().public_bytes_raw() == pair.public_key


def test_a_public_key_is_read_from_digits_and_from_pem(tmp_path: Path) -> None:
    pair = signing.generate_keys()
    path = tmp_path / "key.pub"
    for pem in (pair.public_pem, pair.public_pem.replace(b"\n", b"\r\n")):
        path.write_bytes(pem)
        assert signing.parse_public_key(str(path)) == pair.public_key
    assert signing.parse_public_key(pair.public_key.hex()) == pair.public_key
    assert signing.parse_public_key(pair.public_key.hex().upper()) == pair.public_key


def test_what_is_no_public_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.pub"
    pair = signing.generate_keys()
    of_another_kind = X25519PrivateKey.generate().public_key()
    for content in (
        pair.private_pem,
        pair.public_pem[:-30],
        of_another_kind.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
        DAMAGED.format("PUBLIC KEY").encode(),
        b"-----BEGIN PUBLIC KEY-----\n!!!!\n-----END PUBLIC KEY-----\n",
        b"",
    ):
        path.write_bytes(content)
        with pytest.raises(UsageError, match="holds no public Ed25519 key"):
            signing.parse_public_key(str(path))
    for text in (pair.public_key.hex()[:-1], pair.public_key.hex() + "0", "nowhere", ""):
        with pytest.raises((UsageError, IsADirectoryError)):
            signing.parse_public_key(text)


def test_what_is_no_private_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    pair = signing.generate_keys()
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    locked = serialization.BestAvailableEncryption(b"secret")
    of_another_kind = X25519PrivateKey.generate()
    for content, words in (
        (KEY.private_bytes(pem, pkcs8, locked), "is encrypted"),
        (of_another_kind.private_bytes(pem, pkcs8, serialization.NoEncryption()), "not an Ed25519"),
        (pair.public_pem, "no private key"),
        (DAMAGED.format("PRIVATE KEY").encode(), "no private key"),
        (b"", "no private key"),
    ):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=words) as caught:
            signing.read_private_key(path)
        assert caught.value.file == str(path)


# --- OpenSSL ---


@pytest.fixture(scope="module")
def openssl() -> str:
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("no openssl here")
    return program


def run(openssl: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [openssl, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


def test_openssl_verifies_our_signature(openssl: str, tmp_path: Path) -> None:
    pair = signing.generate_keys()
    (tmp_path / "key").write_bytes(pair.private_pem)
    (tmp_path / "key.pub").write_bytes(pair.public_pem)
    signed = signing.sign(FILE, signing.read_private_key(tmp_path / "key"))
    (tmp_path / "signature").write_bytes(signed[SIGNATURE])
    (tmp_path / "message").write_bytes(b"shb-signature-1\x00" + signed[DIGEST])
    arguments = "pkeyutl -verify -pubin -inkey key.pub -rawin -in message -sigfile signature"
    verified = run(openssl, tmp_path, *arguments.split())
    assert verified.returncode == 0, verified.stderr
    (tmp_path / "message").write_bytes(b"shb-signature-1\x00" + flipped(signed[DIGEST], 0))
    assert run(openssl, tmp_path, *arguments.split()).returncode != 0


def test_a_key_of_openssl_signs(openssl: str, tmp_path: Path) -> None:
    made = run(openssl, tmp_path, "genpkey", "-algorithm", "ed25519", "-out", "key")
    assert made.returncode == 0, made.stderr
    made = run(openssl, tmp_path, "pkey", "-in", "key", "-pubout", "-out", "key.pub")
    assert made.returncode == 0, made.stderr
    signed = signing.sign(FILE, signing.read_private_key(tmp_path / "key"))
    assert signed[PUBLIC_KEY] == signing.parse_public_key(str(tmp_path / "key.pub"))
