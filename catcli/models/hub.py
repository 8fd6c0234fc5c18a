"""Base models from the Hugging Face hub: a name and a revision → a folder on this machine, and the commit that lies in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from catcli.errors import BackboneError, reason

WANTED = ["config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*", "*.model", "vocab*", "merges.txt", "*_map.json"]
"""Files that are fetched: what a model and its tokenizer are made of, as safetensors and text. Pickles are not even downloaded."""

UNWANTED = ["*/*", "*.fp16.*", "*.bf16.*"]
"""Files among them that are not: what lies in folders (other programs' exports), and the same weights once more in half precision."""

CONVERTER = "SFconvertbot"
"""The hub's own account that offers safetensors to repositories which hold pickles alone, as pull requests."""


@dataclass(frozen=True)
class Fetched:
    """The ``folder`` of a model's files, and the ``commit`` they are of."""

    folder: Path
    commit: str


def fetch(repository: str, revision: str | None) -> Fetched:
    """The model at ``revision``, the main branch by default: from this machine's cache where it is there, else from the hub.

    Where that revision holds pickles alone, the one that the hub's converter offers is taken, as transformers does.

    Raises:
        BackboneError: it cannot be had, or nobody has converted it.
    """
    folder = _snapshot(repository, revision)
    if not has_weights(folder):
        offered = _converted(repository) if revision is None else None
        if offered is None:
            raise BackboneError(
                f"--base {repository}: the hub holds no safetensors of it at {revision or 'its main branch'}, and pickled weights, which "
                f"can run code, are not loaded; name a revision that has them ({repository}@REVISION), or convert it where you trust it "
                "and pass its folder."
            )
        folder = _snapshot(repository, offered)
    return Fetched(folder, folder.name)


def has_weights(folder: Path) -> bool:
    """Whether a folder has weights as safetensors, in one file or several."""
    return (folder / "model.safetensors").exists() or (folder / "model.safetensors.index.json").exists()


def _snapshot(repository: str, revision: str | None) -> Path:
    quiet = are_progress_bars_disabled()
    disable_progress_bars()  # its bars and ours would write over one another
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=WANTED, ignore_patterns=UNWANTED))
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
    except (OSError, HfHubHTTPError) as error:
        raise BackboneError(
            f"--base {repository}: the model hub cannot be reached from here and this machine has no copy; fetch it where there is a "
            f"connection with 'hf download {repository}' and pass its folder as --base, or leave --base out for the embedded minilm."
        ) from error
    finally:
        if not quiet:
            enable_progress_bars()


def _converted(repository: str) -> str | None:
    """The revision that the converter offers; None where it offers none or the hub cannot be asked."""
    try:
        offers = HfApi().get_repo_discussions(repository, author=CONVERTER, discussion_type="pull_request")
        return next((offer.git_reference for offer in offers if offer.status in ("open", "merged")), None)
    except (OSError, HfHubHTTPError):
        return None
