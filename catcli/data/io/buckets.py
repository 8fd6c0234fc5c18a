"""Objects of S3, Google and Azure buckets as if they were files.

By obstore, the Python side of the Rust crate ``object_store`` that polars itself reads buckets with: credentials and endpoints come from
the environment under the names that polars takes (``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL``, ``GOOGLE_SERVICE_ACCOUNT``,
``AZURE_STORAGE_ACCOUNT_NAME`` and their kin). polars' own readers give frames, not bytes; here the readers of `catcli.data.io.source` get
the bytes, so that a bucket gives the same rows as the same files on a disk.
"""

from __future__ import annotations

import asyncio
import functools
import io
import itertools
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from catcli.errors import CatcliError, ChangedError, OutputError, ProductsError, name_list

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

GLOB_CHARACTERS = re.compile(r"[*?[]")
"""What makes a name a pattern."""

MAX_RETRIES = 8
"""Times that a request is tried again, for most of a minute in all."""

RETRY: RetryConfig = {
    "max_retries": MAX_RETRIES,
    "retry_timeout": timedelta(minutes=3),
    "backoff": {"init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=15), "base": 2},
}

TIMEOUTS: ClientConfig = {"timeout": timedelta(seconds=60), "connect_timeout": timedelta(seconds=10)}
"""What one request may take: a block is some megabytes."""

FIRST_BLOCK, BLOCK = 2**16, 8 * 2**20
"""Bytes of a text that are asked for at once."""

UPLOADS_AT_ONCE = 16
"""Files that are put into a bucket at once: of small ones each takes as long as the network takes to answer."""

CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION ('aws configure export-credentials --format env' prints them)",
    "gs": "GOOGLE_SERVICE_ACCOUNT or GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
"""The variables that say who asks."""


class Address(NamedTuple):
    """``s3://shop/exports/a.csv``: the bucket ``s3://shop`` and the key ``exports/a.csv``."""

    bucket: str
    key: str

    @classmethod
    def of(cls, url: str) -> Address:
        """The two parts of an address.

        Raises:
            ProductsError: it names no bucket.
        """
        match = re.fullmatch(r"(\w+://[^/]+)(?:/(.*))?", url, re.DOTALL)
        if match is None:
            raise ProductsError(f"{url} names no bucket; write {url.split(':', maxsplit=1)[0]}://BUCKET/KEY.")
        return cls(match[1], match[2] or "")


@dataclass(frozen=True)
class BucketObject:
    """An object, with as much of a `Path` as readers look at."""

    url: str
    size: int
    etag: str

    def __str__(self) -> str:
        """As it is named."""
        return self.url

    @property
    def name(self) -> str:
        """The last part of its key."""
        return self.url.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The ending of its name."""
        return PurePosixPath(self.name).suffix

    def opened(self) -> io.BufferedReader:
        """Its bytes from beginning to end, requested in blocks."""
        return io.BufferedReader(_BlockReader(self), FIRST_BLOCK)


Answer = TypeVar("Answer")

Location = Path | BucketObject
"""Where rows come from."""


class RangeReader(io.RawIOBase):
    """Reads an object in ranges; each has to be of the object as it was when it was looked up."""

    def __init__(self, source: BucketObject) -> None:
        self._source, self._at = source, 0
        self._store, self._key = _store(Address.of(source.url).bucket), Address.of(source.url).key

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """The byte that is read next."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go elsewhere."""
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._source.size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401  # whatever holds bytes
        """Fill ``buffer`` with what comes next; returns how many bytes that was."""
        end = min(self._at + len(buffer), self._source.size)
        if end <= self._at:
            return 0
        chunk = self._fetched(self._at, end)
        buffer[: len(chunk)] = chunk
        self._at += len(chunk)
        return len(chunk)

    def _fetched(self, start: int, end: int) -> bytes:
        import obstore
        from obstore.exceptions import GenericError, PreconditionError

        options: Any = {"range": (start, end), **({"if_match": self._source.etag} if self._source.etag else {})}
        for attempt in range(MAX_RETRIES + 1):
            try:
                return interruptible(lambda: bytes(obstore.get(self._store, self._key, options=options).bytes()))
            except PreconditionError as error:
                raise ChangedError(
                    f"{self._source} was changed while it was read; run the same command again once it is finished."
                ) from error
            except GenericError as error:
                # A request is tried again by the library; what breaks off in the midst of its answer is tried again here.
                if attempt == MAX_RETRIES or not _is_interrupted(error):
                    raise ProductsError(_error_sentence(self._source.url, "cannot be read", error)) from error
                time.sleep(min(0.2 * 2**attempt, 10))
            except _failures() as error:
                raise ProductsError(_error_sentence(self._source.url, "cannot be read", error)) from error
        raise AssertionError("the last attempt returns or raises")


class _BlockReader(RangeReader):
    """Requests an object in blocks, however little is read at once: the first is small, for who wants the header alone."""

    def __init__(self, source: BucketObject) -> None:
        super().__init__(source)
        self._block, self._start, self._fetched_bytes = FIRST_BLOCK, 0, b""

    def _fetched(self, start: int, end: int) -> bytes:
        if not (self._start <= start and end <= self._start + len(self._fetched_bytes)):
            stop = min(start + max(self._block, end - start), self._source.size)
            self._start, self._fetched_bytes = start, super()._fetched(start, stop)
            self._block = min(8 * self._block, BLOCK)
        return self._fetched_bytes[start - self._start : end - self._start]


def interruptible(ask: Callable[[], Answer]) -> Answer:
    """What a request gives; a signal is heard while it is waited for, to which obstore's own wait, minutes of it, is deaf."""
    if threading.current_thread() is not threading.main_thread():
        return ask()
    answer: Future[Answer] = Future()

    def work() -> None:
        try:
            answer.set_result(ask())
        except BaseException as error:  # noqa: BLE001  # it is raised where it was asked
            answer.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return answer.result()


def _failures() -> tuple[type[Exception], ...]:
    """What obstore raises: errors of its own, and Python's for a name that cannot be and for what is not there."""
    from obstore.exceptions import BaseError

    return BaseError, ValueError, FileNotFoundError


def _is_interrupted(error: Exception) -> bool:
    """Whether the answer had begun."""
    return any(word in str(error) for word in ("error decoding response body", "request or response body error", "connection closed"))


def canonical_url(url: str) -> str:
    """An address by the first of the names that its kind of bucket has."""
    kind, separator, rest = url.partition("://")
    return {"s3a": "s3", "abfs": "az", "abfss": "az"}.get(kind, kind) + separator + rest


@functools.cache
def _store(bucket: str) -> ObjectStore:
    """A bucket, with what the environment says of it."""
    from obstore.store import from_url

    endpoint = os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT") or ""
    client: Any = {**TIMEOUTS, **({"allow_http": True} if endpoint.startswith("http://") else {})}
    try:
        return from_url(bucket.replace("s3a://", "s3://"), client_options=client, retry_config=RETRY)
    except _failures() as error:
        raise ProductsError(_error_sentence(bucket, "cannot be asked", error)) from error


def _error_sentence(url: str, action: str, error: Exception) -> str:
    """A sentence of what the library says, in which its own first line is the gist."""
    message = re.sub(r"(?<=//)[^/@\s]+@", "", " ".join(str(error).partition("Debug source")[0].split()))  # a password in an endpoint
    kind = "s3" if url.startswith("s3") else url[:2] if url[:2] in CREDENTIALS else "az"
    denied = re.search(
        r"\b(401|403)\b|Unauthenticated|Forbidden|AccessDenied|credential|must be specified|169\.254\.169\.254|metadata", message
    )
    if denied:
        return f"{url} {action}: the credentials in the environment are missing or not allowed to; set {CREDENTIALS[kind]}."
    if isinstance(error, ValueError):
        return f"{url} {action}: this is not a name of a bucket or an object ({message[:200]}); check how it is written."
    if "NoSuchBucket" in message or isinstance(error, FileNotFoundError):
        return f"{url} {action}: there is no such bucket; check its name, and the endpoint in AWS_ENDPOINT_URL."
    return f"{url} {action}, after {MAX_RETRIES} tries: {message[:300]}; is the network up? Run the same command again."


@contextmanager
def _translate_errors(url: str) -> Iterator[None]:
    try:
        yield
    except _failures() as error:
        raise ProductsError(_error_sentence(url, "cannot be asked", error)) from error


# --- names → objects -----------------------------------------------------------------------------------------------------------------


def find_object(url: str) -> BucketObject | None:
    """The object of this very name; None where there is none."""
    import obstore
    from obstore.exceptions import NotFoundError

    address = Address.of(url)
    with _translate_errors(url):
        try:
            metadata = interruptible(lambda: obstore.head(_store(address.bucket), address.key))
        except (FileNotFoundError, NotFoundError):
            return None
    return BucketObject(url, metadata["size"], metadata["e_tag"] or "")


def list_objects(url: str) -> list[BucketObject]:
    """All objects below a prefix, by name."""
    import obstore

    address = Address.of(url)
    with _translate_errors(url):
        pages = interruptible(lambda: list(obstore.list(_store(address.bucket), address.key.rstrip("/") or None)))
        objects = [
            BucketObject(f"{address.bucket}/{entry['path']}", entry["size"], entry["e_tag"] or "") for page in pages for entry in page
        ]
    return sorted(objects, key=lambda entry: entry.url)


def match_objects(pattern: str) -> tuple[str, list[BucketObject]]:
    """The objects that a pattern names, and the prefix before its first part that stands for several; ``**`` is any number of parts."""
    fixed = pattern[: GLOB_CHARACTERS.search(pattern).start()].rpartition("/")[0]  # type: ignore[union-attr]  # it has one
    try:
        wanted = re.compile(glob_to_regex(pattern), re.DOTALL)
    except re.error as error:
        raise ProductsError(f"{pattern} is not a pattern: {error}; write * for any letters, [a-z] for one of several.") from error
    return fixed, [entry for entry in list_objects(fixed) if wanted.fullmatch(entry.url)]


def glob_to_regex(pattern: str) -> str:
    """A pattern of the shell as a regular expression."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[!^]?[^]]+\])", pattern)
    known = {"**/": r"(?:.*/)?", "**": r".*", "*": r"[^/]*", "?": r"[^/]"}
    regex = (
        known.get(part) or ("[" + part[1:].replace("!", "^", 1) if part.startswith("[!") else part) if number % 2 else re.escape(part)
        for number, part in enumerate(parts)
    )
    return "".join(regex)


def describe_neighbors(url: str) -> str:
    """What a sentence says of the objects beside one that is not there."""
    above = url.rpartition("/")[0]
    names = [entry.name for entry in list_objects(above)]
    return f"{above} holds {name_list(names, 5)}" if names else f"{above} holds nothing"


# --- files → objects -----------------------------------------------------------------------------------------------------------------


def upload(files: Mapping[str, Path], option: str = "-o") -> None:
    """Put files into buckets, by the names of their objects: each appears whole, in the place of one that was there.

    Raises:
        OutputError: one cannot be put there; whatever stood there stands.
    """
    interruptible(lambda: asyncio.run(_upload(files, option)))


async def _upload(files: Mapping[str, Path], option: str) -> None:
    at_once = asyncio.Semaphore(UPLOADS_AT_ONCE)

    async def put(url: str, file: Path) -> None:
        import obstore

        address, size = Address.of(url), file.stat().st_size
        # S3 takes ten thousand pieces of an object.
        chunk = max(BLOCK, -(-size // 9_000))
        try:
            async with at_once:
                with file.open("rb") as opened:
                    await obstore.put_async(_store(address.bucket), address.key, opened, chunk_size=chunk, max_concurrency=4)
        except CatcliError as error:
            raise OutputError(f"{option} {error}") from error
        except _failures() as error:
            raise OutputError(f"{option} {_error_sentence(url, 'cannot be written', error)}") from error

    await asyncio.gather(*(put(url, file) for url, file in files.items()))


def download(source: BucketObject, file: Path) -> None:
    """Write an object's bytes to a file.

    Raises:
        ProductsError: it cannot be read.
        ChangedError: it was replaced meanwhile.
    """
    with source.opened() as opened, file.open("wb") as copy:
        shutil.copyfileobj(opened, copy, BLOCK)


def delete_objects(urls: Iterable[str]) -> None:
    """Take objects away; one that is not there is no error.

    Raises:
        ProductsError: the bucket refuses it.
    """
    import obstore

    for bucket, addresses in itertools.groupby(sorted(map(Address.of, urls)), key=lambda address: address.bucket):
        keys = [address.key for address in addresses]
        with _translate_errors(bucket):
            interruptible(lambda keys=keys, bucket=bucket: obstore.delete(_store(bucket), keys))  # type: ignore[misc]
