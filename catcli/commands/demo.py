"""``catcli demo``: fit, predict and report on a small catalog that ships with the package."""

from __future__ import annotations

import shutil
from importlib import resources
from pathlib import Path

from catcli.atomic import atomic_write
from catcli.commands.fit import Fitted, fit
from catcli.commands.predict import PredictOptions, predict
from catcli.commands.report import report
from catcli.config import Recipe
from catcli.errors import OutputError
from catcli.talk import Talk

FILES = ("products.csv", "catalog.csv")


def demo(folder: Path, *, talk: Talk | None = None) -> Fitted:
    """Copy the demo's two files into ``folder``, a new or empty one, and run the three commands there.

    Raises:
        OutputError: the folder holds something, or cannot be made.
    """
    talk = talk or Talk.silent()
    _copy(folder)
    talk.say(f"demo in {folder}: its {FILES[0]} and {FILES[1]} hold products that are made up.")
    adapter = folder / "adapters" / "products"
    labeled = folder / "labeled.csv"
    talk.say(f"\n$ catcli fit {folder / FILES[0]} -o {adapter}")
    fitted = fit([str(folder / FILES[0])], recipe=Recipe(), output=adapter, talk=talk)
    talk.say(f"\n$ catcli predict {folder / FILES[1]} -o {labeled} --adapter {adapter}")
    predict([str(folder / FILES[1])], PredictOptions(str(labeled), str(adapter)), talk=talk)
    talk.say(f"\n$ catcli report {adapter}")
    report([str(adapter)], talk=talk)
    return fitted


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
