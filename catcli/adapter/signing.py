"""Signatures of adapters: ed25519 over ``adapter.json``, which has the SHA-256 of every other file.

Hashes show damage; they cannot show who wrote a folder, since whoever changes a file writes a new hash. A signature can. It is the 64 bytes
of RFC 8032 in ``adapter.json.sig``, so that other programs can check it too::

    openssl pkeyutl -verify -pubin -inkey shop.pub -rawin -in adapter.json -sigfile adapter.json.sig
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from catcli.adapter.folder import MAX_FILE_BYTES, Adapter
from catcli.adapter.manifest import MANIFEST
from catcli.atomic import read_small_file
from catcli.errors import AdapterError, UsageError, name_list

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURE_FILE = f"{MANIFEST}.sig"

MAX_KEY_BYTES = 2**16
"""Bytes of a key's file."""

HOW_TO_MAKE_KEYS = (
    "'openssl genpkey -algorithm ed25519 -out shop.key' makes one, 'openssl pkey -in shop.key -pubout -out shop.pub' its public half"
)


def load_private_key(file: Path) -> Ed25519PrivateKey:
    """The key in a PEM or OpenSSH file, without a passphrase.

    Raises:
        UsageError: the file cannot be read, or holds no such key.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key

    content = _content("--sign", file)
    load = load_ssh_private_key if b"OPENSSH PRIVATE KEY" in content else load_pem_private_key
    try:
        key = load(content, None)
    except TypeError as error:
        raise UsageError(f"--sign {file} is protected by a passphrase; give a copy without one, which only you can read.") from error
    except Exception as error:  # cryptography raises what OpenSSL and its parsers do
        raise UsageError(f"--sign {file} holds no private key; {HOW_TO_MAKE_KEYS}.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"--sign {file} is a key of another kind than ed25519; {HOW_TO_MAKE_KEYS}.")
    return key


def load_public_key(file: Path) -> Ed25519PublicKey:
    """The key in a PEM or OpenSSH file.

    Raises:
        UsageError: the file cannot be read, or holds no such key.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key, load_ssh_public_key

    content = _content("--trusted-key", file)
    try:
        key = load_ssh_public_key(content) if content.startswith(b"ssh-") else load_pem_public_key(content)
    except Exception as error:  # cryptography raises what OpenSSL and its parsers do
        raise UsageError(f"--trusted-key {file} holds no public key; {HOW_TO_MAKE_KEYS}.") from error
    if not isinstance(key, Ed25519PublicKey):
        raise UsageError(f"--trusted-key {file} is a key of another kind than ed25519; {HOW_TO_MAKE_KEYS}.")
    return key


def _content(option: str, file: Path) -> bytes:
    try:
        return read_small_file(file, MAX_KEY_BYTES)
    except OSError as error:
        raise UsageError(f"{option} {file}: {error.strerror or error}; {HOW_TO_MAKE_KEYS}.") from error


def sign_adapter(folder: Path, key: Ed25519PrivateKey) -> None:
    """Write the signature of an adapter's manifest beside it."""
    (folder / SIGNATURE_FILE).write_bytes(key.sign((folder / MANIFEST).read_bytes()))


def check_signature(adapter: Adapter, files: Sequence[str]) -> str | None:
    """Which of the public keys in ``files`` signed the adapter; None where ``files`` is empty.

    Raises:
        AdapterError: it is not signed, or by none of them, or was changed since.
        UsageError: a file holds no key.
    """
    if not files:
        return None
    from cryptography.exceptions import InvalidSignature

    keys = {file: load_public_key(Path(file)) for file in files}
    folder = adapter.folder
    try:
        signature = read_small_file(folder / SIGNATURE_FILE, 64)
    except OSError as error:
        raise AdapterError(
            f"{folder} has no signature that can be read ({SIGNATURE_FILE}: {error.strerror or error}), and --trusted-key asks for one; "
            "have who made it run 'catcli adapters export --sign KEY'."
        ) from error
    content = read_small_file(folder / MANIFEST, MAX_FILE_BYTES[MANIFEST])
    if hashlib.sha256(content).hexdigest() != adapter.fingerprint:
        raise AdapterError(f"{folder} was changed while it was loaded; run the same command again.")
    for file, key in keys.items():
        try:
            key.verify(signature, content)
        except InvalidSignature:
            continue
        return file
    raise AdapterError(
        f"{folder} is not signed by {name_list(keys)}, or was changed since it was signed; do not use it, or ask who sent it for the key."
    )
