"""What Amazon SageMaker asks of a container: `GET /ping` and `POST /invocations`.

The body is that of Hugging Face's own SageMaker containers, so that their clients work. SageMaker's part:
https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nerve.endpoints.huggingface import HuggingFaceCodec, describe
from nerve.endpoints.json_bodies import require_json
from nerve.endpoints.protocol import GetRoute, PostRoute

if TYPE_CHECKING:
    from nerve.config import Config
    from nerve.endpoints.protocol import Description, Header

# What boto3 says of a body whose type its caller does not name.
_UNNAMED_TYPE = "application/octet-stream"


class SageMaker:
    """The endpoint."""

    name = "sagemaker"

    def __init__(self, config: Config) -> None:
        self._codec = HuggingFaceCodec(config.runtime, config.limits)
        self.routes = (
            PostRoute("/invocations", self._choose_codec, self._describe),
            GetRoute("/ping", "Whether SageMaker may send requests", b"", None, is_health=True),
        )

    def _choose_codec(self, header: Header) -> HuggingFaceCodec:
        require_json(header, _UNNAMED_TYPE)
        return self._codec

    def _describe(self) -> Description:
        return describe("Find the entities of one or more texts, as a container of Amazon SageMaker")
