"""``catcli report``: how good an adapter is."""

from __future__ import annotations

import json
from collections.abc import Mapping

from rich.console import Group, RenderableType

from catcli import adapter as adapters
from catcli.commands.talk import Talk
from catcli.evaluation.heldout import HeldOut
from catcli.evaluation.metrics import Metrics
from catcli.reporting import tables
from catcli.runtime.blend import mix


def report(name: str | None = None, *, as_json: bool = False, talk: Talk | None = None) -> Metrics:
    """Show what the adapter ``name``, or the newest of the store, reached on its held-out rows."""
    talk = talk or Talk.silent()
    chosen = adapters.named(name) if name else adapters.newest()
    metrics = Metrics.load(chosen.file("metrics.json"))
    if as_json:
        print(
            json.dumps({"adapter": str(chosen.folder), "created": chosen.manifest.created.isoformat(), **metrics.model_dump(mode="json")})
        )
        return metrics
    if name is None:
        talk.say(f"the newest adapter of {adapters.store()}: {chosen.name}")
    talk.detail(f"{chosen.folder.resolve()}, made {chosen.manifest.created:%Y-%m-%d %H:%M} UTC")
    examples = confused_examples(chosen)
    took = metrics.training
    parts: list[RenderableType] = [
        tables.overall(metrics),
        tables.averages(metrics),
        tables.per_category(metrics.blend),
        *([tables.confusions(metrics.blend, examples)] if metrics.blend.confusions else []),
        tables.parity(metrics),
        f"int8 {metrics.int8.reason}",
        f"{took.lora_rows:,} rows trained {took.trained:,} of {took.total:,} parameters on {took.device}",
        f"{took.seconds:.0f} s in all: LoRA {took.lora_seconds:.0f} s, the linear model {took.linear_seconds:.1f} s, the rest export",
    ]
    talk.out.print(Group(*parts))
    return metrics


def confused_examples(adapter: adapters.Adapter) -> Mapping[tuple[str, str], str]:
    """A test row's text for every pair of its category and the wrong one that the adapter gave it."""
    names = adapter.manifest.categories
    test = HeldOut.load(adapter.file("heldout.parquet"), names).part("test")
    scores = mix(test.lora, test.linear, adapter.manifest.blend)
    found: dict[tuple[str, str], str] = {}
    for text, truth, predicted in zip(test.texts, test.classes, scores.argmax(1), strict=True):
        if truth != predicted:
            found.setdefault((names[truth], names[predicted]), text)
    return found
