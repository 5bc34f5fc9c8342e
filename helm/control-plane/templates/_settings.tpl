{{- /* The files that the control plane reads, and its settings file, which names them. */ -}}

{{- define "control-plane.apiSecret" -}}
{{- .Values.tls.existingSecret | default (printf "%s-api-tls" (include "postrider.fullname" .)) -}}
{{- end -}}

{{- define "control-plane.files" -}}
- {name: tls, secret: {{ include "control-plane.apiSecret" . | quote }}}
{{- with .Values.kek.existingSecret }}
- {name: kek, secret: {{ . | quote }}, key: {{ $.Values.kek.key | quote }}}
{{- end }}
{{- range $number, $former := .Values.kek.former }}
{{- with $former.existingSecret }}
- {name: kek-former-{{ $number }}, secret: {{ . | quote }}, key: {{ $former.key | default "kek" | quote }}}
{{- end }}
{{- end }}
{{- with .Values.kek.vault.existingSecret }}
- {name: vault-token, secret: {{ . | quote }}, key: {{ $.Values.kek.vault.tokenKey | quote }}}
{{- end }}
{{ include "postrider.ca" (dict "root" . "name" "vault-ca" "ca" .Values.kek.vault.ca) }}
{{ include "control-plane.tokenFiles" . }}
{{ include "postrider.ca" (dict "root" . "name" "clients-ca" "ca" .Values.tls.clientCa) }}
{{- range $number, $secret := .Values.agentCa.existingSecrets }}
- {name: agent-ca-{{ $number }}, secret: {{ $secret | quote }}}
{{- end }}
{{- with .Values.traces.headers.existingSecret }}
- {name: traces-headers, secret: {{ . | quote }}, key: {{ $.Values.traces.headers.key | quote }}}
{{- end }}
{{ include "postrider.ca" (dict "root" . "name" "traces-ca" "ca" .Values.traces.ca) }}
{{- end -}}

{{- /* Only the first start needs it: afterwards its secret may be deleted, and the pod still starts. */ -}}
{{- define "control-plane.tokenFiles" -}}
{{- if .Values.bootstrapToken.enabled -}}
- {name: bootstrap-token, secret: {{ .Values.bootstrapToken.existingSecret | quote }}, key: {{ .Values.bootstrapToken.key | quote }}, optional: true}
{{- end -}}
{{- end -}}

{{- /* What the command `postrider` in the pod needs beside them, and what it shares with the program. */ -}}
{{- define "control-plane.clientFiles" -}}
{{ include "postrider.ca" (dict "root" . "name" "client-ca" "ca" .Values.client.ca) }}
{{- with .Values.client.token.existingSecret }}
- {name: client-token, secret: {{ . | quote }}, key: {{ $.Values.client.token.key | quote }}}
{{- end }}
{{- with .Values.client.certificate.existingSecret }}
- {name: client-certificate, secret: {{ . | quote }}}
{{- end }}
{{- end -}}

{{- /* The key-encryption keys in the words of the setting `kek`, the current one first. */ -}}
{{- define "control-plane.keks" -}}
{{- with .Values.kek.existingSecret }}
- file:/etc/postrider/kek/{{ $.Values.kek.key }}
{{- end }}
{{- with .Values.kek.vault.key }}
- vault:{{ . }}
{{- end }}
{{- range $number, $former := .Values.kek.former }}
{{- with $former.existingSecret }}
- file:/etc/postrider/kek-former-{{ $number }}/{{ $former.key | default "kek" }}
{{- end }}
{{- with $former.vault }}
- vault:{{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "control-plane.agentNames" -}}
{{- $name := printf "%s-agents" (include "postrider.fullname" .) -}}
- {{ $name }}
- {{ $name }}.{{ .Release.Namespace }}
- {{ $name }}.{{ .Release.Namespace }}.svc
{{- range .Values.agents.names }}
- {{ . | quote }}
{{- end }}
{{- end -}}

{{- define "control-plane.agentAddress" -}}
{{- .Values.agents.address | default (printf "%s-agents.%s.svc:%v" (include "postrider.fullname" .) .Release.Namespace .Values.service.agents.port) -}}
{{- end -}}

{{- define "control-plane.clientUrl" -}}
{{- .Values.client.url | default (printf "https://%s.%s.svc:%v" (include "postrider.fullname" .) .Release.Namespace .Values.service.api.port) -}}
{{- end -}}

{{- /* JSON's strings and lists are TOML's too. */ -}}
{{- define "control-plane.settings" -}}
data_dir = "/var/lib/postrider/data"
kek = {{ include "control-plane.keks" . | fromYamlArray | toJson }}
{{- with .Values.kek.vault }}
{{- with .tokenFile | default (ternary (printf "/etc/postrider/vault-token/%s" .tokenKey) "" (not (empty .existingSecret))) }}
vault_token_file = {{ toJson . }}
{{- end }}
{{- with .namespace }}
vault_namespace = {{ toJson . }}
{{- end }}
{{- end }}
{{- with include "postrider.caPath" (dict "root" . "name" "vault-ca" "ca" .Values.kek.vault.ca) }}
vault_ca = {{ toJson . }}
{{- end }}
api_listen = {{ printf "%s:7070" .Values.listenAddress | toJson }}
agent_listen = {{ printf "%s:7071" .Values.listenAddress | toJson }}
admin_listen = {{ printf "%s:7072" .Values.listenAddress | toJson }}
tls_cert = "/etc/postrider/tls/tls.crt"
tls_key = "/etc/postrider/tls/tls.key"
{{- with include "postrider.caPath" (dict "root" . "name" "clients-ca" "ca" .Values.tls.clientCa) }}
tls_client_ca = {{ toJson . }}
{{- end }}
agent_address = {{ include "control-plane.agentAddress" . | toJson }}
agent_names = {{ include "control-plane.agentNames" . | fromYamlArray | toJson }}
{{- with .Values.agentCa.existingSecrets }}
{{- $folders := list }}
{{- range $number, $secret := . }}
{{- $folders = append $folders (printf "/etc/postrider/agent-ca-%d" $number) }}
{{- end }}
agent_ca = {{ toJson $folders }}
{{- end }}
{{- if .Values.bootstrapToken.enabled }}
bootstrap_token_file = {{ printf "/etc/postrider/bootstrap-token/%s" .Values.bootstrapToken.key | toJson }}
{{- end }}
cache_mib = {{ toJson .Values.store.cacheMib }}
{{- if ne (toString .Values.store.diskReserveMib) "" }}
disk_reserve_mib = {{ toJson .Values.store.diskReserveMib }}
{{- end }}
shutdown_grace = {{ printf "%vs" .Values.shutdownGraceSeconds | toJson }}
log_format = {{ toJson .Values.log.format }}
log = {{ toJson .Values.log.filter }}
{{- with .Values.traces.endpoint }}
traces_endpoint = {{ toJson . }}
{{- end }}
{{- if ne (toString .Values.traces.ratio) "" }}
traces_ratio = {{ toJson .Values.traces.ratio }}
{{- end }}
{{- if .Values.traces.headers.existingSecret }}
traces_headers_file = {{ printf "/etc/postrider/traces-headers/%s" .Values.traces.headers.key | toJson }}
{{- end }}
{{- with include "postrider.caPath" (dict "root" . "name" "traces-ca" "ca" .Values.traces.ca) }}
traces_ca = {{ toJson . }}
{{- end }}
{{- range $name, $value := .Values.settings }}
{{ $name }} = {{ toJson $value }}
{{- end }}
{{- end -}}

{{- define "control-plane.env" -}}
- name: POSTRIDER_CONFIG
  value: /etc/postrider/config/control-plane.toml
{{ include "control-plane.clientEnv" . }}
{{- end -}}

{{- /* What tells the command `postrider` where the API is and who calls. */ -}}
{{- define "control-plane.clientEnv" -}}
- name: POSTRIDER_SERVER
  value: {{ include "control-plane.clientUrl" . | quote }}
{{- with include "control-plane.clientToken" . }}
- name: POSTRIDER_TOKEN_FILE
  value: {{ . | quote }}
{{- end }}
{{- with include "postrider.caPath" (dict "root" . "name" "client-ca" "ca" .Values.client.ca) }}
- name: POSTRIDER_CA
  value: {{ . | quote }}
{{- end }}
{{- if .Values.client.certificate.existingSecret }}
- name: POSTRIDER_CERT
  value: /etc/postrider/client-certificate/tls.crt
- name: POSTRIDER_KEY
  value: /etc/postrider/client-certificate/tls.key
{{- end }}
{{- end -}}

{{- define "control-plane.clientToken" -}}
{{- if .Values.client.token.existingSecret -}}
/etc/postrider/client-token/{{ .Values.client.token.key }}
{{- else if .Values.bootstrapToken.enabled -}}
/etc/postrider/bootstrap-token/{{ .Values.bootstrapToken.key }}
{{- end -}}
{{- end -}}

{{- /* Whether the command has all that a call needs; else nothing. */ -}}
{{- define "control-plane.canCall" -}}
{{- $asked := or .Values.tls.clientCa.pem .Values.tls.clientCa.configMap .Values.tls.clientCa.secret -}}
{{- if and (include "control-plane.clientToken" .) (or (not $asked) .Values.client.certificate.existingSecret) -}}
yes
{{- end -}}
{{- end -}}
