"""Small files that stand for more than any memory: one sentence, below a gigabyte."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import FIXTURE
from onnx import TensorProto, helper
from test_tampering import copied, model, put, rewritten, signed

from catcli.adapter.folder import load_adapter
from catcli.errors import AdapterError
from catcli.inference import sandbox

pytestmark = pytest.mark.slow

LIMIT = 2**30


def measured(*line: object, cwd: Path) -> tuple[int, str, int]:
    """The exit code of a command, what it said on standard error, and the most bytes that it or a child of it held at once."""
    program = (
        "import pathlib, re, resource, runpy, sys\n"
        "try:\n    runpy.run_module('catcli', run_name='__main__', alter_sys=True)\n"
        "finally:\n"
        "    own = re.search(r'VmHWM:\\s+(\\d+)', pathlib.Path('/proc/self/status').read_text())[1]\n"
        "    used = max(int(own), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
        "    print('peak', used, file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", program, *map(str, line)]
    settings = {**os.environ, "NO_COLOR": "1", "COLUMNS": "80"}
    ran = subprocess.run(command, cwd=cwd, env=settings, capture_output=True, text=True, check=False, timeout=300, stdin=subprocess.DEVNULL)
    said, _, peak = ran.stderr.rpartition("peak ")
    return ran.returncode, said, 1024 * int(peak)


def labeling(catalog: str = "catalog.csv", adapter: object = FIXTURE) -> list[object]:
    return ["predict", catalog, "-o", "out.csv", "--adapter", adapter, "--device", "cpu"]


# --- catalogs ---------------------------------------------------------------------------------------------------------------------------


def gz(path: Path, *pieces: bytes, zeros: int) -> None:
    """Gigabytes of one letter between two pieces; what is repeated packs a thousand times smaller."""
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(pieces[0])
        for _ in range(zeros):
            file.write(b"a" * 2**20)
        file.write(pieces[1])


def written(path: Path, text: str) -> None:
    path.write_text(text)


def workbook(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
        with packed.open("xl/worksheets/sheet1.xml", "w", force_zip64=True) as member:
            for _ in range(1100):
                member.write(b" " * 2**20)


CATALOGS: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "a cell of CSV": (
        "catalog.csv.gz",
        lambda path: gz(path, b"title\nmug\n", b"\n", zeros=1200),
        "the row that begins in line 3, 'aaaaaaaa",
    ),
    "a header of CSV": ("catalog.csv.gz", lambda path: gz(path, b"", b"\nmug\n", zeros=1200), "the row that begins in line 1, 'aaaaaaaa"),
    "a quote that nobody closes": (
        "catalog.csv",
        lambda path: written(path, 'title\nmug\n"mug\n' + "drill\n" * 8_000_000),
        "the row that begins in line 3, '\"mug', has more than the 16,777,216 characters that are read; is a quote in it not closed?",
    ),
    "a line of JSON": (
        "catalog.jsonl.gz",
        lambda path: gz(path, b'{"title": "mug"}\n{"title": "', b'"}\n', zeros=1200),
        "line 2 has more than the 16,777,216 characters that are read",
    ),
    "a workbook": ("catalog.xlsx", workbook, "unpacks to more than the 1,073,741,824 bytes that are read of a workbook"),
    "a cell of Parquet": (
        "catalog.parquet",
        lambda path: parquet(path, repeated("a" * 17_000_000, 1000)),
        "a cell of the column 'title' has 17,000,000 bytes, and the most that are read are 16,777,216",
    ),
    "a cell of Arrow's dictionaries": (
        "catalog.arrow",
        lambda path: arrow(path, repeated("a" * 17_000_000, 1000)),
        "a cell of the column 'title' has 17,000,000 bytes",
    ),
}


def repeated(text: str, rows: int) -> pa.DictionaryArray:
    """A text in each of many rows, held once."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([text]))


def parquet(path: Path, column: pa.Array) -> None:
    """As a file of plain strings."""
    pq.write_table(pa.table({"title": column}), path, compression="zstd", store_schema=False)


def arrow(path: Path, column: pa.Array) -> None:
    table = pa.table({"title": column})
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)


@pytest.mark.parametrize("name", CATALOGS)
def test_a_catalog_that_unpacks_to_more_than_memory_is_named(tmp_path: Path, name: str) -> None:
    file, make, sentence = CATALOGS[name]
    make(tmp_path / file)
    assert (tmp_path / file).stat().st_size < 2**26
    code, said, peak = measured(*labeling(file), cwd=tmp_path)
    assert (code, said.count("error: ")) == (1, 1), said
    assert sentence in said
    assert peak < LIMIT
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_long_cells_that_a_file_holds_once_are_read_a_few_at_a_time(tmp_path: Path, ending: str) -> None:
    """A title of a megabyte in each of two thousand rows is two gigabytes, and some hundred bytes of Parquet; it is a catalog, too."""
    titles = repeated("mug " * 250_000, 2000)
    if ending == "parquet":
        parquet(tmp_path / "catalog.parquet", titles)
        assert (tmp_path / "catalog.parquet").stat().st_size < 2000
    else:
        arrow(tmp_path / "catalog.arrow", titles)
    line = [*labeling(f"catalog.{ending}"), "--keep", ""]
    code, said, peak = measured(*line, cwd=tmp_path)
    assert code == 0, said
    assert (tmp_path / "out.csv").read_text().count("\n") == 2001
    assert peak < LIMIT


# --- adapters ---------------------------------------------------------------------------------------------------------------------------


def expanded(folder: Path) -> None:
    """A model of 437 bytes and a tensor of gigabytes, whose size hangs on the text."""
    size = helper.make_tensor("size", TensorProto.INT64, [1], [40_000])
    huge = helper.make_graph(
        [
            helper.make_node("Shape", ["input_ids"], ["shape"]),
            helper.make_node("Mul", ["shape", "size"], ["larger"]),
            helper.make_node("Cast", ["input_ids"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("ReduceSum", ["floats"], ["sum"], keepdims=0),
            helper.make_node("Expand", ["sum", "larger"], ["expanded"]),
            helper.make_node("ReduceSum", ["expanded", "one"], ["logits"], keepdims=1),
        ],
        "huge",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["rows", "tokens"]) for name in ("input_ids", "attention_mask")],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", 1])],
        [size, helper.make_tensor("one", TensorProto.INT64, [1], [1])],
    )
    made = helper.make_model(huge, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])
    put(folder, "model.onnx", made.SerializeToString())


def constant(folder: Path) -> None:
    """Gigabytes of a size that the model says."""
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [60_000, 60_000])

    def change(found: onnx.ModelProto) -> None:
        found.graph.initializer.append(shape)
        found.graph.node.insert(0, helper.make_node("ConstantOfShape", ["shape"], ["huge"]))

    model(folder, change)


def growing(folder: Path) -> None:
    step = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}
    rewritten(folder, "tokenizer.json", normalizer={"type": "Sequence", "normalizers": [step] * 8})


def many(folder: Path, name: str, rows: int, letters: int) -> None:
    """So many rows, whose long texts the file holds once."""
    table = pq.read_table(folder / name)
    columns = {column: pa.concat_arrays([table.column(column).chunk(0)] * (rows // len(table) + 1))[:rows] for column in table.column_names}
    columns["text"] = pa.array(["a" * letters] * rows)
    pq.write_table(pa.table(columns), folder / name, compression="zstd")
    assert (folder / name).stat().st_size < 2**16
    signed(folder)


def unasked(folder: Path) -> None:
    table = pq.read_table(folder / "probe.parquet")
    pq.write_table(table.append_column("more", repeated("a" * 100_000_000, len(table))), folder / "probe.parquet", compression="zstd")
    signed(folder)


ADAPTERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a model that expands what it reads": (
        expanded,
        "of memory to load in the sandbox; no adapter that catcli made does so: do not use it",
    ),
    "a model that makes a huge constant": (constant, "makes the tensor 'huge' of at least 3,600,000,000 numbers"),
    "a tokenizer that grows": (growing, "tokenizer.json holds no tokenizer: its replacements make up to 100,000,000 characters of one"),
    "probe rows of gigabytes": (
        lambda folder: many(folder, "probe.parquet", 3200, 10_000),
        "has 3,200 rows, and no adapter's has more than 16",
    ),
    "metrics of gigabytes": (
        lambda folder: os.truncate(folder / "metrics.json", 2**33),
        "metrics.json has 8,589,934,592 bytes, and no adapter's metrics.json has more than",
    ),
    "held-out rows of gigabytes": (
        lambda folder: many(folder, "heldout.parquet", 150, 1_000_000),
        "heldout.parquet has cells without a value, or more text than any adapter's",
    ),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_that_fills_memory_is_named(tmp_path: Path, name: str) -> None:
    folder = copied(tmp_path)
    attack, sentence = ADAPTERS[name]
    attack(folder)
    (tmp_path / "catalog.csv").write_text("title\nblue coffee mug 500 ml\n")
    line = ["report", folder] if "metrics" in name or "held-out" in name else labeling(adapter=folder)
    code, said, peak = measured(*line, cwd=tmp_path)
    assert (code, said.count("error: ")) == (1, 1), said
    assert sentence in said
    assert peak < LIMIT


def test_columns_that_nobody_asks_for_are_not_read(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    unasked(folder)
    (tmp_path / "catalog.csv").write_text("title\nblue coffee mug 500 ml\n")
    code, said, peak = measured(*labeling(adapter=folder), cwd=tmp_path)
    assert code == 0, said
    assert peak < LIMIT // 2


# --- recipes ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["/dev/zero", "a FIFO", "a large file", "a link to a device"])
def test_a_recipe_that_never_ends_is_named(tmp_path: Path, kind: str) -> None:
    (tmp_path / "products.csv").write_text("title,category\n")
    recipe = tmp_path / "recipe.json"
    if kind == "a FIFO":
        os.mkfifo(recipe)
    elif kind == "a large file":
        recipe.write_text(json.dumps({"about": "x" * 2**21}))
    elif kind == "a link to a device":
        recipe.symlink_to("/dev/zero")
    else:
        recipe = Path(kind)
    code, said, peak = measured("fit", "products.csv", "--recipe", recipe, cwd=tmp_path)
    assert (code, said.count("error: ")) == (1, 1), said
    assert f"--recipe {recipe}: it " in said
    assert peak < LIMIT


# --- tables that are larger than they look ----------------------------------------------------------------------------------------------


def cells(path: Path, columns: int, rows: int) -> None:
    """Rows that lack all but one of the header's cells."""
    path.write_text(",".join(["title", *map(str, range(columns))]) + "\n" + "mug\n" * rows)


def corners(path: Path) -> None:
    """A workbook with cells in two corners; its reader makes room for all between them."""
    sheet = b'<sheetData><row r="1"><c r="A1"/></row><row r="1048576"><c r="XFD1048576"/></row></sheetData>'
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("xl/worksheets/sheet1.xml", sheet)


def keys(path: Path) -> None:
    """JSON Lines with another key in each line."""
    path.write_text("".join(f'{{"title": "mug", "k{number}": 1}}\n' for number in range(60_000)))


@pytest.mark.parametrize(
    ("file", "make", "sentence"),
    [
        ("catalog.xlsx", corners, "has a sheet of 1,048,576 rows and 16,384 columns, and the most cells that are read are 50,000,000"),
        ("catalog.jsonl", keys, "has more than 20,000 different keys"),
    ],
)
def test_a_table_that_is_larger_than_it_looks_is_named(tmp_path: Path, file: str, make: Callable[[Path], None], sentence: str) -> None:
    make(tmp_path / file)
    code, said, peak = measured(*labeling(file), cwd=tmp_path)
    assert (code, said.count("error: ")) == (1, 1), said
    assert sentence in said
    assert peak < LIMIT


def many_nulls(path: Path) -> None:
    pq.write_table(pa.table({"title": ["mug"] * 4000, **{f"n{number}": pa.nulls(4000, pa.int64()) for number in range(3000)}}), path)


def prefixes(path: Path) -> None:
    """Long cells that are each held as what is new since the one before."""
    table = pa.table({"title": pa.array(["a" * 200_000] * 4000)})
    pq.write_table(table, path, use_dictionary=False, column_encoding={"title": "DELTA_BYTE_ARRAY"}, compression="zstd")


def fixed(path: Path) -> None:
    values = pa.DictionaryArray.from_arrays(pa.array([0] * 1500, pa.int32()), pa.array([b"a" * 1_000_000], pa.binary(1_000_000)))
    title = pa.array(["mug"] * 1500)
    pq.write_table(pa.table({"title": title, "image": values}), path, compression="zstd", store_schema=False)


@pytest.mark.parametrize(
    ("file", "make", "rows"),
    [
        ("catalog.csv", lambda path: cells(path, 5000, 10_000), 10_000),
        ("catalog.parquet", many_nulls, 4000),
        ("catalog.parquet", prefixes, 4000),
        ("catalog.parquet", fixed, 1500),
    ],
    ids=["short rows", "nulls", "prefixes", "bytes of a fixed width"],
)
def test_a_wide_table_is_read_a_few_rows_at_a_time(tmp_path: Path, file: str, make: Callable[[Path], None], rows: int) -> None:
    make(tmp_path / file)
    code, said, peak = measured(*labeling(file), "--keep", "", cwd=tmp_path)
    assert code == 0, said
    assert (tmp_path / "out.csv").read_text().count("\n") == rows + 1
    assert peak < LIMIT


# --- limits of the child ----------------------------------------------------------------------------------------------------------------


def test_a_sparse_file_does_not_lift_the_child_s_limits(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    expanded(folder)
    (folder / "pad.bin").touch()
    os.truncate(folder / "pad.bin", 2**40)
    manifest = json.loads((folder / "adapter.json").read_text())
    (folder / "adapter.json").write_text(json.dumps({**manifest, "files": {**manifest["files"], "pad.bin": "0" * 64}}))
    (tmp_path / "catalog.csv").write_text("title\nblue coffee mug 500 ml\n")
    code, said, peak = measured(*labeling(adapter=folder), cwd=tmp_path)
    assert code == 1
    assert "MiB of memory to load in the sandbox" in said
    assert peak < LIMIT


@pytest.mark.parametrize("stack", ["8192", "1048576", "unlimited"])
def test_an_adapter_is_tried_out_whatever_the_stacks_of_this_system_are(tmp_path: Path, stack: str) -> None:
    (tmp_path / "catalog.csv").write_text("title\nblue coffee mug 500 ml\n")
    line = " ".join(map(str, [sys.executable, "-m", "catcli", *labeling()]))
    ran = subprocess.run(f"ulimit -s {stack} && {line}", shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
    if "ulimit" in ran.stderr:
        pytest.skip("this system does not allow such a stack")
    assert ran.returncode == 0, ran.stderr


def test_what_a_child_found_in_one_folder_is_not_said_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_passed", set())
    (tmp_path / "damaged").mkdir()
    damaged, whole = copied(tmp_path / "damaged"), copied(tmp_path)
    with (damaged / "model.onnx").open("ab") as file:
        file.write(b"x")
    sandbox.start_check(load_adapter(damaged), "fp32")  # whose answer nobody waits for, as where the catalog is wrong
    assert sandbox.check_adapter(load_adapter(whole), "fp32")
    with pytest.raises(AdapterError, match="damaged.*has changed since it was written"):
        sandbox.check_adapter(load_adapter(damaged), "fp32")
