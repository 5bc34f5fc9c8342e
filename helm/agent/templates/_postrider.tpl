{{- /*
Templates that both charts share: names, labels, the image, and files from secrets and ConfigMaps. The file is identical
in both charts; a test checks this.

Each chart lists the files that its program reads in one template, `<chart>.files`, as a list of
{name, secret | configMap, key, optional}. Each is mounted at /etc/postrider/<name>.
*/ -}}

{{- define "postrider.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- /* At most 48 characters: the names that Kubernetes derives from it must stay below 63. */ -}}
{{- define "postrider.fullname" -}}
{{- $name := include "postrider.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 48 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 48 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 48 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "postrider.selectorLabels" -}}
app.kubernetes.io/name: postrider-{{ include "postrider.name" . }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "postrider.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "postrider.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: postrider
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- /* The metadata of an object: (dict "root" $ "name" … "labels" … "annotations" …); the last two override the common ones. */ -}}
{{- define "postrider.metadata" -}}
metadata:
  name: {{ .name | quote }}
  namespace: {{ .root.Release.Namespace | quote }}
  labels:
    {{- $labels := include "postrider.labels" .root | fromYaml }}
    {{- mergeOverwrite (dict) .root.Values.commonLabels (.labels | default dict) $labels | toYaml | nindent 4 }}
  {{- with mergeOverwrite (dict) .root.Values.commonAnnotations (.annotations | default dict) }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{- define "postrider.image" -}}
{{- $tag := .Values.image.tag | default .Chart.AppVersion -}}
{{- .Values.image.repository }}:{{ $tag }}{{ with .Values.image.digest }}@{{ . }}{{ end -}}
{{- end -}}

{{- define "postrider.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "postrider.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- /* One of `<chart>.files`, from values of the form {pem, configMap, secret, key}; empty if none is set. */ -}}
{{- define "postrider.ca" -}}
{{- $ca := .ca -}}
{{- if $ca.pem -}}
- {name: {{ .name }}, configMap: {{ include "postrider.fullname" .root | quote }}, key: {{ .name }}.pem}
{{- else if $ca.configMap -}}
- {name: {{ .name }}, configMap: {{ $ca.configMap | quote }}, key: {{ $ca.key | quote }}}
{{- else if $ca.secret -}}
- {name: {{ .name }}, secret: {{ $ca.secret | quote }}, key: {{ $ca.key | quote }}}
{{- end -}}
{{- end -}}

{{- /* The path of such a file; empty if none is set. */ -}}
{{- define "postrider.caPath" -}}
{{- range (include "postrider.ca" . | fromYamlArray) -}}
/etc/postrider/{{ .name }}/{{ .key }}
{{- end -}}
{{- end -}}

{{- /*
Volumes for a list of files. Mode 0440, owned by root, with the pod's fsGroup as group: as private as the programs require
for files with secrets.
*/ -}}
{{- define "postrider.fileVolumes" -}}
{{- range . }}
- name: {{ .name }}
  {{- if .secret }}
  secret:
    secretName: {{ .secret | quote }}
  {{- else }}
  configMap:
    name: {{ .configMap | quote }}
  {{- end }}
    defaultMode: 0440
    {{- with .optional }}
    optional: true
    {{- end }}
    {{- with .key }}
    items:
      - key: {{ . | quote }}
        path: {{ . | quote }}
    {{- end }}
{{- end }}
{{- end -}}

{{- define "postrider.fileMounts" -}}
{{- range . }}
- name: {{ .name }}
  mountPath: /etc/postrider/{{ .name }}
  readOnly: true
{{- end }}
{{- end -}}

{{- /* Variables of the chart and of extraEnv, which takes precedence: the API server cannot apply a list with duplicate names. */ -}}
{{- define "postrider.env" -}}
{{- $names := list -}}
{{- range .extra -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- $env := .extra -}}
{{- range reverse .own -}}
{{- if not (has .name $names) -}}
{{- $env = prepend $env . -}}
{{- end -}}
{{- end -}}
{{- toYaml $env -}}
{{- end -}}

{{- define "postrider.probe" -}}
httpGet:
  path: {{ .path }}
  port: admin
periodSeconds: {{ .periodSeconds }}
failureThreshold: {{ .failureThreshold }}
timeoutSeconds: {{ .timeoutSeconds }}
{{- end -}}

{{- /* The nodes that the pods may run on. */ -}}
{{- define "postrider.scheduling" -}}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- $labels := include "postrider.selectorLabels" . | fromYaml }}
{{- with .Values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range . }}
  - {{- merge (dict) . (ternary (dict) (dict "labelSelector" (dict "matchLabels" $labels)) (hasKey . "labelSelector")) | toYaml | nindent 4 }}
  {{- end }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- end -}}

{{- /* Fails with all problems at once, each with its solution. */ -}}
{{- define "postrider.refuse" -}}
{{- if . -}}
{{- fail (printf "\n\nthe values cannot be used:\n\n- %s\n" (join "\n\n- " .)) -}}
{{- end -}}
{{- end -}}

{{- define "postrider.extraObjects" -}}
{{- range .Values.extraObjects }}
---
{{ tpl (ternary . (toYaml .) (kindIs "string" .)) $ }}
{{- end }}
{{- end -}}

{{- /* Alerts and dashboard, from the chart's files. */ -}}
{{- define "postrider.monitoring" -}}
{{- if .Values.prometheusRule.enabled }}
---
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
{{ include "postrider.metadata" (dict "root" . "name" (include "postrider.fullname" .) "labels" .Values.prometheusRule.labels) }}
spec:
  {{- .Files.Get "files/alerts.yaml" | fromYaml | toYaml | nindent 2 }}
{{- end }}
{{- if .Values.dashboard.enabled }}
---
apiVersion: v1
kind: ConfigMap
{{ include "postrider.metadata" (dict "root" . "name" (printf "%s-dashboard" (include "postrider.fullname" .)) "labels" .Values.dashboard.labels "annotations" .Values.dashboard.annotations) }}
data:
  postrider-{{ .Chart.Name }}.json: |-
    {{- .Files.Get "files/dashboard.json" | nindent 4 }}
{{- end }}
{{- end -}}

{{- /* The port in a URL, or its scheme's. */ -}}
{{- define "postrider.portOf" -}}
{{- $url := urlParse . -}}
{{- regexFind ":[0-9]+$" $url.host | trimPrefix ":" | default (ternary "80" "443" (eq $url.scheme "http")) -}}
{{- end -}}

{{- define "postrider.scrape" -}}
{{- with .interval }}
interval: {{ . }}
{{- end }}
{{- with .scrapeTimeout }}
scrapeTimeout: {{ . }}
{{- end }}
{{- with .relabelings }}
relabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .metricRelabelings }}
metricRelabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "postrider.caProblems" -}}
{{- if gt (len (compact (list .ca.pem .ca.configMap .ca.secret))) 1 -}}
- {{ printf "%s has more than one of pem, configMap and secret. Set only one of them" .name }}
{{- end -}}
{{- end -}}

{{- /*
Problems with the admin port, as a list: (dict "root" $ "monitor" the value of the chart's monitor). Without a peer in
networkPolicy.metricsFrom, only the node's kubelet reaches the port.
*/ -}}
{{- define "postrider.adminPortProblems" -}}
{{- $values := .root.Values -}}
{{- if and $values.networkPolicy.enabled (index $values .monitor).enabled (not $values.networkPolicy.metricsFrom) }}
- {{ printf "networkPolicy.metricsFrom is not set, so %s.enabled could scrape nothing. To allow the pods of Prometheus:\n\n    networkPolicy:\n      metricsFrom: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}]\n\n  To allow every pod in the cluster (the port requires no token):\n\n    networkPolicy:\n      metricsFrom: [{namespaceSelector: {}}]" .monitor | quote }}
{{- end }}
{{- if regexMatch "^(127\\.|\\[::1\\]|localhost$)" $values.listenAddress }}
- {{ printf "listenAddress is %s, which the kubelet's probes cannot reach: the pod would never become ready. Use 0.0.0.0, or `[::]` if pods have only IPv6 addresses" $values.listenAddress | quote }}
{{- end }}
{{- end -}}

{{- /* Problems that both charts check, as a list. */ -}}
{{- define "postrider.problems" -}}
{{- if eq .Values.image.tag "latest" }}
- "image.tag is `latest`, which can be another image tomorrow. Leave it empty for the chart's own version, or set a version"
{{- end }}
{{- with .Values.traces }}
{{- if and (or .ca.pem .ca.configMap .ca.secret) (not (hasPrefix "https://" .endpoint)) }}
- "traces.ca needs an endpoint with https://, but traces.endpoint does not begin with it"
{{- end }}
{{- end }}
{{- $least := add .Values.shutdownGraceSeconds 10 }}
{{- if lt (int .Values.terminationGracePeriodSeconds) (int $least) }}
- {{ printf "terminationGracePeriodSeconds is %v: the program takes up to %v s to finish what is under way, so it must be at least %v" .Values.terminationGracePeriodSeconds .Values.shutdownGraceSeconds $least | quote }}
{{- end }}
{{- end -}}

{{- /* A pod of `helm test`. Its labels differ from those of the program's pods, so that no service selects it. */ -}}
{{- define "postrider.testMetadata" -}}
metadata:
  name: {{ .name | quote }}
  namespace: {{ .root.Release.Namespace | quote }}
  labels:
    {{- $labels := include "postrider.testLabels" .root | fromYaml }}
    {{- mergeOverwrite (dict) .root.Values.commonLabels (include "postrider.labels" .root | fromYaml) $labels | toYaml | nindent 4 }}
  annotations:
    {{- $hook := dict "helm.sh/hook" "test" "helm.sh/hook-delete-policy" "before-hook-creation,hook-succeeded" }}
    {{- mergeOverwrite (dict) .root.Values.commonAnnotations $hook | toYaml | nindent 4 }}
{{- end -}}

{{- define "postrider.testLabels" -}}
app.kubernetes.io/name: postrider-{{ include "postrider.name" . }}-test
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "postrider.testPod" -}}
restartPolicy: Never
serviceAccountName: {{ include "postrider.serviceAccountName" . }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
