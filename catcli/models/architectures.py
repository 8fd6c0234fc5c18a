"""The architectures that adapters can be put into, by the ``model_type`` of their ``config.json``."""

from __future__ import annotations

from dataclasses import dataclass, replace

from catcli.config import Pool


@dataclass(frozen=True)
class Architecture:
    """Where the parts of a model are.

    ``blocks`` is the path of its list of blocks, ``targets`` are the names of the linear layers in them, which all get an adapter (Dettmers
    et al. 2023, "QLoRA", figure 2: those of the attention alone fall short of full fine-tuning). ``pool`` is how its token states become
    one vector by default. ``position_offset`` counts the positions that its table of positions keeps for padding, ``pooler`` says whether
    it has a layer behind its states that is not used here, ``encoder`` names the class of its encoder alone, and ``transposed`` says that
    its linear layers keep their weights as *(in, out)*. ``lr`` is the learning rate that suits adapters in it: 5e-4 as in "LoRA: Low-Rank
    Adaptation of Large Language Models" (Hu et al. 2021, appendix D, RoBERTa base), and `BERT_LR` in those that are built like BERT.

    Batches are padded on the right everywhere: under a causal mask no text sees what follows it, so GPT-2 and its kin need no padding on
    the left once "last" means the last token of the text.
    """

    blocks: str
    targets: tuple[str, ...]
    pool: Pool = "mean"
    position_offset: int = 0
    pooler: bool = False
    encoder: str | None = None
    transposed: bool = False
    lr: float = 5e-4


BERT_LR = 2e-3
"""Of adapters in encoders that are built like BERT, measured with all-MiniLM-L6-v2 and all-mpnet-base-v2 (tests/bench/README.md).

At 5e-4 the latter's loss was still 2.3 on the training rows after the eight epochs that 500 rows get; Hu et al. made 30 to 80.
"""

_BERT = Architecture("encoder.layer", ("query", "key", "value", "dense"), pooler=True, lr=BERT_LR)
_ROBERTA = replace(_BERT, position_offset=2)
_LLAMA = Architecture("layers", ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), pool="last")

ARCHITECTURES = {
    "bert": _BERT,
    "electra": replace(_BERT, pooler=False),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "distilbert": Architecture("transformer.layer", ("q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"), lr=BERT_LR),
    # Its blocks are one and the same, run as often as it has layers; so are their adapters.
    "albert": Architecture("encoder.albert_layer_groups", ("query", "key", "value", "dense", "ffn", "ffn_output"), pooler=True),
    "mpnet": replace(_ROBERTA, targets=("q", "k", "v", "o", "dense")),
    "modernbert": Architecture("layers", ("Wqkv", "Wo", "Wi")),
    "deberta": Architecture("encoder.layer", ("in_proj", "pos_proj", "pos_q_proj", "dense")),
    "deberta-v2": Architecture("encoder.layer", ("query_proj", "key_proj", "value_proj", "dense")),
    "t5": Architecture("encoder.block", ("q", "k", "v", "o", "wi", "wi_0", "wi_1", "wo"), encoder="T5EncoderModel"),
    "gpt2": Architecture("h", ("c_attn", "c_proj", "c_fc"), pool="last", transposed=True),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
}
