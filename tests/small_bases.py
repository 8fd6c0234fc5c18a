"""Small random base models of the real classes, saved as the published ones are, each with a tokenizer of the kind that it has."""

from __future__ import annotations

import io
from pathlib import Path

import sentencepiece
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AlbertConfig,
    AutoModel,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    GPT2Config,
    MistralConfig,
    ModernBertConfig,
    MPNetConfig,
    PretrainedConfig,
    Qwen3Config,
    RobertaConfig,
    T5Config,
    XLMRobertaConfig,
)
from transformers.utils import logging

WORDS = [
    f"{color} {thing} {size} {brand}"
    for color in ("blue", "red", "dark green", "steel")
    for thing in ("coffee mug", "cordless drill", "hair shampoo", "espresso beans")
    for size in ("500 ml", "18V 2.0Ah", "250 g", "XL")
    for brand in ("Acme", "Müller", "Nordhaus", "O'Neil & Sons")
]
"""What the tokenizers' vocabularies are made of."""

VOCABULARY = 300

_SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": VOCABULARY}
_DISTILBERT = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "vocab_size": VOCABULARY}
_GROUPED = {**_SHAPE, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": None, "bos_token_id": None, "eos_token_id": 0}
_ROBERTA = {**_SHAPE, "pad_token_id": 1, "max_position_embeddings": 66, "type_vocab_size": 1}

CONFIGS: dict[str, PretrainedConfig] = {
    "bert": BertConfig(**_SHAPE),
    "distilroberta": RobertaConfig(**{**_ROBERTA, "num_hidden_layers": 1}),
    "roberta": RobertaConfig(**_ROBERTA),
    "gpt2": GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0),
    "albert": AlbertConfig(**_SHAPE, embedding_size=16),
    "t5": T5Config(vocab_size=VOCABULARY, d_model=32, d_kv=8, num_layers=2, num_heads=4, d_ff=64),
    "distilbert": DistilBertConfig(**_DISTILBERT),
    "modernbert": ModernBertConfig(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=64,
        vocab_size=VOCABULARY,
        local_attention=8,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        cls_token_id=0,
        sep_token_id=2,
    ),
    "deberta": DebertaV2Config(
        **_SHAPE,
        relative_attention=True,
        position_buckets=16,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        type_vocab_size=0,
    ),
    "xlm-roberta": XLMRobertaConfig(**_ROBERTA),
    "mpnet": MPNetConfig(**{**_SHAPE, "max_position_embeddings": 66}),
    "qwen3": Qwen3Config(**_GROUPED),
    "mistral": MistralConfig(**_GROUPED),
}
"""By the short name of the published model whose class it is; Mistral stands for a causal model without one."""


def save_base(name: str, folder: Path) -> Path:
    """Put a random model ``name`` and its tokenizer into ``folder``."""
    torch.manual_seed(0)
    quiet = logging.get_verbosity()
    logging.set_verbosity_error()
    model = AutoModel.from_config(CONFIGS[name])
    with torch.no_grad():
        for parameter in model.parameters():  # as published models have them: their states differ from text to text
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    logging.set_verbosity(quiet)
    if name == "deberta":
        _save_sentencepiece(folder)
    else:
        _tokenizer(name).save(str(folder / "tokenizer.json"))
    return folder


def _tokenizer(name: str) -> Tokenizer:
    """Word pieces for BERT and its kin, unigrams for T5, ALBERT and XLM-R, byte pairs for the others."""
    if name in ("bert", "distilbert", "mpnet"):
        special = ["<s>", "<pad>", "</s>", "[UNK]"] if name == "mpnet" else ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
        made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False)
        ends = ("<s>", "</s>") if name == "mpnet" else ("[CLS]", "[SEP]")
    elif name in ("t5", "albert", "xlm-roberta"):
        own = {"t5": ["<pad>", "</s>", "<unk>"], "albert": ["<pad>", "<unk>", "[CLS]", "[SEP]"]}
        special = own.get(name, ["<s>", "<pad>", "</s>", "<unk>"])
        made = Tokenizer(models.Unigram())
        made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=VOCABULARY, special_tokens=special, unk_token="<unk>", show_progress=False)
        ends = {"t5": ("", "</s>"), "albert": ("[CLS]", "[SEP]")}.get(name, ("<s>", "</s>"))
    else:
        special = ["<|endoftext|>"] if name in ("gpt2", "qwen3", "mistral") else ["<s>", "<pad>", "</s>", "<unk>"]
        made = Tokenizer(models.BPE())
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
        ends = ("", "") if len(special) == 1 else ("<s>", "</s>")
    made.train_from_iterator(WORDS, trainer)
    around = [end for end in ends if end]
    if around:
        single = " ".join([*([ends[0]] if ends[0] else []), "$A", ends[1]])
        made.post_processor = processors.TemplateProcessing(single=single, special_tokens=[(end, made.token_to_id(end)) for end in around])
    return made


def _save_sentencepiece(folder: Path) -> None:
    """A vocabulary as DeBERTa v3 is published with: a SentencePiece model, and no ``tokenizer.json``."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(WORDS),
        model_writer=model,
        vocab_size=60,
        model_type="unigram",
        minloglevel=2,
        pad_id=0,
        pad_piece="[PAD]",
        bos_id=1,
        bos_piece="[CLS]",
        eos_id=2,
        eos_piece="[SEP]",
        unk_id=3,
        unk_piece="[UNK]",
    )
    (folder / "spm.model").write_bytes(model.getvalue())
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "DebertaV2Tokenizer", "vocab_type": "spm", "do_lower_case": false}')
