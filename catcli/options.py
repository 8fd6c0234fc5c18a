"""The options that several commands share, each under one name."""

from __future__ import annotations

from typing import Annotated

import typer

Products = Annotated[
    list[str],
    typer.Argument(metavar="PRODUCTS...", help="Labeled rows: CSV, TSV, JSON Lines, Parquet, Arrow or Excel; files, folders, globs, or -."),
]
Catalog = Annotated[
    list[str],
    typer.Argument(metavar="CATALOG...", help="Rows to label: CSV, TSV, JSON Lines, Parquet, Arrow or Excel; files, folders, globs, or -."),
]
InputFormat = Annotated[
    str | None, typer.Option(help="csv, tsv, jsonl, parquet, arrow or excel, where the file's ending does not say.", metavar="FORMAT")
]
Delimiter = Annotated[str | None, typer.Option(help="The character between CSV cells, where it is not found.", metavar="CHARACTER")]
Encoding = Annotated[
    str | None,
    typer.Option(
        help="The encoding of text, where it is not found: UTF-8, UTF-16 and Latin-1 are. NAME:replace reads what is not of it as U+FFFD.",
        metavar="NAME",
    ),
]
DeviceOption = Annotated[str | None, typer.Option(help="auto, cpu or cuda. auto takes the GPU if there is one.", metavar="DEVICE")]
VariantOption = Annotated[str, typer.Option(help="auto, fp32, fp16 or int8. auto takes the fastest that gives the same categories here.")]
TextMapping = Annotated[list[str] | None, typer.Option(help="Read the adapter's TRAINED column from COLUMN.", metavar="TRAINED=COLUMN")]
TrustedKey = Annotated[
    list[str] | None,
    typer.Option(help="Use the adapter only if this public key (ed25519) signed it. Repeat for several that may have.", metavar="KEY"),
]
AllowMissing = Annotated[bool, typer.Option("--allow-missing", help="Go on where a text column of the adapter is not in the file.")]
Require = Annotated[
    list[str] | None,
    typer.Option(help="A score to reach, such as macro_f1=0.9; exit code 3 where it is not. Repeat for several.", metavar="METRIC=VALUE"),
]
LabelOption = Annotated[
    str | None, typer.Option(help="The column with the category; found by name and content by default.", metavar="COLUMN")
]
TextColumns = Annotated[
    list[str] | None, typer.Option(help="A column to read; repeat for several, the most telling first.", metavar="COLUMN")
]
Group = Annotated[str | None, typer.Option(help="The column that is equal for all rows of one product.", metavar="COLUMN")]
Base = Annotated[
    str | None,
    typer.Option(
        help="minilm (embedded; minilm-3 has 3 of its 6 blocks), or from the hub: bert, distilbert, distilroberta, roberta, "
        "xlm-roberta, albert, mpnet, modernbert, deberta, t5, gpt2, qwen3, or OWNER/MODEL, these with @REVISION; or a folder.  "
        "[default: minilm]",
        metavar="NAME",
    ),
]
Method = Annotated[
    str | None,
    typer.Option(
        help="What learns: lora, rslora, dora or pissa adapters, the full base, or its head alone.  [default: lora]", metavar="METHOD"
    ),
]
Balance = Annotated[
    str | None,
    typer.Option(
        help="For rare categories: none, weights (class weights), focal (focal loss) or logit-adjust.  [default: none]", metavar="HOW"
    ),
]
MergeLabels = Annotated[
    bool | None,
    typer.Option(
        "--merge-labels/--no-merge-labels", help="Take categories that differ only by case or blanks for one, under the most frequent name."
    ),
]
Epochs = Annotated[int | None, typer.Option(help="Most passes over the rows; 2 to 8 by their number by default.")]
PerCategory = Annotated[
    int | None, typer.Option(help="Learn from at most N rows of a category, drawn while the files are read.", metavar="N")
]
SplitSeed = Annotated[int | None, typer.Option(help="Another seed holds out other products.  [default: 0]")]
Seed = Annotated[int | None, typer.Option(help="Of training; the split does not depend on it.  [default: 0]")]
TeacherOption = Annotated[
    str | None, typer.Option(help="Learn from what this adapter says of every text, beside the labels (KD-LoRA).", metavar="ADAPTER")
]
Unlabeled = Annotated[
    str | None, typer.Option(help="Rows without categories, or a glob of them, that the teacher labels to learn from.", metavar="FILE")
]
Dtype = Annotated[
    str | None, typer.Option(help="auto, fp32 or bf16. auto takes bf16 where the device has instructions for it.", metavar="DTYPE")
]
RecipeOption = Annotated[
    str | None,
    typer.Option(help="One of 'catcli recipes', or a recipe.json, to start from; options given beside it win.", metavar="RECIPE"),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output in place of tables.")]
