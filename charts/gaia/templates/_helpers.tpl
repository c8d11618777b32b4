{{- define "gaia.name" -}}
{{- default "gaia-operator" .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- /* Release "gaia" gives "gaia-operator". */}}
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

{{- /* The operator's rights in a namespace it watches. One list for the ClusterRole and for the Roles. */}}
{{- define "gaia.watchedRules" -}}
- apiGroups: [gaia.dev]
  resources: [gaiaservices]
  verbs: [get, list, watch]
- apiGroups: [gaia.dev]
  resources: [servicecertificates]
  verbs: [get, list, watch, create, patch]
- apiGroups: [gaia.dev]
  resources: [gaiaservices/status, servicecertificates/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [secrets, configmaps]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch{{ if .Values.nudge.enabled }}, patch{{ end }}]
{{- if .Values.restart.enabled }}
- apiGroups: [apps]
  resources: [deployments, statefulsets, daemonsets]
  verbs: [patch]
{{- end }}
{{ include "gaia.eventRules" . }}
{{- end }}

{{- define "gaia.eventRules" -}}
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}

{{- /* Its rights to cluster-scoped objects, independent of the watched namespaces. */}}
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

{{- /* The policies of admission.yaml apply only to the operator. */}}
{{- define "gaia.isOperator" -}}
- name: is-the-operator
  expression: request.userInfo.username == 'system:serviceaccount:{{ .Release.Namespace }}:{{ include "gaia.serviceAccountName" . }}'
{{- end }}

{{- /* Only an update has both an object and an old one of the policy's kind. */}}
{{- define "gaia.isUpdate" -}}
- name: isUpdate
  expression: request.operation == 'UPDATE' && request.?subResource.orValue('') == ''
{{- end }}

{{- /* A variable: the keys that were added, removed or changed from an old map to a new one, with exceptions. Takes its name, the new
     map, the old one, and the condition of an exception. */}}
{{- define "gaia.changed" -}}
{{- $new := printf "dyn(%s)" (index . 1) -}}
{{- $old := printf "dyn(%s)" (index . 2) -}}
{{- $others := printf "(%s)" (index . 3) -}}
- name: {{ index . 0 }}
  expression: >-
    {{ $new }}.filter(key, !{{ $others }} && !(key in {{ $old }} && {{ $new }}[key] == {{ $old }}[key]))
    + {{ $old }}.filter(key, !{{ $others }} && !(key in {{ $new }}))
{{- end }}

{{- define "gaia.validations" -}}
- expression: variables.isUpdate
  reason: Forbidden
  messageExpression: >-
    'the operator may set annotations gaia.dev/* of {{ . }}, but not ' + request.operation.lowerAscii() + ' '
    + request.resource.resource + request.?subResource.optMap(name, name == '' ? '' : '/' + name).orValue('')
- expression: '!variables.isUpdate || variables.changed.size() == 0'
  reason: Forbidden
  messageExpression: >-
    'the operator may set annotations gaia.dev/* of {{ . }}, but not change ' + variables.changed.join(', ')
{{- end }}
