"""``catcli demo``: fit, predict and report on a small catalog that ships with the package."""

from __future__ import annotations

import shutil
from importlib import resources
from pathlib import Path

from catcli.atomic import atomic_write
from catcli.cli.console import Console
from catcli.cli.fit import run_fit
from catcli.cli.predict import run_predict
from catcli.cli.report import run_report
from catcli.config import Recipe
from catcli.errors import OutputError
from catcli.inference.predict_options import PredictOptions
from catcli.training.fit import FitResult

FILES = ("products.csv", "catalog.csv")


def demo(folder: Path, *, console: Console) -> FitResult:
    """Copy the demo's two files into ``folder``, a new or empty one, and run the three commands there.

    Raises:
        OutputError: the folder holds something, or cannot be made.
    """
    _copy(folder)
    console.info(f"demo in {folder}: its {FILES[0]} and {FILES[1]} hold products that are made up.")
    adapter = folder / "adapters" / "products"
    labeled = folder / "labeled.csv"
    console.info(f"\n$ catcli fit {folder / FILES[0]} -o {adapter}")
    result = run_fit([str(folder / FILES[0])], recipe=Recipe(), output=adapter, console=console)
    console.info(f"\n$ catcli predict {folder / FILES[1]} -o {labeled} --adapter {adapter}")
    run_predict([str(folder / FILES[1])], PredictOptions(str(labeled), str(adapter)), console=console)
    console.info(f"\n$ catcli report {adapter}")
    run_report([str(adapter)], console=console)
    return result


def _copy(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder} is there and not empty; name a new folder: 'catcli demo another-folder'.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            with resources.as_file(resources.files("catcli.data") / "demo" / name) as file, atomic_write(folder / name) as place:
                shutil.copyfile(file, place)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror}; name another folder: 'catcli demo another-folder'.") from error
