"""Options: those that several commands share, and those that are the fields of a class.

A class of options (`catcli.config.Recipe`, `catcli.inference.predict_options.PredictOptions` …) documents each field once, by the docstring
below it. A command that takes one marks its parameter with `Flags`, and gets an option for every field, with that docstring as its help.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from pydantic import BaseModel

from catcli.config import Flag

Products = Annotated[
    list[str],
    typer.Argument(metavar="PRODUCTS...", help="Labeled rows: CSV, TSV, JSON Lines, Parquet, Arrow or Excel; files, folders, globs, or -."),
]
Catalog = Annotated[
    list[str],
    typer.Argument(metavar="CATALOG...", help="Rows to label: CSV, TSV, JSON Lines, Parquet, Arrow or Excel; files, folders, globs, or -."),
]
AdapterName = Annotated[str, typer.Argument(metavar="ADAPTER", help="A folder, or a name in the store.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output in place of tables.")]
DeviceName = Annotated[str, typer.Option(help="auto, cpu or cuda. auto takes the GPU if there is one.", metavar="DEVICE")]
VariantName = Annotated[
    str, typer.Option(help="auto, fp32, fp16 or int8. auto takes int8 on a CPU and fp16 on a GPU where it gives the same categories here.")
]
RecipeName = Annotated[
    str | None,
    typer.Option(
        "--recipe", help="One of 'catcli recipes', or a recipe.json, to start from; options given beside it win.", metavar="RECIPE"
    ),
]
Require = Annotated[
    list[str] | None,
    typer.Option(help="A score to reach, such as macro_f1=0.9; exit code 3 where it is not. Repeat for several.", metavar="METRIC=VALUE"),
]
TrustedKey = Annotated[
    list[str] | None,
    typer.Option(help="Use the adapter only if this public key (ed25519) signed it. Repeat for several that may have.", metavar="KEY"),
]


@dataclass(frozen=True)
class Flags:
    """Marks a parameter whose options are the fields of a class.

    With ``names`` only these fields, in this order. Where ``given`` is set the command gets a mapping of what the user typed, since the
    rest comes from elsewhere (a recipe's file); otherwise it gets an object of the class.
    """

    of: type
    names: tuple[str, ...] = ()
    given: bool = False

    def parameters(self) -> Iterator[inspect.Parameter]:
        """One keyword parameter for each field, as Typer reads them."""
        hints, docs, defaults = get_type_hints(self.of, include_extras=True), field_docs(self.of), _defaults(self.of)
        for name in self.names or tuple(docs):
            hint, flag = _plain_hint(hints[name]), _flag_of(hints[name])
            shown = defaults[name] if self.given and defaults[name] is not False and defaults[name] not in (None, "", ()) else None
            text = docs[name] + (f"  [default: {flag.default or shown}]" if flag.default or shown is not None else "")
            names = flag.names or ((f"--{name.replace('_', '-')}",) if hint is bool and not self.given else ())
            option = typer.Option(
                *names,
                help=text.replace("[", r"\["),
                metavar=flag.metavar,
                min=flag.minimum,
                max=flag.maximum,
                show_default=hint is not bool,
            )
            optional = hint | None if self.given or hint in (list[str], list[int]) or _is_optional(hints[name]) else hint
            default = None if self.given or hint in (list[str], list[int]) else defaults[name]
            parameter = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[optional, option], default=default)
            yield parameter

    def collect(self, options: Mapping[str, Any]) -> Any:  # noqa: ANN401  # an object of the class, or the mapping
        """What the command gets for the options that were parsed."""
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
        if self.given:
            return values
        empty = {name for name, value in values.items() if value is None}
        return self.of(**{name: value for name, value in values.items() if name not in empty})


def field_docs(cls: type) -> dict[str, str]:
    """The docstrings below the fields of a class and of those that it inherits from, in one line each; its own fields first."""
    docs: dict[str, str] = {}
    for part in cls.__mro__:
        if not part.__module__.startswith("catcli."):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(part))).body[0]
        statements = body.body if isinstance(body, ast.ClassDef) else []
        for field, doc in itertools.pairwise(statements):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(doc, ast.Expr):
                docs.setdefault(field.target.id, " ".join(str(ast.literal_eval(doc.value)).split()))
    return docs


def _defaults(cls: type) -> dict[str, Any]:
    """The default of each field, `inspect.Parameter.empty` of one that has none."""
    if issubclass(cls, BaseModel):
        return {name: inspect.Parameter.empty if field.is_required() else field.default for name, field in cls.model_fields.items()}
    return {field.name: inspect.Parameter.empty if field.default is MISSING else field.default for field in dataclasses.fields(cls)}  # type: ignore[arg-type]  # a dataclass


def _flag_of(hint: Any) -> Flag:  # noqa: ANN401  # a type of any kind
    flags = [marker for part in (hint, *get_args(hint)) for marker in getattr(part, "__metadata__", ()) if isinstance(marker, Flag)]
    return flags[0] if flags else Flag()


def _is_optional(hint: Any) -> bool:  # noqa: ANN401  # a type of any kind
    return NoneType in get_args(get_args(hint)[0] if get_origin(hint) is Annotated else hint)


def _plain_hint(hint: Any) -> Any:  # noqa: ANN401  # a type of any kind
    """The type that Typer parses an option as: text for choices, which the class itself checks, and lists for tuples."""
    if (flag := _flag_of(hint)).parsed_as is not None:
        return flag.parsed_as
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if get_origin(hint) in (Union, UnionType):
        (hint,) = (part for part in get_args(hint) if part is not NoneType)
        return _plain_hint(hint)
    if get_origin(hint) is Literal:
        return str
    if get_origin(hint) in (tuple, Sequence):
        return list[int] if get_args(hint)[0] is int else list[str]
    return Path if hint is Path else hint
