"""Values that people, and people's mistakes, give the chart: each must render to manifests that a cluster takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[2] / "deploy" / "helm" / "nerve"
GPU: dict[str, Any] = yaml.safe_load((CHART / "values-gpu.yaml").read_text())
NASTY = 'it\'s "quoted", {{ .Values.secret }} $(HOME) \\ \n--- \n# no comment\t: [x] ünï 🙂'
LONG = "a" * 63
SECRETS = {
    "apiKey": {"existingSecret": "existing-keys", "key": "api-key"},
    "hubToken": {"existingSecret": "existing-hub", "key": "HF_TOKEN"},
    "redactionKey": {"existingSecret": "existing-keys", "key": "pseudonyms.key"},
}
MONITORED = {
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "rules": {"enabled": True},
    "dashboard": {"enabled": True},
}
EVERYTHING: dict[str, Any] = {
    "nginx": {"enabled": True},
    "secrets": SECRETS,
    "metrics": MONITORED,
    "ingress": {
        "enabled": True,
        "className": "nginx",
        "annotations": {"nginx.ingress.kubernetes.io/proxy-body-size": "4m"},
        "hosts": [{"host": "ner.example.com", "paths": [{"path": "/predict_tokens", "pathType": "Exact"}]}],
        "tls": [{"secretName": "ner-tls", "hosts": ["ner.example.com"]}],
    },
    "httpRoute": {"enabled": True, "parentRefs": [{"name": "gateway", "namespace": "gateways"}]},
    "networkPolicy": {
        "enabled": True,
        "from": [{"namespaceSelector": {"matchLabels": {"team": "search"}}}],
        "metricsFrom": [
            {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
        ],
    },
    "autoscaling": {"kind": "keda"},
    "config": {
        "limits": {"max_body_bytes": 8388608, "request_timeout_ms": 2500, "max_request_timeout_ms": 12500}
    },
    "cache": {"kind": "volume"},
}
CASES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "gpu": GPU,
    "gpu-and-all": {**EVERYTHING, **GPU},
    "everything": EVERYTHING,
    "cache-image": {"cache": {"kind": "image"}},
    "cache-volume": {"cache": {"kind": "volume", "storageClassName": "fast", "size": "200Gi"}},
    "cache-claim": {"cache": {"kind": "volume", "existingClaim": "existing-models", "readOnly": True}},
    "cache-once": {"cache": {"kind": "volume", "accessModes": ["ReadWriteOnce"]}},
    "hpa": {"autoscaling": {"kind": "hpa"}},
    "hpa-no-guardrails": {"autoscaling": {"kind": "hpa", "p99Seconds": None, "refusedShare": None}},
    "keda-no-guardrails": {"autoscaling": {"kind": "keda", "p99Seconds": None, "refusedShare": None}},
    "keda-login": {"autoscaling": {"kind": "keda", "keda": {"authenticationRef": "prometheus-login"}}},
    "keda-extreme": {
        "autoscaling": {"kind": "keda", "minReplicas": 9, "maxReplicas": 3, "p99Seconds": 0.001, "busyShare": 1}
    },
    "hpa-extreme": {
        "autoscaling": {"kind": "hpa", "maxReplicas": 2147483647, "p99Seconds": 86400, "refusedShare": 0.0011}
    },
    "no-pods": {"replicaCount": 0},
    "one-pod": {"replicaCount": 1, "podDisruptionBudget": {"enabled": True, "maxUnavailable": "0%"}},
    "two-billion-pods": {"replicaCount": 2147483647},
    "budget-by-minimum": {"podDisruptionBudget": {"minAvailable": "50%", "maxUnavailable": None}},
    "budget-of-nothing": {"podDisruptionBudget": {"minAvailable": None, "maxUnavailable": None}},
    "secrets": {"secrets": SECRETS},
    "one-secret": {"secrets": {"hubToken": SECRETS["hubToken"]}},
    "model-by-name": {"model": "dslim/bert-base-NER", "extraArgs": ["--model-name", "ner"]},
    "model-nasty": {"model": "/models/it's \"mine\": {{ x }}", "extraArgs": ["", NASTY]},
    "config-nasty": {"config": {"model": {"name": NASTY}, "redaction": {"operators": {"A": {"new_value": NASTY}}}}},
    "config-empty-parts": {"config": {"limits": None, "server": {}, "model": None}},
    "config-numbers": {
        "config": {
            "limits": {"max_body_bytes": 1000000000000, "request_timeout_ms": 1},
            "batching": {"max_queue_tokens": 9007199254740991},
        },
        "nginx": {"enabled": True},
    },
    "tls": {
        "config": {"server": {"tls": {"certificate": "/tls/tls.crt", "key": "/tls/tls.key"}}},
        "metrics": MONITORED,
        "extraVolumes": [{"name": "tls", "secret": {"secretName": "ner-tls"}}],
        "extraVolumeMounts": [{"name": "tls", "mountPath": "/tls", "readOnly": True}],
    },
    "names-long": {
        "nameOverride": "n" * 200,
        "fullnameOverride": "F" * 200,
        "commonLabels": {LONG: LONG, f"example.com/{LONG[:51]}": ""},
        "podLabels": {LONG: LONG},
        "serviceAccount": {"create": True, "name": "s" * 63},
        **{key: EVERYTHING[key] for key in ("nginx", "metrics", "cache", "httpRoute", "ingress")},
    },
    "names-odd": {"nameOverride": "9.Lives_of-", "fullnameOverride": "-._A.b_"},
    "names-of-nothing": {"nameOverride": "...", "fullnameOverride": "---"},
    "names-unprintable": {"nameOverride": "ner {{ x }}\n'", "fullnameOverride": "ünï/🙂 \"name\""},
    "labels-taken": {
        "commonLabels": {"app.kubernetes.io/name": "mine", "app.kubernetes.io/instance": "other"},
        "podLabels": {"app.kubernetes.io/name": "mine"},
    },
    "annotations-nasty": {
        "commonAnnotations": {"note": NASTY, "empty": "", "number": "1e3", "yes": "yes", "null": "null"},
        "podAnnotations": {"note": NASTY},
        "service": {"annotations": {"note": NASTY}},
        "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/x"}},
    },
    "environment": {
        "extraEnv": [
            {"name": "NERVE_SERVER__DRAIN_DELAY_MS", "value": "9000"},
            {"name": "NOTE", "value": NASTY},
            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        ],
        "extraEnvFrom": [{"configMapRef": {"name": "more"}}],
    },
    "openshift": {"podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None}},
    "empty-maps": {
        "resources": {},
        "podSecurityContext": {},
        "nodeSelector": {},
        "affinity": {},
        "podLabels": {},
        "config": {},
        "imagePullSecrets": [],
        "spread": {"topologyKeys": []},
    },
    "no-limits": {"resources": {"limits": None, "requests": {"cpu": 1.5}}},
    "gpu-no-limits": {
        "gpu": {"enabled": True, "count": 64, "resourceName": "amd.com/gpu"},
        "resources": {"limits": None},
    },
    "placed": {
        "nodeSelector": {"kubernetes.io/arch": "amd64"},
        "tolerations": [{"key": "dedicated", "operator": "Equal", "value": "ner", "effect": "NoSchedule"}],
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        "priorityClassName": "high",
        "runtimeClassName": "gvisor",
        "imagePullSecrets": [{"name": "registry"}],
        "spread": {"maxSkew": 5, "whenUnsatisfiable": "DoNotSchedule"},
    },
    "drain-long": {"drain": {"delaySeconds": 3600, "timeoutSeconds": 86400}, "nginx": {"enabled": True}},
    "drain-short": {"drain": {"delaySeconds": 0, "timeoutSeconds": 0.25}, "nginx": {"enabled": True}},
    "port-of-the-server": {"service": {"type": "NodePort", "port": 8001}, "nginx": {"enabled": True}},
    "cut-off": {"networkPolicy": {"enabled": True, "allowDownload": False}, "cache": {"kind": "image"}},
    "ingress-bare": {"ingress": {"enabled": True}},
    "ingress-any-host": {"ingress": {"enabled": True, "hosts": [{"paths": [{"path": "/", "pathType": "Prefix"}]}]}},
    "pinned": {"image": {"repository": "registry.example.com:5000/team/nerve", "digest": "sha256:" + "a" * 64}},
    "tag-long": {"image": {"tag": "_" + "x" * 126 + "-"}},
    "replaced": {"updateStrategy": {"type": "Recreate"}},
}  # fmt: skip
RELEASES = ["demo", "9lives", "a.b-c.d", "n" * 53, "1", "nerve"]

# What Helm must refuse, and a part of what it then says.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "misspelt": ({"replicas": 3}, "replicas"),
    "misspelt-inside": ({"cache": {"kind": "image", "siz": "1Gi"}}, "siz"),
    "cache-kind": ({"cache": {"kind": "s3"}}, "cache/kind"),
    "negative": ({"replicaCount": -1}, "replicaCount"),
    "text-for-number": ({"replicaCount": "3"}, "replicaCount"),
    "half-a-pod": ({"replicaCount": 1.5}, "replicaCount"),
    "too-many-pods": ({"replicaCount": 2147483648}, "replicaCount"),
    "label-newline": ({"commonLabels": {"a": "b\nc"}}, "commonLabels/a"),
    "label-quote": ({"podLabels": {"a": "\"b'"}}, "podLabels/a"),
    "label-long": ({"podLabels": {"a": "b" * 64}}, "podLabels/a"),
    "label-key": ({"commonLabels": {"a b": "c"}}, "'a b'"),
    "annotation-key": ({"commonAnnotations": {"{{x}}": "c"}}, "'{{x}}'"),
    "annotation-number": ({"podAnnotations": {"a": 1}}, "podAnnotations/a"),
    "control-character": ({"podAnnotations": {"a": "\x7f"}}, "control characters"),
    "control-character-in-config": ({"config": {"model": {"name": "\x9f"}}}, "control characters"),
    "quantity": ({"resources": {"limits": {"memory": "2 GB"}}}, "resources"),
    "port": ({"service": {"port": 65536}}, "service/port"),
    "image": ({"image": {"repository": "nerve:latest; rm"}}, "image/repository"),
    "server-port": ({"config": {"server": {"port": 9000}}}, "config/server/port"),
    "server-socket": ({"config": {"server": {"uds": "/run/x.sock"}}}, "config/server/uds"),
    "client-certificates": ({"config": {"server": {"tls": {"client_ca": "/tls/ca"}}}}, "client_ca"),
    "tls-behind-nginx": ({"nginx": {"enabled": True}, "config": {"server": {"tls": {}}}}, "config/server/tls"),
    "no-gateway": ({"httpRoute": {"enabled": True}}, "httpRoute/parentRefs"),
    "scale-to-zero": ({"autoscaling": {"minReplicas": 0}}, "autoscaling/minReplicas"),
    "busy-above-all": ({"autoscaling": {"busyShare": 1.5}}, "autoscaling/busyShare"),
    "option-for-model": ({"model": "--host"}, "model"),
    "no-environment-name": ({"extraEnv": [{"name": "A-B"}]}, "extraEnv/0/name"),
    "no-port-argument": ({"extraArgs": ["--model-name", "ner", "--port", "9"]}, "extraArgs/2"),
    "no-address-argument": ({"extraArgs": ["--host=127.0.0.1"]}, "extraArgs/0"),
    "no-port-of-its-own": ({"extraEnv": [{"name": "NERVE_SERVER__PORT", "value": "9"}]}, "extraEnv/0/name"),
    "two-sources": ({"extraEnv": [{"name": "A", "value": "1", "valueFrom": {}}]}, "extraEnv/0"),
    "no-update": ({"updateStrategy": {"rollingUpdate": {"maxSurge": "0%"}}}, "rollingUpdate/maxUnavailable"),
    "volume-taken": ({"extraVolumes": [{"name": "cache", "emptyDir": {}}]}, "a volume cache already"),
    "volume-twice": ({"extraVolumes": [{"name": "a"}, {"name": "a"}]}, "a volume a already"),
    "null-for-what-is-needed": ({"drain": None}, "'drain'"),
    "null-for-a-number": ({"gpu": {"count": None}}, "'count'"),
    "no-drain": ({"drain": {"timeoutSeconds": 0}}, "drain/timeoutSeconds"),
}  # fmt: skip
