{{/* The pod of the test is no operator: no selector of the operator may find it. */}}
{{- define "concertina.testLabels" -}}
{{- $labels := include "concertina.labels" . | fromYaml }}
{{- $_ := set $labels "app.kubernetes.io/name" (printf "%s-test" (include "concertina.name" .)) }}
{{- toYaml $labels }}
{{- end }}

{{/* What the test's pod needs: made before it, gone after it. */}}
{{- define "concertina.testPart" -}}
helm.sh/hook: test
helm.sh/hook-weight: "-1"
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded,hook-failed
{{- end }}
