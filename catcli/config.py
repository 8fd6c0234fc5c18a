"""What to train and how: an immutable recipe, validated at once, whose errors use the names of the flags."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from catcli.atomic import read_small_file
from catcli.errors import ProductsError, UsageError, did_you_mean

Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["auto", "fp32", "bf16"]
Method = Literal["lora", "rslora", "dora", "pissa", "full", "head"]
Pool = Literal["mean", "cls", "last"]
Balance = Literal["none", "weights", "focal", "logit-adjust"]

VARIANTS = ("auto", "fp32", "fp16", "int8")
"""The values of ``--variant``."""

MAX_RECIPE_BYTES = 2**20
"""Bytes of a recipe's file."""

LORA_METHODS: tuple[Method, ...] = ("lora", "rslora", "dora", "pissa")
"""Methods that train adapters next to frozen weights."""

METHOD_TITLES: dict[Method, str] = {
    "lora": "LoRA",
    "rslora": "rsLoRA",
    "dora": "DoRA",
    "pissa": "PiSSA",
    "full": "full fine-tuning",
    "head": "the head",
}
"""How sentences call the encoder's training method."""

BASE_OPTIONS = ("lr", "targets", "pool", "max_tokens")
"""Options that depend on the base and are chosen again for another one; another method changes the learning rate only."""

LORA_OPTIONS = ("rank", "alpha", "dropout", "targets")
"""Options of adapters, which mean nothing for methods without adapters."""


@dataclass(frozen=True)
class Flag:
    """How a field is written on the command line, where its name and type do not say it.

    ``names`` are its flags, ``metavar`` stands for its value in the help, ``default`` is shown there for a default that is not a constant.
    ``parsed_as`` is the type of what is typed, ``minimum`` and ``maximum`` its limits.
    """

    metavar: str | None = None
    names: tuple[str, ...] = ()
    default: str | None = None
    parsed_as: type | None = None
    minimum: float | None = None
    maximum: float | None = None


COLUMN = Flag(metavar="COLUMN")


MAX_LEVELS = 20
"""Levels of a category path that count; what stands deeper belongs to the name of the last one."""

DEFAULT_MAX_CHANGE = 0.005
"""``--max-change``: the share of rows that may get another category where the linear model decides alone."""


class Recipe(BaseModel):
    """Everything that decides what a fit trains. Each field is a flag of ``catcli fit``, and its docstring that flag's help.

    ``label``, ``text`` and ``group`` are None or empty until the columns have been found; in an adapter's ``recipe.json`` every one is
    resolved, so that ``catcli fit --recipe`` repeats the run. ``about`` says what a recipe that ships with catcli is for; it is not a flag.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    about: str = ""
    label: Annotated[str | None, COLUMN] = None
    """The column with the category; found by name and content by default."""
    text: Annotated[tuple[str, ...], COLUMN] = ()
    """A column to read; repeat for several, the most informative first."""
    group: Annotated[str | None, COLUMN] = None
    """The column that is equal for all rows of one product."""
    taxonomy: Annotated[Annotated[str, Field(min_length=1)] | None, Flag(metavar="FILE")] = None
    """All categories there can be, one path a line, or as Shopify, Google and GS1 publish theirs; a label outside it stops the fit."""
    corrections: Annotated[tuple[str, ...], Flag(metavar="REVIEWED")] = ()
    """A review of predict or audit with its column category filled in: these rows are learned from, and win over a label of their product.
    Repeat for several."""
    separator: Annotated[str | None, Flag(metavar="SIGN", default="found by itself")] = None
    """What stands between the parts of categories that are paths, such as ' > '; '' takes them as flat names."""
    base: Annotated[str, Field(min_length=1), Flag(metavar="NAME")] = "minilm"
    """minilm (embedded; minilm-3 has 3 of its 6 blocks), or from the hub: bert, distilbert, distilroberta, roberta, xlm-roberta, albert,
    mpnet, modernbert, deberta, t5, gpt2, qwen3, or OWNER/MODEL, these with @REVISION; or a folder."""
    method: Annotated[Method, Flag(metavar="METHOD")] = "lora"
    """What is trained: lora, rslora, dora or pissa (adapters), full (all weights) or head (the last layer)."""
    rank: Annotated[int, Field(ge=1, le=512)] = 8
    """The adapters' rank."""
    alpha: Annotated[int, Field(ge=1)] = 16
    """The output of the adapters is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Dropout before the adapters."""
    targets: Annotated[tuple[str, ...], Flag(metavar="NAME,NAME", parsed_as=str)] = ()
    """Linear layers that get adapters, in every block; those that suit the base by default."""
    epochs: Annotated[int, Field(ge=1)] | None = None
    """The most epochs; by default 2 to 8, by the number of rows."""
    lr: Annotated[float, Field(gt=0, le=1)] | None = None
    """The highest learning rate; the default depends on base and method. Beside adapters in another base than the embedded one the head
    has up to four times this."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Rows of a training step."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Weight decay of AdamW, on matrices."""
    max_tokens: Annotated[int, Field(ge=4, le=8192)] | None = None
    """Longer texts are cut; by default 99 % of the texts are not cut, up to 128 tokens."""
    pool: Annotated[Pool | None, Flag(metavar="POOL")] = None
    """Pooling of token states to one vector: mean, cls or last; the default depends on the base."""
    balance: Annotated[Balance, Flag(metavar="HOW")] = "none"
    """For rare categories: none, weights (class weights), focal (focal loss) or logit-adjust."""
    merge_labels: Annotated[bool, Flag(names=("--merge-labels/--no-merge-labels",))] = False
    """Treat categories that differ only by case or blanks as one, under the most frequent name."""
    per_category: Annotated[Annotated[int, Field(ge=1)] | None, Flag(metavar="N")] = None
    """Use at most N rows of a category, sampled while the files are read."""
    split: Annotated[tuple[int, int, int], Flag(metavar="A/B/C", parsed_as=str, default="80/10/10")] = (80, 10, 10)
    """Percentages of training, validation and test rows, where a part of the rows is held out (see --folds)."""
    split_seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """The seed of the split; another one holds out other products."""
    folds: Annotated[Annotated[int, Field(ge=0, le=20)] | None, Flag(metavar="K", default="chosen by the number of rows")] = None
    """Train both models also on the other K - 1 of K folds, so that rows are scored by models that have not seen them; 0 holds out a part
    of the rows (--split) instead."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """The seed of training; the split does not depend on it."""
    refit: Annotated[bool, Flag(names=("--refit/--no-refit",), default="refit")] = True
    """After scoring, train both models again on all rows; --no-refit saves the scored models."""
    time_budget: Annotated[Annotated[float, Field(gt=0)] | None, Flag(metavar="TIME", parsed_as=str)] = None
    """Target time of the whole fit, such as 90s, 10m or 2h; training is shortened to stay near it."""
    teacher: Annotated[Annotated[str, Field(min_length=1)] | None, Flag(metavar="ADAPTER")] = None
    """Learn from this adapter's probabilities for every text, beside the labels (KD-LoRA)."""
    unlabeled: Annotated[Annotated[str, Field(min_length=1)] | None, Flag(metavar="FILE")] = None
    """Rows without categories (a file or a glob): a teacher labels them for training; without one they take part in choosing which
    rows the linear model decides alone."""
    device: Annotated[Device, Flag(metavar="DEVICE")] = "auto"
    """auto, cpu or cuda. auto takes the GPU if there is one."""
    dtype: Annotated[Dtype, Flag(metavar="DTYPE")] = "auto"
    """auto, fp32 or bf16. auto takes bf16 where the device is faster with it."""

    @property
    def path_separator(self) -> str | None:
        """What makes paths of the categories, in a recipe whose columns were found; None of flat names."""
        return self.separator or None

    @field_validator("targets", mode="before")
    @classmethod
    def _layer_names(cls, value: object) -> object:
        return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value

    @field_validator("split", mode="before")
    @classmethod
    def _three_shares(cls, value: object) -> tuple[int, ...]:
        if isinstance(value, str):
            value = value.split("/")
        try:
            shares = tuple(int(share) for share in value)  # type: ignore[attr-defined]  # what cannot be iterated is caught
        except (TypeError, ValueError) as error:
            raise ValueError("write three whole percentages, such as 80/10/10") from error
        if len(shares) != 3 or sum(shares) != 100 or min(shares) < 1:
            raise ValueError("three whole percentages above 0 that add up to 100, such as 80/10/10")
        return shares

    @field_validator("time_budget", mode="before")
    @classmethod
    def _time(cls, value: object) -> object:
        return _seconds(value) if isinstance(value, str) else value

    @field_validator("folds")
    @classmethod
    def _no_single_fold(cls, value: int | None) -> int | None:
        if value == 1:
            raise ValueError("at least 2 folds, or 0 for rows that are held out")
        return value

    @model_validator(mode="after")
    def _folds_alone(self) -> Self:
        reasons = {
            "--no-refit": not self.refit and "of a model for each fold none could be saved",
            "--time-budget": self.time_budget and "a time budget pays for one holdout",
            "--teacher": self.teacher and "no teacher of these rows is clean of all of them",
        }
        for flag, reason in reasons.items():
            if self.folds and reason:
                raise ValueError(f"--folds and {flag} exclude each other: {reason}; leave {flag} out, or choose --folds 0")
        return self

    @classmethod
    def make(cls, **options: object) -> Recipe:
        """A recipe of flags, None meaning "not given"; everything that is wrong with them in one `UsageError`."""
        try:
            return cls.model_validate({name: value for name, value in options.items() if value is not None})
        except ValidationError as error:
            raise UsageError("; ".join(flag_problems(error)) + ".") from error

    @classmethod
    def load(cls, name: str | None) -> Recipe:
        """A file such as an adapter's ``recipe.json``, or one of `shipped_recipes` by name; the defaults where there is none to load.

        Raises:
            ProductsError: it is not there, or is not a recipe.
        """
        if name is None:
            return cls()
        file = Path(name)
        shipped = {} if file.is_file() else shipped_recipes()
        if name in shipped:
            return shipped[name]
        try:
            return cls.model_validate_json(read_small_file(file, MAX_RECIPE_BYTES))
        except OSError as error:
            raise ProductsError(
                f"--recipe {name}: {error.strerror or error}{did_you_mean(name, shipped)}; give the recipe.json of an adapter folder, or "
                f"one of {', '.join(shipped)}."
            ) from error
        except ValidationError as error:
            raise ProductsError(f"--recipe {name}: {'; '.join(flag_problems(error))}.") from error

    @classmethod
    def start(cls, name: str | None, given: Mapping[str, object], *, repeated: Mapping[str, object] | None = None) -> Recipe:
        """What `load` gives for ``name``, with the flags that were ``given`` in its place; ``repeated`` are given in another way.

        Raises:
            UsageError: the recipe is a file that names what is to be read beside the rows, which only who runs it may do: a recipe that
                came by mail could name a private file, or a bucket that is then asked with the credentials of this machine.
        """
        recipe = cls.load(name)
        of_another = given.get("base") not in (None, recipe.base), given.get("method") not in (None, recipe.method)
        recipe = recipe.without(*(BASE_OPTIONS if of_another[0] else ()), *(("lr",) if of_another[1] else ()))
        flags = {flag for flag, value in {**given, **(repeated or {})}.items() if value not in (None, (), [])}
        unasked = [(flag, path) for flag, path in recipe.paths() if flag not in flags] if name and Path(name).is_file() else []
        if unasked:
            line = shlex.join(word for flag, path in unasked for word in (f"--{flag}", path))
            raise UsageError(
                f"--recipe {name} reads other files ({line}), which a recipe cannot ask for by itself; type this too if you want it, or "
                "remove it from the recipe."
            )
        return recipe.but(given)

    def paths(self) -> list[tuple[str, str]]:
        """The files that it reads beside the rows, behind the names of their flags; a base is one of them where it is in a folder."""
        in_folder = self.base.startswith((".", "/", "~")) or Path(self.base).is_dir()
        paths = {"teacher": self.teacher, "unlabeled": self.unlabeled, "taxonomy": self.taxonomy, "base": self.base if in_folder else None}
        single = [(flag, path) for flag, path in paths.items() if path is not None]
        return [*single, *(("corrections", path) for path in self.corrections)]

    def flags(self, file: str) -> list[str]:
        """The arguments that start from it once it is written to ``file``."""
        return ["--recipe", file, *(word for flag, path in self.paths() for word in (f"--{flag}", path))]

    def but(self, changes: Mapping[str, object]) -> Recipe:
        """This recipe with the flags that were given in their place; None leaves what the recipe says.

        Raises:
            UsageError: a flag is wrong, or is one of adapters where none are trained.
        """
        given = {name: value for name, value in changes.items() if value not in (None, ())}
        # What a recipe says about itself holds no longer once it is changed.
        changed = self.make(**{**self.model_dump(), **({"about": ""} if given else {}), **given})
        adapter_flags = [f"--{name}" for name in LORA_OPTIONS if name in given]
        if adapter_flags and changed.method not in LORA_METHODS:
            them = "it" if len(adapter_flags) == 1 else "them"
            raise UsageError(f"{', '.join(adapter_flags)}: --method {changed.method} trains no adapters; leave {them} out.")
        return changed

    def without(self, *names: str) -> Recipe:
        """This recipe with the defaults of some fields."""
        return type(self)(**self.model_dump(exclude=set(names), exclude_unset=True))


def shipped_recipes() -> dict[str, Recipe]:
    """The recipes that come with catcli, by name."""
    entries = (resources.files("catcli") / "recipes").iterdir()
    files = sorted((file for file in entries if file.name.endswith(".json")), key=lambda file: file.name)
    return {file.name.removesuffix(".json"): Recipe.model_validate_json(file.read_bytes()) for file in files}


def _seconds(text: str) -> float:
    """``90s``, ``10m`` and ``2h`` as seconds."""
    try:
        seconds = float(text[:-1]) * {"s": 1, "m": 60, "h": 3600}[text[-1:]]
    except (KeyError, ValueError) as error:
        raise ValueError("write a time such as 90s, 10m or 2h") from error
    if not 0 < seconds < float("inf"):
        raise ValueError("write a time above 0, such as 90s, 10m or 2h")
    return seconds


def parse_seconds(option: str, text: str) -> float:
    """A time as seconds: a number of them, or ``90s``, ``10m``, ``2h``.

    Raises:
        UsageError: it is none, or none above 0.
    """
    try:
        seconds = float(text) if text[-1:].isdigit() else _seconds(text)
    except ValueError as error:
        raise UsageError(f"{option} {text}: {error}.") from error
    if not 0 < seconds < float("inf"):
        raise UsageError(f"{option} {text}: a time above 0.")
    return seconds


def check_device(device: str) -> None:
    """Refuse a name that is none of `Device`."""
    if device not in get_args(Device):
        raise UsageError(f"--device {device}: choose one of {', '.join(get_args(Device))}.")


def check_variant(variant: str) -> None:
    """Refuse a name that is none of `VARIANTS`."""
    if variant not in VARIANTS:
        raise UsageError(f"--variant {variant}: choose one of {', '.join(VARIANTS)}.")


def flag_problems(error: ValidationError) -> list[str]:
    """Every problem of a recipe as ``--batch-size 0: at least 1``."""
    problems = []
    for problem in error.errors(include_url=False):
        if problem["type"] == "value_error" and not problem["loc"]:  # of options together: the sentence names them
            problems.append(problem["msg"].removeprefix("Value error, "))
            continue
        flag = f"--{problem['loc'][0]} ".replace("_", "-") + str(problem["input"])[:80] if problem["loc"] else "the file"
        problems.append(f"{flag}: {plain_validation_message(problem['msg'])}")
    return problems


_PLAIN_MESSAGES = {
    r"Input should be greater than or equal to (\S+)": r"at least \1",
    r"Input should be less than or equal to (\S+)": r"at most \1",
    r"Input should be greater than (\S+)": r"above \1",
    r"Input should be less than (\S+)": r"below \1",
    r"Input should be a valid integer.*": "a whole number",
    r"Input should be a valid number.*": "a number",
    r"Input should be a valid boolean.*": "true or false",
    r"Input should be a valid string": "a name",
    r"String should have at least 1 character": "a name",
    r"Input should be ('.*')": r"one of \1",
    r"Extra inputs are not permitted": "there is no such option",
    r"Value error, ": "",
}


def plain_validation_message(message: str) -> str:
    """What pydantic says of a value, in the words of the other sentences."""
    for pattern, plain in _PLAIN_MESSAGES.items():
        message = re.sub(pattern, plain, message, flags=re.DOTALL)
    return message
