"""What the end of `predict` says of a catalog that is unlike the labeled products, and of one that is like them."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from conftest import Shop, catcli

from catcli.evaluation.drift import MAX_CONFIDENCE_DROP, MIN_ROWS, measure_drift
from catcli.evaluation.fit_metrics import FitMetrics


def test_confidence_far_below_what_was_expected_is_drift(shop: Shop) -> None:
    metrics = FitMetrics.of(shop.fitted.adapter)
    bins = metrics.calibration[metrics.variant].bins
    expected = sum(single.confidence * single.rows for single in bins) / sum(single.rows for single in bins)
    names = shop.fitted.adapter.manifest.categories

    def drift(drop: float, rows: int = 1_000) -> bool | None:
        measured = measure_drift(rows, rows * (expected - drop), {names[0]: rows}, metrics)
        return None if measured is None else measured.is_unlike

    assert drift(0.0) is False
    assert drift(-0.1) is False
    assert drift(MAX_CONFIDENCE_DROP - 0.001) is False
    assert drift(MAX_CONFIDENCE_DROP + 0.001) is True
    assert drift(0.3, MIN_ROWS - 1) is None
    measured = measure_drift(1_000, 500.0, {names[0]: 1_000}, metrics)
    assert measured is not None
    labeled = {category.category: category.support for category in metrics.blend.categories}
    assert measured.moved == pytest.approx(1 - labeled[names[0]] / sum(labeled.values()))
    assert names[0] in measured.shares
    assert measured.shares[names[0]] == (1.0, labeled[names[0]] / sum(labeled.values()))


def test_predict_warns_of_another_catalog_and_not_of_the_same_products(shop: Shop, tmp_path: Path) -> None:
    line = ("-o", "out.csv", "--adapter", shop.adapter, "--device", "cpu")
    products = pl.read_csv(shop.products, infer_schema=False)
    products.drop("category").write_csv(tmp_path / "same.csv")
    alike = catcli("predict", "same.csv", *line, cwd=tmp_path, check=True)
    assert "unlike" not in alike.stderr
    assert "mean confidence" in alike.stderr
    empty = dict.fromkeys((name for name in products.columns if name != "category"), [""] * 300)
    titles = [f"{word} zzq{number}" for number in range(100) for word in ("lorem", "ipsum", "dolor")]
    pl.DataFrame({**empty, "title": titles}).write_csv(tmp_path / "other.csv")
    other = catcli("predict", "other.csv", *line, cwd=tmp_path, check=True)
    assert "warning: the catalog is unlike the labeled products: mean confidence" in " ".join(other.stderr.split())
    strict = catcli("predict", "other.csv", *line, "--strict", cwd=tmp_path)
    assert strict.returncode == 1
