"""What a person decides first: right labels after so many decisions, in the order of `predict --review-budget` and in others.

    python tests/bench/decisions.py ../shared/data [--sets flipkart,amazon_toys] [--seeds 3] [--start 500] [--rounds 10] [--step 50]

From a draw of ``train.parquet``, rounds of decisions on its other rows: each is of a group of near-equal rows, all of which get their true
categories; ``rows by chance`` are single rows, as when somebody labels more. After each round a linear model of all labeled rows is scored
on ``test.parquet``. ``accepted`` is the largest share of the test rows of which .95 are right. With ``--groups`` it prints
instead what near-equal rows there are: groups of several rows, how many rows they have, and the share of these that have the label of most
rows of their group.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
from accuracy import load_peers
from rich.console import Console
from rich.table import Table
from sklearn.metrics import f1_score

from catcli.arrays import DoubleArray, IntArray
from catcli.data.dataset.columns import choose_columns
from catcli.data.dataset.examples import Examples, category_name_examples
from catcli.data.dataset.near_equal import MIN_WORDS, folded_texts, group_near_equal
from catcli.data.dataset.text import row_text_series
from catcli.evaluation.blend import softmax
from catcli.evaluation.decisions import decision_order
from catcli.training.linear import fit_linear

SHARPNESS = 4.0
"""What logits of a support vector machine are multiplied with, about, to be those of probabilities."""

PRECISION = 0.95

Order = Callable[[DoubleArray, DoubleArray, np.random.Generator], IntArray]

ORDERS: dict[str, Order] = {
    "review budget": lambda confidence, rows, _: decision_order(confidence, rows),
    "least confidence": lambda confidence, _, __: np.argsort(confidence, kind="stable"),
    "groups by chance": lambda confidence, _, random: random.permutation(len(confidence)),
    "rows by chance": lambda confidence, _, random: random.permutation(len(confidence)),
}


def group(folded: list[str], classes: IntArray) -> IntArray:
    """The group of each row, as a review has it."""
    keys: dict[tuple[str, int], int] = {}
    kinds = [-1 if text.count(" ") >= MIN_WORDS - 1 else kind for text, kind in zip(folded, classes.tolist(), strict=True)]
    member = [keys.setdefault(pair, len(keys)) for pair in zip(folded, kinds, strict=True)]
    first = np.unique(member, return_index=True)[1]
    leaders = group_near_equal([text for text, _ in keys], classes[first])
    return np.unique(leaders[member], return_inverse=True)[1]


def accepted(confidence: DoubleArray, right: IntArray) -> float:
    """The largest share that holds the precision."""
    ranked = right[np.argsort(-confidence, kind="stable")]
    shares = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
    held = np.flatnonzero(shares >= PRECISION)
    return float((held[-1] + 1) / len(ranked)) if len(held) else 0.0


class Simulation:
    """A data set from which rows are labeled by decisions."""

    def __init__(self, folder: Path, start: int, seed: int, peers: Path) -> None:
        frame, test = (pl.read_parquet(folder / f"{part}.parquet") for part in ("train", "test"))
        columns = choose_columns(frame, "category", (), None, folder.name)
        texts = row_text_series(frame, columns.text, columns.prices)
        self.texts, self.folded = texts.to_list(), folded_texts(texts).to_list()
        self.test = row_text_series(test, columns.text, columns.prices).to_list()
        self.names = sorted(set(frame["category"]))
        numbers = {name: number for number, name in enumerate(self.names)}
        self.truth = np.array([numbers[name] for name in frame["category"]])
        self.test_truth = np.array([numbers.get(name, -1) for name in test["category"]])
        self.first = load_peers(peers).draw(frame["category"].to_numpy(), start, seed)
        self.random = np.random.default_rng(seed)

    def run(self, way: str, rounds: int, step: int) -> tuple[list[tuple[float, float, float]], float]:
        """Accuracy, macro F1 and share accepted before each round and after the last; rows that a decision settled, on average."""
        labeled, scores, settled = list(self.first), [], 0
        for number in range(rounds + 1):
            known, classes = np.unique(self.truth[labeled], return_inverse=True)
            names = category_name_examples([self.names[place] for place in known])
            model = fit_linear(Examples.of([self.texts[row] for row in labeled], classes).plus(names), len(known), 0)
            probabilities = softmax(SHARPNESS * model.logits(self.test))
            predicted = known[probabilities.argmax(1)]
            right = predicted == self.test_truth
            present = [place for place in np.unique(self.test_truth) if place >= 0]
            macro = f1_score(self.test_truth, predicted, average="macro", labels=present, zero_division=0)
            scores.append((float(right.mean()), float(macro), accepted(probabilities.max(1), right)))
            if number == rounds:
                break
            pool = np.setdiff1d(np.arange(len(self.texts)), labeled)
            unsure = softmax(SHARPNESS * model.logits([self.texts[row] for row in pool]))
            member = np.arange(len(pool))
            if way != "rows by chance":
                member = group([self.folded[row] for row in pool], unsure.argmax(1))
            rows = np.bincount(member).astype(np.float64)
            confidence = np.bincount(member, unsure.max(1)) / rows
            chosen = pool[np.isin(member, ORDERS[way](confidence, rows, self.random)[:step])]
            labeled += chosen.tolist()
            settled += len(chosen)
        return scores, settled / (rounds * step)


def group_table(data: Path, sets: list[str]) -> Table:
    """Near-equal rows of all rows of each data set, by several bounds."""
    table = Table("data", "rows", "near-equal", "different", "groups", "their rows", "with their label")
    for name in sets:
        frame = pl.concat([pl.read_parquet(data / name / f"{part}.parquet") for part in ("train", "test")])
        columns = choose_columns(frame, "category", (), None, name)
        folded = folded_texts(row_text_series(frame, columns.text, columns.prices)).to_list()
        different = list(dict.fromkeys(folded))
        number = {text: place for place, text in enumerate(different)}
        member = np.array([number[text] for text in folded])
        for bound in (1.0, 0.9, 0.8, 0.7, 0.6, 0.5):
            leaders = np.arange(len(different)) if bound == 1 else group_near_equal(different, np.zeros(len(different), np.int64), bound)
            labels = (
                pl.DataFrame({"group": leaders[member], "label": frame["category"]})
                .group_by("group")
                .agg(pl.len(), most=pl.col("label").value_counts().struct.field("count").max())
            )
            several = labels.filter(pl.col("len") > 1)
            rows, right = int(several["len"].sum()), int(several["most"].sum())
            title = "equal when folded" if bound == 1 else f"{bound:g} of the words"
            table.add_row(name, f"{len(frame):,}", title, f"{len(labels):,}", f"{len(several):,}", f"{rows:,}", f"{right / rows:.3f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", default="flipkart,amazon_toys")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--start", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--step", type=int, default=50)
    parser.add_argument("--peers", type=Path, default=Path("../shared/peers"))
    parser.add_argument("--groups", action="store_true")
    options = parser.parse_args()
    if options.groups:
        Console(width=120).print(group_table(options.data, options.sets.split(",")))
        return
    shown = sorted({0, 1, 2, 4, options.rounds} & set(range(options.rounds + 1)))
    after = (f"after {number * options.step}" for number in shown)
    table = Table("data", "order", "rows a decision", *after, title="accuracy · macro F1 · accepted")
    for name in options.sets.split(","):
        for way in ORDERS:
            simulations = [Simulation(options.data / name, options.start, seed, options.peers) for seed in range(options.seeds)]
            runs = [simulation.run(way, options.rounds, options.step) for simulation in simulations]
            means = np.mean([scores for scores, _ in runs], axis=0)
            cells = (" · ".join(f"{value:.3f}" for value in means[number]) for number in shown)
            table.add_row(name, way, f"{np.mean([settled for _, settled in runs]):.2f}", *cells)
            print(f"{name} {way}: done", flush=True)
    Console(width=180).print(table)


if __name__ == "__main__":
    main()
