"""Whether the hub can be reached: asked once, with a time limit, and without saying who asks."""

import socket
import time

import pytest
from huggingface_hub import constants

from hub_stand_in import HubStandIn
from nerve.checkpoint.reach import hub_left_alone, reach_hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> HubStandIn:
    """A hub that HF_ENDPOINT names."""
    with HubStandIn({}) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        yield hub


def test_a_hub_that_answers(hub: HubStandIn) -> None:
    """Any answer will do; it is asked for no repository, and gets no token."""
    found = reach_hub(20)
    assert found.problem is None
    assert found.seconds is not None
    assert (found.endpoint, hub.requests, hub.tokens["hub"]) == (hub.url, ["HEAD /"], [None])


def test_a_hub_that_is_ill(hub: HubStandIn) -> None:
    """An answer of 5xx is none."""
    hub.troubles.refusal = (503, "Unavailable")
    assert reach_hub(20).problem == "it answers 503"


def test_a_hub_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time limit is for all of it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        begun = time.monotonic()
        found = reach_hub(0.5)
        assert found.problem is not None
        assert time.monotonic() - begun < 20


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused connection is a reason in one line."""
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    found = reach_hub(20)
    assert found.problem is not None
    assert "\n" not in found.problem
    assert not constants.HF_HUB_OFFLINE
    with hub_left_alone(found):
        assert constants.HF_HUB_OFFLINE
    assert not constants.HF_HUB_OFFLINE


def test_a_user_who_wants_no_network(hub: HubStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """With HF_HUB_OFFLINE nobody is asked."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert reach_hub(20).problem == "HF_HUB_OFFLINE is set"
    assert hub.requests == []
