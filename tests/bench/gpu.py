"""What only a GPU shows, checked and measured in one run of some minutes; the table comes last, and the same as JSON beside it.

    python tests/bench/gpu.py ../shared/data [--out FOLDER] [--steps fit,predict] [--code FOLDER]
    python tests/bench/gpu.py ../shared/data --rehearse

Every step is a process of its own with a limit of its own, the most telling first, so that a step that fails or hangs costs only itself,
and the whole ends in time: a step for which none is left is not run, and the table says so. Before the first of them the script looks for
every package that catcli imports. What a step finds wrong is a check that the table and the exit code show. The steps after ``fit`` use its
adapter. ``--code`` measures another checkout of catcli by the same steps. ``--rehearse`` runs all of them here, on the CPU and with few
rows, to see that the script itself is sound.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

Facts = dict[str, Any]

CHECK = "check: "
"""What the name of a fact begins with that has to be true."""

NOT_MEASURED = {"cryptography", "fastexcel", "jinja2", "markupsafe", "optuna", "plotly", "ray", "sentencepiece", "sqlalchemy", "xlsxwriter"}
"""Packages of commands and files that no step has to do with."""


@dataclass(frozen=True)
class Setting:
    """Where a step reads and writes, on which device, and how large it may be."""

    data: Path
    peers: Path
    out: Path
    rehearse: bool

    @property
    def device(self) -> str:
        return "cpu" if self.rehearse else "cuda"

    @property
    def adapter(self) -> Path:
        return self.out / "adapter"

    def rows(self, count: int) -> int:
        """So many rows on a GPU, and few here."""
        return min(count, 2_000) if self.rehearse else count

    def catcli(self, *line: object, **variables: str) -> subprocess.CompletedProcess[str]:
        """A run of the command."""
        command = [sys.executable, "-m", "catcli", *map(str, line)]
        return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **variables})

    def predict(self, catalog: Path, out: Path, *options: object, **variables: str) -> Facts:
        """What ``catcli predict --json`` prints, with the seconds of the whole command."""
        start = time.perf_counter()
        line = ("predict", catalog, "-o", out, "--adapter", self.adapter, "--allow-missing", "--json")
        ran = self.catcli(*line, *(() if "--device" in options else ("--device", self.device)), *options, **variables)
        seconds = time.perf_counter() - start
        if ran.returncode:
            raise SystemExit(f"predict {options} ended with {ran.returncode}: {ran.stderr}")
        return {**json.loads(ran.stdout), "wall": seconds, "said": ran.stderr}

    def titles(self) -> list[str]:
        """The different titles of all train files."""
        import polars as pl

        files = sorted(self.data.glob("*/train.parquet"))
        frames = [pl.read_parquet(file) for file in files]
        titles = pl.concat([frame.select(pl.col("title").cast(pl.String)) for frame in frames if "title" in frame.columns])
        return titles["title"].drop_nulls().unique(maintain_order=True).sample(fraction=1, shuffle=True, seed=0).to_list()

    def catalog(self, count: int, ending: str) -> Path:
        """A file of so many different products of flipkart: real ones, and from the second round on with a number behind each title."""
        import polars as pl

        file = self.out / f"titles-{count}.{ending}"
        if not file.exists():
            real = pl.read_parquet(self.data / "flipkart" / "train.parquet").drop("category").unique("title", maintain_order=True)
            rounds = -(-count // len(real))
            many = [real, *(real.with_columns(pl.col("title") + f" {number}") for number in range(1, rounds))]
            frame = pl.concat(many).head(count).with_row_index("sku")
            frame.write_parquet(file) if ending == "parquet" else frame.write_csv(file)
        return file


@contextmanager
def utilization(setting: Setting) -> Iterator[list[float]]:
    """The shares of time in which the GPU computed, five a second; empty where there is none."""
    found: list[float] = []
    if setting.rehearse:
        yield found
        return
    line = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as watching:
        try:
            yield found
        finally:
            watching.terminate()
        found += [float(word) / 100 for word in watching.communicate()[0].split() if word.isdigit()]


# --- steps: each returns facts by the words of the table -------------------------------------------------------------------------------


def missing_packages(code: Path) -> list[str]:
    """The packages that catcli imports somewhere, that a step may need, and that are not here."""
    imported = set[str]()
    for file in (code / "catcli").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(str(node.module).partition(".")[0])
    wanted = imported - set(sys.stdlib_module_names) - NOT_MEASURED - {"catcli"}
    return sorted(name for name in wanted if importlib.util.find_spec(name) is None)


def environment(_: Setting) -> Facts:
    """The machine and its packages."""
    import torch

    found: Facts = {"python": sys.version.split()[0], "cores": os.cpu_count()}
    for name in (
        *("catcli", "torch", "transformers", "peft", "optimum", "optimum-onnx", "onnx", "onnxruntime-gpu", "polars", "tokenizers", "numpy"),
        *("scikit-learn", "scipy", "pyarrow", "accelerate", "huggingface-hub"),
    ):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    found["GPU"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return found


def doctor(setting: Setting) -> Facts:
    """What a session gets without torch, and that standard output holds nothing but the JSON."""
    ran = setting.catcli("doctor", "--json")
    facts = json.loads(ran.stdout)
    found = {name: facts[name] for name in facts if "gpu" in name} | {"said": ran.stderr.strip()}
    found[f"{CHECK}one line on standard output"] = ran.stdout.count("\n") == 1
    if not setting.rehearse:
        found[f"{CHECK}a session without torch gets CUDA"] = facts["gpu_of_onnxruntime"].startswith("a session gets")
    return found


def fit(setting: Setting) -> Facts:
    """flipkart's 2,000 rows: seconds by phase, and accuracy on the test file."""
    import polars as pl

    from catcli.adapter.folder import load_adapter
    from catcli.data.dataset.text import row_texts
    from catcli.evaluation.blend import blend_logits
    from catcli.inference.labeler import Labeler

    folder = setting.data / "flipkart"
    train, test = pl.read_parquet(folder / "train.parquet"), pl.read_parquet(folder / "test.parquet")
    chosen = drawn(train["category"].to_list(), setting.rows(2_000), setting.peers)
    products = setting.out / "products.parquet"
    train[chosen].write_parquet(products)
    start = time.perf_counter()
    line = ("fit", products, "-o", setting.adapter, "--force", "--device", setting.device, "--json", "-v")
    ran = setting.catcli(*line, *(("--epochs", 1, "--no-refit") if setting.rehearse else ()))
    wall = time.perf_counter() - start
    (setting.out / "fit.log").write_text(ran.stderr)
    if ran.returncode:
        raise SystemExit(f"fit ended with {ran.returncode}: {ran.stderr}")
    told = json.loads(ran.stdout)["metrics"]
    took = told["training"]
    found: Facts = {name: round(took[f"{name}_seconds"], 1) for name in ("lora", "linear")}
    found |= {"in all, s": round(took["seconds"], 1), "command, s": round(wall, 1), "fp16": (told.get("fp16") or {}).get("reason")}
    found["GPU, MiB"] = round((took["device_memory"] or 0) / 2**20)
    made = load_adapter(setting.adapter)
    if not setting.rehearse:
        found[f"{CHECK}fp16 is kept"] = "fp16" in made.manifest.variants
    truth, few, accuracy = test["category"].to_numpy(), setting.rows(len(test)), dict[tuple[str, str], float]()
    for device, variant in ((setting.device, "fp32"), (setting.device, "auto"), ("cpu", "fp32")):
        labeler = Labeler(made, device, variant)
        voices = labeler.logits(row_texts(test.head(few), made.manifest.text, made.manifest.prices))
        for name, logits in (("blend", blend_logits(voices.lora, voices.linear, made.manifest.blend)), ("lora", voices.lora)):
            right = [labeler.categories[number] == wanted for number, wanted in zip(logits.argmax(1), truth, strict=False)]
            accuracy[name, device] = statistics.mean(right)
            found[f"accuracy, {name}, {labeler.variant} on {labeler.provider[:4]}"] = round(accuracy[name, device], 4)
    for name in ("blend", "lora"):
        found[f"{CHECK}accuracy of {name} within .01 of the CPU's"] = abs(accuracy[name, setting.device] - accuracy[name, "cpu"]) <= 0.01
    return found


def drawn(names: list[str], count: int, peers: Path) -> list[int]:
    """Every category while rows last, the rest in proportion: the draw of shared/peers/accuracy.py where it is at hand."""
    if (peers / "accuracy.py").exists():
        sys.path.insert(0, str(HERE))
        import numpy as np
        from accuracy import load_peers

        found: list[int] = load_peers(peers).draw(np.array(names, dtype=object), count, 0).tolist()
        return found
    return list(range(count))


def parity(setting: Setting) -> Facts:
    """Logits of texts of 1 to 128 tokens by every session, and of many threads beside one."""
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    from catcli.adapter.folder import load_adapter
    from catcli.inference.session import Session
    from catcli.inference.tokens import Tokenizer

    made = load_adapter(setting.adapter)
    tokenizer = Tokenizer((setting.adapter / "tokenizer.json").read_text(), 128, made.manifest.pad_id)
    long = tokenizer.encode([" ".join(setting.titles()[:60])])[0]
    ids = [long[:count] for count in range(1, len(long) + 1)] + tokenizer.encode(setting.titles()[: setting.rows(20_000) // 10])
    sessions = {"fp32 on the CPU": Session(setting.adapter / "model.onnx", "cpu")}
    sessions["fp32"] = Session(setting.adapter / "model.onnx", setting.device)
    if (setting.adapter / "model.fp16.onnx").exists():
        sessions["fp16"] = Session(setting.adapter / "model.fp16.onnx", setting.device)
    batches = list(tokenizer.batches(ids, 4096))
    logits = {name: np.concatenate([session.logits(batch) for batch in batches]) for name, session in sessions.items()}
    reference = logits["fp32 on the CPU"]
    found: Facts = {"texts": len(ids)}
    for name, values in list(logits.items())[1:]:
        provider = sessions[name].provider[:4]
        found[f"{name} on {provider}: largest difference"] = float(np.abs(values - reference).max())
        same = float((values.argmax(1) == reference.argmax(1)).mean())
        found[f"{name} on {provider}: same category"] = round(same, 5)
        with ThreadPoolExecutor(8) as pool:
            again = np.concatenate(list(pool.map(sessions[name].logits, batches * 4)))
        found[f"{CHECK}{name} on {provider}: the same category in 99 %"] = same >= 0.99
        found[f"{CHECK}{name} on {provider}: every logit is a number"] = bool(np.isfinite(values).all())
        found[f"{CHECK}{name} on {provider}: eight threads give what one gives"] = np.array_equal(again, np.concatenate([values] * 4))
    return found


def session(setting: Setting) -> Facts:
    """Titles a second of the session alone, by tokens of a batch and by threads; and what is padding."""
    from catcli.adapter.folder import load_adapter
    from catcli.inference.labeler import Labeler

    made = load_adapter(setting.adapter)
    titles = setting.titles()[: setting.rows(40_000)]
    found: Facts = {}
    for variant in [name for name in ("fp16", "fp32") if name in made.manifest.variants]:
        for budget in (4_096, 16_384, 32_768, 65_536) if not setting.rehearse else (1_024, 4_096):
            for workers in (1, 3, 6) if variant == "fp16" and budget < 65_536 else (3,):
                labeler = Labeler(made, setting.device, variant, budget, workers)
                tokens = labeler.tokenize(titles)
                labeler.lora(tokens[:4096])  # warm-up
                rates = []
                for _ in range(2):
                    start = time.perf_counter()
                    labeler.lora(tokens)
                    rates.append(len(titles) / (time.perf_counter() - start))
                found[f"{variant}, {budget:,} tokens, {workers} threads: titles/s"] = round(max(rates))
    return found


def stages(setting: Setting) -> Facts:
    """Titles a second of what the host does for the GPU, on one thread: tokens, linear model, both and the blend."""
    from catcli.adapter.folder import load_adapter
    from catcli.inference.labeler import Labeler

    labeler = Labeler(load_adapter(setting.adapter), setting.device)
    titles = setting.titles()[: setting.rows(16_384)]
    found: Facts = {}
    for name, run in (("tokens", labeler.tokenize), ("linear model", labeler.linear), ("all of a call", labeler.label)):
        run(titles[:1024])  # warm-up
        start = time.perf_counter()
        for first in range(0, len(titles), 8192):
            run(titles[first : first + 8192])
        found[f"{name}: titles/s"] = round(len(titles) / (time.perf_counter() - start))
    return found


def predict(setting: Setting) -> Facts:
    """File to file, different titles, by default and by both models for all; how much of the time the GPU computes; what is decided."""
    catalog = setting.catalog(setting.rows(1_000_000), "parquet")
    found = measured(setting, catalog) | measured(setting, catalog, "--exact")
    return found | measured(setting, setting.catalog(setting.rows(1_000_000), "csv"))


def workers(setting: Setting) -> Facts:
    """The same by one process of so many threads, and by so many processes."""
    found: Facts = {}
    few = setting.catalog(setting.rows(200_000), "parquet")
    for engine, counts in (("threads", (1, 3, 6, 12)), ("processes", (1, 2, 8))):
        for count in counts if not setting.rehearse else counts[:1]:
            found |= measured(setting, few, "--engine", engine, "--workers", count)
    return found


def processes(setting: Setting) -> Facts:
    """Several runs of the command side by side, each over a file of its own: what one process cannot do. Start-up counts."""
    import polars as pl

    found: Facts = {}
    whole = pl.read_parquet(setting.catalog(setting.rows(1_600_000), "parquet"))
    for count in (1, 2, 4, 8) if not setting.rehearse else (2,):
        for exact in (False, True):
            size = len(whole) // 8
            running, start = [], time.perf_counter()
            for number in range(count):
                catalog = setting.out / f"shard-{number}.parquet"
                if not catalog.exists():
                    whole.slice(number * size, size).write_parquet(catalog)
                line = ["predict", catalog, "-o", setting.out / f"shard-{number}-labeled.parquet", "--adapter", setting.adapter]
                line += ["--device", setting.device, "--json", "--engine", "threads", "--workers", 2, *(["--exact"] if exact else [])]
                command = [sys.executable, "-m", "catcli", *map(str, line)]
                running.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
            told = []
            for process in running:
                said, errors = process.communicate()
                if process.returncode:
                    raise SystemExit(f"{count} processes: {errors[-2000:]}")
                told.append(json.loads(said))
            seconds, name = time.perf_counter() - start, f"{count} processes{', --exact' if exact else ''}"
            found[f"{name}: rows/s, the sum of what each says"] = round(sum(one["rows_per_second"] for one in told))
            found[f"{name}: rows/s with start-up"] = round(count * size / seconds)
    return found


def measured(setting: Setting, catalog: Path, *options: object) -> Facts:
    """Rows a second of a run of the command, the seconds of all of it, and how much of them the GPU computes."""
    with utilization(setting) as busy:
        told = setting.predict(catalog, setting.out / f"labeled{catalog.suffix}", *options)
    name = f"{told['rows']:,} titles, {catalog.suffix[1:]} {' '.join(map(str, options))}".strip()
    return {
        f"{name}: rows/s, {told['variant']} on {told['provider'][:4]}": round(told["rows_per_second"]),
        f"{name}: the whole command, s": round(told["wall"], 1),
        f"{name}: GPU busy": round(statistics.mean(busy or [0.0]), 2),
        f"{name}: decided by the linear model alone": round(told["decided"] / told["rows"], 3),
    }


def peers(setting: Setting) -> Facts:
    """transformers' pipeline in half precision, as its documentation shows it, in batches of several sizes."""
    from catcli.adapter.folder import load_adapter
    from catcli.cli.run.bench import pipeline_of
    from catcli.inference.labeler import Labeler

    made = load_adapter(setting.adapter)
    labeler, titles = Labeler(made, setting.device), setting.titles()[: min(setting.rows(16_384), 16_384 if not setting.rehearse else 128)]
    found: Facts = {}
    for size in (64, 512):
        run = pipeline_of(made, labeler, titles, size)
        run()  # warm-up
        start = time.perf_counter()
        run()
        found[f"transformers pipeline, batches of {size}: titles/s"] = round(len(titles) / (time.perf_counter() - start))
    return found


def training(setting: Setting) -> Facts:
    """Rows a second of the training loop, beside the usual way to fine-tune the same base."""
    found: Facts = {}
    train, rows = setting.data / "pricerunner" / "train.parquet", 64 if setting.rehearse else 4_096
    settings = (("bf16", (32, 256, 1024)), ("fp32", (256,))) if not setting.rehearse else (("fp32", (32,)),)
    for dtype, sizes in settings:
        line = [sys.executable, HERE / "fit_speed.py", train, "--text", "title", "--device", setting.device, "--dtype", dtype]
        line += ["--batch-size", *sizes, "--rows", rows, "--repeats", 1]
        line += ["--peers", setting.peers if dtype == settings[0][0] else "none"]
        ran = subprocess.run(list(map(str, line)), capture_output=True, text=True, check=False)
        if ran.returncode:
            raise SystemExit(f"{line} ended with {ran.returncode}: {ran.stderr[-3000:]}")
        for said in ran.stdout.splitlines():
            # catcli's lines are a name, two spaces and figures; the peers' are JSON, between lines of transformers
            if said.startswith("catcli"):
                name, _, figures = said.partition("  ")
                found[name] = figures.strip()
            elif said.startswith('{"peer"'):
                peer = json.loads(said)
                found[f"transformers' Trainer, {peer['peer']}"] = f"{peer['rows_per_s']} rows/s"
    return found


def step_counts(setting: Setting) -> Facts:
    """Kernels, copies and waits of one training step, by torch's profiler."""
    import numpy as np
    import polars as pl
    import torch
    from torch.profiler import ProfilerActivity, profile

    from catcli.config import Recipe
    from catcli.data.dataset.categories import Categories
    from catcli.data.dataset.examples import Examples
    from catcli.models.bases import MINILM
    from catcli.models.classifier import Classifier
    from catcli.models.methods import prepare_model
    from catcli.training.base_features import compute_base_features
    from catcli.training.loop import Trainer
    from catcli.training.schedule import choose_tokenizer
    from catcli.training.task import TrainingTask

    frame = pl.read_parquet(setting.data / "pricerunner" / "train.parquet").drop_nulls("category").head(512)
    texts, labels = frame["title"].to_list(), frame["category"].to_list()
    categories, device = Categories.of(labels), torch.device(setting.device)
    reading = compute_base_features(MINILM, choose_tokenizer(MINILM, texts), texts, device, bf16=True, advance=lambda *_: None)
    recipe = Recipe(device="cpu" if setting.rehearse else "cuda", dtype="bf16")
    classifier = Classifier(MINILM.load("sdpa"), len(categories), MINILM.pool)
    prepare_model(classifier, MINILM, recipe)
    examples = Examples.of(texts, categories.numbers(labels))
    task = TrainingTask(reading, examples, np.arange(len(texts)), np.empty(0, np.int64), len(categories))
    trainer = Trainer(classifier, MINILM, recipe, task, device)
    batches, steps = trainer._batches(0), 8
    optimizer = trainer._optimizer()

    def some(chosen: list[list[int]]) -> None:
        for rows in chosen:
            trainer.forward.add_gradient(rows)
            torch.nn.utils.clip_grad_norm_(trainer.trained.values(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    with trainer.forward.ready():
        classifier.train()
        some(batches[:3])
        kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
        with profile(activities=kinds) as profiled:
            some(batches[3 : 3 + steps])
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        some(batches[3 : 3 + steps])
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    events = {event.key: event.count / steps for event in profiled.key_averages()}
    wanted = {
        "kernels launched": ("cudaLaunchKernel", "cuLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernelEx"),
        "copies": ("cudaMemcpyAsync",),
        "waits": ("cudaStreamSynchronize", "cudaDeviceSynchronize"),
        "numbers read back": ("aten::_local_scalar_dense",),
        "casts": ("aten::_to_copy",),
    }
    found: Facts = {f"{name} in a step": sum(events.get(key, 0) for key in keys) for name, keys in wanted.items()}
    return found | {"ms of a step of 32 rows": round(1000 * seconds / steps, 2)}


def calls(setting: Setting) -> Facts:
    """Tokens of a call as the planner cuts them for a GPU, and the share of padding in its batches: counted, on any machine."""
    import numpy as np
    import polars as pl

    from catcli.data.io.batch import Batch
    from catcli.data.io.source import SHARD_ROWS
    from catcli.inference.planning import LabelingPlan, plan_texts
    from catcli.inference.tokens import Tokenizer
    from catcli.models.bases import MINILM

    titles = setting.titles()[:SHARD_ROWS]
    tokenizer = Tokenizer(MINILM.tokenizer, 64, MINILM.pad_id)
    work = plan_texts(Batch(pl.DataFrame({"title": titles}), 1.0), LabelingPlan(("title",)), 8_192, ())
    found: Facts = {"calls": len(work.calls)}
    encoded = [tokenizer.encode(call) for call in work.calls]
    found["tokens of a call, mean"] = round(statistics.mean(sum(map(len, ids)) for ids in encoded))
    for budget in (16_384, 32_768, 65_536):
        batches = [batch for ids in encoded for batch in tokenizer.batches(ids, budget)]
        sizes = np.array([batch.ids.size for batch in batches])
        real = sum(int(batch.mask.sum()) for batch in batches)
        found[f"batches of {budget:,} tokens: tokens computed, mean"] = round(float(sizes.mean()))
        found[f"batches of {budget:,} tokens: padding"] = round(1 - real / float(sizes.sum()), 3)
    return found


def kill(setting: Setting) -> Facts:
    """A run that is killed and goes on writes the bytes of one that was not."""
    from catcli.paths import hidden_path

    catalog = setting.catalog(setting.rows(1_000_000), "parquet")
    whole, out = setting.out / "whole.csv", setting.out / "killed.csv"
    out.unlink(missing_ok=True)
    setting.predict(catalog, whole)
    line = ["predict", catalog, "-o", out, "--adapter", setting.adapter, "--device", setting.device, "--allow-missing"]
    journal = hidden_path(out, "catcli-parts") / "journal.jsonl"
    with subprocess.Popen([sys.executable, "-m", "catcli", *map(str, line)], stderr=subprocess.DEVNULL) as running:
        # Until a part is kept; a run that is done before cannot be killed.
        while running.poll() is None and not (journal.exists() and journal.read_text().count("\n") > 1):
            time.sleep(0.05)
        in_time = running.poll() is None
        running.send_signal(signal.SIGKILL)
    found: Facts = {"killed in time": "yes" if in_time else "no: it had ended"}
    if in_time:
        found[f"{CHECK}no output after the kill"] = not out.exists()
    found["rows kept"] = setting.predict(catalog, out, "--resume")["resumed"]
    return found | {f"{CHECK}the same bytes after it went on": whole.read_bytes() == out.read_bytes()}


def limits(setting: Setting) -> Facts:
    """Batches that the GPU's memory is too short for, and a GPU that is hidden."""
    catalog, out = setting.catalog(setting.rows(200_000), "parquet"), setting.out / "few.parquet"
    found: Facts = {}
    hidden = setting.predict(setting.catalog(setting.rows(20_000), "parquet"), out, "--device", "auto", CUDA_VISIBLE_DEVICES="")
    found[f"{CHECK}without a visible GPU the CPU labels"] = hidden["provider"] == "CPUExecutionProvider"
    if setting.rehearse:
        return found
    import torch

    held = torch.empty(torch.cuda.mem_get_info()[0] - 1_500 * 2**20, dtype=torch.uint8, device="cuda")
    told = setting.predict(catalog, out, "--exact", "--batch-tokens", 1_000_000, "--engine", "threads", "--workers", 6)
    found["1.5 GB of memory, 1,000,000 tokens a batch: halved"] = told["halved"]
    found[f"{CHECK}all rows are labeled all the same"] = told["rows"] == setting.rows(200_000)
    held.zero_()
    return found


STEPS: dict[str, tuple[Callable[[Setting], Facts], int]] = {
    "environment": (environment, 30),
    "doctor": (doctor, 30),
    "fit": (fit, 150),
    "parity": (parity, 40),
    "predict": (predict, 90),
    "limits": (limits, 60),
    "kill": (kill, 60),
    "session": (session, 60),
    "training": (training, 90),
    "step_counts": (step_counts, 40),
    "workers": (workers, 90),
    "peers": (peers, 40),
    "processes": (processes, 120),
    "stages": (stages, 40),
    "calls": (calls, 30),
}
"""The steps, and the seconds that each may take."""


def one_step(name: str, setting: Setting) -> None:
    """Run a step in this process; its facts are the last line of standard output."""
    start = time.perf_counter()
    facts = STEPS[name][0](setting)
    print(json.dumps(facts | {"seconds": round(time.perf_counter() - start, 1)}), flush=True)


def all_steps(names: list[str], line: list[str], file: Path, setting: Setting, code: Path, seconds: float) -> dict[str, Facts]:
    """Run steps as processes, so many ``seconds`` in all; what each came to, which is written after each."""
    found: dict[str, Facts] = {}
    settings = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(code.resolve()), os.environ.get("PYTHONPATH"))))}
    end = time.perf_counter() + seconds
    for name in names:
        command = [sys.executable, str(HERE / "gpu.py"), *line, "--step", name]
        limit = min(STEPS[name][1] * (10 if setting.rehearse else 1), end - time.perf_counter())
        if limit <= 0:
            found[name] = {"failed": "it was not run: no time was left"}
        else:
            running = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=settings, start_new_session=True
            )
            try:
                said, errors = running.communicate(timeout=limit)
                found[name] = json.loads(said.splitlines()[-1]) if running.returncode == 0 else {"failed": errors[-4000:]}
            except subprocess.TimeoutExpired:
                os.killpg(running.pid, signal.SIGKILL)  # and what it started, which would keep the GPU
                found[name] = {"failed": f"it took more than {limit:.0f} s: {running.communicate()[1][-2000:]}"}
        file.write_text(json.dumps(found, indent=1))
        print(f"{name}: {found[name].get('failed', found[name].get('seconds'))}", flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--peers", type=Path, default=Path("../shared/peers"))
    parser.add_argument("--out", type=Path, default=Path("gpu-bench"))
    parser.add_argument("--steps", default=",".join(STEPS))
    parser.add_argument("--code", type=Path, default=HERE.parents[1])
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--seconds", type=float, help="what all steps may take (default: 570, where they are rehearsed 3,600)")
    parser.add_argument("--json", default="gpu.json", help="the file in --out that gets the figures")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    setting = Setting(asked.data, asked.peers, asked.out, asked.rehearse)
    if asked.step:
        one_step(asked.step, setting)
        return 0
    if missing := missing_packages(asked.code):
        print(f"these packages are missing: {', '.join(missing)}")
        return 2
    line = [str(asked.data), "--peers", str(asked.peers), "--out", str(asked.out), *(["--rehearse"] if asked.rehearse else [])]
    seconds = asked.seconds or (3_600 if asked.rehearse else 570)
    found = all_steps(asked.steps.split(","), line, asked.out / asked.json, setting, asked.code, seconds)
    print()
    for name, facts in found.items():
        print(f"== {name}")
        for what, value in facts.items():
            print(f"   {what:70} {value}")
    wrong = [f"{name}, {what}" for name, facts in found.items() for what, value in facts.items() if what == "failed" or value is False]
    print(f"wrong: {'; '.join(wrong) or 'nothing'}")
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
