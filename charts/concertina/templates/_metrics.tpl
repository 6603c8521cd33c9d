{{/* The Secrets that /metrics is served with, as volumes of the operator's pod and their mounts. */}}

{{- define "concertina.metricsMounts" -}}
{{- if or .Values.metrics.authentication.enabled .Values.metrics.tls.secretName -}}
volumeMounts:
  {{- if .Values.metrics.authentication.enabled }}
  - name: metrics-token
    mountPath: /etc/concertina/metrics-token
    readOnly: true
  {{- end }}
  {{- if .Values.metrics.tls.secretName }}
  - name: metrics-tls
    mountPath: /etc/concertina/metrics-tls
    readOnly: true
  {{- end }}
{{- end }}
{{- end }}

{{- define "concertina.metricsVolumes" -}}
{{- if or .Values.metrics.authentication.enabled .Values.metrics.tls.secretName -}}
volumes:
  {{- if .Values.metrics.authentication.enabled }}
  - name: metrics-token
    secret:
      secretName: {{ .Values.metrics.authentication.secretName | quote }}
      items: [{key: token, path: token}]
  {{- end }}
  {{- with .Values.metrics.tls.secretName }}
  - name: metrics-tls
    secret:
      secretName: {{ . | quote }}
      items: [{key: tls.crt, path: tls.crt}, {key: tls.key, path: tls.key}]
  {{- end }}
{{- end }}
{{- end }}
