"""LiteLLM's guardrails and NeMo's GLiNER rail; a conversation is masked end to end."""

from __future__ import annotations

import asyncio

import pytest

TEXT = "Anna Maria lives in Paris."
MASKED = "<PERSON> lives in <LOCATION>."
KEY = "s3cret-key"


def litellm_guardrail(url: str, **parameters: object):  # noqa: ANN201
    """Make LiteLLM's generic guardrail."""
    module = pytest.importorskip(
        "litellm.proxy.guardrails.guardrail_hooks.generic_guardrail_api.generic_guardrail_api"
    )
    return module.GenericGuardrailAPI(
        api_base=url,
        api_key=KEY,
        guardrail_name="nerve",
        event_hook="pre_call",
        default_on=True,
        **parameters,
    )


def apply(guardrail, texts: list[str], **inputs: object) -> dict:  # noqa: ANN001
    """Let a guardrail see texts, as the gateway does."""
    return asyncio.run(
        guardrail.apply_guardrail(inputs={"texts": texts, **inputs}, request_data={}, input_type="request")
    )


def test_litellm_masks(guarded: str) -> None:
    """Texts of a prompt, and nothing else."""
    messages = [{"role": "user", "content": TEXT}]
    found = apply(litellm_guardrail(guarded), [TEXT, "the"], structured_messages=messages, model="gpt")
    assert found["texts"] == [MASKED, "the"]
    assert apply(litellm_guardrail(guarded), ["the"])["texts"] == ["the"]


def test_litellm_blocks(guarded: str) -> None:
    """Where the gateway's configuration says so."""
    guardrail = litellm_guardrail(guarded, additional_provider_specific_params={"on_found": "block"})
    with pytest.raises(Exception, match="the text has: LOCATION, PERSON"):
        apply(guardrail, [TEXT])


def test_litellm_fails_closed(guarded: str, url: str) -> None:
    """A parameter that is not known, or a key that is wrong, stops the request."""
    guardrail = litellm_guardrail(guarded, additional_provider_specific_params={"onfound": "block"})
    with pytest.raises(Exception, match="422"):
        apply(guardrail, [TEXT])
    wrong = litellm_guardrail(guarded)
    wrong.headers = {"x-api-key": "wrong"}
    with pytest.raises(Exception, match="401"):
        apply(wrong, [TEXT])


def presidio_guardrail(url: str, **parameters: object):  # noqa: ANN201
    """Make LiteLLM's presidio guardrail."""
    module = pytest.importorskip("litellm.proxy.guardrails.guardrail_hooks.presidio")
    return module._OPTIONAL_PresidioPIIMasking(
        presidio_analyzer_api_base=url, presidio_anonymizer_api_base=url, guardrail_name="nerve", **parameters
    )


def test_litellm_presidio(url: str) -> None:
    """It asks the analyzer, and the anonymizer with what that has found."""

    async def mask(text: str, **parameters: object) -> str:
        guardrail = presidio_guardrail(url, **parameters)
        found = await guardrail.check_pii(
            text=text, output_parse_pii=False, presidio_config=None, request_data={}
        )
        await guardrail._close_http_session()
        return found

    assert asyncio.run(mask(TEXT)) == MASKED
    assert asyncio.run(mask("mail a@example.com")) == "mail <EMAIL>"
    assert asyncio.run(mask("the")) == "the"
    only = {"pii_entities_config": {"PERSON": "MASK"}}
    assert asyncio.run(mask(TEXT, **only)) == "<PERSON> lives in Paris."
    with pytest.raises(Exception, match="400"):
        asyncio.run(mask(TEXT, pii_entities_config={"US_PASSPORT": "MASK"}))


@pytest.mark.parametrize("route", ["/v1/extract", "/v1/chat/completions"])
def test_nemo(guarded: str, route: str) -> None:
    """NeMo's request function, and the mask that its action makes of the answer."""
    request = pytest.importorskip("nemoguardrails.library.gliner.request")
    actions = pytest.importorskip("nemoguardrails.library.gliner.actions")

    async def ask(**more: object) -> dict:
        return await request.gliner_request(TEXT, f"{guarded}{route}", api_key=KEY, **more)

    found = asyncio.run(ask(threshold=0.5))
    assert found["total_entities"] == 2
    assert actions._mask_text_with_entities(TEXT, found["entities"]) == "[PERSON] lives in [LOCATION]."
    assert found["tagged_text"] == "[Anna Maria](PERSON) lives in [Paris](LOCATION)."
    assert asyncio.run(ask(enabled_entities=["LOCATION"]))["total_entities"] == 1
    with pytest.raises(ValueError, match="status code 422"):
        asyncio.run(ask(enabled_entities=["email"]))
