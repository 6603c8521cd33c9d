{{/* Parts that the network policies of the operator and of jobs share. */}}

{{/* Who scrapes. */}}
{{- define "concertina.fromPrometheus" -}}
{{- with .Values.networkPolicies.prometheus -}}
- namespaceSelector:
    {{- if .namespaceLabels }}
    matchLabels:
      {{- toYaml .namespaceLabels | nindent 6 }}
    {{- else }} {}
    {{- end }}
  {{- with .podLabels }}
  podSelector:
    matchLabels:
      {{- toYaml . | nindent 6 }}
  {{- end }}
{{- end }}
{{- end }}

{{/* DNS: pods of its namespace, and addresses where it is no pod of the network. */}}
{{- define "concertina.toDNS" -}}
{{- with .Values.networkPolicies.dns -}}
- ports:
    {{- range .ports }}
    - {protocol: UDP, port: {{ int . }}}
    - {protocol: TCP, port: {{ int . }}}
    {{- end }}
  to:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: {{ .namespace | quote }}
    {{- range .cidrs }}
    - ipBlock:
        cidr: {{ . | quote }}
    {{- end }}
{{- end }}
{{- end }}

{{/* The API server: it is no pod, and a network sees its address before its Service or behind. */}}
{{- define "concertina.toApiServer" -}}
{{- with .Values.networkPolicies.apiServer -}}
- ports:
    {{- range .ports }}
    - {protocol: TCP, port: {{ int . }}}
    {{- end }}
  {{- with .cidrs }}
  to:
    {{- range . }}
    - ipBlock:
        cidr: {{ . | quote }}
    {{- end }}
  {{- end }}
{{- end }}
{{- end }}
