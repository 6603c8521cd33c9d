{{/* Names and labels. The operator and the rights of trainers have names that the operator knows. */}}

{{- define "concertina.name" -}}
concertina-operator
{{- end }}

{{/* Selects the operator's pods: it never changes, or no Deployment could be upgraded. */}}
{{- define "concertina.selector" -}}
app.kubernetes.io/name: {{ include "concertina.name" . }}
{{- end }}

{{- define "concertina.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "concertina.selector" . }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: concertina
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.extraLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The labels of everything and those of one object, which go before: a list of the root and these. */}}
{{- define "concertina.labelsAnd" -}}
{{- merge (deepCopy (last .)) (first . | include "concertina.labels" | fromYaml) | toYaml }}
{{- end }}

{{/* Annotations of what jobs need to train on: it outlasts the release. */}}
{{- define "concertina.kept" -}}
{{- if .Values.crds.keep -}}
annotations:
  helm.sh/resource-policy: keep
{{- end }}
{{- end }}

{{- define "concertina.account" -}}
{{- .Values.serviceAccount.name | default (include "concertina.name" .) }}
{{- end }}

{{/* Name of a release's own object of the cluster, beside those of releases for other namespaces. */}}
{{- define "concertina.clusterName" -}}
{{- $name := include "concertina.name" . -}}
{{- ternary (printf "%s.%s" $name .Release.Namespace) $name (ne .Values.watchNamespace "") }}
{{- end }}

{{- define "concertina.priorityClass" -}}
{{- .Values.priorityClass.name | default (ternary (include "concertina.clusterName" .) "" .Values.priorityClass.create) }}
{{- end }}

{{/* Reference of an image: a dictionary with `image`, one of the values, and `root`. */}}
{{- define "concertina.image" -}}
{{- with .image -}}
{{- if .digest -}}
{{ .repository }}{{ with .tag }}:{{ . }}{{ end }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.root.Chart.AppVersion }}
{{- end }}
{{- end }}
{{- end }}

{{/* Rules that rights.py gives, by the name of the list: a dictionary with `rules` and `root`. */}}
{{- define "concertina.rules" -}}
{{- $all := .root.Files.Get "files/rules.yaml" | fromYaml -}}
{{- range .rules }}
{{ get $all . | toYaml }}
{{- end }}
{{- end }}

{{/* The operator's service account, as a flow schema names it. */}}
{{- define "concertina.flowSubject" -}}
- kind: ServiceAccount
  serviceAccount:
    name: {{ include "concertina.account" . | quote }}
    namespace: {{ .Release.Namespace | quote }}
{{- end }}

{{/*
Whether the release binds the trainers of its namespace, as text: empty where an operator of all
namespaces has done so, since Helm refuses to change what no release owns.
*/}}
{{- define "concertina.bindsTrainers" -}}
{{- $there := lookup "rbac.authorization.k8s.io/v1" "RoleBinding" .Values.watchNamespace "concertina-trainer" -}}
{{- if or (not $there) (ne (include "concertina.owner" $there) "/") -}}
true
{{- end }}
{{- end }}
