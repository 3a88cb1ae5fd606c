"""Adds the layers of an encoder to a graph: the order of the steps, for every form of graph.

The forms differ in what a step adds: `builder` has float32 over padded batches, `int8` integer products over rows,
`packed` what is quickest on CUDA.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from nerve.graph.architectures.encoder import Experts
from nerve.graph.writing import activate, add_bias, normalize, product, skip_sum

if TYPE_CHECKING:
    from nerve.graph.architectures.encoder import Convolution, Encoder, FeedForward, Linear, Norm
    from nerve.graph.writing import GraphWriter
    from nerve.types import FloatArray


class LayerWriter(ABC):
    """Adds the layers of an encoder, one after the other; steps are in float32 where a form does not say otherwise.

    A site is what enters linear layers, by name: `hidden` (into query, key
    and value), `context` (into the attention output), `attended` (into the feed-forward block), `inner` (into its
    second layer).
    """

    def __init__(self, graph: GraphWriter, encoder: Encoder) -> None:
        self.graph = graph
        self.encoder = encoder

    def write_all(self, hidden: str) -> str:
        """Add all layers to the embeddings `hidden`; returns what leaves the last, not normalised."""
        embeddings = hidden
        for index in range(len(self.encoder.layers)):
            hidden = self.write(index, hidden)
            if index == 0 and self.encoder.convolution is not None:
                hidden = self.convolve(self.encoder.convolution, embeddings, hidden)
        return hidden

    def write(self, index: int, hidden: str) -> str:
        """Add one layer."""
        layer, name = self.encoder.layers[index], f"layer.{index}"
        norms = [layer.attention_norm, layer.output_norm]
        before, after = (norms, [None, None]) if self.encoder.norm_first else ([None, None], norms)
        value = self._normalize(hidden, before[0], f"{name}.before")
        parts = self.products(index, "hidden", value, layer.projections)
        context = self.attend(index, parts)
        (attended,) = self.products(index, "context", context, {"attended": layer.attention_output})
        skip = self.skip(index, "hidden", hidden)
        bias = layer.attention_output.bias
        hidden = self.skip_norm(attended, skip, bias, after[0], f"{name}.attended")
        value = self._normalize(hidden, before[1], f"{name}.between")
        skip = self.skip(index, "attended", hidden)
        if isinstance(layer.block, Experts):
            chosen = self.mix(index, layer.block, value)
            return self.skip_norm(chosen, skip, None, after[1], f"{name}.output")
        wide = self._widen(index, layer.block, value)
        (down,) = self.products(index, "inner", wide, {"output": layer.block.down})
        return self.skip_norm(down, skip, layer.block.down.bias, after[1], f"{name}.output")

    def _widen(self, index: int, block: FeedForward, value: str) -> str:
        """Add the first layer of the feed-forward block, and its gate, if it has one."""
        name = f"layer.{index}"
        up, *gates = self.products(index, "attended", value, block.wide)
        wide = self.activate(up, block.up.bias, f"{name}.up")
        if block.gate is None:
            return wide
        gate = add_bias(self.graph, gates[0], block.gate.bias, f"{name}.gate")
        return self.graph.node("Mul", [wide, gate], f"{name}.gated")

    def _normalize(self, value: str, norm: Norm | None, name: str) -> str:
        return value if norm is None else normalize(self.graph, value, norm, self.encoder.epsilon, name)

    def products(self, index: int, site: str, value: str, layers: dict[str, Linear]) -> list[str]:
        """Multiply what is at a site with the weights of linear layers, without their biases."""
        return [product(self.graph, value, layer, f"layer.{index}.{name}") for name, layer in layers.items()]

    @abstractmethod
    def attend(self, index: int, parts: list[str]) -> str:
        """Add attention over query, key and value without their biases."""

    @abstractmethod
    def mix(self, index: int, experts: Experts, value: str) -> str:
        """Add the results of the experts that each token of `value` takes, their biases included."""

    @abstractmethod
    def convolve(self, convolution: Convolution, embeddings: str, hidden: str) -> str:
        """Add norm(hidden + act(conv(embeddings)))."""

    def skip(self, index: int, site: str, value: str) -> str:
        """Return what is added to the output of the block that read `value` at a site."""
        return value

    def skip_norm(self, value: str, skip: str, bias: FloatArray | None, norm: Norm | None, name: str) -> str:
        """Normalise value + skip + bias; without a norm, add only.

        Three operators are faster on the CPU than one: ONNX Runtime's SkipLayerNormalization for the CPU works on one
        number at a time (docs/decisions/0018).
        """
        return self._normalize(skip_sum(self.graph, value, skip, bias, name), norm, name)

    def activate(self, value: str, bias: FloatArray | None, name: str) -> str:
        """Activation of x + bias."""
        return activate(self.graph, self.encoder.activation, value, bias, name)
