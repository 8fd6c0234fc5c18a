"""How long a fit takes alone and beside other work: threads that spin while they wait, and threads that sleep.

    python tests/bench/load.py ../shared/data/pricerunner [--rows 500] [--busy 2] [--nice 0] [--peers ../shared/peers]

For each wait policy of OpenMP (``OMP_WAIT_POLICY``) and, as ``GOMP_SPINCOUNT``, some numbers of spins before a thread sleeps: ``catcli
fit`` of one draw of the training rows, alone and with ``--busy`` processes beside it that count for ever. Prints the seconds of each.
300,000 spins are what GNU's OpenMP does where nothing is said; catcli says ``PASSIVE`` (``catcli/__main__.py``).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
from accuracy import load_peers

POLICIES = {
    "active": {"OMP_WAIT_POLICY": "ACTIVE"},
    "300000 spins": {"GOMP_SPINCOUNT": "300000"},
    "100000 spins": {"GOMP_SPINCOUNT": "100000"},
    "10000 spins": {"GOMP_SPINCOUNT": "10000"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
}


@contextmanager
def busy(count: int, niceness: int) -> Iterator[None]:
    """So many processes that only count."""
    counting = f"import os; os.nice({niceness})\nwhile True: pass"
    processes = [subprocess.Popen([sys.executable, "-c", counting]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def seconds(products: Path, folder: Path, policy: dict[str, str]) -> float:
    """Of one fit; catcli's own setting gives way to what the environment says."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    start = time.perf_counter()
    line = [sys.executable, "-m", "catcli", "fit", str(products), "-o", str(folder / "adapter"), "--force", "-q"]
    subprocess.run(line, env={**inherited, **policy}, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--busy", type=int, default=2)
    parser.add_argument("--nice", type=int, default=0)
    parser.add_argument("--policies", default=",".join(POLICIES))
    parser.add_argument("--peers", type=Path, default=Path("../shared/peers"))
    options = parser.parse_args()
    train = pl.read_parquet(options.data / "train.parquet")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        products = folder / "products.parquet"
        train[load_peers(options.peers).draw(train["category"].to_numpy(), options.rows, 0)].write_parquet(products)
        for name in options.policies.split(","):
            alone = seconds(products, folder, POLICIES[name])
            with busy(options.busy, options.nice):
                beside = seconds(products, folder, POLICIES[name])
            print(
                f"{name:24} alone {alone:6.1f} s, beside {options.busy} busy processes {beside:6.1f} s ({beside / alone:.1f} times)",
                flush=True,
            )


if __name__ == "__main__":
    main()
