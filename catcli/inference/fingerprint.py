"""The fingerprint of a ``catcli predict`` run: what its output is made from besides the files of the catalog.

A stopped run continues only where all of it is the same.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import polars as pl

from catcli import __version__
from catcli.data.io.journal import ON_BAD_ROW
from catcli.data.io.source import open_source
from catcli.data.io.streams import file_state
from catcli.inference.output_checks import review_format
from catcli.inference.predict_options import PredictOptions

if TYPE_CHECKING:
    from catcli.inference.predict import PredictJob


def predict_fingerprint(job: PredictJob) -> dict[str, str]:
    """Hashes of what an output is made from, by the names that sentences use; what its files are, `catcli.data.io.parts` looks at."""
    source = (job.source.format, job.source.delimiter, job.source.encoding)
    # What changes no row is left out, and so is what the other entries have.
    options = replace(job.options, output="", previous=None, apply=None, resume=False, no_clobber=False, adapter=None, workers=None)
    options = replace(options, engine="local", trusted_key=(), review=_review_kind(job.options), review_budget=None)
    options = replace(options, exact=False, max_change=options.allowed_change)
    options = replace(options, input_format=None, delimiter=None, encoding=None, on_bad_row="stop")
    facts = {
        "the adapter": job.adapter.fingerprint,
        ON_BAD_ROW: job.options.on_bad_row,
        "the options": canonical_json([source, asdict(options), asdict(replace(job.plan, budget=None)), asdict(job.format)]),
        "the version of catcli, polars or the model's variant": canonical_json(
            [__version__, pl.__version__, job.engine.variant, job.engine.provider]
        ),
    }
    for option, file in (("--previous", job.options.previous), ("--apply", job.options.apply)):
        if file:
            facts[f"the file of {option}"] = canonical_json([(file_state(path) or ())[:2] for path in open_source([file]).paths])
    return {name: hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest() for name, value in facts.items()}


def _review_kind(options: PredictOptions) -> str | None:
    """What of a review is in its spills: they go into any file of such a format."""
    if options.review is None:
        return None
    form = review_format(options)
    return canonical_json([form.is_spreadsheet, form.format == "jsonl", form.safe])


def canonical_json(facts: object) -> str:
    """Facts as JSON that is the same in every process: the order of a set depends on PYTHONHASHSEED."""
    return json.dumps(facts, sort_keys=True, default=lambda value: sorted(value) if isinstance(value, set | frozenset) else str(value))
