{{- /* The files that the agent reads, and its settings file, which names them. */ -}}

{{- define "agent.files" -}}
{{- /* With an identity on a volume the join token has served, and its owner may remove it. */ -}}
- {name: join, secret: {{ .Values.join.existingSecret | quote }}, key: {{ .Values.join.key | quote }}, optional: {{ .Values.state.persistence.enabled }}}
{{ include "postrider.ca" (dict "root" . "name" "control-plane-ca" "ca" .Values.controlPlane.ca) }}
{{ include "postrider.ca" (dict "root" . "name" "endpoints-ca" "ca" .Values.egress.ca) }}
{{- with .Values.egress.proxy.existingSecret }}
- {name: egress-proxy, secret: {{ . | quote }}, key: {{ $.Values.egress.proxy.key | quote }}}
{{- end }}
{{- range $number, $entry := .Values.egress.credentials }}
{{ include "postrider.ca" (include "agent.credentialsCa" (dict "root" $ "number" $number "ca" $entry.ca) | fromYaml | merge (dict "root" $)) }}
{{- with $entry.clientCertificate }}
- {name: credentials-{{ $number }}-certificate, secret: {{ .existingSecret | quote }}}
{{- end }}
{{- with $entry.headers }}
- {name: credentials-{{ $number }}-headers, secret: {{ .existingSecret | quote }}, key: {{ .key | default "headers" | quote }}}
{{- end }}
{{- end }}
{{- with .Values.traces.headers.existingSecret }}
- {name: traces-headers, secret: {{ . | quote }}, key: {{ $.Values.traces.headers.key | quote }}}
{{- end }}
{{ include "postrider.ca" (dict "root" . "name" "traces-ca" "ca" .Values.traces.ca) }}
{{- end -}}

{{- /* What "postrider.ca" wants to know of one entry of egress.credentials. */ -}}
{{- define "agent.credentialsCa" -}}
name: credentials-{{ .number }}-ca
ca: {{ merge (dict) (.ca | default dict) (dict "key" "ca.crt") | toJson }}
{{- end -}}

{{- /* JSON's strings and lists are TOML's too. */ -}}
{{- define "agent.settings" -}}
join_file = {{ printf "/etc/postrider/join/%s" .Values.join.key | toJson }}
state_dir = "/var/lib/postrider-agent/identity"
admin_listen = {{ printf "%s:7073" .Values.listenAddress | toJson }}
shutdown_grace = {{ printf "%vs" .Values.shutdownGraceSeconds | toJson }}
{{- with .Values.controlPlane.url }}
control_plane = {{ toJson . }}
{{- end }}
{{- range $name, $value := .Values.settings }}
{{ $name }} = {{ toJson $value }}
{{- end }}

[log]
format = {{ toJson .Values.log.format }}
filter = {{ toJson .Values.log.filter }}

{{- $ca := include "postrider.caPath" (dict "root" . "name" "control-plane-ca" "ca" .Values.controlPlane.ca) }}
{{- if or $ca .Values.controlPlane.serverName }}

[tls]
{{- with $ca }}
ca = {{ toJson . }}
{{- end }}
{{- with .Values.controlPlane.serverName }}
server_name = {{ toJson . }}
{{- end }}
{{- end }}

{{- with .Values.controlPlane.proxy }}
{{- if or .url .noProxy }}

[proxy]
{{- with .url }}
url = {{ toJson . }}
{{- end }}
{{- with .noProxy }}
no_proxy = {{ toJson . }}
{{- end }}
{{- end }}
{{- end }}
{{ include "agent.tracesSettings" . }}
{{ include "agent.egressSettings" . }}
{{- end -}}

{{- define "agent.tracesSettings" -}}
{{- with .Values.traces.endpoint }}

[traces]
endpoint = {{ toJson . }}
{{- if $.Values.traces.headers.existingSecret }}
headers_file = {{ printf "/etc/postrider/traces-headers/%s" $.Values.traces.headers.key | toJson }}
{{- end }}
{{- with include "postrider.caPath" (dict "root" $ "name" "traces-ca" "ca" $.Values.traces.ca) }}
ca = {{ toJson . }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "agent.egressSettings" -}}
{{- with .Values.egress }}
[egress]
allow_cidrs = {{ toJson .allowCidrs }}
allow_hosts = {{ toJson .allowHosts }}
allow_ports = {{ toJson .allowPorts }}
allow_http = {{ toJson .allowHttp }}
deny_cidrs = {{ toJson .denyCidrs }}
{{- with .nat64Prefixes }}
nat64_prefixes = {{ toJson . }}
{{- end }}
dangerously_allow_link_local_and_metadata = {{ toJson .dangerouslyAllowLinkLocalAndMetadata }}
{{- with .proxy }}
{{- if .url }}

[egress.proxy]
url = {{ toJson .url }}
{{- if .existingSecret }}
credentials_file = {{ printf "/etc/postrider/egress-proxy/%s" .key | toJson }}
{{- end }}
no_proxy = {{ toJson .noProxy }}
dangerously_leave_names_to_proxy = {{ toJson .dangerouslyLeaveNamesToProxy }}
{{- end }}
{{- end }}
{{- range $number, $entry := .credentials }}

[[egress.credentials]]
hosts = {{ toJson $entry.hosts }}
{{- with include "postrider.caPath" (include "agent.credentialsCa" (dict "number" $number "ca" $entry.ca) | fromYaml | merge (dict "root" $)) }}
ca = {{ toJson . }}
{{- end }}
{{- if $entry.clientCertificate }}
client_cert = {{ printf "/etc/postrider/credentials-%d-certificate/tls.crt" $number | toJson }}
client_key = {{ printf "/etc/postrider/credentials-%d-certificate/tls.key" $number | toJson }}
{{- end }}
{{- with $entry.headers }}
headers_file = {{ printf "/etc/postrider/credentials-%d-headers/%s" $number (.key | default "headers") | toJson }}
{{- end }}
{{- if $entry.allowHttp }}
allow_http = true
{{- end }}
{{- if $entry.keepResponses }}
keep_responses = true
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "agent.env" -}}
- name: POSTRIDER_AGENT_CONFIG
  value: /etc/postrider/config/agent.toml
{{- with .Values.controlPlane.proxy.existingSecret }}
- name: POSTRIDER_AGENT_PROXY_URL
  valueFrom:
    secretKeyRef:
      name: {{ . | quote }}
      key: {{ $.Values.controlPlane.proxy.key | quote }}
{{- end }}
{{- with include "postrider.caPath" (dict "root" . "name" "endpoints-ca" "ca" .Values.egress.ca) }}
- name: SSL_CERT_FILE
  value: {{ . | quote }}
{{- end }}
{{- end -}}

{{- /* All that is mounted, with the settings file. */ -}}
{{- define "agent.mounted" -}}
- {name: config, configMap: {{ include "postrider.fullname" . | quote }}, key: agent.toml}
{{ include "agent.files" . }}
{{- end -}}
