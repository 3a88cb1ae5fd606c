from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from builders import write_config
from nerve.config import (
    CheckpointSource,
    Config,
    Device,
    LogLevel,
    RedactionConfig,
    ServerConfig,
    default_cache_dir,
    find_config,
    load_api_key,
    load_config,
    load_redaction_key,
    parse_config,
)
from nerve.errors import ConfigError
from nerve.types import AggregationStrategy, RawScoresAs

REPOSITORY = Path(__file__).parents[2]
LOCAL = {"model": {"checkpoint_repository": {"source": "LOCAL", "path": "m"}}}


def parse(document: dict[str, Any] | None = None, **environment: str) -> Config:
    """Parse sections over a minimal valid document."""
    return parse_config({**LOCAL, **(document or {})}, environment, Path("/etc/nerve"))


def write(folder: Path, text: str) -> Path:
    """Write a config file."""
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


# --- config.yaml is the documentation ---------------------------------------------------------------


MAPPINGS = ("runtime.rename_labels", "redaction.operators")
# What the file sets for the model that it names, and what is there without the file.
FOR_THE_MODEL = {
    "runtime.patterns": (["email", "url", "ip_address", "credit_card", "us_ssn"], []),
    "runtime.window_tokens": (128, None),
    "runtime.window_stride": (32, None),
}


def walk(section: Any, prefix: str = "") -> dict[str, object]:
    """Return every key below a section value, dotted, with its default."""
    found: dict[str, object] = {}
    for field in msgspec.structs.fields(section):
        value = getattr(section, field.name)
        if isinstance(value, msgspec.Struct):
            found |= walk(value, f"{prefix}{field.name}.")
        else:
            found[prefix + field.name] = msgspec.to_builtins(value)
    return found


def flatten(document: dict[str, Any], prefix: str = "") -> dict[str, object]:
    """Return every key of a decoded file, dotted; MAPPINGS are values."""
    found: dict[str, object] = {}
    for key, value in document.items():
        is_section = isinstance(value, dict) and prefix + key not in MAPPINGS
        found |= flatten(value, f"{prefix}{key}.") if is_section else {prefix + key: value}
    return found


def test_config_yaml_has_every_key_with_its_default() -> None:
    """The repository's file names each key that there is, with the value it has without the file."""
    written = flatten(yaml.safe_load((REPOSITORY / "config.yaml").read_text()))
    checkpoint = "model.checkpoint_repository."
    defaults = {key: value for key, value in walk(parse()).items() if not key.startswith(checkpoint)}
    for key, (in_file, without) in FOR_THE_MODEL.items():
        assert (written.pop(key), defaults.pop(key)) == (in_file, without)
    assert {key: value for key, value in written.items() if not key.startswith(checkpoint)} == defaults
    keys = {key for key in walk(parse()) if key.startswith(checkpoint)}
    assert {key for key in written if key.startswith(checkpoint)} == keys


def test_every_key_has_a_comment() -> None:
    """A key is explained beside it, or in the comment of the block it stands in."""
    blocks = re.split(r"\n\s*\n", (REPOSITORY / "config.yaml").read_text())
    for block in blocks:
        lines = [line for line in block.splitlines() if line.strip() and not re.match(r"^\w+:$", line)]
        if lines and not lines[0].lstrip().startswith("#"):
            assert all("#" in line for line in lines), block


# --- what is refused, and how -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (
            {"sever": {}},
            "sever: unknown key; did you mean server? known here: model, runtime, batching, limits, cpu, server",
        ),
        ({"server": {"prot": 1}}, "server.prot: unknown key; did you mean port? known here: host, port, "),
        ({"server": {"api_key": "x"}}, "server.api_key: unknown key"),
        ({"server": {"tls": {"cert": "x"}}}, "server.tls.cert: unknown key; known here: certificate, key"),
        ({"server": {"tls": {"key": "x"}}}, "server.tls.certificate: required, but missing"),
        ({"server": {"port": 70000}}, "server.port: expected `int` <= 65535"),
        ({"server": {"port": "8000"}}, "server.port: expected `int`, got `str`"),
        (
            {"server": {"uds_permissions": "999"}},
            "server.uds_permissions: expected three octal digits such as '660'; it is '999'",
        ),
        (
            {"server": {"uds_permissions": 660}},
            "server.uds_permissions: expected `str`, got `int`; put it in quotes",
        ),
        (
            {"model": {"checkpoint_repository": {"source": "WHEEL", "repo": "x", "revision": 1.0}}},
            "model.checkpoint_repository.revision: expected `str | null`, got `float`; put it in quotes",
        ),
        ({"server": []}, "server: expected `object`, got `array`"),
        ({"limits": {"max_inputs": 0}}, "limits.max_inputs: expected `int` >= 1"),
        ({"batching": {"max_padding": 1.5}}, "batching.max_padding: expected `float` <= 1"),
        ({"runtime": {"aggregation_strategy": "MAX"}}, "runtime.aggregation_strategy: invalid enum value"),
        ({"runtime": {"webserver_default_route": "rerank"}}, "runtime.webserver_default_route: expected"),
        ({"runtime": {"window_stride": -1}}, "runtime.window_stride: expected `int` >= 0"),
        ({"model": {}}, "model.checkpoint_repository: required, but missing"),
        ({"model": None}, "model: required, but missing"),
        (
            {"model": {"checkpoint_repository": {"repo": "x"}}},
            "model.checkpoint_repository.source: required, but missing",
        ),
        (
            {"model": {"checkpoint_repository": {"source": "HF"}}},
            "model.checkpoint_repository: source HF needs repo",
        ),
        (
            {"model": {"checkpoint_repository": {"source": "LOCAL", "path": ""}}},
            "model.checkpoint_repository: source LOCAL needs path",
        ),
        (
            {"model": {"checkpoint_repository": {"source": "WHEEL", "repo": "x", "path": "m"}}},
            "model.checkpoint_repository: source WHEEL needs revision and sha256",
        ),
        (
            {"model": {"checkpoint_repository": {"source": "GCS", "repo": "x"}}},
            "model.checkpoint_repository.source: invalid enum value",
        ),
    ],
)
def test_wrong_config_is_refused_with_its_path(document: dict[str, Any], message: str) -> None:
    """The message begins with the dotted path of the key that is wrong."""
    with pytest.raises(ConfigError) as caught:
        parse(document)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must hold a mapping"),
        ("# nothing\n", "must hold a mapping"),
        ("- model\n", "must hold a mapping"),
        ("just text", "must hold a mapping"),
        ("model: [", "is not valid YAML"),
        ("model: !!python/object:os.system {}", "is not valid YAML"),
        ("\tmodel: x", "is not valid YAML"),
        ("model: {1: 2}", "model"),
        ("server: {port: 1, port: 2}", "port: the key stands there twice"),
        ("server: {port: 1}\nserver: {port: 2}", "server: the key stands there twice"),
        ("server: &s\n  tls: *s\n", "refers to itself"),
    ],
)
def test_wrong_yaml_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """Whatever is not one mapping with each key once is refused by name, not by a traceback."""
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text))
    assert message in str(caught.value)


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    """A missing file, a folder and a file that is not UTF-8 say so."""
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="Is a directory"):
        load_config(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"model: \xe9")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(tmp_path / "latin.yaml")


def test_anchors_and_merge_keys_work(tmp_path: Path) -> None:
    """YAML's own ways not to repeat oneself are allowed, and an override changes one place only."""
    text = """
model: {checkpoint_repository: {source: LOCAL, path: m}}
limits: &l {max_inputs: 5}
server: {port: 1}
runtime: &r {truncate: true}
"""
    config = load_config(write(tmp_path, text))
    assert (config.limits.max_inputs, config.runtime.truncate) == (5, True)
    merged = load_config(
        write(tmp_path, text + "cpu: &c {threads: 1}\nbatching: {<<: {max_batch_size: 3}, max_batch_size: 4}")
    )
    assert (merged.cpu.threads, merged.batching.max_batch_size) == (1, 4)


def test_empty_sections_are_the_defaults() -> None:
    """A section with nothing under it counts as left out."""
    assert parse({"server": None, "runtime": {}}) == parse()


def without_meaning_of_null(section: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield every key below a section for which null is no value."""
    for field in msgspec.structs.fields(section):
        value = getattr(section, field.name)
        if isinstance(value, msgspec.Struct) and field.name != "checkpoint_repository":
            yield from without_meaning_of_null(value, (*path, field.name))
        elif type(None) not in getattr(field.type, "__args__", ()) and path:
            yield (*path, field.name)


@pytest.mark.parametrize("path", list(without_meaning_of_null(parse())), ids=".".join)
def test_null_counts_as_left_out(path: tuple[str, ...]) -> None:
    """Of a key with a default; one that must be there is missing then."""
    section, key = path
    document = {"model": {**LOCAL["model"]}}
    document.setdefault(section, {})[key] = None  # type: ignore[typeddict-item]
    if key == "checkpoint_repository":
        with pytest.raises(ConfigError, match=r"model\.checkpoint_repository: required, but missing"):
            parse(document)
    else:
        assert parse(document) == parse()


def test_null_that_means_something_is_kept() -> None:
    """Where a comment of config.yaml says what null does, and the default is another."""
    config = parse({"server": {"canary_interval_ms": None}})
    assert config.server.canary_interval_ms is None
    assert parse().server.canary_interval_ms is not None
    with pytest.raises(ConfigError, match=r"model\.checkpoint_repository\.source: required, but missing"):
        parse({"model": {"checkpoint_repository": {"source": None, "path": "m"}}})
    with pytest.raises(ConfigError, match=r"server\.prot: unknown key"):
        parse({"server": {"prot": None}})


# --- environment ------------------------------------------------------------------------------------


def test_environment_overrides_the_file() -> None:
    """`NERVE_A__B` wins over the file, at any depth, in sections the file lacks too; null unsets."""
    config = parse(
        {"server": {"port": 1, "uds": "x.sock"}},
        NERVE_SERVER__PORT="9000",
        NERVE_SERVER__UDS="null",
        NERVE_SERVER__LOG_LEVEL="debug",
        NERVE_LIMITS__MAX_INPUTS="3",
        NERVE_RUNTIME__TRUNCATE="true",
        NERVE_RUNTIME__AGGREGATION_STRATEGY="max",
        NERVE_RUNTIME__RAW_SCORES_AS="logits",
        NERVE_MODEL__DEVICE="cpu",
        NERVE_MODEL__CHECKPOINT_REPOSITORY__SOURCE="HF",
        NERVE_MODEL__CHECKPOINT_REPOSITORY__REPO="dslim/bert-base-NER",
        NERVE_MODEL__CHECKPOINT_REPOSITORY__PATH="null",
        NERVE_BATCHING__MAX_PADDING="0.5",
        NERVE_SERVER__TLS="{certificate: a.pem, key: b.pem}",
    )
    assert (config.server.port, config.server.uds) == (9000, None)
    assert config.server.log_level is LogLevel.DEBUG
    assert (config.limits.max_inputs, config.runtime.truncate) == (3, True)
    assert config.runtime.aggregation_strategy is AggregationStrategy.MAX
    assert config.runtime.raw_scores_as is RawScoresAs.LOGITS
    assert config.model.device == Device.CPU
    assert config.model.checkpoint_repository.source is CheckpointSource.HF
    assert config.model.checkpoint_repository.repo == "dslim/bert-base-NER"
    assert config.batching.max_padding == 0.5
    assert config.server.tls is not None


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("NERVE_SERVER__UDS_PERMISSIONS", "660", "660"),
        ("NERVE_SERVER__UDS_PERMISSIONS", "0660", "0660"),
        ("NERVE_SERVER__UDS_PERMISSIONS", '"666"', "666"),
        ("NERVE_SERVER__HOST", "::", "::"),
        ("NERVE_SERVER__HOST", "", None),
        ("NERVE_MODEL__CHECKPOINT_REPOSITORY__REVISION", "1234567", "1234567"),
        ("NERVE_MODEL__CHECKPOINT_REPOSITORY__REVISION", "1.4", "1.4"),
        ("NERVE_MODEL__CHECKPOINT_REPOSITORY__REVISION", "12e4567", "12e4567"),
        ("NERVE_MODEL__CHECKPOINT_REPOSITORY__REVISION", "2024-01-02", "2024-01-02"),
        ("NERVE_MODEL__CHECKPOINT_REPOSITORY__REVISION", "no", "no"),
        ("NERVE_MODEL__CHECKPOINT_REPOSITORY__REVISION", "null", None),
    ],
)
def test_text_in_the_environment_needs_no_quotes(name: str, text: str, expected: str | None) -> None:
    """A key that holds text takes the variable as it stands, though YAML would read a number or a date."""
    hub = {"model": {"checkpoint_repository": {"source": "HF", "repo": "dslim/bert-base-NER"}}}
    found: Any = parse(hub, **{name: text})
    for part in name.removeprefix("NERVE_").lower().split("__"):
        found = getattr(found, part)
    assert found == expected


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("NERVE_SERVER__PROT", "1", "server.prot: unknown key"),
        ("NERVE_SEVER__PORT", "1", "sever: unknown key"),
        ("NERVE_SERVER__PORT__X", "1", "NERVE_SERVER__PORT__X: server.port is not a section"),
        ("NERVE_SERVER__PORT", "many", "server.port: expected `int`, got `str`"),
        ("NERVE_SERVER__PORT", "[", "NERVE_SERVER__PORT does not hold a valid value"),
    ],
)
def test_wrong_variables_are_refused_by_name(name: str, value: str, message: str) -> None:
    """A misspelt or ill-typed variable is an error like one in the file."""
    with pytest.raises(ConfigError) as caught:
        parse({"server": {"port": 1}}, **{name: value})
    assert message in str(caught.value)


def test_other_variables_are_left_alone() -> None:
    """Variables without a section, such as those of Kubernetes services, are not ours."""
    assert (
        parse(NERVE_SERVICE_HOST="10.0.0.1", NERVE_PORT="tcp://x", NERVE_API_KEY="k", OTHER__X="1") == parse()
    )


def test_override_does_not_touch_the_document() -> None:
    """Overrides are written to a copy."""
    document = {**LOCAL, "server": {"port": 1}}
    parse_config(document, {"NERVE_SERVER__PORT": "2"}, Path("/"))
    assert document["server"] == {"port": 1}


# --- secrets, paths, places -------------------------------------------------------------------------


def test_api_key_comes_from_the_environment_or_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable wins over the file; neither means no key; an empty key is a mistake."""
    key_file = tmp_path / "key"
    key_file.write_text(" from-file \n")
    monkeypatch.delenv("NERVE_API_KEY", raising=False)
    assert load_api_key(ServerConfig()) is None
    assert load_api_key(ServerConfig(api_key_file=str(key_file))) == "from-file"
    monkeypatch.setenv("NERVE_API_KEY", "from-environment")
    assert load_api_key(ServerConfig(api_key_file=str(key_file))) == "from-environment"
    monkeypatch.setenv("NERVE_API_KEY", "")
    with pytest.raises(ConfigError, match="empty"):
        load_api_key(ServerConfig())
    monkeypatch.delenv("NERVE_API_KEY")
    key_file.write_text("\n")
    with pytest.raises(ConfigError, match="empty"):
        load_api_key(ServerConfig(api_key_file=str(key_file)))
    with pytest.raises(ConfigError, match=r"server\.api_key_file"):
        load_api_key(ServerConfig(api_key_file=str(tmp_path / "none")))


def test_relative_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    """Every path of the file is absolute afterwards; what lies inside a checkpoint stays as it is."""
    folder = tmp_path / "a"
    folder.mkdir()
    text = """
model: {checkpoint_repository: {source: LOCAL, path: ../m}, cache_dir: c, graph: onnx/model.onnx}
server: {uds: run/n.sock, api_key_file: /abs/key, tls: {certificate: c.pem, key: ~/k.pem}}
"""
    config = load_config(write(folder, text))
    assert Path(config.model.checkpoint_repository.path or "").resolve() == tmp_path / "m"
    assert config.model.cache_dir == str(folder / "c")
    assert config.model.graph == "onnx/model.onnx"
    assert config.server.uds == str(folder / "run/n.sock")
    assert config.server.api_key_file == "/abs/key"
    assert config.server.tls is not None
    assert config.server.tls.certificate == str(folder / "c.pem")
    assert config.server.tls.key == str(Path.home() / "k.pem")
    assert config.server.tls.client_ca is None


def test_path_inside_a_package_is_not_anchored() -> None:
    """`path` of a WHEEL or HF source is a path inside the package."""
    checkpoint = {"source": "WHEEL", "repo": "p", "revision": "1", "path": "p/m", "sha256": "0" * 64}
    config = parse({"model": {"checkpoint_repository": checkpoint}})
    assert config.model.checkpoint_repository.path == "p/m"


def test_config_is_found_by_argument_then_variable_then_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The argument wins over NERVE_CONFIG, which wins over ./config.yaml; none is an error that says both."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NERVE_CONFIG", raising=False)
    with pytest.raises(ConfigError, match="--config FILE or NERVE_CONFIG"):
        find_config(None)
    here = write(tmp_path, "")
    assert find_config(None).resolve() == here
    other = tmp_path / "other.yaml"
    other.write_text("")
    monkeypatch.setenv("NERVE_CONFIG", str(other))
    assert find_config(None) == other
    assert find_config(str(here)) == here
    monkeypatch.setenv("NERVE_CONFIG", str(tmp_path / "none.yaml"))
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        find_config(None)


def test_cache_dir_follows_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """$XDG_CACHE_HOME/nerve, else ~/.cache/nerve."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "nerve"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache_dir() == Path.home() / ".cache/nerve"


# --- Truss ------------------------------------------------------------------------------------------

# The configuration for NER that Baseten documents, with the keys its examples carry beside it.
TRUSS = """
model_metadata:
  example_model_input: {inputs: [["a"]], raw_scores: true}
model_name: BEI-Bert-ner
python_version: py39
resources: {accelerator: L4, cpu: "1", memory: 10Gi, use_gpu: true}
trt_llm:
  inference_stack: v1
  build:
    base_model: encoder_bert
    checkpoint_repository:
      repo: acme/bert-base-ner
      revision: main
      source: HF
      runtime_secret_name: hf_access_token
    max_num_tokens: 16384
    max_batch_size: 64
    quantization_type: no_quant
  runtime:
    webserver_default_route: /predict_tokens
"""


def test_truss_config_is_read_unchanged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Keys with a meaning here are taken over; one warning lists the others."""
    with caplog.at_level(logging.WARNING, "nerve"):
        config = load_config(write(tmp_path, TRUSS))
    checkpoint = config.model.checkpoint_repository
    assert (checkpoint.source, checkpoint.repo, checkpoint.revision) == (
        CheckpointSource.HF,
        "acme/bert-base-ner",
        "main",
    )
    assert (config.batching.max_batch_tokens, config.batching.max_batch_size) == (16384, 64)
    assert config.runtime.webserver_default_route == "/predict_tokens"
    (record,) = caplog.records
    ignored = record.getMessage().partition("ignored: ")[2].split(", ")
    assert sorted(ignored) == [
        "model_metadata",
        "model_name",
        "python_version",
        "resources",
        "trt_llm.build.checkpoint_repository.runtime_secret_name",
        "trt_llm.build.quantization_type",
        "trt_llm.inference_stack",
    ]


def test_truss_source_is_the_hub_by_default(tmp_path: Path) -> None:
    """Baseten documents HF as the default of `source`."""
    config = load_config(write(tmp_path, TRUSS.replace("      source: HF\n", "")))
    assert config.model.checkpoint_repository.source is CheckpointSource.HF


@pytest.mark.parametrize(
    "key",
    [
        *("base_model", "revision", "source", "max_num_tokens", "max_batch_size", "webserver_default_route"),
        *("quantization_type", "inference_stack", "python_version"),
    ],
)
def test_null_in_a_truss_config_counts_as_left_out(
    tmp_path: Path, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Also of the keys that mean nothing here: no warning names them."""
    line = re.compile(rf"(?m)^( *{key}:).*\n")
    with caplog.at_level(logging.WARNING, "nerve"):
        nulled = load_config(write(tmp_path, line.sub(r"\1 null\n", TRUSS)))
        assert nulled == load_config(write(tmp_path, line.sub("", TRUSS)))
    first, second = (record.getMessage() for record in caplog.records)
    assert first == second


def test_null_section_of_a_truss_config_counts_as_left_out(tmp_path: Path) -> None:
    """`runtime:` with nothing under it is the default route."""
    text = TRUSS.replace("    webserver_default_route: /predict_tokens\n", "")
    assert load_config(write(tmp_path, text)).runtime.webserver_default_route == "/predict_tokens"


def test_truss_config_is_overridden_by_our_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`NERVE_...` names our keys, whatever the file was written for."""
    monkeypatch.setenv("NERVE_SERVER__PORT", "9000")
    assert load_config(write(tmp_path, TRUSS)).server.port == 9000


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("encoder_bert", "encoder", "model.base_model: expected"),
        ("/predict_tokens", "embeddings", "runtime.webserver_default_route: expected"),
        ("source: HF", "source: S3", "model.checkpoint_repository.source: invalid enum value"),
    ],
)
def test_truss_config_for_something_else_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    """A deployment that is not a token classifier from a source we know is not started as one."""
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config(write(tmp_path, TRUSS.replace(old, new)))


@pytest.mark.parametrize(
    "line",
    [
        *("webserver_default_route: /predict_tokens", "max_num_tokens: 16384", "max_batch_size: 64"),
        *("source: HF", "revision: main", "base_model: encoder_bert"),
    ],
)
def test_truss_keys_that_are_null_count_as_absent(
    tmp_path: Path, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Truss itself writes null for what was not set."""
    name = line.partition(":")[0]
    without = load_config(write(tmp_path, TRUSS.replace(f"{line}\n", "\n")))
    caplog.clear()
    assert load_config(write(tmp_path, TRUSS.replace(line, f"{name}: null"))) == without
    assert not re.search(rf"\.{name}\b", caplog.text)  # it is not said to be ignored


def test_empty_truss_section_is_refused(tmp_path: Path) -> None:
    """`trt_llm` with nothing in it lacks the checkpoint."""
    with pytest.raises(ConfigError, match="model: required, but missing"):
        load_config(write(tmp_path, "trt_llm:\n"))


COLLECTOR = "http://collector:4318"


@pytest.mark.parametrize(
    ("tracing", "variables", "expected"),
    [
        ({}, {}, None),
        ({}, {"OTEL_EXPORTER_OTLP_ENDPOINT": COLLECTOR}, f"{COLLECTOR}/v1/traces"),
        ({}, {"OTEL_EXPORTER_OTLP_ENDPOINT": f"{COLLECTOR}/"}, f"{COLLECTOR}/v1/traces"),
        (
            {},
            {"OTEL_EXPORTER_OTLP_ENDPOINT": COLLECTOR, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://t/x"},
            "http://t/x",
        ),
        ({"endpoint": "http://mine/"}, {"OTEL_EXPORTER_OTLP_ENDPOINT": COLLECTOR}, "http://mine/"),
        ({}, {"OTEL_EXPORTER_OTLP_ENDPOINT": COLLECTOR, "OTEL_SDK_DISABLED": "true"}, None),
        ({}, {"OTEL_EXPORTER_OTLP_ENDPOINT": COLLECTOR, "OTEL_TRACES_EXPORTER": "none"}, None),
        ({}, {"NERVE_TRACING__ENDPOINT": "https://mine/"}, "https://mine/"),
    ],
)
def test_collector_of_traces(
    tracing: dict[str, Any], variables: dict[str, str], expected: str | None
) -> None:
    """The file names the collector, else OpenTelemetry's standard variables do."""
    assert parse({"tracing": tracing}, **variables).tracing.endpoint == expected


def test_collector_that_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Traces that the file asks for need nerve[otel]; what a cluster's variables ask for is a warning."""
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": COLLECTOR}
    assert parse({}, **variables, OTEL_EXPORTER_OTLP_PROTOCOL="grpc").tracing.endpoint is None
    assert "http/protobuf only" in caplog.text
    for name in [name for name in sys.modules if name.startswith("opentelemetry.exporter")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)  # as if it were not installed
    with pytest.raises(ConfigError, match=r"tracing.endpoint .* nerve\[otel\]"):
        parse({"tracing": {"endpoint": COLLECTOR}})
    assert parse({}, **variables).tracing.endpoint is None
    assert "nerve[otel] is not installed" in caplog.text


@pytest.mark.parametrize(
    "origin",
    [
        *(
            "*",
            "null",
            "app.example.com",
            "https://",
            "https://app.example.com/",
            "https://app.example.com/x",
        ),
        *(
            "https://App.example.com",
            "https://app.example.com:443",
            "http://app.example.com:80",
            "https://*.example.com",
        ),
        *("https://user@app.example.com", " https://app.example.com", "https://app.example.com?x"),
    ],
)
def test_origin_that_no_browser_sends_is_refused(tmp_path: Path, origin: str) -> None:
    """It would let nobody in, and nobody would see why."""
    path = write_config(tmp_path / "config.yaml", tmp_path, server={"cors_origins": [origin]})
    with pytest.raises(ConfigError, match="cors_origins"):
        load_config(path)


@pytest.mark.parametrize(
    "origin",
    [
        "https://app.example.com",
        "http://localhost:3000",
        "http://[::1]:8080",
        "chrome-extension://abcdef",
        "http://h:8080",
    ],
)
def test_origins_as_browsers_send_them(tmp_path: Path, origin: str) -> None:
    """Scheme, host and port."""
    path = write_config(tmp_path / "config.yaml", tmp_path, server={"cors_origins": [origin]})
    assert load_config(path).server.cors_origins == [origin]


# --- redaction --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"redaction": {"operators": {"DEFAULT": {"type": "encrypt"}}}},
            r"operators\[...\].type: invalid value",
        ),
        (
            {"redaction": {"operators": {"X": {"type": "mask", "masking_char": "ab"}}}},
            "masking_char: expected",
        ),
        (
            {"redaction": {"operators": {"X": {"type": "mask", "chars_to_mask": -1}}}},
            "chars_to_mask: expected",
        ),
        (
            {"redaction": {"operators": {"X": {"type": "keep", "chars": 1}}}},
            r"operators\[...\].chars: unknown key",
        ),
        (
            {"redaction": {"operators": {"X": {"type": "hash", "salt": "short"}}}},
            "salt must have at least 16 bytes",
        ),
        ({"runtime": {"patterns": ["mail"]}}, r"runtime.patterns\[0\]: invalid enum value"),
        ({"runtime": {"min_score": 2}}, "runtime.min_score: expected `float` <= 1"),
        ({"runtime": {"min_score": {"PER": "high"}}}, "runtime.min_score"),
    ],
)
def test_redaction_keys_that_are_refused(sections: dict[str, Any], message: str) -> None:
    """The message names the key."""
    with pytest.raises(ConfigError, match=message):
        parse(sections)


def test_a_pattern_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start ends with the name of the extra."""
    monkeypatch.setattr("nerve.config.loading.has_phonenumbers", lambda: False)
    with pytest.raises(ConfigError, match=r"runtime.patterns: phone_number needs .* install nerve\[phone\]"):
        parse({"runtime": {"patterns": ["email", "phone_number"]}})


def test_the_key_of_pseudonyms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the file, else from the environment, else random and handed on to processes that are started."""
    monkeypatch.delenv("NERVE_REDACTION_KEY", raising=False)
    made = load_redaction_key(RedactionConfig())
    assert made == load_redaction_key(RedactionConfig()) == os.environ["NERVE_REDACTION_KEY"].encode()
    assert len(made) >= 32
    monkeypatch.setenv("NERVE_REDACTION_KEY", "0123456789abcdef")
    assert load_redaction_key(RedactionConfig()) == b"0123456789abcdef"
    file = tmp_path / "key"
    file.write_text("fedcba9876543210\n")
    assert load_redaction_key(RedactionConfig(key_file=str(file))) == b"fedcba9876543210"
    file.write_text("short secret")
    with pytest.raises(ConfigError, match=r"redaction.key_file: the key has 12 bytes, and at least 16"):
        load_redaction_key(RedactionConfig(key_file=str(file)))
    with pytest.raises(ConfigError, match=r"redaction.key_file: cannot read"):
        load_redaction_key(RedactionConfig(key_file=str(tmp_path / "none")))
