{{/* toYaml, which says nothing and gives nothing where a text has control characters: such values are refused. */}}
{{- define "nerve.yaml" -}}
{{- $text := toYaml . -}}
{{- if and . (not $text) }}{{ fail "a text in the values has control characters, which YAML cannot hold" }}{{ end -}}
{{- $text -}}
{{- end -}}

{{/* A name that Kubernetes takes for every kind (a Service's must start with a letter), with room for a suffix of 11. */}}
{{- define "nerve.clean" -}}
{{- $name := regexReplaceAll "[^a-z0-9]+" (lower .) "-" | trimAll "-" -}}
{{- if not (regexMatch "^[a-z]" $name) }}{{ $name = printf "nerve-%s" $name }}{{ end -}}
{{- $name | trunc 52 | trimAll "-" -}}
{{- end -}}

{{- define "nerve.name" -}}
{{- include "nerve.clean" (default .Chart.Name .Values.nameOverride) -}}
{{- end -}}

{{- define "nerve.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- include "nerve.clean" .Values.fullnameOverride -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- include "nerve.clean" (ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name)) -}}
{{- end -}}
{{- end -}}

{{- define "nerve.serviceAccountName" -}}
{{- default (ternary (include "nerve.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "nerve.selectorLabels" -}}
app.kubernetes.io/name: {{ include "nerve.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | trunc 63 | quote }}
{{- end -}}

{{- define "nerve.testName" -}}
{{- include "nerve.name" . }}-test
{{- end -}}

{{/* A text as the value of a label. */}}
{{- define "nerve.labelValue" -}}
{{- regexReplaceAll "[^A-Za-z0-9._-]" . "_" | trunc 63 | trimAll "._-" -}}
{{- end -}}

{{- define "nerve.tag" -}}
{{- .Values.image.tag | default (printf "%s%s" .Chart.AppVersion (ternary "-gpu" "" .Values.gpu.enabled)) -}}
{{- end -}}

{{- define "nerve.image" -}}
{{- .Values.image.repository -}}
{{- if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ include "nerve.tag" . }}{{ end -}}
{{- end -}}

{{/* The chart's own labels win over commonLabels: selectors rest on them. */}}
{{- define "nerve.labels" -}}
{{- $own := include "nerve.selectorLabels" . | fromYaml -}}
{{- $_ := set $own "app.kubernetes.io/version" (include "nerve.labelValue" (include "nerve.tag" .)) -}}
{{- $_ := set $own "app.kubernetes.io/managed-by" .Release.Service -}}
{{- $_ := set $own "app.kubernetes.io/component" "server" -}}
{{- $_ := set $own "helm.sh/chart" (include "nerve.labelValue" (printf "%s-%s" .Chart.Name .Chart.Version)) -}}
{{- merge $own (.Values.commonLabels | default dict) | include "nerve.yaml" -}}
{{- end -}}

{{/* name, labels, annotations: (list $ SUFFIX MORE-LABELS MORE-ANNOTATIONS) */}}
{{- define "nerve.metadata" -}}
{{- $top := index . 0 -}}
name: {{ include "nerve.fullname" $top }}{{ index . 1 }}
namespace: {{ $top.Release.Namespace | quote }}
labels:
  {{- merge (include "nerve.labels" $top | fromYaml) (index . 2 | default dict) | include "nerve.yaml" | nindent 2 }}
{{- with merge (dict) (index . 3 | default dict) ($top.Values.commonAnnotations | default dict) }}
annotations:
  {{- include "nerve.yaml" . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The server's part of config, {} where there is none. */}}
{{- define "nerve.server" -}}
{{- (.Values.config | default dict).server | default dict | include "nerve.yaml" -}}
{{- end -}}

{{/* config, and where it names no model, the image's own default model with the rules that belong to it. */}}
{{- define "nerve.config" -}}
{{- $config := deepCopy (.Values.config | default dict) -}}
{{- $model := $config.model | default dict -}}
{{- if not (or .Values.model $config.trt_llm $model.checkpoint_repository) -}}
{{- $shipped := .Files.Get "files/config.yaml" | fromYaml -}}
{{- $_ := set $model "checkpoint_repository" $shipped.model.checkpoint_repository -}}
{{- $_ := set $config "model" $model -}}
{{- $runtime := $config.runtime | default dict -}}
{{- if not (hasKey $runtime "patterns") }}{{ $_ := set $runtime "patterns" $shipped.runtime.patterns }}{{ end -}}
{{- $_ := set $config "runtime" $runtime -}}
{{- end -}}
{{- include "nerve.yaml" $config -}}
{{- end -}}

{{/* HTTPS where config.server.tls is set, else HTTP. */}}
{{- define "nerve.scheme" -}}
{{- if (include "nerve.server" . | fromYaml).tls }}HTTPS{{ else }}HTTP{{ end -}}
{{- end -}}

{{/* Seconds after which a client has its answer or its 504: what limits allow at most and 5 s, rounded up. */}}
{{- define "nerve.answerSeconds" -}}
{{- $limits := (.Values.config | default dict).limits | default dict -}}
{{- $longest := max (int64 ($limits.request_timeout_ms | default 30000)) (int64 ($limits.max_request_timeout_ms | default 300000)) -}}
{{- add 5 (ceil (divf (float64 $longest) 1000) | int64) -}}
{{- end -}}

{{/* How long the server serves after SIGTERM. Nginx in front of it ends its own delay later than it began, by what a
     kubelet needs to start its hook, and passes on what comes until then. */}}
{{- define "nerve.delaySeconds" -}}
{{- addf .Values.drain.delaySeconds (ternary 5 0 .Values.nginx.enabled) -}}
{{- end -}}

{{- define "nerve.graceSeconds" -}}
{{- add (include "nerve.delaySeconds" . | float64 | ceil | int64) (ceil .Values.drain.timeoutSeconds | int64) 10 -}}
{{- end -}}

{{/* A duration such as 15s, 500ms or 1m, in milliseconds. */}}
{{- define "nerve.milliseconds" -}}
{{- $number := regexFind "^[0-9]+" . | int64 -}}
{{- $unit := trimPrefix ($number | toString) . -}}
{{- mul $number (index (dict "ms" 1 "s" 1000 "m" 60000) $unit) -}}
{{- end -}}

{{/* The secrets that are named: a list of {name, key, file, variable}. */}}
{{- define "nerve.secrets" -}}
{{- $files := dict "apiKey" (list "api-key" "NERVE_SERVER__API_KEY_FILE") "hubToken" (list "hub-token" "HF_TOKEN_PATH") "redactionKey" (list "redaction-key" "NERVE_REDACTION__KEY_FILE") -}}
{{- $found := list -}}
{{- range $kind, $file := $files -}}
{{- $secret := index $.Values.secrets $kind -}}
{{- if $secret.existingSecret -}}
{{- $found = append $found (dict "name" $secret.existingSecret "key" $secret.key "file" (index $file 0) "variable" (index $file 1)) -}}
{{- end -}}
{{- end -}}
{{- dict "items" $found | include "nerve.yaml" -}}
{{- end -}}

{{/* The environment of the server: the chart's own, without what extraEnv sets, and extraEnv. */}}
{{- define "nerve.env" -}}
{{- $own := list -}}
{{- $own = append $own (dict "name" "NERVE_SERVER__HOST" "value" "0.0.0.0") -}}
{{- $own = append $own (dict "name" "NERVE_SERVER__PORT" "value" "8000") -}}
{{- $own = append $own (dict "name" "NERVE_SERVER__DRAIN_DELAY_MS" "value" (mulf (include "nerve.delaySeconds" . | float64) 1000 | ceil | int64 | toString)) -}}
{{- $own = append $own (dict "name" "NERVE_SERVER__DRAIN_TIMEOUT_MS" "value" (mulf .Values.drain.timeoutSeconds 1000 | ceil | int64 | toString)) -}}
{{- if .Values.config -}}
{{- $own = append $own (dict "name" "NERVE_CONFIG" "value" "/etc/nerve/config.yaml") -}}
{{- end -}}
{{- if .Values.gpu.enabled -}}
{{- $own = append $own (dict "name" "NERVE_MODEL__DEVICE" "value" "cuda") -}}
{{- end -}}
{{- range (include "nerve.secrets" . | fromYaml).items -}}
{{- $own = append $own (dict "name" .variable "value" (printf "/etc/nerve-secrets/%s" .file)) -}}
{{- end -}}
{{- $theirs := dict -}}
{{- range .Values.extraEnv }}{{ $_ := set $theirs .name true }}{{ end -}}
{{- $kept := list -}}
{{- range $own }}{{ if not (hasKey $theirs .name) }}{{ $kept = append $kept . }}{{ end }}{{ end -}}
{{- concat $kept (.Values.extraEnv | default list) | include "nerve.yaml" -}}
{{- end -}}

{{/* deploy/nginx.conf for this pod: the server's port instead of its socket, and the numbers of config and drain. */}}
{{- define "nerve.nginxConf" -}}
{{- $limits := (.Values.config | default dict).limits | default dict -}}
{{- $bytes := $limits.max_body_bytes | default 4194304 | int64 | toString -}}
{{- $conf := .Files.Get "files/nginx.conf" -}}
{{- $conf = $conf | replace "unix:/run/nerve/nerve.sock" "127.0.0.1:8000" | replace "4194304" $bytes -}}
{{- $conf = $conf | replace "proxy_read_timeout 305s;" (printf "proxy_read_timeout %ss;" (include "nerve.answerSeconds" .)) -}}
{{- $conf | replace "worker_shutdown_timeout 30s;" (printf "worker_shutdown_timeout %ds;" (ceil .Values.drain.timeoutSeconds | int64)) -}}
{{- end -}}

{{/* The series of this release. */}}
{{- define "nerve.series" -}}
{{- .Values.autoscaling.keda.selector | default (printf "namespace=%q,job=%q" .Release.Namespace (include "nerve.fullname" .)) -}}
{{- end -}}

{{/* What KEDA asks Prometheus. Each query gives one number, 0 where nothing was asked of the pods lately.
     busy: pods' worth of work; refused, p99: guardrails, compared with their limits as they are. */}}
{{- define "nerve.triggers" -}}
{{- $s := include "nerve.series" . -}}
{{- $scaling := .Values.autoscaling -}}
{{- $found := list (dict "name" "busy" "metricType" "AverageValue" "threshold" ($scaling.busyShare | toString)
    "query" (printf "sum(clamp_max(rate(nerve_engine_busy_seconds_total{%s}[1m]) / nerve_engine_threads{%s}, 1)) or vector(0)" $s $s)) -}}
{{- with $scaling.refusedShare -}}
{{- $refused := printf "sum(rate(nerve_rejections_total{%s,reason=~\"queue_tokens|queue_wait|queue_deadline|pool|pending_bytes|deadline\"}[1m]))" $s -}}
{{- $found = append $found (dict "name" "refused" "metricType" "Value" "threshold" (. | toString)
    "query" (printf "(%s / (%s + sum(rate(nerve_request_duration_seconds_count{%s}[1m]))) >= 0) or vector(0)" $refused $refused $s)) -}}
{{- end -}}
{{- with $scaling.p99Seconds -}}
{{- $found = append $found (dict "name" "p99" "metricType" "Value" "threshold" (. | toString)
    "query" (printf "(histogram_quantile(0.99, sum by (le) (rate(nerve_request_duration_seconds_bucket{%s}[1m]))) >= 0) or vector(0)" $s)) -}}
{{- end -}}
{{- dict "items" $found | include "nerve.yaml" -}}
{{- end -}}
