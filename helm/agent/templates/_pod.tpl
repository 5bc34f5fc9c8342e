{{- define "agent.podTemplate" -}}
{{- $files := include "agent.mounted" . | fromYamlArray -}}
metadata:
  labels:
    {{- mergeOverwrite (dict) .Values.commonLabels .Values.podLabels (include "postrider.selectorLabels" . | fromYaml) | toYaml | nindent 4 }}
  annotations:
    checksum/config: {{ (include (print .Template.BasePath "/configmap.yaml") . | fromYaml).data | toJson | sha256sum }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "postrider.serviceAccountName" . }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    {{- toYaml .Values.podSecurityContext | nindent 4 }}
  {{- with include "postrider.scheduling" . | trim }}
  {{- nindent 2 . }}
  {{- end }}
  {{- with .Values.initContainers }}
  initContainers:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: agent
      image: {{ include "postrider.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      env:
        {{- include "postrider.env" (dict "own" (include "agent.env" . | fromYamlArray) "extra" .Values.extraEnv) | nindent 8 }}
      {{- with .Values.extraEnvFrom }}
      envFrom:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      ports:
        - {name: admin, containerPort: 7073, protocol: TCP}
      startupProbe:
        {{- include "postrider.probe" .Values.startupProbe | nindent 8 }}
      livenessProbe:
        {{- include "postrider.probe" .Values.livenessProbe | nindent 8 }}
      readinessProbe:
        {{- include "postrider.probe" .Values.readinessProbe | nindent 8 }}
      {{- with .Values.resources }}
      resources:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext:
        {{- toYaml .Values.securityContext | nindent 8 }}
      volumeMounts:
        - name: state
          mountPath: /var/lib/postrider-agent
        {{- include "postrider.fileMounts" $files | trim | nindent 8 }}
        {{- with .Values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    {{- with .Values.extraContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  volumes:
    {{- include "postrider.fileVolumes" $files | trim | nindent 4 }}
    {{- if not .Values.state.persistence.enabled }}
    - name: state
      emptyDir: {sizeLimit: 16Mi}
    {{- end }}
    {{- with .Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}
