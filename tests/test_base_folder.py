"""Bases that came by mail: nothing but their own safetensors, JSON and vocabularies is opened, and nothing private enters an adapter."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import catcli
from safetensors.torch import load_file, save_file
from small_bases import save_base
from test_tampering import PICKLE, TRICKED
from tiny import tiny_products

from catcli.adapter.tokenizer_check import check_growth
from catcli.errors import BackboneError
from catcli.models.bases import find_base

SECRET = "aws_secret_access_key"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base("bert", tmp_path_factory.mktemp("saved") / "base")


@pytest.fixture
def base(saved: Path, tmp_path: Path) -> Path:
    """A base of a stranger, and what is private beside it."""
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "credentials").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", SECRET]))
    shutil.copyfile(saved / "model.safetensors", tmp_path / "outside.safetensors")
    return Path(shutil.copytree(saved, tmp_path / "base"))


def rewritten(file: Path, **changes: object) -> int:
    told = json.loads(file.read_text()) if file.exists() else {}
    return file.write_text(json.dumps({**told, **changes}))


def index(folder: Path, *names: str) -> int:
    """Name other files for the weights."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weights = {name: names[number % len(names)] for number, name in enumerate(tensors)}
    return (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weights}))


def replaced(folder: Path, name: str, how: Callable[[Path], object]) -> None:
    (folder / name).unlink(missing_ok=True)
    how(folder / name)


ATTACKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "an index that names a pickle": (
        lambda folder: (index(folder, "weights.bin"), (folder / "weights.bin").write_bytes(PICKLE)),
        "has an index of weights that names 'weights.bin', and not safetensors of the folder itself",
    ),
    "an index that leads out of the folder": (
        lambda folder: index(folder, "../outside.safetensors"),
        "names '../outside.safetensors', and not safetensors of the folder itself",
    ),
    "an index of nothing": (
        lambda folder: (index(folder, "x"), rewritten(folder / "model.safetensors.index.json", weight_map={})),
        "has an index of weights that names none",
    ),
    "a PEFT adapter with a pickle": (
        lambda folder: (
            (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "evil/hub"}'),
            (folder / "adapter_model.bin").write_bytes(PICKLE),
        ),
        "holds adapter_config.json: it is a PEFT adapter, not a base model",
    ),
    "weights through a link": (
        lambda folder: replaced(folder, "model.safetensors", lambda place: place.symlink_to("../outside.safetensors")),
        "holds the link model.safetensors, which leads to ../outside.safetensors; copy the model with 'cp -rL'",
    ),
    "a vocabulary through a link": (
        lambda folder: replaced(folder, "vocab.txt", lambda place: place.symlink_to("../private/credentials")),
        "holds the link vocab.txt, which leads to ../private/credentials",
    ),
    "a configuration that is a FIFO": (
        lambda folder: replaced(folder, "config.json", os.mkfifo),
        "holds config.json, which is no regular file",
    ),
    "a tokenizer that never ends": (
        lambda folder: replaced(folder, "tokenizer.json", lambda place: place.symlink_to("/dev/zero")),
        "holds the link tokenizer.json, which leads to /dev/zero",
    ),
    "a configuration of gigabytes": (
        lambda folder: os.truncate(folder / "config.json", 2**33),
        "holds config.json with more than 4,194,304 bytes",
    ),
    "quantization": (
        lambda folder: rewritten(folder / "config.json", quantization_config={"quant_method": "bitsandbytes"}),
        "has 'quantization_config' in its config.json",
    ),
    "weights elsewhere": (
        lambda folder: rewritten(folder / "config.json", transformers_weights="/proc/self/cwd/outside.safetensors"),
        "has 'transformers_weights' in its config.json",
    ),
    "a kernel of the hub (CVE-2026-4372)": (
        lambda folder: rewritten(folder / "config.json", _attn_implementation_internal="evil/kernel"),
        "has '_attn_implementation_internal' in its config.json",
    ),
    "weights that are none": (lambda folder: (folder / "model.safetensors").write_bytes(PICKLE), "which cannot be loaded"),
    "a model of other sizes": (lambda folder: rewritten(folder / "config.json", hidden_size=36), "cannot be loaded"),
    "more layers than weights": (lambda folder: rewritten(folder / "config.json", num_hidden_layers=900), "/base lack "),
    "more words than memory": (
        lambda folder: rewritten(folder / "config.json", vocab_size=2**24),
        "its config.json asks for 536,905,568 parameters and its weights hold 44,256",
    ),
    "heads that do not divide": (
        lambda folder: rewritten(folder / "config.json", num_attention_heads=5),
        "no model can be made of its config",
    ),
    "an activation of its own": (lambda folder: rewritten(folder / "config.json", hidden_act="evil"), "no model can be made of"),
    "a tokenizer that grows": (
        lambda folder: rewritten(
            folder / "tokenizer.json",
            normalizer={
                "type": "Sequence",
                "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10} for _ in range(8)],
            },
        ),
        "its replacements make up to 100,000,000 characters of one",
    ),
}

SIZES: dict[str, object] = {
    "hidden_size": "32",
    "num_hidden_layers": 0,
    "num_attention_heads": -4,
    "intermediate_size": 1.5,
    "vocab_size": True,
    "max_position_embeddings": 2**40,
}


@pytest.mark.parametrize("key", SIZES)
def test_sizes_that_no_model_has_are_named(base: Path, key: str) -> None:
    rewritten(base / "config.json", **{key: SIZES[key]})
    with pytest.raises(BackboneError) as raised:
        find_base(str(base))
    assert f"has {key} {SIZES[key]!r} in its config.json; it has to be a whole number from 1 to " in str(raised.value)


@pytest.mark.parametrize("name", ATTACKS)
def test_a_base_that_is_not_what_it_seems_is_refused(base: Path, name: str) -> None:
    attack, sentence = ATTACKS[name]
    attack(base)
    with pytest.raises(BackboneError) as raised:
        found = find_base(str(base))
        found.load()
        assert found.tokenizer
    assert str(raised.value).startswith(f"--base {base}")
    assert sentence in str(raised.value)
    assert not TRICKED.exists()


@pytest.mark.parametrize("key", ["vocab_file", "tokenizer_file", "special_tokens_map_file", "name_or_path"])
def test_no_private_file_enters_a_tokenizer(base: Path, tmp_path: Path, key: str) -> None:
    """A tokenizer's configuration may name its vocabulary, and transformers would take it from anywhere."""
    (base / "tokenizer.json").unlink()
    rewritten(base / "tokenizer_config.json", tokenizer_class="BertTokenizer", **{key: str(tmp_path / "private" / "credentials")})
    found = find_base(str(base))
    with pytest.raises(BackboneError, match=f"no tokenizer can be made of what {base} holds"):
        _ = found.tokenizer
    assert not [path for path in found.folder.iterdir() if SECRET.encode() in path.read_bytes()]


@pytest.mark.slow
def test_no_private_file_enters_an_adapter(base: Path, tmp_path: Path) -> None:
    (base / "tokenizer.json").unlink()
    rewritten(base / "tokenizer_config.json", tokenizer_class="BertTokenizer", vocab_file=str(tmp_path / "private" / "credentials"))
    tiny_products().write_csv(tmp_path / "products.csv")
    ran = catcli("fit", "products.csv", "-o", "made", "--base", base, "--epochs", "1", "--device", "cpu", cwd=tmp_path)
    assert ran.returncode == 1
    assert f"no tokenizer can be made of what {base} holds" in ran.stderr
    assert not [
        path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes() and "private" not in path.parts
    ]


def test_the_hub_s_cache_may_link_to_its_own_blobs_and_nowhere_else(saved: Path, tmp_path: Path) -> None:
    folder, blobs = tmp_path / "models--shop--base" / "snapshots" / ("0" * 40), tmp_path / "models--shop--base" / "blobs"
    folder.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted(saved.iterdir())):
        shutil.copyfile(file, blobs / str(number))
        (folder / file.name).symlink_to(Path("../../blobs") / str(number))
    assert find_base(str(folder)).load().config.hidden_size == 32
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to(saved / "config.json")
    with pytest.raises(BackboneError, match="holds the link config.json"):
        find_base(str(folder))


HARMLESS: dict[str, object] = {
    "quantization_config": None,
    "auto_map": {"AutoModel": "evil/hub--model.Model"},
    "_attn_implementation_internal": "eager",
    "attn_implementation": "evil/kernel",
    "text_config": {"_experts_implementation_internal": "evil/kernel"},
    "label2id": {"dim": 0, "vocab_size": 1},
    "_name_or_path": "/home/somebody/bert",
}


@pytest.mark.parametrize("key", HARMLESS)
def test_what_published_configurations_have_besides_is_left_out_or_harmless(base: Path, key: str) -> None:
    rewritten(base / "config.json", **{key: HARMLESS[key]})
    found = find_base(str(base))
    assert found.load().config.hidden_size == 32
    assert "evil" not in (found.folder / "config.json").read_text() or key == "text_config"
    assert "somebody" not in (found.folder / "config.json").read_text()


def test_a_link_to_a_folder_and_the_folder_one_stands_in_are_folders(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "linked").symlink_to("base")
    assert find_base(str(tmp_path / "linked")).load()
    monkeypatch.chdir(base)
    assert find_base(".").load()
    with pytest.raises(BackboneError, match="there is no such home"):
        find_base("~nobody-of-this-name/base")


def test_what_is_hashed_is_what_is_loaded(base: Path) -> None:
    """Another file of that name, put there after the base was looked at, is neither."""
    found = find_base(str(base))
    before = found.sha256
    tensors = load_file(base / "model.safetensors")
    other = base / "other.safetensors"
    save_file({name: torch.zeros_like(tensor) for name, tensor in tensors.items()}, other, metadata={"format": "pt"})
    other.replace(base / "model.safetensors")
    assert any(bool(parameter.any()) for parameter in found.load().parameters())
    assert found.sha256 == before
    assert not any(bool(parameter.any()) for parameter in find_base(str(base)).load().parameters() if parameter.ndim > 2)


def test_the_private_copy_is_gone_with_its_base_and_leaves_no_trace_in_what_is_saved(base: Path, tmp_path: Path) -> None:
    found = find_base(str(base))
    copy = found.folder
    model = found.load()
    (tmp_path / "saved").mkdir()
    found.save_config(model, tmp_path / "saved")
    assert str(copy) not in (tmp_path / "saved" / "config.json").read_text()
    assert copy.exists()
    del found
    assert not copy.exists()


def test_a_pickle_is_what_the_attacks_take_for_one() -> None:
    """The attack works where nothing stands in its way."""
    pickle.loads(PICKLE)
    assert TRICKED.exists()
    TRICKED.unlink()


def test_published_tokenizers_do_not_grow_texts(tmp_path: Path) -> None:
    for name in ("bert", "gpt2", "t5", "albert", "xlm-roberta", "deberta"):
        check_growth(find_base(str(save_base(name, tmp_path / name))).tokenizer)
