"""The prediction route of a real server process."""

from collections.abc import Callable

from builders import ServerProcess


def test_answers_entities(serve: Callable[..., ServerProcess]) -> None:
    """A text posted to a real server comes back as the entities worked out by hand."""
    server = serve()
    answer = server.predict("Anna Maria lives in New York.", aggregation_strategy="simple")
    assert answer.status_code == 200
    rows = answer.json()[0]
    assert [(r["token"], r["start"], r["end"], list(r["results"])) for r in rows] == [
        ("Anna Maria", 0, 10, ["PER"]),
        ("New York", 20, 28, ["LOC"]),
    ]
