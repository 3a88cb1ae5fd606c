"""The bench of the wire formats asks every route, and compares turn by turn."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench.endpoints import AGAIN, BASE, VERTEX, make_cases, measure, summarise
from builders import ServerProcess
from formats import MODEL


def test_every_route_is_asked(serve: Callable[..., ServerProcess]) -> None:
    """By a body that the server answers; a format that is added is measured, too."""
    server = serve(server={"vertex_predict_route": VERTEX})
    cases = make_cases(MODEL, "Anna lives in Paris", 6)
    paths = server.client.get("/openapi.json").json()["paths"]
    posted = {path for path, operations in paths.items() if "post" in operations}
    same = {"/", f"/v2/models/{MODEL}/versions/1/infer"}  # other paths of formats that are asked
    assert posted - same == {case.route for case in cases}
    seconds = measure(server.url.removeprefix("http://"), cases, 5)
    assert {len(each) for each in seconds.values()} == {5}
    found = summarise(seconds)
    assert found[BASE]["over_base_us"] == 0


def test_differences_are_made_within_each_turn() -> None:
    """What slows a turn slows all of it; the median of differences is no difference of medians."""
    base = [0.001, 0.002, 0.003, 0.004, 0.9]
    own = [each + 0.00005 for each in base]
    own[0] = 5.0
    found = summarise({BASE: base, AGAIN: base, "own": own})
    assert found["own"]["over_base_us"] == pytest.approx(50)
    assert found[AGAIN]["over_base_us_by_block"] == [0] * 5
    assert found["own"]["median_ms"] == pytest.approx(4.05)
