# SPDX-License-Identifier: Apache-2.0
"""Digests and Ed25519 signatures of .shb files: the desktop side (docs/FORMAT.md, section 12).

A phone checks signatures in the core. This module makes them, and checks digests where the core was
built without its library. Only what makes keys and signatures needs a package: ``cryptography``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import importlib
import re
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from shira_runtime.errors import ShiraError, error_of

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = [
    "KeyPair",
    "check_digests",
    "content_digest",
    "generate_keys",
    "parse_public_key",
    "read_private_key",
    "sign",
    "signature_message",
]

PUBLIC_KEY_BYTES = 32

# docs/FORMAT.md, sections 4 and 5
_HEADER_BYTES = 256
_SECTION_ROW_BYTES = 64
_SECTION_COUNT = struct.Struct("<40xI")
_SECTION = struct.Struct("<I4xQQ8x32s")  # kind, offset, size, SHA-256
_SECTION_SHA256_OFFSET = 32
_CONTENT_DIGEST = slice(64, 96)
_SIGNATURE_FIELDS = struct.Struct("<I28x32s64s")  # kind, public key, signature
_SIGNATURE_OFFSET = 96
_NOT_DIGESTED = (slice(64, 224), slice(252, 256))
_HEADER_CRC32C = struct.Struct("<I")
_HEADER_CRC32C_OFFSET = 252

_ED25519 = 1
_DOMAIN = b"shb-signature-1\0"
# What a DER SubjectPublicKeyInfo of Ed25519 begins with (RFC 8410); the 32 bytes of the key follow.
_DER_PREFIX = bytes.fromhex("302a300506032b6570032100")
_PUBLIC_PEM = rb"-----BEGIN PUBLIC KEY-----\s+([^-]+)-----END PUBLIC KEY-----"


class KeyPair(NamedTuple):
    """A new key: the secret half as PEM (PKCS #8, not encrypted), the public one in two forms."""

    private_pem: bytes
    public_pem: bytes
    public_key: bytes  # the 32 bytes that a runtime is given


# --- Digests. `content` is always the whole of a file that the core has accepted. ---


def content_digest(content: bytes) -> bytes:
    """Compute the SHA-256 that identifies a file, its signature left aside."""
    (section_count,) = _SECTION_COUNT.unpack_from(content)
    covered = bytearray(content[: _HEADER_BYTES + section_count * _SECTION_ROW_BYTES])
    for zeros in _NOT_DIGESTED:
        covered[zeros] = bytes(zeros.stop - zeros.start)
    return hashlib.sha256(covered).digest()


def check_digests(content: bytes, label: str) -> None:
    """Compare the SHA-256 of every section and of the whole with what the file declares.

    Raises:
        FormatError: DIGEST_MISMATCH, with the offset of the digest declared.
    """
    (section_count,) = _SECTION_COUNT.unpack_from(content)
    for index in range(section_count):
        row = _HEADER_BYTES + index * _SECTION_ROW_BYTES
        kind, offset, size_bytes, declared = _SECTION.unpack_from(content, row)
        found = hashlib.sha256(memoryview(content)[offset : offset + size_bytes]).digest()
        if found != declared:
            raise error_of(
                "DIGEST_MISMATCH",
                f"SHA-256 of section {index} (kind {kind}) is {found.hex()}, the file declares"
                f" {declared.hex()}",
                file=label,
                offset_bytes=row + _SECTION_SHA256_OFFSET,
            )
    digest, declared = content_digest(content), content[_CONTENT_DIGEST]
    if digest != declared:
        raise error_of(
            "DIGEST_MISMATCH",
            f"the content digest is {digest.hex()}, the file declares {declared.hex()}",
            file=label,
            offset_bytes=_CONTENT_DIGEST.start,
        )


# --- Signatures ---


def signature_message(digest: bytes) -> bytes:
    """Return the 48 bytes that are signed for a content digest of 32."""
    return _DOMAIN + digest


def sign(content: bytes, key: Ed25519PrivateKey) -> bytes:
    """Return the file with a signature in its header, in place of any that it had.

    The content digest must have been checked; it stays as it is.
    """
    public_key = key.public_key().public_bytes_raw()
    signature = key.sign(signature_message(content[_CONTENT_DIGEST]))
    signed = bytearray(content)
    _SIGNATURE_FIELDS.pack_into(signed, _SIGNATURE_OFFSET, _ED25519, public_key, signature)
    crc32c = _module("google_crc32c").value(bytes(signed[:_HEADER_CRC32C_OFFSET]))
    _HEADER_CRC32C.pack_into(signed, _HEADER_CRC32C_OFFSET, crc32c)
    return bytes(signed)


# --- Keys ---


def generate_keys() -> KeyPair:
    """Make a new key from the operating system's randomness.

    Raises:
        ImportError: the package cryptography is missing.
    """
    ed25519 = _module("cryptography.hazmat.primitives.asymmetric.ed25519")
    serialization = _module("cryptography.hazmat.primitives.serialization")
    key = ed25519.Ed25519PrivateKey.generate()
    public = key.public_key()
    return KeyPair(
        private_pem=key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        public_pem=public.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
        public_key=public.public_bytes_raw(),
    )


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """Read a PEM file that `generate_keys` or ``openssl genpkey -algorithm ed25519`` made.

    Raises:
        ImportError: the package cryptography is missing.
        UsageError: the file is not an unencrypted Ed25519 private key.
        OSError: the file cannot be read.
    """
    ed25519 = _module("cryptography.hazmat.primitives.asymmetric.ed25519")
    serialization = _module("cryptography.hazmat.primitives.serialization")
    pem = path.read_bytes()
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except TypeError:
        raise _bad_key(path, "is encrypted; `openssl pkey` removes the password") from None
    except ValueError:
        raise _bad_key(path, "holds no private key in PEM") from None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise _bad_key(path, "is not an Ed25519 key")
    return cast("Ed25519PrivateKey", key)


def parse_public_key(text: str) -> bytes:
    """Read a public key that is given as 64 hex digits, or as the path of a PEM file.

    Returns:
        The 32 bytes.

    Raises:
        UsageError: it is neither.
        OSError: the file cannot be read.
    """
    if re.fullmatch(r"[0-9a-fA-F]{64}", text):
        return bytes.fromhex(text)
    path = Path(text)
    if not text or not path.exists():
        raise _bad_key(text or "public key ''", "is neither 64 hex digits nor a file")
    pem = re.fullmatch(_PUBLIC_PEM, path.read_bytes().strip())
    try:
        der = base64.b64decode(b"".join(pem[1].split()), validate=True) if pem else b""
    except binascii.Error:
        der = b""
    if len(der) != len(_DER_PREFIX) + PUBLIC_KEY_BYTES or not der.startswith(_DER_PREFIX):
        raise _bad_key(path, "holds no public Ed25519 key in PEM")
    return der[len(_DER_PREFIX) :]


def _bad_key(path: Path | str, problem: str) -> ShiraError:
    return error_of("INVALID_ARGUMENT", problem, file=str(path))


def _module(name: str) -> Any:
    """Import what only makers of signatures have."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        package = name.partition(".")[0]
        raise ImportError(f"signing needs {package}: pip install 'shira-runtime[sign]'") from None
