"""Checks before ``catcli predict`` writes: whether an output may be at its path."""

from __future__ import annotations

from pathlib import Path

from catcli.data.dataset.reviewed import is_filled_in
from catcli.data.io.bad_rows import bad_rows_path
from catcli.data.io.buckets import BucketObject, Location, canonical_url, find_object, list_objects
from catcli.data.io.output import CATALOG_FORMATS, FileFormat, check_folder, file_format
from catcli.data.io.source import Source, open_source
from catcli.data.io.workbook import check_workbook_writer
from catcli.errors import CatcliError, OutputError, UsageError
from catcli.inference.predict_options import PredictOptions
from catcli.paths import is_bucket, is_folder


def check_output(source: Source, options: PredictOptions) -> None:
    """Stop where the output or the review is an input, or is there and not to be replaced."""
    if options.review:
        _check_review(source, options)
    if options.output == "-":
        return
    if options.no_clobber and _exists(options.output):
        raise OutputError(f"-o {options.output} exists and --no-clobber leaves it alone; choose another name.")
    if options.on_bad_row != "stop":
        _check_list(source, options)
    if options.apply and _is_same(options.output, options.apply):
        raise UsageError(f"-o {options.output} is the file of --apply, which somebody filled in; write to another file.")
    if any(_is_or_holds(options.output, path) for path in source.paths):
        raise UsageError(f"-o {options.output} is one of the inputs; write to another {'folder' if is_folder(options.output) else 'file'}.")


def _exists(out: str) -> bool:
    if is_bucket(out):
        return bool(list_objects(out)) if is_folder(out) else find_object(out) is not None
    return Path(out).exists()


def _is_or_holds(out: str, path: Location) -> bool:
    """Whether an output is an input, or a folder with it."""
    if isinstance(path, BucketObject):
        return canonical_url(path.url) == canonical_url(out) or (is_folder(out) and canonical_url(path.url).startswith(canonical_url(out)))
    if is_bucket(out):
        return False
    output = Path(out)
    return path.resolve() == output.resolve() or (output.is_dir() and path.resolve().is_relative_to(output.resolve()))


def _check_list(source: Source, options: PredictOptions) -> None:
    """Stop where the list of rows that cannot be read would replace something else."""
    list_path = bad_rows_path(options.output)
    if options.no_clobber and _exists(list_path):
        raise OutputError(f"--on-bad-row: {list_path} exists and --no-clobber leaves it alone; choose another name for -o.")
    if list_path in (options.review, options.apply) or any(_is_or_holds(list_path, path) for path in source.paths):
        raise UsageError(f"--on-bad-row lists rows in {list_path}, which is the review or one of the inputs; choose another name for -o.")


def _check_review(source: Source, options: PredictOptions) -> None:
    review = options.review or ""
    review_format(options)
    if not is_bucket(review):
        check_folder(Path(review), "--review")
    if options.no_clobber and _exists(review):
        raise OutputError(f"--review {review} exists and --no-clobber leaves it alone; choose another name.")
    if _is_same(review, options.output) or any(_is_or_holds(review, path) for path in source.paths):
        raise UsageError(f"--review {review} is the output or one of the inputs; write to another file.")
    check_not_filled_in(review)
    if is_folder(options.output) and _is_in(review, options.output):
        raise UsageError(f"--review {review} lies in the folder {options.output}, which is replaced as a whole; write it elsewhere.")


def _is_same(file: str, other: str) -> bool:
    """Whether two names are of one file."""
    if is_bucket(file) or is_bucket(other):
        return file == other
    return Path(file).resolve() == Path(other).resolve()


def check_not_filled_in(file: str, option: str = "--review", used_by: str = "--apply") -> None:
    """Stop before a file of ``option`` is written over in which somebody has decided something, or which cannot be read.

    Raises:
        OutputError: it is there; ``used_by`` is what takes it.
    """
    if _may_be_filled_in(file):
        raise OutputError(
            f"{option} {file} is there, and somebody may have filled it in; use it with {used_by} and name another file, or remove it."
        )


def _may_be_filled_in(file: str) -> bool:
    if not _exists(file) or (not is_bucket(file) and not Path(file).stat().st_size):
        return False
    try:
        frame = open_source([file]).read().frame
    except CatcliError:
        return True
    return is_filled_in(frame)


def _is_in(file: str, folder: str) -> bool:
    if is_bucket(file) or is_bucket(folder):
        return canonical_url(file).startswith(canonical_url(folder))
    return Path(file).resolve().is_relative_to(Path(folder).resolve())


def review_format(options: PredictOptions) -> FileFormat:
    """How the rows for a review are written."""
    return format_to_fill_in(options.review or "", "--review", safe=options.safe_csv)


def format_to_fill_in(file: str, option: str, *, safe: bool = False) -> FileFormat:
    """How rows are written that a person fills in: as a catalog, or as an Excel workbook."""
    form = file_format(file, None, option=option, safe=safe, formats=(*CATALOG_FORMATS, "excel"))
    if form.format == "excel":
        check_workbook_writer(option, file)
    return form
