"""Signatures of adapters: who made one can be told from outside, and nobody else's passes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from conftest import FIXTURE
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat, PublicFormat
from test_places import run
from test_tampering import copied, manifest, signed

PEM, PKCS8, SPKI = Encoding.PEM, PrivateFormat.PKCS8, PublicFormat.SubjectPublicKeyInfo


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A shop's key and a stranger's, each with its public half, in two formats."""
    for name in ("shop", "stranger"):
        key = Ed25519PrivateKey.generate()
        public = key.public_key()
        (tmp_path / f"{name}.key").write_bytes(key.private_bytes(PEM, PKCS8, NoEncryption()))
        (tmp_path / f"{name}.pub").write_bytes(public.public_bytes(PEM, SPKI))
        (tmp_path / f"{name}.ssh").write_bytes(key.private_bytes(PEM, PrivateFormat.OpenSSH, NoEncryption()))
        (tmp_path / f"{name}.ssh.pub").write_bytes(public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "catalog.csv").write_text("title\nblue coffee mug 500 ml\n")
    return tmp_path


@pytest.mark.parametrize("kind", ["", ".ssh"])
def test_a_signed_copy_is_used_with_its_key_and_with_no_other(keys: Path, kind: str) -> None:
    private = f"shop{kind or '.key'}"
    own, other = (f"{name}{kind}.pub" for name in ("shop", "stranger"))
    exported = run("adapters", "export", FIXTURE, "-o", "signed", "--sign", private)
    assert (exported.exit_code, exported.stderr) == (0, "written: signed, signed\n")
    line = ("predict", "catalog.csv", "-o", "out.csv", "--adapter", "signed", "--device", "cpu")
    assert run(*line, "--trusted-key", own).exit_code == 0
    assert run(*line, "--trusted-key", other, "--trusted-key", own).exit_code == 0
    assert run("report", "signed", "--trusted-key", own).exit_code == 0
    assert run("report", "signed", FIXTURE, "--trusted-key", own).exit_code == 1
    (keys / "out.csv").unlink()
    for refused in (run(*line, "--trusted-key", other), run("report", "signed", "--trusted-key", other)):
        assert refused.exit_code == 1
        assert f"signed is not signed by '{other}', or was changed since it was signed; do not use it" in refused.stderr
    assert not (keys / "out.csv").exists()


def test_verify_says_what_it_looked_at_and_who_signed(keys: Path) -> None:
    run("adapters", "export", FIXTURE, "-o", "signed", "--sign", "shop.key")
    told = run("adapters", "verify", "signed", "--trusted-key", "shop.pub")
    assert told.stdout == ("signed: 11 files, 0.3 MiB, every SHA-256 as written\ntested in the sandbox process: fp32; signed by shop.pub\n")
    assert "not signed" in run("adapters", "verify", FIXTURE).stdout
    assert "signed; --trusted-key KEY says by whom" in run("adapters", "verify", "signed").stdout
    facts = json.loads(run("adapters", "verify", "signed", "--trusted-key", "shop.pub", "--json").stdout)
    assert (facts["trusted_key"], facts["signed"], facts["fitted_here"], facts["variants"]) == ("shop.pub", True, False, ["fp32"])
    (keys / "signed" / "setup.py").write_text("import os")
    assert "warning: signed holds 'setup.py', which is none of its files and is not read." in run("adapters", "verify", "signed").stderr


def test_what_was_changed_after_it_was_signed_is_refused(keys: Path) -> None:
    run("adapters", "export", FIXTURE, "-o", "signed", "--sign", "shop.key")
    manifest(keys / "signed", label="another")
    assert run("adapters", "verify", "signed").exit_code == 0  # its hashes are right
    refused = run("adapters", "verify", "signed", "--trusted-key", "shop.pub")
    assert refused.exit_code == 1
    assert "or was changed since it was signed" in refused.stderr
    (keys / "signed" / "linear.safetensors").write_bytes(b"")
    signed(keys / "signed")
    assert run("adapters", "verify", "signed", "--trusted-key", "shop.pub").exit_code == 1


def test_no_signature_and_none_that_can_be_read(keys: Path) -> None:
    folder = copied(keys)
    place = folder / "adapter.json.sig"
    for content, said in (
        (None, "No such file or directory"),
        (b"x" * 65, "it has more than 64 bytes"),
        (b"", "is not signed by 'shop.pub'"),
    ):
        if content is not None:
            place.write_bytes(content)
        refused = run("adapters", "verify", folder, "--trusted-key", "shop.pub")
        assert refused.exit_code == 1
        assert said in refused.stderr


def test_openssl_agrees(keys: Path) -> None:
    assert (keys / "shop.pub").exists()
    run("adapters", "export", FIXTURE, "-o", "signed", "--sign", "shop.key")
    line = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "shop.pub", "-rawin", "-in", "signed/adapter.json"]
    try:
        told = subprocess.run([*line, "-sigfile", "signed/adapter.json.sig"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    assert (told.returncode, told.stdout) == (0, "Signature Verified Successfully\n"), told.stderr


def test_files_that_hold_no_such_key_are_named(keys: Path) -> None:
    rsa = generate_private_key(65537, 2048)
    (keys / "rsa.key").write_bytes(rsa.private_bytes(PEM, PKCS8, NoEncryption()))
    (keys / "rsa.pub").write_bytes(rsa.public_key().public_bytes(PEM, SPKI))
    (keys / "locked.key").write_bytes(Ed25519PrivateKey.generate().private_bytes(PEM, PKCS8, BestAvailableEncryption(b"secret")))
    for key, said in (
        ("none.key", "--sign none.key: No such file or directory; 'openssl genpkey -algorithm ed25519 -out shop.key' makes one"),
        ("shop.pub", "--sign shop.pub holds no private key"),
        ("rsa.key", "--sign rsa.key is a key of another kind than ed25519"),
        ("locked.key", "--sign locked.key is protected by a passphrase; give a copy without one, which only you can read."),
        ("/dev/zero", "--sign /dev/zero: it is a device, not a file"),
    ):
        refused = run("adapters", "export", FIXTURE, "-o", "signed", "--sign", key)
        assert (refused.exit_code, said in refused.stderr) == (2, True), refused.stderr
        assert not (keys / "signed").exists()
    for key, said in (
        ("none.pub", "--trusted-key none.pub: No such file or directory"),
        ("shop.key", "--trusted-key shop.key holds no public key"),
        ("rsa.pub", "--trusted-key rsa.pub is a key of another kind than ed25519"),
    ):
        refused = run("adapters", "verify", FIXTURE, "--trusted-key", key)
        assert (refused.exit_code, said in refused.stderr) == (2, True), refused.stderr


def test_an_adapter_that_dies_is_found_by_verify(keys: Path) -> None:
    folder = copied(keys)
    (folder / "model.onnx").write_bytes(b"")
    signed(folder)
    refused = run("adapters", "verify", folder)
    assert (refused.exit_code, refused.stderr.count("error: ")) == (1, 1)
