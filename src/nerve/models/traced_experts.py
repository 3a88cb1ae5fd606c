"""Lets PyTorch's tracer follow a mixture of experts: a form of transformers' loop whose shapes and order are known.

transformers' own forms loop over the experts that are hit, which a tracer records for its one example; or gather the
weights of each token's experts, which takes gigabytes for a page of text; or call a kernel that ONNX lacks. Used by
`export` alone, on the thread that exports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

_NAME = "nerve_traced"


def use_traced_experts(model: Any, torch: ModuleType) -> None:  # noqa: ANN401 - of transformers, which has no types
    """Give `model` experts that can be traced, if it has experts that let their form be chosen (transformers 5)."""
    try:
        from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS  # noqa: PLC0415 - newer than the oldest allowed
    except ImportError:
        return
    if not any(
        hasattr(module, "is_transposed") and hasattr(module, "has_gate") for module in model.modules()
    ):
        return
    ALL_EXPERTS_FUNCTIONS.register(_NAME, _make_form(torch))
    for module in model.modules():
        config = getattr(module, "config", None)
        if config is not None and hasattr(config, "_experts_implementation"):
            config._experts_implementation = _NAME


def _make_form(torch: Any) -> Any:  # noqa: ANN401 - PyTorch's tensors
    def linear(experts: Any, name: str, expert: int, rows: Any) -> Any:  # noqa: ANN401
        weight = getattr(experts, name)[expert]
        value = rows @ (weight if experts.is_transposed else weight.transpose(0, 1))
        return value + getattr(experts, f"{name}_bias")[expert] if experts.has_bias else value

    def form(experts: Any, hidden: Any, chosen: Any, shares: Any) -> Any:  # noqa: ANN401
        """hidden: (N, H). chosen, shares: (N, K), experts of each token and what it takes of them."""
        flat = chosen.reshape(-1)
        first = "gate_up_proj" if experts.has_gate else "up_proj"
        results, places = [], []
        for expert in range(getattr(experts, first).shape[0]):
            place = torch.nonzero(flat == expert).reshape(-1)
            rows = hidden[torch.div(place, chosen.shape[1], rounding_mode="floor")]
            wide = linear(experts, first, expert, rows)
            inner = experts._apply_gate(wide) if experts.has_gate else experts.act_fn(wide)
            results.append(linear(experts, "down_proj", expert, inner))
            places.append(place)
        back = torch.argsort(torch.cat(places))
        value = torch.cat(results)[back]
        if getattr(experts, "has_post_expert_norm", False):
            value = experts.post_expert_norm(value)
        weighted = value * shares.reshape(-1, 1)
        return weighted.reshape(-1, chosen.shape[1], hidden.shape[-1]).sum(dim=1)

    return form
