"""Moves outliers of activations into weights, so that 8 bits hold both (SmoothQuant, arXiv 2211.10438).

Whatever enters a linear layer is centred and divided by factors, x' = (x - c) / s, by changing what makes it (a norm, a
projection, values before attention, a gate) and what reads it. The function stays the same, and nothing is
computed for it at run time but the residual sums of encoders that normalise after them: those get x back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from nerve.graph.architectures.encoder import Experts, FeedForward, Linear, Norm
from nerve.graph.calibrate import Range

if TYPE_CHECKING:
    import numpy.typing as npt

    from nerve.graph.architectures.encoder import Encoder, Layer
    from nerve.graph.calibrate import LayerRanges
    from nerve.types import FloatArray

# How much of an outlier moves from the activations into the weights (equation 4).
ALPHA = 0.65


@dataclass(frozen=True, slots=True)
class Smoothed:
    """An encoder whose activations are centred and divided before each quantisation.

    hidden, attended: factors of each layer's two residual inputs, float32 (H,), where the residual sum reads what was
    divided, and needs x = s * x' + c (c is part of the bias that is added there anyway); None where it does not.
    wide: factors of each layer that the weights of its experts are still to be multiplied with, (H,): they are too many
    to keep twice. None for layers without experts.
    """

    encoder: Encoder
    hidden: tuple[FloatArray | None, ...]
    attended: tuple[FloatArray | None, ...]
    wide: tuple[FloatArray | None, ...]


def smooth(encoder: Encoder, ranges: list[LayerRanges]) -> Smoothed:
    """Fold the centres and factors of all layers into the weights; the function stays the same."""
    sites = [_measure(encoder, index, found) for index, found in enumerate(ranges)]
    layers = [
        _fold_layer(encoder, layer, site, found.inner)
        for layer, site, found in zip(encoder.layers, sites, ranges, strict=True)
    ]
    wide = tuple(
        site.attended.factors if isinstance(layer.block, Experts) else None
        for site, layer in zip(sites, layers, strict=True)
    )
    if encoder.norm_first:
        nothing = (None,) * len(layers)
        return Smoothed(replace(encoder, layers=tuple(layers)), nothing, nothing, wide)
    for index, site in enumerate(sites[1:]):
        norm = site.hidden.fold_norm(layers[index].output_norm)
        layers[index] = replace(layers[index], output_norm=norm)
    start = replace(encoder, layers=tuple(layers))
    first = sites[0].hidden
    if encoder.projection is not None and not encoder.projects_first:
        start = replace(start, projection=first.fold_after(encoder.projection))
    else:
        start = replace(start, embedding_norm=first.fold_norm(encoder.embedding_norm))
    hidden = tuple(site.hidden.factors if site.hidden.divides else None for site in sites)
    return Smoothed(start, hidden, tuple(site.attended.factors for site in sites), wide)


@dataclass(frozen=True, slots=True)
class _Shift:
    """x' = (x - centre) / factors; the methods change what makes x, and what reads it."""

    centre: FloatArray
    factors: FloatArray

    @property
    def divides(self) -> bool:
        """Tell whether x' differs from x by more than the centre."""
        return bool((self.factors != 1).any())

    def fold_before(self, layer: Linear) -> Linear:
        """W x + b = (W s) x' + (b + W c)."""
        moved = layer.weight @ self.centre
        bias = moved if layer.bias is None else layer.bias + moved
        return Linear(layer.weight * self.factors, bias if layer.bias is not None or moved.any() else None)

    def fold_after(self, layer: Linear) -> Linear:
        """Make a linear layer give (y - c) / s. Attention weights sum to 1, so this passes through them too."""
        bias = (-self.centre if layer.bias is None else layer.bias - self.centre) / self.factors
        return Linear(layer.weight / self.factors[:, None], bias)

    def fold_norm(self, norm: Norm | None) -> Norm | None:
        """Make a norm give (y - c) / s."""
        if norm is None:
            return None
        if norm.is_rms:
            return Norm(norm.weight / self.factors, None, is_rms=True)
        bias = -self.centre if norm.bias is None else norm.bias - self.centre
        return Norm(norm.weight / self.factors, bias / self.factors)


@dataclass(frozen=True, slots=True)
class _Sites:
    """What is done at the places where a layer's activations are quantised; value: `context`, in the value's heads."""

    hidden: _Shift
    context: _Shift
    value: _Shift
    attended: _Shift
    inner: _Shift


def _measure(encoder: Encoder, index: int, found: LayerRanges) -> _Sites:
    layer = encoder.layers[index]
    hidden, attended = found.hidden, found.attended
    maker = layer.attention_norm if encoder.norm_first else encoder.embedding_norm
    if maker is not None and maker.is_rms:
        hidden = _uncentred(hidden)
    if layer.output_norm is not None and layer.output_norm.is_rms:
        attended = _uncentred(attended)
    readers = list(layer.projections.values())
    shift = _shift(hidden, readers) if _can_fold(encoder, index) else _nothing(len(hidden.reach))
    # What a sink takes is lost, so that weights do not sum to 1, and no centre passes through attention.
    spread = found.context if layer.sinks is None else _uncentred(found.context)
    value, context = _context(encoder, layer, spread)
    block = layer.block
    if isinstance(block, Experts):
        readers = [block.router, Linear(block.wide.read(), None)]
        # Centres are in nobody's way: they would need a bias of each expert, whose weights are not touched here.
        return _Sites(shift, context, value, _shift(_uncentred(attended), readers), _nothing(0))
    inner = _nothing(len(found.inner.reach))
    if block.gate is not None:
        inner = _shift(_uncentred(found.inner), [block.down])
    return _Sites(shift, context, value, _shift(attended, list(block.wide.values())), inner)


def _can_fold(encoder: Encoder, index: int) -> bool:
    """Return whether what enters a layer is made by something that can be changed for it alone."""
    if encoder.norm_first:
        return encoder.layers[index].attention_norm is not None
    return encoder.convolution is None or index > 1


def _context(encoder: Encoder, layer: Layer, found: Range) -> tuple[_Shift, _Shift]:
    """Return what values and the contexts made of them are shifted by; one value's head may serve several queries'."""
    size, key_heads = encoder.head_size, encoder.key_heads or encoder.heads
    apart = (key_heads, encoder.heads // key_heads, size)
    columns = np.abs(layer.attention_output.weight).max(axis=0).reshape(apart).max(axis=1).ravel()
    centre: FloatArray = found.centre.reshape(apart).mean(axis=1).ravel()
    far = found.reach + np.abs(found.centre - _spread(centre, apart))
    reach = far.reshape(apart).max(axis=1).ravel() if apart[1] > 1 else found.reach
    shift = _Shift(centre, smoothing_factors(reach, columns))
    return shift, _Shift(_spread(centre, apart), _spread(shift.factors, apart))


def _spread(values: FloatArray, apart: tuple[int, int, int]) -> FloatArray:
    key_heads, times, size = apart
    spread: FloatArray = np.repeat(values.reshape(key_heads, 1, size), times, axis=1).ravel()
    return spread


def _fold_layer(encoder: Encoder, layer: Layer, sites: _Sites, inner: Range) -> Layer:
    """Change the linear layers of a layer, and the norms that only they read."""
    output = sites.context.fold_before(layer.attention_output)
    changed = replace(
        layer,
        query=sites.hidden.fold_before(layer.query),
        key=sites.hidden.fold_before(layer.key),
        value=sites.value.fold_after(sites.hidden.fold_before(layer.value)),
        attention_output=output,
        block=_fold_block(layer.block, sites, inner, None if encoder.norm_first else sites.attended.centre),
    )
    if encoder.norm_first:
        return replace(
            changed,
            attention_norm=sites.hidden.fold_norm(layer.attention_norm),
            output_norm=sites.attended.fold_norm(layer.output_norm),
        )
    return replace(
        changed,
        attention_output=_with_bias(output, sites.hidden.centre),
        attention_norm=sites.attended.fold_norm(layer.attention_norm),
    )


def _fold_block(
    block: FeedForward | Experts, sites: _Sites, inner: Range, centre: FloatArray | None
) -> FeedForward | Experts:
    """Change the linear layers of a feed-forward block; centre: what its residual sum must get back."""
    if isinstance(block, Experts):
        return replace(block, router=sites.attended.fold_before(block.router))
    down = sites.inner.fold_before(block.down)
    mean = inner.centre / sites.inner.factors
    down = _with_bias(down, -_rounding(down) @ mean)
    gate = block.gate
    return FeedForward(
        up=sites.attended.fold_before(block.up),
        gate=None if gate is None else sites.inner.fold_after(sites.attended.fold_before(gate)),
        down=down if centre is None else _with_bias(down, centre),
    )


def _shift(found: Range, readers: list[Linear]) -> _Shift:
    columns = np.max(
        [np.abs(layer.weight).max(axis=tuple(range(layer.weight.ndim - 1))) for layer in readers], axis=0
    )
    return _Shift(found.centre, smoothing_factors(found.reach, columns))


def smoothing_factors(reach: FloatArray, columns: FloatArray) -> FloatArray:
    """Factors (in,) of an activation: reach^alpha / max|w|^(1-alpha), with a geometric mean of 1.

    columns: the largest weight that each number of the activation meets.
    """
    smallest = np.float32(1e-5)
    factors = np.maximum(reach, smallest) ** ALPHA / np.maximum(columns, smallest) ** (1 - ALPHA)
    factors /= np.exp(np.log(factors).mean())
    return factors.astype(np.float32)


def _nothing(size: int) -> _Shift:
    return _Shift(np.zeros(size, np.float32), np.ones(size, np.float32))


def _uncentred(found: Range) -> Range:
    """Leave the centre where it is: an RMS norm has no bias that could take it off, and a gate neither."""
    return Range(np.zeros_like(found.centre), found.reach + np.abs(found.centre))


def _with_bias(layer: Linear, more: FloatArray) -> Linear:
    if not more.any():
        return layer
    return Linear(layer.weight, more.astype(np.float32) if layer.bias is None else layer.bias + more)


def quantize_columns(weight: FloatArray) -> tuple[npt.NDArray[np.int8], FloatArray]:
    """Return int8 (in, out) and one scale per output, for a weight (out, in)."""
    scale = np.maximum(np.abs(weight).max(axis=1), 1e-9) / np.float32(127)  # (out,)
    return np.rint(weight / scale[:, None]).astype(np.int8).T, scale.astype(np.float32)


def _rounding(layer: Linear) -> FloatArray:
    """Return what rounding adds to the weights, (out, in)."""
    values, scale = quantize_columns(layer.weight)
    error: FloatArray = values.T * scale[:, None] - layer.weight
    return error
