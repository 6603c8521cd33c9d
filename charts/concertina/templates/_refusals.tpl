{{/* What a schema cannot see: values that contradict each other, and other operators in the cluster. */}}

{{- define "concertina.refusals" -}}
{{- if and .Values.metrics.authentication.enabled (not .Values.metrics.authentication.secretName) }}
  {{- fail "metrics.authentication.enabled is true: metrics.authentication.secretName must name the Secret with the token" }}
{{- end }}
{{- if and .Values.networkPolicies.jobs.enabled (not .Values.networkPolicies.jobs.namespaces) (not .Values.watchNamespace) }}
  {{- fail "networkPolicies.jobs.enabled is true and all namespaces are served: networkPolicies.jobs.namespaces must list those to fence" }}
{{- end }}
{{- if and (not .Values.serviceAccount.create) (not .Values.serviceAccount.name) }}
  {{- fail "serviceAccount.create is false: serviceAccount.name must name the one to use" }}
{{- end }}
{{- if and .Values.nodes.noticeTaints (not .Values.nodes.watch) }}
  {{- fail "nodes.noticeTaints lists taints: nodes.watch must be true, or nobody reads them" }}
{{- end }}
{{- range $name := concat (keys .Values.extraLabels) (keys .Values.podLabels) }}
  {{- if regexMatch "^(app\\.kubernetes\\.io|helm\\.sh)/" $name }}
    {{- fail (printf "label %s is the chart's own: extraLabels and podLabels must not have it" $name) }}
  {{- end }}
{{- end }}
{{- if .Values.priorityClass.create }}
  {{- with lookup "scheduling.k8s.io/v1" "PriorityClass" "" (include "concertina.priorityClass" .) }}
    {{- if ne (int64 .value) (int64 $.Values.priorityClass.value) }}
      {{- fail (printf "priorityClass.value is %d and PriorityClass %s has %d, which Kubernetes lets nobody change: set priorityClass.name to a new name, or delete that one first" (int64 $.Values.priorityClass.value) .metadata.name (int64 .value)) }}
    {{- end }}
  {{- end }}
{{- end }}
{{- if .Values.checkOtherOperators }}
  {{- include "concertina.otherOperators" . }}
{{- end }}
{{- end }}

{{/*
Helm itself refuses an object that another release owns. This finds operators whose objects have other
namespaces: one of all namespaces beside one of a single one.
*/}}
{{- define "concertina.otherOperators" -}}
{{- $name := include "concertina.name" . }}
{{- if .Values.watchNamespace }}
  {{- with lookup "rbac.authorization.k8s.io/v1" "ClusterRole" "" $name }}
    {{- if ne (include "concertina.owner" .) (include "concertina.thisRelease" $) }}
      {{- fail (printf "an operator serves all namespaces of this cluster already, %s too: ClusterRole %s is %s. Uninstall it first, or put your jobs under it" $.Values.watchNamespace $name (include "concertina.whose" .)) }}
    {{- end }}
  {{- end }}
{{- else }}
  {{- range (lookup "rbac.authorization.k8s.io/v1" "Role" "" "").items }}
    {{- if and (eq .metadata.name $name) (ne (include "concertina.owner" .) (include "concertina.thisRelease" $)) }}
      {{- fail (printf "an operator serves the jobs of namespace %s already: Role %s there is %s. Uninstall it first, or set watchNamespace" .metadata.namespace $name (include "concertina.whose" .)) }}
    {{- end }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "concertina.thisRelease" -}}
{{ .Release.Namespace }}/{{ .Release.Name }}
{{- end }}

{{/* Which release an object is of; "/" for one that Helm did not make. */}}
{{- define "concertina.owner" -}}
{{- $annotations := .metadata.annotations | default dict -}}
{{ get $annotations "meta.helm.sh/release-namespace" }}/{{ get $annotations "meta.helm.sh/release-name" }}
{{- end }}

{{- define "concertina.whose" -}}
{{- $owner := include "concertina.owner" . -}}
{{ ternary "of no release of Helm" (printf "of release %s" $owner) (eq $owner "/") }}
{{- end }}
