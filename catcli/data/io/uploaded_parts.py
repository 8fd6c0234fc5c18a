"""Parts of an output in a bucket that workers without this machine's disk put there, until the output is put together.

    s3://shop/labeled/                     the output
    s3://shop/.labeled.catcli-parts/RUN/   its parts; the journal, and what is kept beside parts, is on this machine

The journal says which of them count: one that it does not name is of a worker whose run was killed.
"""

from __future__ import annotations

import functools
from contextlib import suppress
from pathlib import Path

from catcli.data.io.buckets import Address, BucketObject, delete_objects, download, list_objects
from catcli.errors import ProductsError


def parts_prefix(out: str, run: str) -> str:
    """Where workers put the parts of the output ``out``: below a hidden name beside it, which no reader of the bucket takes for rows."""
    address = Address.of(out)
    above, _, name = address.key.rstrip("/").rpartition("/")
    hidden = ".".join(["", *([name] if name else []), "catcli-parts"])
    return "/".join([address.bucket, *([above] if above else []), hidden, run, ""])


class UploadedParts:
    """The parts below a prefix as they are when they are first asked for."""

    def __init__(self, prefix: str) -> None:
        """Where ``prefix`` is empty there are none."""
        self._prefix = prefix

    @functools.cached_property
    def _objects(self) -> dict[str, BucketObject]:
        return {entry.name: entry for entry in list_objects(self._prefix)} if self._prefix else {}

    def __contains__(self, part: str) -> bool:
        """Whether a part is there."""
        return part in self._objects

    def fetch(self, part: str, file: Path) -> None:
        """Write a part to a file of this machine.

        Raises:
            ProductsError: it is gone, or cannot be read.
        """
        if part not in self:
            raise ProductsError(f"{self._prefix}{part} is gone; run the same command again, which labels its rows again.")
        download(self._objects[part], file)

    def clear(self) -> None:
        """Take away all parts, as far as the bucket allows it: they are hidden, and in nobody's way."""
        with suppress(ProductsError):
            delete_objects(entry.url for entry in self._objects.values())
