"""Draw configs of every built family at random, and compare the built graphs with transformers' answers.

usage: python tests/parity/fuzz_configs.py [--each 40] [--seed 0] [--types TYPE ...] [--out FILE]
For each type so many configs are drawn: sizes that come in nobody's model, every activation, and every further key of
the type's configuration class that can change an answer, in today's and in older forms. transformers makes the model,
with weights from a seed; nerve builds its graph. Each config must end in one of three ways: the logits are PyTorch's
within 1e-4 (or as near to those in float64 as PyTorch's float32 comes, where that loses more), alone and in a batch
with the same bits; or nerve refuses it with a reason; or transformers does.
Prints what else happens, with the config. Needs torch and transformers.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import sys
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers

from nerve.config import Device, Precision
from nerve.errors import ModelError
from nerve.graph import GraphKind, load_graph
from nerve.graph.architectures import FAMILIES, NotBuildable, find_family
from nerve.runtime.sessions import create_session

if TYPE_CHECKING:
    from collections.abc import Callable

TOLERANCE = 1e-4
# How much farther than PyTorch's float32 ours may be from float64, where both lose digits: another order of sums.
ROUNDING = 4.0
N_WORDS, N_LABELS = 60, 5
# All of transformers' but the two that have weights, which nerve refuses.
ACTIVATIONS = sorted(set(transformers.activations.ACT2CLS) - {"prelu", "xielu"})
ROTARY = ("modernbert", "eurobert", "nomic_bert", "gte", "jina_embeddings_v3")
THETAS = [50.0, 500, 10_000.0, 160_000.0]
RARE = 0.15  # how often a key has a value that most configs do not have


def draw_sizes(dice: random.Random, *, turns: bool) -> dict[str, Any]:
    """Return sizes of layers that fit each other, and what most types have; turns: heads are of even size."""
    heads = dice.choice([1, 2, 3, 4, 5, 7])
    size = dice.choice([2, 4, 6, 8, 10] if turns else [2, 4, 5, 6, 8, 9])
    config = {
        "vocab_size": N_WORDS,
        "hidden_size": heads * size,
        "num_attention_heads": heads,
        "num_hidden_layers": dice.choice([1, 2, 3, 4]),
        "intermediate_size": dice.choice([1, 7, 16, 33, 64]),
        "max_position_embeddings": dice.choice([40, 64, 130]),
        "hidden_act": dice.choice(ACTIVATIONS),
        "layer_norm_eps": dice.choice([1e-12, 1e-7, 1e-5, 1e-3, 0.1]),
        "type_vocab_size": dice.choice([1, 2, 5]),
        "pad_token_id": dice.choice([0, 1, 1, 3, 7]),
        "hidden_dropout_prob": 0.3,
        "classifier_dropout": dice.choice([None, 0.5]),
        "tie_word_embeddings": dice.random() < 0.5,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "use_cache": dice.random() < 0.5,
        "chunk_size_feed_forward": dice.choice([0, 0, 1]),
        "id2label": {str(index): f"L{index}" for index in range(N_LABELS)},
    }
    for key in ("layer_norm_eps", "hidden_act", "classifier_dropout", "type_vocab_size", "pad_token_id"):
        if dice.random() < RARE:
            del config[key]  # its default
    if dice.random() < RARE:
        config["position_embedding_type"] = dice.choice(["absolute", "relative_key", "relative_key_query"])
    if dice.random() < RARE / 3:
        config[dice.choice(["is_decoder", "add_cross_attention"])] = True
    return config


def rope(dice: random.Random) -> dict[str, Any]:
    """Return keys for rotary positions: today's, older ones, scaled in all ways that transformers knows, or none."""
    theta = dice.choice(THETAS)
    parameters = dice.choice(
        [
            {"rope_type": "linear", "factor": 2.0},
            {"rope_type": "dynamic", "factor": 2.0},
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
            {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
            | {"original_max_position_embeddings": 32},
            {"type": "linear", "factor": 3.0},
            {"type": "ntk", "factor": 3.0},
            {"rope_type": "default", "partial_rotary_factor": 0.5},
        ]
    )
    return dice.choice(
        [
            {},
            {"rope_theta": theta},
            {"rope_parameters": {"rope_type": "default", "rope_theta": theta}},
            {"rope_parameters": {"rope_theta": theta}},
            {"rope_parameters": None, "rope_theta": theta},
            {"rope_theta": theta, "rope_scaling": None},
            {"rope_scaling": parameters, "rope_theta": theta},
            {"rope_parameters": {"rope_theta": theta, **parameters}},
            {"partial_rotary_factor": 0.5},
        ]
    )


def draw(model_type: str, dice: random.Random) -> dict[str, Any]:
    """Return a config.json."""
    config = draw_sizes(dice, turns=model_type in ROTARY)
    own = OWN.get(model_type)
    return {"model_type": model_type, **config, **({} if own is None else own(dice, config))}


def flags(dice: random.Random, *names: str) -> dict[str, bool]:
    """Return some of these keys, each true or false."""
    return {name: dice.random() < 0.5 for name in names if dice.random() < 0.7}


def narrow(dice: random.Random, config: dict[str, Any]) -> int:
    """Return a size of embeddings."""
    return dice.choice([config["hidden_size"], 3, 8, 20])


def draw_albert(dice: random.Random, config: dict[str, Any]) -> dict[str, Any]:
    """Return what ALBERT says of its groups of layers."""
    groups, inner = dice.choice([1, 1, 2, 3]), dice.choice([1, 1, 2, 3])
    return {
        "embedding_size": narrow(dice, config),
        "num_hidden_groups": groups,
        "inner_group_num": inner,
        "classifier_dropout_prob": 0.4,
    }


def draw_distilbert(dice: random.Random, config: dict[str, Any]) -> dict[str, Any]:
    """Rename the keys of a config; the class knows some of them under both names."""
    for old, new in (
        ("hidden_size", "dim"),
        ("num_attention_heads", "n_heads"),
        ("num_hidden_layers", "n_layers"),
    ):
        config[new if dice.random() < 0.9 else old] = config.pop(old)
    config["hidden_dim"] = config.pop("intermediate_size")
    config["activation"] = config.pop("hidden_act", "gelu")
    return flags(dice, "sinusoidal_pos_embds")


def draw_eurobert(dice: random.Random, config: dict[str, Any]) -> dict[str, Any]:
    """Return what EuroBERT says of its heads, positions and biases."""
    config.setdefault("pad_token_id", 3)
    sizes = [{}, {"head_dim": 6}, {"head_dim": config["hidden_size"] // config["num_attention_heads"]}]
    return {
        **rope(dice),
        **flags(dice, "attention_bias", "mlp_bias"),
        "rms_norm_eps": dice.choice([1e-5, 1e-3, 1e-6]),
        "pretraining_tp": dice.choice([1, 2]),
        "num_key_value_heads": dice.choice([config["num_attention_heads"], 1, None, 2]),
        **dice.choice([*sizes, {"head_dim": None}]),
    }


def draw_rotary(dice: random.Random, config: dict[str, Any]) -> dict[str, Any]:
    """Return what BERTs with rotary positions say of them, and of biases that the class does not have."""
    own = rope(dice)
    if dice.random() < RARE:
        own |= {"head_dim": 6}
    if dice.random() < RARE:
        own |= dice.choice([{"attention_bias": True}, {"mlp_bias": True}, {"type_vocab_size": 0}])
    return own


def draw_nomic(dice: random.Random, config: dict[str, Any]) -> dict[str, Any]:
    """Return the same for NomicBERT, whose heads have a size of their own."""
    size = dice.choice([6, config["hidden_size"] // config["num_attention_heads"]])
    return {"head_dim": size, **draw_rotary(dice, config)}


def draw_deberta(dice: random.Random, config: dict[str, Any]) -> dict[str, Any]:
    """Return what both versions of DeBERTa say of distances and embeddings."""
    if dice.random() < 0.6:
        config["type_vocab_size"] = 0
    kinds = [
        "c2p|p2c",
        "p2c|c2p",
        ["c2p", "p2c"],
        ["p2c"],
        ["c2p"],
        "c2p",
        "p2c",
        [],
        None,
        ["c2p", "p2c", "p2p"],
    ]
    own = {
        "relative_attention": dice.random() < 0.85,
        "position_biased_input": dice.random() < 0.3,
        "pos_att_type": dice.choice([*kinds, "C2P|P2C", "c2p | p2c"]),
        "max_relative_positions": dice.choice([-1, -1, 0, 5, 12, 300]),
        "embedding_size": narrow(dice, config),
        "legacy": dice.random() < 0.5,
    }
    if dice.random() < RARE:
        own |= dice.choice([{"talking_head": True}, {"attention_head_size": 4}, {"position_buckets": 8}])
    return {key: value for key, value in own.items() if dice.random() > RARE / 2}


def draw_deberta_v2(dice: random.Random, config: dict[str, Any]) -> dict[str, Any]:
    """Return the same for the second version, with its buckets and its convolution."""
    own = draw_deberta(dice, config) | {
        "position_buckets": dice.choice([-1, 2, 3, 7, 8, 16, 256, 0]),
        "share_att_key": dice.random() < 0.6,
        "norm_rel_ebd": dice.choice(["none", "layer_norm", "layer_norm", "LAYER_NORM|x", "layer_norm | y"]),
    }
    if dice.random() < 0.3:
        own |= {"conv_kernel_size": dice.choice([0, 1, 3, 5, 4]), "conv_act": dice.choice(ACTIVATIONS)}
        if dice.random() < RARE:
            own |= {"conv_groups": dice.choice([1, 2])}
        if dice.random() < RARE:
            del own["conv_act"]
    return {key: value for key, value in own.items() if dice.random() > RARE / 2}


def draw_modernbert(dice: random.Random, config: dict[str, Any]) -> dict[str, Any]:
    """Return what ModernBERT says of windows, positions and its head."""
    config.pop("type_vocab_size", None)
    config.setdefault("pad_token_id", 3)
    config["hidden_activation"] = config.pop("hidden_act", "gelu")
    layers, theta = config["num_hidden_layers"], dice.choice(THETAS)
    kinds = ("sliding_attention", "full_attention")
    own: dict[str, Any] = {
        "local_attention": dice.choice([1, 2, 5, 6, 7, 16, 31, 64, 200]),
        "norm_eps": dice.choice([1e-5, 1e-3, 1e-12]),
        "classifier_activation": dice.choice(ACTIVATIONS),
        "classifier_pooling": dice.choice(["cls", "mean"]),
        "classifier_dropout": 0.2,
        "cls_token_id": 1,
        "sep_token_id": 2,
    }
    own |= dice.choice(
        [
            {},
            {"global_attn_every_n_layers": dice.choice([1, 2, 3, 5])},
            {"layer_types": [dice.choice(kinds) for _ in range(layers)]},
        ]
    )
    own |= dice.choice(
        [
            {},
            {"global_rope_theta": theta},
            {"local_rope_theta": theta, "global_rope_theta": 900.0},
            {"rope_parameters": {kind: {"rope_type": "default", "rope_theta": theta} for kind in kinds}},
            {"rope_parameters": {kinds[0]: {"rope_theta": theta}}},
            {"rope_parameters": {"rope_theta": theta}},
            {"rope_parameters": {kinds[1]: {"rope_type": "linear", "factor": 2.0, "rope_theta": theta}}},
            {"local_rope_theta": None},
        ]
    )
    if dice.random() < RARE:
        own["sliding_window"] = dice.choice([own["local_attention"] // 2, 9])
    if dice.random() < RARE:
        own["head_dim"] = 6
    return own | flags(dice, "norm_bias", "attention_bias", "mlp_bias", "classifier_bias", "decoder_bias")


def draw_privacy_filter(dice: random.Random, config: dict[str, Any]) -> dict[str, Any]:
    """Return what openai/privacy-filter says of experts, the band and positions."""
    config.pop("hidden_act", None)
    config["classifier_dropout"] = 0.2
    config.setdefault("pad_token_id", 3)
    experts = dice.choice([1, 2, 5, 8])
    yarn = {
        "rope_type": "yarn",
        "rope_theta": dice.choice(THETAS),
        "factor": dice.choice([1.0, 2.0, 32.0]),
        "original_max_position_embeddings": dice.choice([16, 64, 4096]),
    }
    for key, values in (
        ("truncate", [True, False]),
        ("beta_fast", [32.0, 8]),
        ("beta_slow", [1.0, 2.0]),
        ("attention_factor", [1.3, None]),
        ("mscale", [1.0, 0.7]),
        ("mscale_all_dim", [1.0, 0.5]),
    ):
        if dice.random() < (0.1 if "mscale" in key else 0.4):
            yarn[key] = dice.choice(values)
    return {
        "num_local_experts": experts,
        "num_experts_per_tok": dice.randint(1, experts),
        "num_key_value_heads": 1,
        "head_dim": dice.choice([2, 6, 8]),
        "sliding_window": dice.choice([0, 1, 3, 16, 50]),
        "rms_norm_eps": dice.choice([1e-5, 1e-3]),
        "swiglu_limit": dice.choice([7.0, 0.4]),
        "swiglu_alpha": dice.choice([1.702, 1.0]),
        **dice.choice(
            [
                {"rope_parameters": yarn},
                {"rope_parameters": yarn},
                {},
                {"rope_scaling": yarn},
                rope(dice),
            ]
        ),
    }


OWN: dict[str, Callable[[random.Random, dict[str, Any]], dict[str, Any]]] = {
    "electra": lambda dice, config: {"embedding_size": narrow(dice, config)},
    "albert": draw_albert,
    "rembert": lambda dice, config: {
        "input_embedding_size": narrow(dice, config),
        "output_embedding_size": dice.choice([config["hidden_size"], 9]),
    },
    "distilbert": draw_distilbert,
    "mpnet": lambda dice, _: {"relative_attention_num_buckets": dice.choice([32, 32, 32, 64])},
    "ernie": lambda dice, _: {**flags(dice, "use_task_id"), "task_type_vocab_size": dice.choice([3, 7])},
    "deberta": draw_deberta,
    "deberta-v2": draw_deberta_v2,
    "modernbert": draw_modernbert,
    "eurobert": draw_eurobert,
    "nomic_bert": draw_nomic,
    "gte": draw_rotary,
    "jina_embeddings_v3": draw_rotary,
    "openai_privacy_filter": draw_privacy_filter,
}


def make_model(config: dict[str, Any], folder: Path, dice: random.Random) -> Any:
    """Write config.json and weights from a seed; return the model as transformers reads it."""
    (folder / "config.json").write_text(json.dumps(config))
    parsed = transformers.AutoConfig.from_pretrained(folder)
    model = transformers.AutoModelForTokenClassification.from_config(parsed)
    generator = torch.Generator().manual_seed(dice.randrange(2**31))
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            if value.ndim == 1 and name.endswith("weight"):
                value.copy_(1 + 0.1 * noise)
            else:
                value.copy_(noise * (0.3 if value.ndim > 1 else 0.1))
    written = folder / "written"
    model.save_pretrained(written)
    (written / "model.safetensors").rename(folder / "model.safetensors")
    if dice.random() < 0.5:  # as it is today, with what transformers makes of old keys
        (written / "config.json").rename(folder / "config.json")
    return transformers.AutoModelForTokenClassification.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def answer(model: Any, ids: list[int]) -> np.ndarray:
    """Return PyTorch's logits of one text, (T, L)."""
    given = torch.tensor([ids])
    with torch.inference_mode():
        return model(input_ids=given, attention_mask=torch.ones_like(given)).logits[0].numpy()


def run(session: Any, texts: list[list[int]]) -> list[np.ndarray]:
    """Return nerve's logits of each text."""
    lengths = [len(text) for text in texts]
    ids = np.full((len(texts), max(lengths)), 3, np.int32)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = text
    feeds = {"input_ids": ids, "lengths": np.array(lengths, np.int32)}
    (logits,) = session.run(["logits"], feeds)
    return [logits[row, :length] for row, length in enumerate(lengths)]


def try_config(config: dict[str, Any], folder: Path, dice: random.Random) -> tuple[str, str]:
    """Return how a config ends, and why."""
    try:
        model = make_model(config, folder, dice)
        texts = [[dice.randrange(N_WORDS) for _ in range(length)] for length in (1, 2, 9, 36)]
        expected = [answer(model, text) for text in texts]
    except Exception as error:  # noqa: BLE001 - it raises anything
        lines = str(error).strip().splitlines()
        return "transformers refuses", f"{type(error).__name__}: {lines[0] if lines else ''}"
    if not all(np.isfinite(logits).all() for logits in expected):
        return "transformers gives no number", ""
    parsed = json.loads((folder / "config.json").read_text())
    try:
        find_family(parsed)
        graph = load_graph(folder, Precision.FLOAT32, folder / "cache")
    except (NotBuildable, ModelError) as error:
        return "refused", " ".join(str(error).split())
    if graph.kind is not GraphKind.BUILT:
        return "WRONG", f"graph of the kind {graph.kind}"
    session = create_session(graph.source, Device.CPU, 0, n_threads=1)
    alone = [run(session, [text])[0] for text in texts]
    batch = run(session, texts)
    size = max(1.0, *(float(np.abs(logits).max()) for logits in expected))
    farthest = _farthest(alone, expected)
    if not farthest <= TOLERANCE * size:
        exact = [answer(model.double(), text) for text in texts]
        ours, theirs = _farthest(alone, exact), _farthest(expected, exact)
        if not ours <= ROUNDING * theirs:
            return (
                "WRONG",
                f"logits differ by {farthest:.2g}, of {size:.2g}; from float64 by {ours:.2g}, {theirs:.2g}",
            )
    if any((one != other).any() for one, other in zip(alone, batch, strict=True)):
        return "WRONG", "a batch changes bits"
    return "right", f"{farthest:.2g}"


def _farthest(some: list[np.ndarray], others: list[np.ndarray]) -> float:
    return max(float(np.abs(one - other).max()) for one, other in zip(some, others, strict=True))


def main() -> None:
    """Print each type's outcome; exit with 1 where one is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--each", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--types", nargs="*", default=sorted(FAMILIES))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(1)
    table: dict[str, dict[str, int]] = {}
    is_wrong = False
    for model_type in arguments.types:
        ends: collections.Counter[str] = collections.Counter()
        reasons: collections.Counter[str] = collections.Counter()
        for number in range(arguments.each):
            dice = random.Random(zlib.crc32(f"{arguments.seed} {model_type} {number}".encode()))
            config = draw(model_type, dice)
            with tempfile.TemporaryDirectory() as folder:
                try:
                    end, why = try_config(config, Path(folder), dice)
                except Exception as error:  # noqa: BLE001 - that is what is looked for
                    end, why = "WRONG", f"{type(error).__name__}: {error}"
            ends[end] += 1
            if end == "WRONG":
                is_wrong = True
                sys.stdout.write(f"{model_type} {number}: {why}\n    {json.dumps(config)}\n")
            elif end != "right":
                reasons[f"{end}: {why[:160]}"] += 1
        table[model_type] = dict(sorted(ends.items()))
        sys.stdout.write(f"{model_type}: {table[model_type]}\n")
        for reason, count in reasons.most_common():
            sys.stdout.write(f"    {count} {reason}\n")
        sys.stdout.flush()
    if arguments.out is not None:
        document = {
            "made_by": "tests/parity/fuzz_configs.py",
            "seed": arguments.seed,
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "ends": table,
        }
        arguments.out.write_text(json.dumps(document, indent=1) + "\n")
    sys.exit(is_wrong)


if __name__ == "__main__":
    main()
