"""A labeler in another process or on another machine: what it is given, and what it gives back."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from catcli.adapter.folder import Adapter, load_adapter
from catcli.adapter.manifest import MANIFEST, Variant
from catcli.data.io.buckets import BucketObject, Location, upload
from catcli.data.io.part_file import SIDE_FILES
from catcli.data.io.source import Layout, Source
from catcli.data.io.streams import file_state
from catcli.errors import AdapterError
from catcli.evaluation.label_choice import LabelChoice
from catcli.inference.labeler import Labeler, Labels, Vetting
from catcli.inference.session import CPU_PROVIDER
from catcli.inference.shards import Results, ShardOptions, ShardWorker, SpanGroup, SpanWork, Work

CREDENTIALS = ("AWS_", "GOOGLE_", "AZURE_")
"""What variables of the environment begin with that say who asks a bucket; a worker that reads gets them, wherever it runs."""

FileState = tuple[object, ...] | None

TOKEN = "token"  # noqa: S105  # the name of a file
"""The file in the folder of the parts by which a worker knows that it sees the same folder."""


@dataclass(frozen=True)
class WorkerInfo:
    """What a worker got: the variant and provider that it labels by, how many texts a call has there, and what is to be said of that."""

    variant: Variant
    provider: str
    texts_per_call: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class LabelerOptions:
    """How a worker loads the adapter of ``fingerprint``; ``threads`` is the number of calls at once, None for what the device is worth."""

    fingerprint: str
    device: str
    variant: str
    batch_tokens: int | None
    threads: int | None
    vetting: Vetting
    max_change: float

    def pinned(self, info: WorkerInfo) -> LabelerOptions:
        """Those of the other workers: they compute with and on what the first got, since labels of several variants are not alike."""
        return replace(self, variant=info.variant, device="cpu" if info.provider == CPU_PROVIDER else "cuda")


@dataclass(frozen=True)
class RunOptions:
    """A run as its workers get it.

    Relative paths are from ``folder``; ``token`` is in the file `TOKEN` of the folder of the parts. ``states`` are those of the files, by
    which a worker knows that it sees the same ones.
    """

    shards: ShardOptions
    source: Source
    layout: Layout
    states: Sequence[FileState]
    folder: str
    token: str
    environment: Mapping[str, str]

    @classmethod
    def of(cls, shards: ShardOptions, source: Source, layout: Layout, token: str) -> RunOptions:
        """Those of a run that begins here."""
        remote = any(isinstance(path, BucketObject) for path in source.paths) or bool(shards.part and shards.part.uploads)
        credentials = {name: value for name, value in os.environ.items() if remote and name.startswith(CREDENTIALS)}
        return cls(shards, source, layout, list(map(_state, source.paths)), str(Path.cwd()), token, credentials)


class RemoteWorker:
    """An adapter, loaded where this object is, and at work on a run."""

    def __init__(self, files: Callable[[], Mapping[str, bytes]] | str, options: LabelerOptions) -> None:
        """``files`` gives the adapter's files by name, or is its folder."""
        self._files, self._options = files, options
        self._labeler: Labeler | None = None
        self._worker: ShardWorker | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._uploads = ""

    @property
    def labeler(self) -> Labeler:
        """Loaded when it is first needed, since an error of a constructor is not passed on as it is.

        Raises:
            AdapterError: the adapter is another one than where the run began, or cannot be loaded here.
        """
        if self._labeler is None:
            if isinstance(self._files, str):
                self._labeler = self._load(Path(self._files))
            else:
                with tempfile.TemporaryDirectory() as scratch:
                    for name, content in self._files().items():
                        (Path(scratch) / name).write_bytes(content)
                    self._labeler = self._load(Path(scratch))
        return self._labeler

    def _load(self, folder: Path) -> Labeler:
        adapter, options = load_adapter(folder), self._options
        if adapter.fingerprint != options.fingerprint:
            raise AdapterError(f"{folder} was changed while it was loaded; run the same command again once it is finished.")
        return Labeler(adapter, options.device, options.variant, options.batch_tokens, options.threads, options.vetting, options.max_change)

    def info(self) -> WorkerInfo:
        """What was got here."""
        labeler = self.labeler
        return WorkerInfo(labeler.variant, labeler.provider, labeler.texts_per_call, tuple(labeler.notes))

    def label(self, texts: list[str], choice: LabelChoice) -> Labels:
        """Labels of some texts."""
        return self.labeler.label(texts, choice)

    def start(self, run: RunOptions) -> None:
        """Get ready for a run."""
        os.environ.update(run.environment)
        with suppress(OSError):
            os.chdir(run.folder)
        shards, part = run.shards, run.shards.part
        if part is not None and _read_token(part.folder) != run.token:  # another machine, without the disk
            self._scratch = tempfile.TemporaryDirectory()
            shards = replace(shards, part=replace(part, folder=Path(self._scratch.name)))
            self._uploads = part.uploads
        self._source, self._states = run.source, run.states
        self._worker = ShardWorker(self.labeler, shards, run.source, run.layout)

    def run(self, work: Work) -> Results | None:
        """Label a shard or spans; None where the file of a span is not to be seen from here, or is another one."""
        if self._worker is None:
            raise RuntimeError("run before start")
        spans = work.works if isinstance(work, SpanGroup) else [work] if isinstance(work, SpanWork) else []
        files = [single.span.file for single in spans]
        if any(_state(self._source.paths[file]) != self._states[file] for file in files):
            return None
        results = self._worker.run(work)
        if self._scratch is not None:
            folder = Path(self._scratch.name)
            if self._uploads:
                upload({f"{self._uploads}{result.part}": folder / result.part for result in results})
                for result in results:
                    (folder / result.part).unlink()
            results = [replace(result, files=_taken(folder, result.part)) for result in results]
        return results

    def stop(self) -> None:
        """End a run."""
        if self._worker is not None:
            self._worker.close()
        if self._scratch is not None:
            self._scratch.cleanup()
        self._worker = self._scratch = None


def _state(path: Location) -> FileState:
    """The size and time of a file, which are the same on all machines that share a disk; nothing of an object, which names its state."""
    return None if isinstance(path, BucketObject) else (file_state(path) or ())[:2]


def _read_token(folder: Path) -> str | None:
    with suppress(OSError):
        return (folder / TOKEN).read_text()
    return None


def _taken(folder: Path, part: str) -> dict[str, bytes]:
    """The files of a part, by the ending of their names; they are gone from the folder."""
    files = {}
    for ending in ("", *SIDE_FILES):
        with suppress(FileNotFoundError):
            path = folder / f"{part}{ending}"
            files[ending] = path.read_bytes()
            path.unlink()
    return files


def pack_adapter(adapter: Adapter) -> dict[str, bytes]:
    """The files of an adapter that a labeler reads, for machines that do not have its folder."""
    served = adapter.manifest.variants.values()
    names = ["tokenizer.json", "linear.safetensors", "probe.parquet", *(name for info in served for name in (info.file, *info.data))]
    return {MANIFEST: (adapter.folder / MANIFEST).read_bytes(), **{name: adapter.file(name).read_bytes() for name in names}}
