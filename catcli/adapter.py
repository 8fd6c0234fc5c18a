"""The adapter folder: made whole or not at all, checked before use, listed in a store."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from catcli import atomic, places
from catcli.errors import AdapterError, OutputError, close_to, is_disk_full, listed
from catcli.recipe import Method

FORMAT = 4
READ = (2, 3, FORMAT)
"""Formats that are read: one of format 2 says no revision of its base, and has no weights beside its models; before 4 a base had all its
blocks."""
MANIFEST = "adapter.json"
PACKAGES = ("catcli", "torch", "transformers", "peft", "optimum-onnx", "onnxruntime-gpu", "onnxruntime", "polars", "scikit-learn")

MAX_SIZES = {MANIFEST: 2**25, "recipe.json": 2**20, "metrics.json": 2**26, "tokenizer.json": 2**26, "probe.parquet": 2**28}
"""Bytes that files which are read whole may have, far above what a fit writes: 20,000 categories take some megabytes."""

MOST_CATEGORIES, LONGEST_NAME = 1_000_000, 10_000
"""Categories of an adapter, and characters of a name."""

Variant = Literal["fp32", "int8", "fp16"]


def _own(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", name):
        raise ValueError(f"{name[:80]!r} is no plain name: an adapter's files lie in its own folder")
    return name


FileName = Annotated[str, AfterValidator(_own)]
"""A file of the folder itself: no path, no ``..``."""

Name = Annotated[str, Field(max_length=LONGEST_NAME)]
Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Number = Annotated[float, Field(ge=-1e9, le=1e9)]
"""A number that cannot overflow float32 where it is multiplied by a logit; fitted ones are below a hundred."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class Base(_Part):
    """The base model: the name that gets it again, its public name, the SHA-256 of its weights, and the hub's commit.

    ``blocks`` are those of the published model that it keeps; empty for all.
    """

    name: Name
    hub: Name
    sha256: Hash
    revision: Name | None = None
    blocks: tuple[int, ...] = ()


class Threshold(_Part):
    """A precision to hold, and the confidence above which rows may be labeled unseen."""

    precision: Share
    """The share of accepted rows that is to be right."""
    threshold: Share | None
    """The confidence from which rows are accepted; null where none could be shown to hold the precision."""
    accepted: Share | None
    """Share of the choosing rows' products that lie above it."""
    products: Count
    """Products, a row each, that it was looked for among."""
    missing: Count | None
    """Where there is no threshold: at least how many more such products it takes to show one; null where more would not help."""
    best: Share | None
    """Where there is no threshold: the precision of the surest rows that were tested; null where there were too few to test."""


class CategoryThresholds(_Part):
    """Thresholds for the rows that are labeled with one category."""

    category: Name
    """The category's name."""
    thresholds: tuple[Threshold, ...]
    """One for each precision."""


class Confidence(_Part):
    """What calibrates scores: they are divided by ``temperature``, and the log-odds of the best become ``slope`` x theirs + ``shift``."""

    temperature: Annotated[float, Field(ge=1e-9, le=1e9)]
    """What scores are divided by before their softmax."""
    slope: Number = 1.0
    """What the log-odds of the best category are multiplied by."""
    shift: Number = 0.0
    """What is added to them then."""


class Served(_Part):
    """One exported form of the model, what calibrates it, and the thresholds that its confidences have to pass.

    ``data`` names the files beside ``file`` that hold its weights, where those pass 2 GiB.
    """

    file: FileName
    confidence: Confidence
    data: tuple[FileName, ...] = ()
    thresholds: tuple[Threshold, ...] = ()
    category_thresholds: tuple[CategoryThresholds, ...] = ()


class Blend(_Part):
    """What the logits of the two models are multiplied by before they are added, and what is added for each class besides."""

    lora: Number
    linear: Number
    offset: tuple[Number, ...] = ()


class Alone(_Part):
    """What each model's logits are multiplied by where it stands alone: the inverse of its temperature."""

    lora: Number
    linear: Number


class Manifest(_Part):
    """``adapter.json``: what came out of a fit.

    Class *i* is ``categories[i]``; ``prices`` are those of the ``text`` columns that are read as bands; ``files`` maps a file's name to its
    SHA-256.
    """

    format: int
    created: AwareDatetime
    base: Base
    method: Method
    label: Name
    text: Annotated[tuple[Name, ...], Field(min_length=1, max_length=1000)]
    prices: tuple[Name, ...] = ()
    group: Name | None
    categories: Annotated[tuple[Name, ...], Field(min_length=2, max_length=MOST_CATEGORIES)]
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)]
    pad_id: Annotated[int, Field(ge=0, lt=2**31)]
    blend: Blend
    alone: Alone
    variants: dict[Variant, Served]
    files: dict[FileName, Hash]
    versions: dict[Name, Name]

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if len(set(self.categories)) < len(self.categories):
            raise ValueError("a category stands in it twice")
        if len(self.blend.offset) not in (0, len(self.categories)):
            raise ValueError(f"the blend has {len(self.blend.offset)} offsets for {len(self.categories)} categories")
        if not set(self.prices) <= set(self.text):
            raise ValueError("prices that are no text column")
        served = {name for one in self.variants.values() for name in (one.file, *one.data)}
        if self.files and ("fp32" not in self.variants or not served <= set(self.files)):  # a draft has no hashes yet
            raise ValueError("a model that serves is not among its files")
        return self


@dataclass(frozen=True)
class Adapter:
    """A finished adapter folder."""

    folder: Path
    manifest: Manifest
    fingerprint: str
    """The SHA-256 of its manifest as it was read, which has those of its files: another adapter has another."""
    _checked: set[str] = field(default_factory=set, repr=False, compare=False)

    @property
    def name(self) -> str:
        """The folder's name, which is the adapter's."""
        return self.folder.name

    def file(self, name: str) -> Path:
        """The path of one of its files, after its SHA-256 was compared.

        Raises:
            AdapterError: the file is missing, is a link, or its bytes are not those that were written.
        """
        path = self.folder / name
        if name not in self._checked:
            expected = self.manifest.files.get(name)
            if expected is None or not os.path.lexists(path):
                raise AdapterError(f"{self.folder} has no {name}; copy the folder again or fit anew.")
            check_file(path)
            if sha256(path) != expected:
                raise AdapterError(
                    f"{path} has changed since it was written (its SHA-256 is not the manifest's); copy it again or fit anew."
                )
            self._checked.add(name)
        return path

    def verify(self) -> int:
        """Check every file; returns their bytes in all."""
        return sum(self.file(name).stat().st_size for name in self.manifest.files)


def check_file(path: Path) -> None:
    """A file of an adapter is a file, and no larger than one of its name can be.

    Raises:
        AdapterError: it is a link, a pipe or a device, which could lead out of the folder or never end, or it is too large.
        OSError: it is not there.
    """
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        raise AdapterError(
            f"{path} is a link to {path.readlink()}; an adapter's files lie in its own folder: copy it with 'cp -rL', which follows links."
        )
    if not stat.S_ISREG(status.st_mode):
        raise AdapterError(f"{path} is no regular file; copy the adapter again from where it was made.")
    limit = MAX_SIZES.get(path.name)
    if limit is not None and status.st_size > limit:
        raise AdapterError(
            f"{path} has {status.st_size:,} bytes, and no adapter's {path.name} has more than {limit:,}; copy the adapter again from where "
            "it was made."
        )


def sha256(path: Path) -> str:
    """Of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """The installed versions of the packages that decide what an adapter computes."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


# --- making one ----------------------------------------------------------------------------------------------------------------------


def check_free(folder: Path, force: bool) -> None:
    """Before the work begins: ``folder`` may be written.

    Raises:
        AdapterError: something is there and ``force`` was not given, or it is no adapter and would be lost.
        OutputError: the place above cannot be written.
    """
    if places.is_bucket(folder):
        raise OutputError(f"-o {folder}: an adapter is made on a disk; name a folder, and copy it.")
    if folder.exists() and not force:
        raise AdapterError(f"{folder} exists; pass --force to replace it, or -o for another folder.")
    if folder.exists() and not (folder / MANIFEST).exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise AdapterError(f"{folder} is no adapter, so --force does not replace it; choose another folder with -o.")
    if places.spoken(folder) != str(folder):
        raise OutputError(f"-o {places.spoken(folder)}: this name is no UTF-8, and safetensors writes no other; choose another.")
    above = next(place for place in folder.absolute().parents if place.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise OutputError(f"-o {folder}: {above} cannot be written; choose another folder with -o.")


@contextmanager
def alone(target: Path) -> Iterator[None]:
    """The adapter ``target`` is made by this process only: two fits would train from one another's checkpoints.

    Raises:
        AdapterError: another process is at it.
        OutputError: the place above cannot be written.
    """
    with ExitStack() as opened:
        try:
            target.absolute().parent.mkdir(parents=True, exist_ok=True)
            mine = opened.enter_context(atomic.file_lock(places.hidden(target.absolute(), "lock")))
        except OSError as error:
            raise _unwritable(target, error) from error
        if not mine:
            raise AdapterError(f"another catcli is fitting {target}; wait until it has ended, or choose another folder with -o.")
        yield


def _unwritable(target: Path, error: OSError) -> OutputError:
    return OutputError(f"-o {target} cannot be written: {error.strerror or error}; free the place or choose another with -o.")


@dataclass
class Draft:
    """An adapter folder in the making: files go to ``folder``, and with a manifest it is finished."""

    name: str
    folder: Path
    manifest: Manifest | None = None
    finish: Callable[[Path], None] | None = None
    """Called with the folder once its manifest is written: for what is made of the manifest itself, a signature."""


@contextmanager
def drafted(target: Path, *, sealed: bool = False) -> Iterator[Draft]:
    """A draft beside ``target`` that takes its place when the block ends well, and is gone when it does not.

    What is ``sealed`` was fitted here, of models that nobody else made: see `is_sealed`.
    """
    target = target.absolute()  # "." has a name then
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic.private_folder(target) as private:
            folder = private / "new"
            folder.mkdir()
            draft = Draft(places.spoken(target.name), folder)
            yield draft
            if draft.manifest is None:
                raise AssertionError("a draft ends with its manifest set")
            files = {path.name: sha256(path) for path in sorted(folder.iterdir())}
            manifest = draft.manifest.model_copy(update={"files": files})
            (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
            if draft.finish is not None:
                draft.finish(folder)
            for path in folder.iterdir():
                path.chmod(atomic.new_file_mode())  # safetensors writes for the owner alone; a pipeline's other users read adapters too
                atomic.sync(path)  # what is replaced is gone at once, so the new one has to be on the disk
            if sealed:
                _seal(folder, manifest)
            atomic.sync(folder)
            atomic.replace(folder, target, private / "old")
    except Exception as error:
        if is_disk_full(error):
            raise OutputError(f"-o {target}: the disk is full; free some space and run the same line again.") from error
        if isinstance(error, OSError):
            raise _unwritable(target, error) from error
        raise


SEAL, MAX_SEAL = ".made-here", 2**20
"""The file in the folder of an adapter that was fitted on this machine, and the bytes that it may have."""


def is_sealed(adapter: Adapter) -> bool:
    """Whether the adapter was fitted on this machine and no file of it was touched since, so that its models need not be tried out.

    Its seal has each file's inode and the time of its last change of any kind, which the system sets and no archive or copy can bring.
    """
    seal = adapter.folder / SEAL
    try:
        status = seal.lstat()
        own = status.st_uid == os.geteuid() and not status.st_mode & 0o022
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_SEAL or not own:
            return False
        return bool(json.loads(seal.read_bytes()) == _marks(adapter.folder, adapter.manifest, adapter.fingerprint))
    except (OSError, ValueError, AttributeError):  # no seal, another one, or no such thing as owners
        return False


def _seal(folder: Path, manifest: Manifest) -> None:
    path = folder / SEAL
    path.touch(mode=0o600, exist_ok=False)  # whoever else may write the folder's files may not write this one
    path.write_text(json.dumps(_marks(folder, manifest, sha256(folder / MANIFEST))), encoding="utf-8")
    atomic.sync(path)


def _marks(folder: Path, manifest: Manifest, fingerprint: str) -> dict[str, object]:
    stats = {name: (folder / name).lstat() for name in sorted({MANIFEST, *manifest.files})}
    files = {name: [status.st_ino, status.st_ctime_ns, status.st_size] for name, status in stats.items()}
    return {"manifest": fingerprint, "files": files}


def now() -> datetime:
    """The time of a manifest: UTC, whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)


# --- finding one ---------------------------------------------------------------------------------------------------------------------


def store() -> Path:
    """Where adapters are looked for by name: ``./adapters``, or the folder that ``CATCLI_ADAPTERS`` names."""
    return Path(os.environ.get("CATCLI_ADAPTERS") or "adapters")


def load(folder: Path) -> Adapter:
    """The adapter in ``folder``; its files are checked as they are used.

    Raises:
        AdapterError: it is none, it is damaged, or a newer catcli made it.
    """
    manifest = folder / MANIFEST
    try:
        check_file(manifest)
        content = manifest.read_bytes()
    except OSError as error:
        raise AdapterError(f"{folder} is no adapter: it has no {MANIFEST}; 'catcli adapters list' shows those of {store()}.") from error
    _check_format(folder, content)
    try:
        parsed = Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        said = first["msg"].removeprefix("Value error, ")
        raise AdapterError(f"{manifest} is damaged ({place[:80]}: {said}); copy the folder again or fit anew.") from error
    return Adapter(folder, parsed, hashlib.sha256(content).hexdigest())


def _check_format(folder: Path, content: bytes) -> None:
    """Before anything else is looked at: a newer format may have what this one does not know."""
    try:
        found = json.loads(content).get("format")
    except (ValueError, AttributeError, RecursionError):
        return  # damaged; the caller says so
    if isinstance(found, int) and found not in READ:
        again = shlex.join(["catcli", "fit", "products.csv", "--recipe", str(folder / "recipe.json"), "-o", str(folder), "--force"])
        way = "upgrade catcli" if found > FORMAT else f"'{again}' makes it anew from the rows that it was fitted on"
        raise AdapterError(f"{folder} is of adapter format {found} and this catcli reads {READ[0]} to {FORMAT}; {way}.")


def folders() -> list[Path]:
    """The adapter folders of the store by name, whole or not."""
    root = store()
    found = root.iterdir() if root.is_dir() else ()
    return sorted(path for path in found if (path / MANIFEST).is_file() and not path.name.startswith("."))


def stored() -> list[Adapter]:
    """The adapters of the store that can be loaded, newest first; `catcli adapters list` names the others."""
    adapters = []
    for folder in folders():
        with suppress(AdapterError):
            adapters.append(load(folder))
    return sorted(adapters, key=lambda adapter: (adapter.manifest.created, adapter.name), reverse=True)


def named(name: str) -> Adapter:
    """The adapter that ``name`` means: a folder, else the one of that name in the store.

    Raises:
        AdapterError: there is none.
    """
    if Path(name).is_dir():
        return load(Path(name))
    if (store() / name).is_dir():
        return load(store() / name)
    there = [adapter.name for adapter in stored()]
    have = f"{store()} holds {listed(there)}{close_to(name, there)}" if there else f"{store()} holds none: 'catcli fit' makes one"
    raise AdapterError(f"there is no adapter {name!r}; {have}.")


def only() -> Adapter:
    """The one adapter of the store.

    Raises:
        AdapterError: there is none, or there are several to choose from.
    """
    adapters = stored()
    if not adapters:
        raise AdapterError(f"{store()} holds no adapter; 'catcli fit products.csv' makes one, --adapter FOLDER names one elsewhere.")
    if len(adapters) > 1:
        raise AdapterError(f"{store()} holds several adapters ({listed(a.name for a in adapters)}); choose one with --adapter.")
    return adapters[0]


def newest() -> Adapter:
    """The adapter of the store that was made last.

    Raises:
        AdapterError: there is none.
    """
    adapters = stored()
    if not adapters:
        raise AdapterError(f"{store()} holds no adapter; 'catcli fit products.csv' makes one.")
    return adapters[0]
