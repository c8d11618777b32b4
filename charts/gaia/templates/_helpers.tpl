{{- define "gaia.name" -}}
{{- default "gaia-operator" .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- /* Release "gaia" makes "gaia-operator". */}}
{{- define "gaia.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if hasSuffix "-operator" .Release.Name }}
{{- .Release.Name }}
{{- else }}
{{- printf "%s-operator" (.Release.Name | trunc 54 | trimSuffix "-") }}
{{- end }}
{{- end }}

{{- define "gaia.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "gaia.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "gaia.selectorLabels" -}}
app.kubernetes.io/name: {{ include "gaia.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "gaia.labels" -}}
{{ include "gaia.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: gaia
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- /* What the operator may do in a namespace it watches. One list for the ClusterRole and for the Roles. */}}
{{- define "gaia.watchedRules" -}}
- apiGroups: [gaia.dev]
  resources: [gaiaservices]
  verbs: [get, list, watch]
- apiGroups: [gaia.dev]
  resources: [servicecertificates]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [gaia.dev]
  resources: [gaiaservices/status, servicecertificates/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [secrets, configmaps]
  verbs: [get, list, watch, create, patch, delete]
{{ include "gaia.eventRules" . }}
{{- end }}

{{- define "gaia.eventRules" -}}
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}

{{- /* What it may do with cluster-scoped objects, whatever it watches. */}}
{{- define "gaia.clusterRules" -}}
- apiGroups: [gaia.dev]
  resources: [trustdomains]
  verbs: [get, list, watch]
- apiGroups: [gaia.dev]
  resources: [trustdomains/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [namespaces]
  verbs: [list, watch]
{{- end }}

{{- define "gaia.subjects" -}}
- kind: ServiceAccount
  name: {{ include "gaia.serviceAccountName" . }}
  namespace: {{ .Release.Namespace }}
{{- end }}
