"""``catcli recipes``: the recipes that come with catcli."""

from __future__ import annotations

import json
from collections.abc import Mapping

from rich.text import Text

from catcli.cli.console import Console
from catcli.config import LORA_OPTIONS, Recipe, shipped_recipes
from catcli.errors import ProductsError, did_you_mean
from catcli.reporting.tables import table


def recipes(name: str | None = None, *, as_json: bool = False, console: Console) -> Mapping[str, Recipe]:
    """Show all of them, or print ``name`` as the JSON that ``fit --recipe`` takes.

    Raises:
        ProductsError: there is none of that name.
    """
    shipped = shipped_recipes()
    if name is not None and name not in shipped:
        raise ProductsError(
            f"there is no recipe {name!r}{did_you_mean(name, shipped)}; those that come with catcli are {', '.join(shipped)}."
        )
    if name is not None:
        console.print_json(shipped[name].model_dump_json(indent=2, exclude_unset=True))
    elif as_json:
        console.print_json(json.dumps({each: recipe.model_dump(mode="json", exclude_unset=True) for each, recipe in shipped.items()}))
    else:
        shown = table("Recipes", "name", "method", "settings", "about", names=4)
        for each, recipe in shipped.items():
            shown.add_row(each, recipe.method, Text(settings(recipe), overflow="fold"), Text(recipe.about, overflow="fold"))
        for column in shown.columns[2:]:
            column.no_wrap = False
        console.print(shown)
        console.print(f"catcli fit products.csv --recipe {next(iter(shipped))}")
    return shipped


def settings(recipe: Recipe) -> str:
    """What a recipe sets beside its base and method, as flags."""
    given = recipe.model_dump(mode="json", exclude_unset=True, exclude={"about", "base", "method"})
    ordered = sorted(given, key=lambda name: (name not in LORA_OPTIONS, list(Recipe.model_fields).index(name)))
    return " ".join(f"--{name.replace('_', '-')} {given[name]}" for name in ordered)
