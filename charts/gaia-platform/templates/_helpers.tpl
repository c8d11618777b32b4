{{- define "gaia-platform.selectorLabels" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end }}

{{- define "gaia-platform.labels" -}}
{{- if .name }}
{{- include "gaia-platform.selectorLabels" . }}
{{- else -}}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: gaia
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{- /* The services, as YAML: by name its values, its callers and the Secret of its API keys (from the values where they name some), and
the port of its ingress listener. */}}
{{- define "gaia-platform.services" -}}
{{- $behalf := list (dict "service" "gateway" "onBehalfOf" true) (dict "service" "web-service" "onBehalfOf" true) -}}
{{- $callers := list (dict "service" "gateway") (dict "service" "web-service") -}}
{{- $services := dict
      "auth-service" (dict "values" .Values.authService "callers" $callers)
      "asset-service" (dict "values" .Values.assetService "callers" $behalf)
      "gateway" (dict "values" .Values.gateway "edge" 8666 "callers" (ternary (list (dict "service" "web-service" "onBehalfOf" true)) (list) .Values.webService.throughGateway))
      "web-service" (dict "values" .Values.webService "edge" 8080) -}}
{{- if .Values.chatService.providerUrl -}}
{{- $_ := set $services "chat-service" (dict "values" .Values.chatService "callers" $behalf) -}}
{{- end -}}
{{- range $service := $services -}}
{{- $spec := mergeOverwrite (dict "callers" (default list $service.callers)) (deepCopy $.Values.gaiaServices) (deepCopy $service.values.gaiaService) -}}
{{- /* Equal entries are refused by the API. */}}
{{- $_ := set $service "callers" (concat (default list $spec.callers) (default list $service.values.extraCallers) | uniq) -}}
{{- $made := ternary $.Values.apiKey.name "" $.Values.apiKey.create -}}
{{- $_ := set $service "apiKeys" (dig "auth" "apiKeysSecretRef" "name" $made $spec) -}}
{{- end -}}
{{- toYaml $services -}}
{{- end }}

{{- define "gaia-platform.sessionKeysSecret" -}}
{{- .Values.webService.sessionKeysSecretName | default "web-service-session-keys" -}}
{{- end }}

{{- /* A value of a Secret that is generated once: an existing one stays. Takes the root, the Secret's name and key, and the new value. */}}
{{- define "gaia-platform.kept" -}}
{{- $found := lookup "v1" "Secret" .root.Release.Namespace .secret -}}
{{- $data := dig "data" dict (default dict $found) -}}
{{- if hasKey $data .key }}{{ index $data .key | b64dec }}{{ else }}{{ .new }}{{ end -}}
{{- end }}

{{- /* A size such as 1Gi in bytes. */}}
{{- define "gaia-platform.bytes" -}}
{{- $units := dict "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- mul (regexFind "^[0-9]+" . | int64) (get $units (regexFind "[KMGT]i$" .)) -}}
{{- end }}

{{- /* Values that would stop the pods, refused here with the value to change. */}}
{{- define "gaia-platform.check" -}}
{{- with .Values.chatService -}}
{{- if and (hasPrefix "http://" .providerUrl) (not (regexMatch "^http://(localhost|127\\.0\\.0\\.1|\\[::1\\])(:|/|$)" .providerUrl)) -}}
{{- if not (or .plainHttp (hasKey .env "GAIA_PROVIDER_PLAIN_HTTP")) -}}
{{- fail (printf "chatService.providerUrl %s is plain http, which sends conversations unencrypted: use https, or set chatService.plainHttp=true for a provider inside the cluster" .providerUrl) -}}
{{- end -}}
{{- if and .providerKeySecretName (not (or .keyOverPlainHttp (hasKey .env "GAIA_PROVIDER_KEY_OVER_PLAIN_HTTP"))) -}}
{{- fail "chatService.providerKeySecretName would send the key over plain http: remove it, use https in chatService.providerUrl, or set chatService.keyOverPlainHttp=true" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with .Values.assetService -}}
{{- if and (hasPrefix "s3://" .objectStoreUrl) (not .credentialsSecretName) (not (hasKey .env "GAIA_OBJECT_STORE_CREDENTIALS_FILE")) -}}
{{- fail "assetService.objectStoreUrl is a bucket, which needs credentials: set assetService.credentialsSecretName to a Secret with the key `credentials`" -}}
{{- end -}}
{{- end -}}
{{- end }}
