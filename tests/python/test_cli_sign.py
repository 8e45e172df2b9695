# SPDX-License-Identifier: Apache-2.0
"""`shira keygen` and `shira sign`: what they write, print and refuse."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cli_inputs import Files, Shira, shira_process

pytest.importorskip("typer")
pytest.importorskip("cryptography")

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from shira_runtime import AdapterFile, signing
from shira_runtime.commands import keygen as keygen_command

DIGEST, PUBLIC_KEY, SIGNATURE = slice(64, 96), slice(128, 160), slice(160, 224)


@pytest.fixture
def key(shira: Shira, tmp_path: Path) -> Path:
    """The secret key of a new pair; the public one is beside it."""
    path = tmp_path / "maker.key"
    assert shira("keygen", "-o", path).code == 0
    return path


def public_key_of(key: Path) -> bytes:
    return signing.read_private_key(key).public_key().public_bytes_raw()


# --- keygen ---


def test_keygen_writes_a_pair_and_prints_the_public_key(shira: Shira, tmp_path: Path) -> None:
    path = tmp_path / "maker.key"
    ran = shira("keygen", "-o", path)
    assert ran.code == 0
    assert ran.out == public_key_of(path).hex() + "\n"
    public_path = tmp_path / "maker.key.pub"
    assert str(path) in ran.err
    assert str(public_path) in ran.err
    assert path.read_text().startswith("-----BEGIN PRIVATE KEY-----\n")
    assert signing.parse_public_key(str(public_path)) == public_key_of(path)
    assert serialization.load_pem_public_key(public_path.read_bytes()).public_bytes_raw() == (
        public_key_of(path)
    )
    assert b"PRIVATE" not in public_path.read_bytes()


def test_keygen_prints_json(shira: Shira, tmp_path: Path) -> None:
    path = tmp_path / "maker.key"
    shown = shira("keygen", "-o", path, "--json").json
    assert shown == {
        "private_key_file": str(path),
        "public_key_file": f"{path}.pub",
        "public_key": public_key_of(path).hex(),
    }


def test_only_the_owner_reads_the_secret_key(key: Path) -> None:
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


@pytest.mark.parametrize("taken", ["maker.key", "maker.key.pub"])
def test_keygen_replaces_nothing(shira: Shira, tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).write_text("mine")
    ran = shira("keygen", "-o", tmp_path / "maker.key")
    assert (ran.code, ran.out) == (1, "")
    assert f"{tmp_path / taken}: File exists" in ran.err
    assert [path.name for path in tmp_path.iterdir()] == [taken]
    assert (tmp_path / taken).read_text() == "mine"


def test_keygen_does_not_follow_a_link(shira: Shira, tmp_path: Path) -> None:
    (tmp_path / "maker.key").symlink_to(tmp_path / "elsewhere")
    assert shira("keygen", "-o", tmp_path / "maker.key").code == 1
    assert not (tmp_path / "elsewhere").exists()


def test_a_key_that_cannot_be_written_whole_is_gone(
    shira: Shira, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keygen_command.os, "fsync", full)
    ran = shira("keygen", "-o", tmp_path / "maker.key")
    assert ran.code == 1
    assert "No space left" in ran.err
    assert list(tmp_path.iterdir()) == []


# --- sign ---


def test_sign_replaces_the_file(shira: Shira, files: Files, key: Path) -> None:
    before, names = files.de.read_bytes(), {path.name for path in files.de.parent.iterdir()}
    digest = AdapterFile.open(files.de).content_digest
    ran = shira("sign", files.de, "--key", key)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == f"{files.de}: digest {digest} signed by the key {public_key_of(key).hex()}\n"
    after = files.de.read_bytes()
    assert after[256:] == before[256:]
    assert after[PUBLIC_KEY] == public_key_of(key)
    message = b"shb-signature-1\x00" + bytes.fromhex(digest)
    Ed25519PublicKey.from_public_bytes(after[PUBLIC_KEY]).verify(after[SIGNATURE], message)
    assert AdapterFile.open(files.de).content_digest == digest
    assert "signature not checked: give --public-key" in shira("verify", files.de).out
    assert "not signed" in shira("verify", files.fr).out
    assert {path.name for path in files.de.parent.iterdir()} == names


def test_sign_writes_another_file(shira: Shira, files: Files, key: Path, tmp_path: Path) -> None:
    before, output = files.de.read_bytes(), tmp_path / "signed.shb"
    shown = shira("sign", files.de, "--key", key, "-o", output, "--json").json
    assert shown == {
        "output": str(output),
        "content_digest": AdapterFile.open(files.de).content_digest,
        "public_key": public_key_of(key).hex(),
    }
    assert files.de.read_bytes() == before
    assert output.read_bytes() == signing.sign(before, signing.read_private_key(key))
    ran = shira("sign", files.de, "--key", key, "-o", output)
    assert (ran.code, ran.out) == (1, "")
    assert "exists already; --force" in ran.err
    assert shira("sign", files.de, "--key", key, "-o", output, "--force").code == 0


def test_a_signature_is_replaced_by_force_only(
    shira: Shira, files: Files, key: Path, tmp_path: Path
) -> None:
    assert shira("sign", files.de, "--key", key).code == 0
    signed = files.de.read_bytes()
    other = tmp_path / "other.key"
    assert shira("keygen", "-o", other).code == 0
    ran = shira("sign", files.de, "--key", other)
    assert (ran.code, ran.out) == (1, "")
    assert f"signed already, as by the key {public_key_of(key).hex()}" in ran.err
    assert files.de.read_bytes() == signed
    assert shira("sign", files.de, "--key", other, "--force").code == 0
    assert AdapterFile.open(files.de).signer == public_key_of(other).hex()


@pytest.mark.parametrize("position", [70, 300, -1])
def test_a_damaged_file_is_not_signed(shira: Shira, files: Files, key: Path, position: int) -> None:
    content = bytearray(files.de.read_bytes())
    content[position] ^= 1
    files.de.write_bytes(content)
    ran = shira("sign", files.de, "--key", key)
    assert (ran.code, ran.out) == (1, "")
    assert files.de.read_bytes() == content


def test_a_file_with_a_wrong_digest_is_not_signed(shira: Shira, files: Files, key: Path) -> None:
    content = bytearray(files.de.read_bytes())
    content[DIGEST] = bytes(32)
    files.de.write_bytes(with_header_crc32c(content))
    ran = shira("sign", files.de, "--key", key)
    assert (ran.code, ran.out) == (1, "")
    assert f"{files.de}: byte 64: the content digest is" in ran.err
    assert files.de.read_bytes() == with_header_crc32c(content)


def with_header_crc32c(content: bytes | bytearray) -> bytes:
    google_crc32c = pytest.importorskip("google_crc32c")
    return (
        bytes(content[:252])
        + google_crc32c.value(bytes(content[:252])).to_bytes(4, "little")
        + bytes(content[256:])
    )


def test_what_is_no_key_is_refused_in_one_line(shira: Shira, files: Files, key: Path) -> None:
    before = files.de.read_bytes()
    for given, words in (
        (files.de, "holds no private key in PEM"),
        (key.with_name("maker.key.pub"), "holds no private key in PEM"),
        (key.with_name("nowhere"), "No such file"),
    ):
        ran = shira("sign", files.de, "--key", given)
        assert (ran.code, ran.out) == (1, "")
        assert ran.err.startswith(f"error: {given}: {words}")
        assert ran.err.count("\n") == 1
    assert shira("sign", files.de).code == 2
    assert files.de.read_bytes() == before


@pytest.mark.parametrize("module", ["cryptography", "google_crc32c"])
def test_a_missing_package_is_named(files: Files, key: Path, tmp_path: Path, module: str) -> None:
    before = f"sys.modules['{module}'] = None"
    done = shira_process(tmp_path, "sign", files.de, "--key", key, before=before)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (f"error: signing needs {module}: pip install 'shira-runtime[sign]'\n")
