{{- /*
Everything that a pod needs to mount Gaia's files, for the GaiaService `service` of the TrustDomain `trustDomain`:

  spec:
    containers:
      - env:           {{- include "gaia.mount" (dict "part" "env" "service" "orders") | nindent 10 }}
        ports:         {{- include "gaia.mount" (dict "part" "ports") | nindent 10 }}
        volumeMounts:  {{- include "gaia.mount" (dict "part" "volumeMounts") | nindent 10 }}
    volumes:           {{- include "gaia.mount" (dict "part" "volumes" "service" "orders" "trustDomain" "gaia") | nindent 6 }}

Further parameters: `apiKeys` (the Secret of spec.auth.apiKeysSecretRef), `issuerKeys` (as in values.yaml, userTokenIssuerKeys), and
`isTokenIssuer` for the service that issues tokens. `env` has the variable names of programs that read plain files.
*/}}
{{- define "gaia.mount" -}}
{{- if eq .part "volumeMounts" -}}
- {name: gaia, mountPath: /etc/gaia, readOnly: true}   # no subPath: such a mount never changes
{{- else if eq .part "ports" -}}
- {name: mesh, containerPort: 8443}
- {name: admin, containerPort: 9090}
{{- else if eq .part "env" -}}
- {name: GAIA_SERVICE_NAME, value: {{ .service | quote }}}
- {name: TLS_CERT_PATH, value: /etc/gaia/tls.crt}
- {name: TLS_KEY_PATH, value: /etc/gaia/tls.key}
- {name: TLS_CA_PATH, value: /etc/gaia/ca.crt}
- {name: JWT_PUBLIC_KEY_PATH, value: /etc/gaia/jwt-signing.pub}
{{- if .isTokenIssuer }}
- {name: JWT_PRIVATE_KEY_PATH, value: /etc/gaia/jwt-signing.key}
{{- end }}
{{- else if eq .part "volumes" -}}
{{- $domain := default "gaia" .trustDomain -}}
- name: gaia
  projected:
    defaultMode: 0440
    sources:
      - secret:
          name: {{ .service }}-tls
          items: [{key: tls.crt, path: tls.crt}, {key: tls.key, path: tls.key}]
      - configMap:
          name: {{ $domain }}-trust
          items:
            - {key: ca.crt, path: ca.crt}
            - {key: jwks.json, path: jwks.json}
            - {key: jwt-signing.pub, path: jwt-signing.pub}
            - {key: denylist.json, path: denylist.json}
      - configMap:
          name: {{ .service }}-auth
          items: [{key: policy.json, path: policy.json}]
      {{- with .apiKeys }}
      - secret:
          name: {{ . }}
          optional: true
          items: [{key: api-keys.json, path: api-keys.json}]
      {{- end }}
      {{- range .issuerKeys }}
      - secret:
          name: {{ .secretName }}
          optional: true
          items: [{key: api-key, path: issuer-{{ .name }}.key}]
      {{- end }}
      {{- if .isTokenIssuer }}
      - secret:
          name: {{ $domain }}-token-signer
          items: [{key: jwt-signing.key, path: jwt-signing.key}]
      - configMap:
          name: {{ $domain }}-grants
          items: [{key: grants.json, path: grants.json}]
      {{- end }}
{{- else -}}
{{- fail (printf "gaia.mount has no part %q: env, ports, volumeMounts or volumes" .part) -}}
{{- end -}}
{{- end -}}
