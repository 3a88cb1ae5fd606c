"""Measures the channels that the int8 graph quantises, by running the encoder on calibration texts.

The texts are `nerve.models.samples.calibration_texts`, tokenized by the model's own tokenizer; where a graph is built
without one, random token ids from a fixed seed. The layers are those of the float32 graph, run one after the other by
ONNX Runtime, each with outputs for what is measured, so that no more than one of them is in memory twice.

S = calibration sequences, T = the length of one; the other letters as in `builder`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper

from nerve.config import Device
from nerve.graph.builder import PaddedLayers
from nerve.graph.embedding import embed
from nerve.graph.writing import GraphWriter
from nerve.runtime.cores import usable_cores
from nerve.runtime.sessions import create_session

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    import numpy.typing as npt

    from nerve.graph.architectures.encoder import Encoder, Experts, Linear
    from nerve.types import FloatArray

    Array = npt.NDArray[Any]

N_SEQUENCES = 16
LENGTH = 48
_SEED = 20240229
# Sequences that are computed together.
_GROUP = 12
_STATISTICS = ("ReduceMin", "ReduceMax", "ReduceMean")


@dataclass(frozen=True, slots=True)
class Range:
    """Channels of one activation, float32 (K,): their mean, and how far they go from it."""

    centre: FloatArray
    reach: FloatArray


@dataclass(frozen=True, slots=True)
class LayerRanges:
    """The activations that enter the linear layers of one layer; their names are those of sites in `LayerWriter`.

    `inner` is empty where experts are in the place of a feed-forward block.
    """

    hidden: Range
    context: Range
    attended: Range
    inner: Range = field(default_factory=lambda: Range(np.zeros(0, np.float32), np.zeros(0, np.float32)))


def _say_nothing() -> None:
    """Tell nobody how far it is."""


def calibrate(
    encoder: Encoder, sequences: Sequence[Sequence[int]] = (), report: Callable[[], None] = _say_nothing
) -> list[LayerRanges]:
    """Return the ranges of every layer over `sequences` of token ids, or over random ones where there are none.

    Sequences without a token, or with one that the encoder has no row for, are left out. report: called for each layer.
    """
    known = [ids for ids in sequences if len(ids) and max(ids) < len(encoder.words)]
    if known:
        return measure(encoder, _batches(known), report)
    random = np.random.default_rng(_SEED).integers(0, len(encoder.words), (N_SEQUENCES, LENGTH))  # (S, T)
    return measure(encoder, [random], report)


def _batches(sequences: Sequence[Sequence[int]]) -> list[npt.NDArray[np.int64]]:
    """Group sequences of about equal length, each group cut to its shortest: few large products, and no padding."""
    ordered = sorted(sequences, key=len)
    groups = [ordered[at : at + _GROUP] for at in range(0, len(ordered), _GROUP)]
    return [np.array([ids[: len(group[0])] for ids in group], np.int64) for group in groups]


def measure(
    encoder: Encoder, batches: Sequence[npt.NDArray[np.int64]], report: Callable[[], None] = _say_nothing
) -> list[LayerRanges]:
    """Return the ranges of every layer over batches of sequences, each (S, T), layer after layer."""
    encoder, feeds = _prepare(encoder, batches)
    start = GraphWriter()
    start.node("Identity", [embed(start, encoder)], "leaves", output="left")
    for feed, values in zip(feeds, _run(start, feeds, ["left"]), strict=True):
        feed["hidden"] = values["left"]
    weights = np.array([feed["input_ids"].size for feed in feeds], np.float64)
    ranges = []
    for index in range(len(encoder.layers)):
        layer = _MeasuredLayer(encoder, index)
        found = _run(layer.graph, feeds, ["left", *layer.statistics])
        sites = {site: _range(site, found, weights / weights.sum()) for site in layer.sites}
        ranges.append(LayerRanges(**sites))
        for feed, values in zip(feeds, found, strict=True):
            feed["hidden"] = values["left"]
        report()
    return ranges


def _prepare(
    encoder: Encoder, batches: Sequence[npt.NDArray[np.int64]]
) -> tuple[Encoder, list[dict[str, Array]]]:
    """Return the encoder with those words only that the batches have, and the batches with ids to match.

    The positions are those of a text without padding ids.
    """
    first = 0 if encoder.padding_id is None else encoder.padding_id + 1
    most = None if encoder.n_positions is None else max(1, encoder.n_positions - first)
    cut = [ids[:, :most] for ids in batches]
    used, places = np.unique(np.concatenate([ids.ravel() for ids in cut]), return_inverse=True)
    positions = None if encoder.positions is None else encoder.positions[first:]
    small = replace(encoder, words=encoder.words[used], positions=positions, padding_id=None)
    ends = np.cumsum([ids.size for ids in cut])
    feeds: list[dict[str, Array]] = [
        {
            "input_ids": part.reshape(ids.shape).astype(np.int32),
            "lengths": np.full(len(ids), ids.shape[1], np.int32),
        }
        for part, ids in zip(np.split(places.ravel(), ends[:-1]), cut, strict=True)
    ]
    return small, feeds


class _MeasuredLayer(PaddedLayers):
    """A graph of one layer: `hidden` (S, T, H) in, `left` (S, T, H) and statistics of each site out."""

    def __init__(self, encoder: Encoder, index: int) -> None:
        convolution = None if index else encoder.convolution
        one = replace(encoder, layers=(encoder.layers[index],), convolution=convolution)
        super().__init__(GraphWriter(), one)
        self.statistics: list[str] = []
        self.sites: list[str] = []
        self.graph.node("Identity", [self.write_all("hidden")], "leaves", output="left")

    def products(self, index: int, site: str, value: str, layers: dict[str, Linear]) -> list[str]:
        """Measure what is multiplied, too."""
        self._measure(site, value)
        return super().products(index, site, value, layers)

    def mix(self, index: int, experts: Experts, value: str) -> str:
        """Measure what experts read, too."""
        self._measure("attended", value)
        return super().mix(index, experts, value)

    def _measure(self, site: str, value: str) -> None:
        """Take the smallest, the largest and the mean number of each channel."""
        self.sites.append(site)
        for statistic in _STATISTICS:
            name = f"{site}.{statistic}"
            self.statistics.append(self.graph.node(statistic, [value], name, keepdims=0, axes=[0, 1]))


def _run(
    graph: GraphWriter, feeds: list[dict[str, Array]], outputs: list[str]
) -> list[dict[str, FloatArray]]:
    """Run a graph on each batch and return its outputs by name."""
    graph.graph.name = "calibration"
    for name, value in feeds[0].items():
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        graph.graph.input.append(helper.make_tensor_value_info(name, kind, [None] * value.ndim))
    graph.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs
    )
    session = create_session(graph.model.SerializeToString(), Device.CPU, 0, usable_cores())
    return [dict(zip(outputs, session.run(outputs, feed), strict=True)) for feed in feeds]


def _range(site: str, found: list[dict[str, FloatArray]], weights: npt.NDArray[np.float64]) -> Range:
    """Put the statistics of all batches together; weights: share of each batch in all tokens."""
    lowest = np.min([values[f"{site}.ReduceMin"] for values in found], axis=0)
    highest = np.max([values[f"{site}.ReduceMax"] for values in found], axis=0)
    means = [values[f"{site}.ReduceMean"] for values in found]
    centre = np.average(means, axis=0, weights=weights).astype(np.float32)
    return Range(centre, np.maximum(highest - centre, centre - lowest))
