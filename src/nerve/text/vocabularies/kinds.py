"""Which tokenizer class makes its tokenizer how: the one table of kinds.

Classes are those of transformers, without `Fast`. A kind is a row here and its functions in a module of this package.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nerve.text.vocabularies import albert, bert, byte_pairs, deberta_v2, decoders, ends, xlm_roberta

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tokenizers import AddedToken, Tokenizer

    from nerve.text.vocabularies.files import VocabularyFiles


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of tokenizer.

    files: of the vocabulary; all are needed.
    usual: role -> special token, where the checkpoint names none; see `special`.
    make: gives the tokenizer without added tokens, and further tokens that are added where the checkpoint names none.
        Raises `ValueError`, `KeyError`, `TypeError` or `OSError` for files that are not of the kind.
    finish: puts special tokens around a text, once the tokenizer has them all.
    """

    files: tuple[str, ...]
    usual: Mapping[str, Any]
    make: Callable[[VocabularyFiles], tuple[Tokenizer, list[AddedToken]]]
    finish: Callable[[Tokenizer, VocabularyFiles], None]


_BERT = Kind((bert.FILE,), bert.USUAL, bert.make, ends.cls_and_sep)
_PAIRS = (byte_pairs.VOCABULARY, byte_pairs.MERGES)
_ROBERTA = Kind(_PAIRS, byte_pairs.USUAL_ROBERTA, byte_pairs.make, byte_pairs.finish_roberta)
_GPT2 = Kind(_PAIRS, byte_pairs.USUAL_GPT2, byte_pairs.make, ends.as_told)
_SENTENCEPIECE = Kind((decoders.FILE,), decoders.USUAL, decoders.make, ends.as_told)

KINDS = {
    "BertTokenizer": _BERT,
    "ConvBertTokenizer": _BERT,
    "DistilBertTokenizer": _BERT,
    "ElectraTokenizer": _BERT,
    "LayoutLMTokenizer": _BERT,
    "LxmertTokenizer": _BERT,
    "MobileBertTokenizer": _BERT,
    "RetriBertTokenizer": _BERT,
    "SqueezeBertTokenizer": _BERT,
    "MPNetTokenizer": Kind((bert.FILE,), bert.USUAL_MPNET, bert.make, bert.finish_mpnet),
    "FunnelTokenizer": Kind((bert.FILE,), bert.USUAL_FUNNEL, bert.make, ends.cls_and_sep),
    "RobertaTokenizer": _ROBERTA,
    "BartTokenizer": _ROBERTA,
    "LEDTokenizer": _ROBERTA,
    "LongformerTokenizer": _ROBERTA,
    "MvpTokenizer": _ROBERTA,
    "DebertaTokenizer": Kind(_PAIRS, byte_pairs.USUAL_DEBERTA, byte_pairs.make, ends.cls_and_sep),
    "GPT2Tokenizer": _GPT2,
    "CodeGenTokenizer": _GPT2,
    "GPTNeoXTokenizer": Kind(_PAIRS, byte_pairs.USUAL_GPT_NEOX, byte_pairs.make_gpt_neox, ends.as_told),
    "Qwen2Tokenizer": Kind(_PAIRS, byte_pairs.USUAL_QWEN2, byte_pairs.make_qwen2, ends.as_told),
    "HerbertTokenizer": Kind(_PAIRS, byte_pairs.USUAL_HERBERT, byte_pairs.make_herbert, ends.cls_and_sep),
    "XLMRobertaTokenizer": Kind((xlm_roberta.FILE,), xlm_roberta.USUAL, xlm_roberta.make, ends.bos_and_eos),
    "CamembertTokenizer": Kind(
        (xlm_roberta.FILE,), xlm_roberta.USUAL_CAMEMBERT, xlm_roberta.make_camembert, ends.bos_and_eos
    ),
    "DebertaV2Tokenizer": Kind((deberta_v2.FILE,), deberta_v2.USUAL, deberta_v2.make, ends.cls_and_sep),
    "AlbertTokenizer": Kind((albert.FILE,), albert.USUAL, albert.make, ends.cls_and_sep),
    "RemBertTokenizer": Kind((albert.FILE_REMBERT,), albert.USUAL, albert.make_rembert, ends.cls_and_sep),
    "BigBirdTokenizer": Kind((albert.FILE,), albert.USUAL_BIG_BIRD, albert.make_big_bird, ends.cls_and_sep),
    "XLNetTokenizer": Kind((albert.FILE,), albert.USUAL_XLNET, albert.make_xlnet, albert.finish_xlnet),
    "T5Tokenizer": Kind((decoders.FILE_T5,), decoders.USUAL_T5, decoders.make_t5, decoders.finish_t5),
    "LlamaTokenizer": Kind((decoders.FILE,), decoders.USUAL, decoders.make_llama, ends.as_told),
    "GemmaTokenizer": Kind((decoders.FILE,), decoders.USUAL_GEMMA, decoders.make_gemma, ends.as_told),
    "PreTrainedTokenizer": _SENTENCEPIECE,
    "PreTrainedTokenizerFast": _SENTENCEPIECE,
    "TokenizersBackend": _SENTENCEPIECE,
}

# Of classes that transformers runs in Python only, and of one whose words come from a program of its own.
SLOW_CLASSES = frozenset(
    {
        "BertGenerationTokenizer", "BertJapaneseTokenizer", "BertweetTokenizer", "BioGptTokenizer",
        "CanineTokenizer", "CTRLTokenizer", "EsmTokenizer", "FlaubertTokenizer", "GPTSw3Tokenizer",
        "PhobertTokenizer", "ProphetNetTokenizer", "RoCBertTokenizer", "RoFormerTokenizer", "TapasTokenizer",
        "XLMTokenizer",
    }
)  # fmt: skip

# Classes of model types whose files name none (`TOKENIZER_MAPPING_NAMES` of transformers), token classifiers only.
CLASSES = {
    "albert": "AlbertTokenizer",
    "bert": "BertTokenizer",
    "big_bird": "BigBirdTokenizer",
    "biogpt": "BioGptTokenizer",
    "bros": "BertTokenizer",
    "camembert": "CamembertTokenizer",
    "canine": "CanineTokenizer",
    "convbert": "BertTokenizer",
    "data2vec-text": "RobertaTokenizer",
    "deberta": "DebertaTokenizer",
    "deberta-v2": "DebertaV2Tokenizer",
    "distilbert": "BertTokenizer",
    "electra": "BertTokenizer",
    "ernie": "BertTokenizer",
    "esm": "EsmTokenizer",
    "flaubert": "FlaubertTokenizer",
    "fnet": "FNetTokenizer",
    "funnel": "FunnelTokenizer",
    "gemma": "GemmaTokenizer",
    "gemma2": "GemmaTokenizer",
    "gpt-sw3": "GPTSw3Tokenizer",
    "gpt2": "GPT2Tokenizer",
    "gpt_neo": "GPT2Tokenizer",
    "gpt_neox": "GPTNeoXTokenizer",
    "gte": "XLMRobertaTokenizer",
    "ibert": "RobertaTokenizer",
    "jina_embeddings_v3": "XLMRobertaTokenizer",
    "layoutlm": "BertTokenizer",
    "lilt": "RobertaTokenizer",
    "longformer": "RobertaTokenizer",
    "luke": "LukeTokenizer",
    "megatron-bert": "BertTokenizer",
    "mobilebert": "BertTokenizer",
    "mpnet": "MPNetTokenizer",
    "mpt": "GPTNeoXTokenizer",
    "mra": "RobertaTokenizer",
    "mt5": "T5Tokenizer",
    "nezha": "BertTokenizer",
    "nomic_bert": "BertTokenizer",
    "phi": "GPT2Tokenizer",
    "qdqbert": "BertTokenizer",
    "qwen2": "Qwen2Tokenizer",
    "qwen2_moe": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer",
    "qwen3_moe": "Qwen2Tokenizer",
    "qwen3_next": "Qwen2Tokenizer",
    "rembert": "RemBertTokenizer",
    "roberta": "RobertaTokenizer",
    "roberta-prelayernorm": "RobertaTokenizer",
    "roc_bert": "RoCBertTokenizer",
    "roformer": "RoFormerTokenizer",
    "squeezebert": "BertTokenizer",
    "starcoder2": "GPT2Tokenizer",
    "t5": "T5Tokenizer",
    "t5gemma": "GemmaTokenizer",
    "xlm": "XLMTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "xlm-roberta-xl": "XLMRobertaTokenizer",
    "xlnet": "XLNetTokenizer",
    "xmod": "XLMRobertaTokenizer",
    "yoso": "AlbertTokenizer",
}

# Model types whose repositories name a class that is not theirs; transformers takes no class at all for them.
UNTRUSTED = frozenset({"modernbert", "modernbert-decoder", "phi3", "nemotron"})
GENERIC = "TokenizersBackend"


def class_name(config: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """Return the tokenizer class of a checkpoint, as transformers' AutoTokenizer finds it, without `Fast`.

    It stands in tokenizer_config.json (`settings`), else in config.json, else it is that of the model type.
    """
    if config.get("model_type") in UNTRUSTED:
        return GENERIC
    stated = settings.get("tokenizer_class") or config.get("tokenizer_class")
    if isinstance(stated, str):
        name = stated.removesuffix("Fast")
        return stated if name == "PreTrainedTokenizer" else name
    return CLASSES.get(str(config.get("model_type")), GENERIC)
