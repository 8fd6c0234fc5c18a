"""What ``catcli predict`` looks at before it writes: whether an output may be where it was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from catcli.errors import OutputError, UsageError
from catcli.places import is_bucket
from catcli.products.bad_rows import list_beside
from catcli.products.buckets import Object, Place, below, looked_up, plain
from catcli.products.read import Source
from catcli.products.write import Form, check_folder, is_folder, output_form

if TYPE_CHECKING:
    from catcli.commands.predict import Asked


def check_output(source: Source, asked: Asked) -> None:
    """Stop where the output or the review is an input, or is there and not to be replaced."""
    if asked.review:
        _check_review(source, asked)
    if asked.output == "-":
        return
    if asked.no_clobber and _exists(asked.output):
        raise OutputError(f"-o {asked.output} exists and --no-clobber leaves it alone; choose another name.")
    if asked.on_bad_row != "stop":
        _check_list(source, asked)
    if any(_is_or_holds(asked.output, path) for path in source.paths):
        raise UsageError(f"-o {asked.output} is one of the inputs; write to another {'folder' if is_folder(asked.output) else 'file'}.")


def _exists(out: str) -> bool:
    if is_bucket(out):
        return bool(below(out)) if is_folder(out) else looked_up(out) is not None
    return Path(out).exists()


def _is_or_holds(out: str, path: Place) -> bool:
    """Whether an output is an input, or a folder with it."""
    if isinstance(path, Object):
        return plain(path.url) == plain(out) or (is_folder(out) and plain(path.url).startswith(plain(out)))
    if is_bucket(out):
        return False
    place = Path(out)
    return path.resolve() == place.resolve() or (place.is_dir() and path.resolve().is_relative_to(place.resolve()))


def _check_list(source: Source, asked: Asked) -> None:
    """Stop where the list of rows that cannot be read would replace something else."""
    beside = list_beside(asked.output)
    if asked.no_clobber and _exists(beside):
        raise OutputError(f"--on-bad-row: {beside} exists and --no-clobber leaves it alone; choose another name for -o.")
    if beside == asked.review or any(_is_or_holds(beside, path) for path in source.paths):
        raise UsageError(f"--on-bad-row lists rows in {beside}, which is the review or one of the inputs; choose another name for -o.")


def _check_review(source: Source, asked: Asked) -> None:
    review = asked.review or ""
    review_form(asked)
    if not is_bucket(review):
        check_folder(Path(review), "--review")
    if asked.no_clobber and _exists(review):
        raise OutputError(f"--review {review} exists and --no-clobber leaves it alone; choose another name.")
    buckets = is_bucket(review) or is_bucket(asked.output)
    same = review == asked.output if buckets else Path(review).resolve() == Path(asked.output).resolve()
    if same or any(_is_or_holds(review, path) for path in source.paths):
        raise UsageError(f"--review {review} is the output or one of the inputs; write to another file.")
    if is_folder(asked.output) and _is_in(review, asked.output):
        raise UsageError(f"--review {review} lies in the folder {asked.output}, which is replaced as a whole; write it beside.")


def _is_in(file: str, folder: str) -> bool:
    if is_bucket(file) or is_bucket(folder):
        return plain(file).startswith(plain(folder))
    return Path(file).resolve().is_relative_to(Path(folder).resolve())


def review_form(asked: Asked) -> Form:
    """How the rows for a review are written."""
    return output_form(asked.review or "", None, option="--review", safe=asked.safe_csv)
