"""Base models from the Hugging Face hub: a name and a revision → a folder on this machine, and the commit that lies in it."""

from __future__ import annotations

import errno
import re
from contextlib import suppress
from pathlib import Path

from huggingface_hub import Discussion, HfApi, snapshot_download
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from catcli.errors import BackboneError, reason

DOWNLOADED_PATTERNS = [
    "config.json",
    "model*.safetensors*",
    "tokenizer*",
    "added_tokens.json",
    "*.model",
    "vocab*",
    "merges.txt",
    "*_map.json",
]
"""Files that are fetched: what a model and its tokenizer are made of, as safetensors and text. Pickles are not even downloaded."""

IGNORED_PATTERNS = ["*/*", "*.fp16.*", "*.bf16.*"]
"""Files among them that are not: what lies in folders (other programs' exports), and the same weights once more in half precision."""

CONVERTER = "SFconvertbot"
"""The hub's own account that offers safetensors to repositories which hold pickles alone, as pull requests."""

_NO_ROOM = (errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EROFS, errno.EDQUOT)
"""Numbers of errors of the folder that models are kept in."""

_COMMIT = re.compile("[0-9a-f]{40}")

_CONNECTION_ERRORS: tuple[type[Exception], ...] = (OSError, *(base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception)))
"""What fails on the way to the hub.

Before version 1 huggingface_hub asks by requests, whose errors are OSErrors. Since then its HTTP client's are none, but share a base class
with the hub's own.
"""


def fetch_from_hub(repository: str, revision: str | None) -> Path:
    """The folder of the model at ``revision``, the main branch by default; its name is the commit. One that is here is not asked for again.

    Where the main branch holds pickles alone, safetensors that the hub's converter offered are taken if the model's owners have merged
    them; a request that is still open may be anybody's, and has to be named. Without a connection what was fetched before is taken.

    Raises:
        BackboneError: it cannot be loaded, or has no safetensors.
    """
    folder = _snapshot(repository, revision)
    if not has_weights(folder):
        revisions = [entry for entry in folder.parent.iterdir() if has_weights(entry)] if revision is None else []
        offers = _converted(repository) if revision is None else []
        merged = [offer.git_reference for offer in offers if offer.status == "merged"]
        if merged:
            folder = _snapshot(repository, merged[0])
        elif revisions:
            folder = max(revisions, key=lambda entry: entry.stat().st_mtime)
        elif offers:
            raise BackboneError(
                f"--base {repository}: the hub holds no safetensors of it; its converter offers some as {offers[0].git_reference}, which "
                "the model's owners have not merged: look at it there and name it, "
                f"--base {repository}@{offers[0].git_reference}."
            )
        else:
            raise BackboneError(
                f"--base {repository}: the hub holds no safetensors of it at {revision or 'its main branch'}, and pickled weights, which "
                f"can run code, are not loaded; name a revision that has them ({repository}@REVISION), or convert it where you trust it "
                "and pass its folder."
            )
    return folder


def has_weights(folder: Path) -> bool:
    """Whether a folder has weights as safetensors, in one file or several."""
    return (folder / "model.safetensors").exists() or (folder / "model.safetensors.index.json").exists()


def _snapshot(repository: str, revision: str | None) -> Path:
    if revision is not None and _COMMIT.fullmatch(revision):
        with suppress(OSError):
            return _folder(repository, revision, cached=True)
    quiet = are_progress_bars_disabled()
    disable_progress_bars()  # its bars and ours would write over one another
    try:
        return _folder(repository, revision, cached=False)
    except RevisionNotFoundError as error:
        raise BackboneError(f"--base {repository}@{revision}: the hub has this model, and no such revision of it.") from error
    except GatedRepoError as error:
        raise BackboneError(
            f"--base {repository}: its owner asks for consent first; give it at https://huggingface.co/{repository} and set HF_TOKEN."
        ) from error
    except RepositoryNotFoundError as error:
        raise BackboneError(
            f"--base {repository}: the hub has no such model, or it is private and HF_TOKEN is not its owner's; check the name, or pass a "
            "folder that exists."
        ) from error
    except HFValidationError as error:
        raise BackboneError(f"--base {repository} is neither a folder nor a name that the hub can have: {reason(error)}.") from error
    except _CONNECTION_ERRORS as error:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            raise BackboneError(
                f"--base {repository}: it cannot be kept in {HF_HUB_CACHE}: {error.strerror}; make room, or set HF_HOME to another folder."
            ) from error
        with suppress(OSError):
            return _folder(repository, revision, cached=True)
        raise BackboneError(
            f"--base {repository}: the model hub cannot be reached from here and this machine has no copy; fetch it where there is a "
            f"connection with 'hf download {repository}' and pass its folder as --base, or leave --base out for the embedded minilm."
        ) from error
    finally:
        if not quiet:
            enable_progress_bars()


def _folder(repository: str, revision: str | None, *, cached: bool) -> Path:
    """The folder of a revision, from this machine's cache alone or with what the hub has besides."""
    return Path(
        snapshot_download(
            repository, revision=revision, allow_patterns=DOWNLOADED_PATTERNS, ignore_patterns=IGNORED_PATTERNS, local_files_only=cached
        )
    )


def _converted(repository: str) -> list[Discussion]:
    """The open and merged requests of the converter; none where it offers none or the hub cannot be reached."""
    try:
        offers = HfApi().get_repo_discussions(repository, author=CONVERTER, discussion_type="pull_request")
        return [offer for offer in offers if offer.status in ("open", "merged") and offer.git_reference]
    except _CONNECTION_ERRORS:
        return []
