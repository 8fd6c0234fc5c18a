"""What a teacher brings: the same student with and without one, on few labeled rows and the others as rows without categories.

    python tests/bench/distill.py ../shared/data/flipkart --rows 500 [--draws 3] [--base minilm-3] [--peers ../shared/peers]

For each draw of ``train.parquet`` (the peers' own): a teacher is fitted on the drawn rows, then a student on ``--base`` without a teacher,
and one that learns besides from what the teacher's blend says of all other training rows, whose categories it does not see. Prints a JSON
line for each: accuracy and macro F1 on the test file of the blend, of what learned alone and of the linear model alone, the bytes of what
was learned and of the model that serves, seconds of the fit, and rows a second of that model's session and from file to file.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from accuracy import fit, load_peers, scored

from catcli.adapter.folder import load_adapter
from catcli.cli.console import Console
from catcli.cli.run.bench import bench


def speeds(folder: Path, test: Path) -> dict[str, int]:
    """Rows a second of the base's session and from file to file, and the bytes of the model that serves."""
    found = bench([str(test)], adapter=str(folder), rows=2048, repeats=3, console=Console())
    made = load_adapter(folder)
    served = made.manifest.variants["int8" if found.variant == "int8" else "fp32"].file
    stages = {stage.name: round(stage.median) for stage in found.stages}
    return {
        "session_rows_s": stages["session alone"],
        "file_rows_s": stages["from file to file"],
        "served_bytes": (folder / served).stat().st_size,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--base", action="append")
    parser.add_argument("--peers", type=Path, default=Path("../shared/peers"))
    options, flags = parser.parse_known_args()
    whole, test = (pl.read_parquet(options.data / f"{part}.parquet") for part in ("train", "test"))
    for draw in range(options.draws):
        chosen = load_peers(options.peers).draw(whole["category"].to_numpy(), options.rows, draw)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            products, others = folder / "products.parquet", folder / "others.parquet"
            whole[chosen].write_parquet(products)
            whole[np.setdiff1d(np.arange(len(whole)), chosen)].drop("category").write_parquet(others)

            def run(name: str, told: Sequence[str], products: Path = products, folder: Path = folder, draw: int = draw) -> None:
                seconds, peak = fit(products, folder / name, ["--no-refit", "--seed", str(draw), *flags, *told])
                line = {"draw": draw, "student": name} | scored(folder / name, test) | speeds(folder / name, options.data / "test.parquet")
                print(json.dumps(line | {"fit_s": round(seconds), "peak_mib": round(peak / 2**20)}), flush=True)

            run("minilm", [])
            taught = ["--teacher", str(folder / "minilm"), "--unlabeled", str(others)]
            run("minilm-taught", taught)
            for base in options.base or ["minilm-3"]:
                run(base, ["--base", base])
                run(f"{base}-taught", ["--base", base, *taught])


if __name__ == "__main__":
    main()
