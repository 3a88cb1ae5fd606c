"""Forms of a mixture of experts, as large as a layer of openai/privacy-filter: 128 experts of 640 x 640, 4 for a token.

float32: `split` cuts rows that are sorted by expert, one product for each (what is built); `operator` is ONNX Runtime's
MoE; `loop` goes over the experts that are taken and gathers the weights of each (what PyTorch's exporter makes of
transformers' loop). int8: `split int8`, and `operator int8`, which is QMoE with a scale for each column of a weight.

Noted, too, is whether a token gets the same bits alone as in a batch.

usage: python -m bench.architectures.experts [--rounds 9] [--out NAME]
"""

import argparse
import json
import statistics
import time
from functools import partial

import numpy as np
from onnx import TensorProto, helper

from bench.paths import RESULTS
from bench.serving import machine
from nerve.config import Device
from nerve.graph.architectures.encoder import Activation, Encoder, Experts, Layer, Linear, Stack
from nerve.graph.experts import Routes, float_products, mix
from nerve.graph.int8 import _Int8Layers
from nerve.graph.smoothing import Smoothed, quantize_columns
from nerve.graph.writing import GraphWriter
from nerve.runtime.sessions import create_session

N_EXPERTS, WIDTH, INNER, CHOSEN, LIMIT, STEEPNESS = 128, 640, 640, 4, 7.0, 1.702
LENGTHS = (1, 8, 36, 128, 512)
THREADS = (1, 2)


def make_experts() -> Experts:
    random = np.random.default_rng(0)

    def stack(out: int, into: int) -> Stack:
        weight = random.standard_normal((N_EXPERTS, out, into), dtype=np.float32) * np.float32(0.05)
        bias = random.standard_normal((N_EXPERTS, out), dtype=np.float32) * np.float32(0.1)
        return Stack(weight.shape, lambda: weight, bias)

    router = Linear(random.standard_normal((N_EXPERTS, WIDTH), dtype=np.float32) * np.float32(0.1), None)
    return Experts(router, CHOSEN, stack(2 * INNER, WIDTH), stack(WIDTH, INNER), LIMIT, STEEPNESS)


def split(experts: Experts) -> GraphWriter:
    graph = GraphWriter()
    graph.node("Identity", [mix(graph, experts, "value", "mixture", partial(float_products, graph))], "out")
    return graph


def split_int8(experts: Experts) -> GraphWriter:
    graph = GraphWriter()
    nothing = Linear(np.zeros((WIDTH, WIDTH), np.float32), None)
    layer = Layer(nothing, nothing, nothing, nothing, None, experts, None)
    encoder = Encoder(
        words=nothing.weight,
        positions=None,
        padding_id=None,
        embedding_norm=None,
        projection=None,
        layers=(layer,),
        classifier=nothing,
        heads=10,
        epsilon=1e-5,
        activation=Activation.SILU,
    )
    layers = _Int8Layers(graph, Smoothed(encoder, (None,), (None,), (np.ones(WIDTH, np.float32),)))
    graph.node("Identity", [layers.mix(0, experts, "value")], "out")
    return graph


def loop(experts: Experts) -> GraphWriter:
    graph = GraphWriter()

    def products(value: str, tokens: str | None, routes: Routes, stack: Stack, name: str) -> str:
        if tokens is not None:
            value = graph.node("Gather", [value, tokens], f"{name}.taken")
        ends = graph.node("CumSum", [routes.counts, graph.constant("axis0", np.array(0))], f"{name}.ends")
        starts = graph.node("Sub", [ends, routes.counts], f"{name}.starts")
        taken = graph.node(
            "Cast",
            [graph.node("Cast", [routes.counts], f"{name}.any", to=TensorProto.BOOL)],
            f"{name}.t",
            to=6,
        )
        used = graph.node("NonZero", [taken], f"{name}.used0")
        used = graph.node("Squeeze", [used, graph.integers(0)], f"{name}.used")
        weights = graph.constant(f"{name}.weights", stack.read().transpose(0, 2, 1))
        with graph._inside() as nodes:
            expert = graph.node("Gather", [used, f"{name}.turn"], f"{name}.expert")
            weight = graph.node("Gather", [weights, expert], f"{name}.weight")
            bounds = [
                graph.node(
                    "Unsqueeze",
                    [graph.node("Gather", [edge, expert], f"{edge}.at"), graph.integers(0)],
                    f"{edge}.one",
                )
                for edge in (starts, ends)
            ]
            rows = graph.node("Slice", [value, *bounds, graph.integers(0)], f"{name}.rows")
            done = graph.node("MatMul", [rows, weight], f"{name}.done")
            graph.node("SequenceInsert", [f"{name}.seen", done], f"{name}.more")
            graph.node("Identity", [f"{name}.goes"], f"{name}.goes_on")
        info, boolean = helper.make_tensor_value_info, TensorProto.BOOL
        kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, None))
        body = helper.make_graph(
            nodes,
            f"{name}.body",
            [
                info(f"{name}.turn", TensorProto.INT64, []),
                info(f"{name}.goes", boolean, []),
                helper.make_value_info(f"{name}.seen", kind),
            ],
            [info(f"{name}.goes_on", boolean, []), helper.make_value_info(f"{name}.more", kind)],
        )
        count = graph.node("Squeeze", [graph.node("Shape", [used], f"{name}.many")], f"{name}.count")
        first = graph.node("SequenceEmpty", [], f"{name}.none", dtype=TensorProto.FLOAT)
        graph.node("Loop", [count, "", first], f"{name}.loop", outputs=[f"{name}.parts"], body=body)
        return graph.node("ConcatFromSequence", [f"{name}.parts"], f"{name}.all", axis=0)

    graph.node("Identity", [mix(graph, experts, "value", "mixture", products)], "out")
    return graph


def operator(experts: Experts, *, is_int8: bool) -> GraphWriter:
    graph = GraphWriter()
    router = graph.constant("router", experts.router.weight.T)
    scores = graph.node("MatMul", ["value", router], "scores")
    inputs = ["value", scores]
    for name, stack in (("wide", experts.wide), ("down", experts.down)):
        weight, bias = stack.read(), stack.bias
        if name == "wide":  # the operator wants gate and up in turns
            order = np.arange(2 * INNER).reshape(2, INNER).T.ravel()
            weight, bias = weight[:, order], bias[:, order]
        if is_int8:
            pairs = [quantize_columns(one) for one in weight]
            whole = np.stack([(values.T.astype(np.int16) + 128).astype(np.uint8) for values, _ in pairs])
            inputs += [graph.constant(name, whole)]
            inputs += [graph.constant(f"{name}.scales", np.stack([scale for _, scale in pairs]))]
        else:
            inputs += [graph.constant(name, weight)]
        inputs += [graph.constant(f"{name}.bias", bias)]
    options = {"expert_weight_bits": 8, "weights_prepacked": 0} if is_int8 else {}
    graph.node(
        "QMoE" if is_int8 else "MoE",
        inputs,
        "out",
        fused=True,
        k=CHOSEN,
        activation_type="swiglu",
        swiglu_fusion=1,
        swiglu_limit=LIMIT,
        activation_alpha=STEEPNESS,
        activation_beta=1.0,
        normalize_routing_weights=1,
        **options,
    )
    return graph


def open_graph(graph: GraphWriter, threads: int):
    graph.graph.name = "form"
    info = helper.make_tensor_value_info
    graph.graph.input.append(info("value", TensorProto.FLOAT, ["N", WIDTH]))
    graph.graph.input.append(info("input_ids", TensorProto.INT32, ["B", "T"]))
    graph.graph.input.append(info("lengths", TensorProto.INT32, ["B"]))
    graph.graph.output.append(info("out", TensorProto.FLOAT, ["N", WIDTH]))
    return create_session(graph.model.SerializeToString(), Device.CPU, 0, n_threads=threads)


def run(session, value: np.ndarray) -> np.ndarray:
    known = {"value": value, "input_ids": np.zeros((1, 1), np.int32), "lengths": np.ones(1, np.int32)}
    (out,) = session.run(["out"], {one.name: known[one.name] for one in session.get_inputs()})
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", default="expert-forms")
    arguments = parser.parse_args()
    experts, random = make_experts(), np.random.default_rng(1)
    forms = {
        "split": lambda: split(experts),
        "operator": lambda: operator(experts, is_int8=False),
        "loop": lambda: loop(experts),
        "split int8": lambda: split_int8(experts),
        "operator int8": lambda: operator(experts, is_int8=True),
    }
    found: dict = {name: {"calls": {}} for name in forms}
    batch = random.standard_normal((64, WIDTH), dtype=np.float32)
    exact = None
    for threads in THREADS:
        for name, make in forms.items():
            started = time.perf_counter()
            session = open_graph(make(), threads)
            found[name]["open_s"] = round(time.perf_counter() - started, 2)
            whole = run(session, batch)
            exact = whole if exact is None else exact
            alone = np.concatenate([run(session, batch[at : at + 1]) for at in range(len(batch))])
            found[name]["same_bits_alone"] = bool((alone == whole).all())
            found[name]["farthest"] = float(np.abs(whole - exact).max())
            for length in LENGTHS:
                value = random.standard_normal((length, WIDTH), dtype=np.float32)
                times = []
                for _ in range(arguments.rounds + 1):
                    started = time.perf_counter()
                    run(session, value)
                    times.append((time.perf_counter() - started) * 1000)
                kept = times[1:]
                row = [round(statistics.median(kept), 3), round(min(kept), 3)]
                found[name]["calls"][f"{threads}x{length}"] = row
            print(threads, name, found[name], flush=True)
            del session
    document = {
        **machine.describe(),
        "unit": "ms, median and smallest",
        "mean_size": float(np.abs(exact).mean()),
    }
    document |= {"found": found}
    (RESULTS / f"{arguments.out}.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
