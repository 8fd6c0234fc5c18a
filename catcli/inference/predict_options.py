"""The options of ``catcli predict``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from catcli.config import DEFAULT_MAX_CHANGE, Flag
from catcli.errors import UsageError
from catcli.inference.compute_options import ComputeOptions
from catcli.paths import is_folder, is_pipe

ENGINES = ("local", "threads", "processes", "ray")


@dataclass(frozen=True)
class PredictOptions(ComputeOptions):
    """Where the labeled rows go, by which adapter, which of them are accepted, and how they are computed."""

    output: Annotated[str, Flag(metavar="OUT", names=("-o", "--output"))]
    """The labeled file; its extension says the format. A folder (out/) gets a file per input, - is standard output."""
    adapter: Annotated[str | None, Flag(metavar="FOLDER")] = None
    """A folder, or a name in the store; the only one there by default."""
    text: Annotated[Sequence[str], Flag(metavar="TRAINED=COLUMN")] = ()
    """Read the adapter's TRAINED column from COLUMN."""
    top_k: Annotated[int, Flag(minimum=1)] = 1
    """Above 1, a column with the K most probable categories is added."""
    min_confidence: Annotated[float, Flag(minimum=0, maximum=1)] = 0.0
    """Below it the predicted category is null."""
    precision: float | None = None
    """Accept only rows at or above the adapter's threshold for this precision; exit code 3 where it has none."""
    max_change: Annotated[float | None, Flag(metavar="SHARE", default=f"{DEFAULT_MAX_CHANGE}")] = None
    """Let the linear model decide rows alone as long as at most this share of all rows gets another category than by both models."""
    exact: bool = False
    """Label every row by both models."""
    by_category: bool = False
    """With --precision: use the thresholds by category; rows labeled with a category that has none are not accepted."""
    back_off: bool = False
    """With --precision, where categories are paths: a row gets the deepest node of its path that is sure enough, and a column
    predicted_level."""
    review: Annotated[str | None, Flag(metavar="FILE")] = None
    """A file that gets the rows that are not accepted, near-equal ones together, the most confident last, with a column to fill in."""
    review_budget: Annotated[int | None, Flag(metavar="N", minimum=1)] = None
    """Only the N groups of rows whose decision helps most, the most helpful first."""
    weight: Annotated[str | None, Flag(metavar="COLUMN")] = None
    """With --review: what a row counts, such as its revenue, in place of 1."""
    apply: Annotated[str | None, Flag(metavar="REVIEWED")] = None
    """A review with its column category filled in: these rows and equal texts get that category, with confidence 1."""
    keep: Annotated[str | None, Flag(metavar="COLUMN,COLUMN")] = None
    """Write only these columns of the catalog, and the new ones."""
    previous: Annotated[str | None, Flag(metavar="LABELED")] = None
    """An earlier output: rows whose text is in it keep their labels, if this adapter gave them."""
    dedupe: Annotated[bool, Flag(names=(" /--no-dedupe",))] = True
    """--no-dedupe labels a text again each time that it comes."""
    safe_csv: bool = False
    """Put an apostrophe before what a spreadsheet would run as a formula."""
    trusted_key: Annotated[Sequence[str], Flag(metavar="KEY")] = ()
    """Use the adapter only if this public key (ed25519) signed it. Repeat to trust several keys."""
    engine: str = "local"
    """local (threads, or beside a GPU processes), threads, processes, or ray: workers on a Ray cluster (pip install 'catcli[ray]'). All
    give the same output."""
    batch_tokens: Annotated[int | None, Flag(minimum=1)] = None
    """Tokens of a batch; by the device by default."""
    workers: Annotated[int | None, Flag(minimum=1)] = None
    """Batches that are computed at once, by default one for each core; or processes; with --engine ray workers, by default one for each
    GPU."""
    on_bad_row: Annotated[str, Flag(metavar="stop|skip|null")] = "stop"
    """A row that cannot be read stops the run, is left out (skip), or comes out with nulls (null); the last two list them in
    OUT.bad.jsonl."""
    allow_missing: bool = False
    """Go on where a text column of the adapter is not in the file."""
    replace_columns: bool = False
    """Drop columns of the catalog that have the names of the new ones."""
    no_clobber: bool = False
    """Stop if OUT exists."""
    resume: bool = False
    """Stop, instead of starting again, if the adapter or an option changed since the stopped run; it is continued without this option,
    too."""
    output_as: Annotated[str | None, Flag(metavar="FORMAT", names=("--format",))] = None
    """csv, tsv, jsonl, parquet or arrow, where OUT's extension does not say."""

    @property
    def allowed_change(self) -> float:
        """``--max-change``, or 0 for ``--exact``."""
        if self.exact:
            return 0.0
        return DEFAULT_MAX_CHANGE if self.max_change is None else self.max_change

    def check(self) -> None:
        """Raise `UsageError` for options that are wrong by themselves or together."""
        self.check_compute()
        if not 0 <= self.min_confidence <= 1:
            raise UsageError(f"--min-confidence {self.min_confidence}: a probability, from 0 to 1.")
        if self.max_change is not None and not 0 <= self.max_change < 1:
            raise UsageError(f"--max-change {self.max_change:g}: a share from 0 to below 1, such as {DEFAULT_MAX_CHANGE}.")
        if self.exact and self.max_change is not None:
            raise UsageError("--exact and --max-change exclude each other: --exact lets no row change; leave one out.")
        self._check_acceptance()
        for option, value in (("--top-k", self.top_k), ("--workers", self.workers), ("--batch-tokens", self.batch_tokens)):
            if value is not None and value < 1:
                raise UsageError(f"{option} {value}: a whole number above 0.")
        if self.engine not in ENGINES:
            raise UsageError(f"--engine {self.engine}: choose one of {', '.join(ENGINES)}.")
        if self.resume and is_pipe(self.output):
            raise UsageError(f"--resume: what went into {self.output} is gone; give -o a file, whose parts are kept.")
        if self.previous and self.top_k > 1:
            raise UsageError("--previous takes over one category a row; leave out --top-k, or --previous.")

    def _check_acceptance(self) -> None:
        """Thresholds that contradict one another, or a review that no row would come to."""
        if self.precision is not None and not 0 < self.precision < 1:
            raise UsageError(f"--precision {self.precision:g}: a share above 0 and below 1, such as 0.95.")
        if self.precision is not None and self.min_confidence:
            raise UsageError("--precision finds the confidence that rows have to reach; leave out --min-confidence, or --precision.")
        if self.back_off and self.precision is None:
            raise UsageError("--back-off labels as deep as a precision is held; say which with --precision.")
        if self.back_off and self.by_category:
            raise UsageError("--back-off gives one node of the tree a row; leave out --by-category, or --back-off.")
        if self.by_category and self.precision is None:
            raise UsageError("--by-category holds a precision within each category; say which with --precision.")
        if self.review and self.precision is None and not self.min_confidence:
            raise UsageError("--review gets the rows that are not accepted; say which are with --precision or --min-confidence.")
        if not self.review and (self.review_budget is not None or self.weight is not None):
            option = "--review-budget" if self.review_budget is not None else "--weight"
            raise UsageError(f"{option} orders what comes to a review; name its file with --review.")
        if self.review_budget is not None and self.review_budget < 1:
            raise UsageError(f"--review-budget {self.review_budget}: a whole number above 0.")
        if self.review and (is_pipe(self.review) or is_folder(self.review)):
            raise UsageError(f"--review {self.review}: name a file; its rows are put in order at the end.")
