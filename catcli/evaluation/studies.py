"""What ``catcli tune --json`` and ``catcli compare --json`` print, every name with its meaning. Numbers only, no computing."""

from __future__ import annotations

from collections.abc import Mapping

from catcli.evaluation.metrics import Comparison, Estimate, Numbers, Scores


class TrialResult(Numbers):
    """One trial: a recipe and its score."""

    number: int
    """Its place among the trials that have ended, from 1."""
    pruned: bool
    """Whether it was pruned after some folds: it was worse than the median of the trials before it, or its training diverged."""
    score: float | None
    """Of the blend, over the rows of all folds; null where it was pruned."""
    by_fold: tuple[float, ...]
    """The same after each fold, over the rows of those so far."""
    settings: Mapping[str, float]
    """Its hyperparameters, by the names of the recipe."""
    seconds: float
    """How long it took."""


class TuneResult(Numbers):
    """``catcli tune --json``."""

    metric: str
    """What the trials were ranked by."""
    folds: int
    """The number of folds."""
    trials: tuple[TrialResult, ...]
    """All that have ended. The first is the recipe that the search began with."""
    best: int
    """The number of the best."""
    importances: Mapping[str, float]
    """How much of the scores' variance each setting explains, adding up to 1; empty where too few trials have ended."""
    recipe: str
    """The file with the best recipe."""
    test_rows: int
    """Rows that no trial has seen."""
    test: Scores | None
    """The best recipe on them: the blend that a fit without a refit would ship; null until all trials that were asked for are made."""
    first: Scores | None
    """The recipe that the search began with, on the same rows; null where it is the best."""
    against_first: Comparison | None
    """The best beside the first."""


class ModelResult(Numbers):
    """One base, method and balance, or the linear model; of several seeds every number is the mean, memory the most."""

    name: str
    """What tables call it."""
    base: str | None
    """The base; null for the linear model."""
    method: str
    """Its training method, or ``linear``."""
    balance: str
    """Its balance option."""
    adapters: tuple[str, ...]
    """The folders of its fits, one for each seed."""
    accuracy: Estimate
    """Of the model alone, on the test rows; intervals by a bootstrap over products."""
    macro_precision: Estimate
    """The same for the mean precision over the categories."""
    macro_recall: Estimate
    """The same for the mean recall over the categories."""
    macro_f1: Estimate
    """The same for the mean F1 over the categories."""
    roc_auc: float | None
    """Mean area under the ROC curve over the categories that have one."""
    blend_accuracy: Estimate | None
    """Accuracy of its blend with the linear model, which is what `predict` would label with; null for the linear model."""
    blend_macro_f1: Estimate | None
    """Macro F1 of the same."""
    validation_log_loss: float
    """Log loss of the blend, or of the linear model alone, on the validation rows: the score that the best model is chosen by. Each half of
    the rows is scored with the weights and the calibration that the other half asks for."""
    seconds: float
    """What its training took."""
    peak_memory: int | None
    """Bytes of memory that the fit held at most; null for the linear model, which is fitted in the same process."""
    device_memory: int | None
    """Bytes of a GPU's memory; null where none was used."""
    trained: int
    """Parameters that were trained; of the linear model, weights that are kept."""
    learned_bytes: int
    """Bytes of the files that hold what was learned."""


class GridResult(Numbers):
    """``catcli compare PRODUCTS --json``."""

    test_rows: int
    """Rows that every model is scored on; none has seen them."""
    test_products: int
    """Products that these are of."""
    models: tuple[ModelResult, ...]
    """Every model, in the order of the command line."""
    best: str
    """The one whose validation log loss is lowest."""
    recipe: str | None
    """The file with its recipe; null where it is the linear model."""
    comparisons: tuple[Comparison, ...]
    """Every pair of models, each alone, with McNemar's test; Holm's correction, and Bonferroni's of the intervals, over all pairs."""
    failed: Mapping[str, str]
    """Fits that failed, and why."""
    page: str
    """The HTML page."""


class CategoryChange(Numbers):
    """Rows that would leave one category for another."""

    before: str
    """The category that the adapter in use gives them."""
    after: str
    """The one that the other gives them."""
    rows: int
    """How many."""
    weight: float
    """Their total weight; the number of rows where no column was named."""


class CategoryTurnover(Numbers):
    """One category under both adapters."""

    category: str
    """Its name."""
    before: int
    """Rows that the adapter in use puts there."""
    after: int
    """Rows that the other puts there."""
    left: int
    """Rows that would leave it."""
    joined: int
    """Rows that would come to it."""
    weight: float
    """The total weight of the rows that leave and come."""


class Suggestion(Numbers):
    """The new category of an old one."""

    old: str
    """The old category."""
    rows: int
    """Rows that have it."""
    new: str
    """The new category that is likeliest, or that a mapping gives."""
    confidence: float
    """How likely it is right."""
    others: tuple[str, ...] = ()
    """The next ones."""


class Migration(Numbers):
    """``catcli migrate``: old categories and their new ones."""

    on: str
    """The file of labeled rows."""
    taxonomy: str
    """The file of the new categories."""
    rows: int
    """Rows with a category."""
    suggestions: tuple[Suggestion, ...]
    """Of each old category, or with a mapping of each pair that rows have."""
    applied: bool = False
    """Whether the rows were written with their new categories."""


class Suspect(Numbers):
    """A labeled row whose label is probably wrong."""

    row: int
    """Its number in the file, from 1."""
    text: str
    """Its text."""
    label: str
    """Its category."""
    label_probability: float
    """How probable a model that has not seen the row finds that."""
    suggested: str
    """The category that is more probable."""
    suggested_probability: float
    """How probable."""
    similar: tuple[str, ...]
    """Labeled rows of the suggested category that are most like it."""


class LabelConflict(Numbers):
    """Near-equal rows that have different labels."""

    rows: tuple[int, ...]
    """Their numbers in the file, from 1."""
    text: str
    """The first one's text."""
    labels: Mapping[str, int]
    """The labels, and how many of the rows have each."""


class CategoryOverlap(Numbers):
    """Two categories that are hardly told apart."""

    first: str
    """One of them."""
    second: str
    """The other."""
    rows: int
    """The labeled rows of both."""
    overlap: float
    """0 where they are told apart without an error, 1 where by no more than chance."""


class Audit(Numbers):
    """``catcli audit``: labels that a person should look at."""

    on: str
    """Where the rows are from."""
    by: str
    """What says so: an adapter's folds, or a linear model trained for it."""
    rows: int
    """Labeled rows."""
    scored: int
    """Those of them that a model of other rows says something of."""
    expected: int
    """How many labels are wrong by confident learning."""
    suspects: tuple[Suspect, ...]
    """So many rows, the likeliest first."""
    conflicts: tuple[LabelConflict, ...]
    """Near-equal rows with different labels."""
    overlaps: tuple[CategoryOverlap, ...]
    """Categories that may be one."""
    output: str | None = None
    """The file to fill in; null without ``-o``."""


class CatalogDiff(Numbers):
    """``catcli diff OLD NEW CATALOG --json``."""

    before: str
    """The adapter in use."""
    after: str
    """The one that is to take its place."""
    on: str
    """The catalog."""
    rows: int
    """Its rows."""
    changed: int
    """Rows whose category would change."""
    weight_column: str | None
    """The column of the weights; null without weights."""
    weight: float | None
    """The total weight of all rows; null without such a column."""
    changed_weight: float | None
    """The total weight of the changed rows."""
    share: float
    """The share that changes, of the weight where there is one, else of the rows: what ``--max-churn`` is held against."""
    flows: tuple[CategoryChange, ...]
    """Every change from one category to another, the largest first."""
    categories: tuple[CategoryTurnover, ...]
    """Every category that rows have under either, those with most changes first."""
    output: str | None
    """The file with the changed rows; null without ``-o``."""
