#!/bin/sh
# The certificate tree of the platform that Gaia replaces, for tests: `setup-dev-ca.sh DIR [scripts|guide]`.
#
# `scripts` is the tree that its scripts made, `guide` the one that its guide made by hand: another name, size and
# subject of the CA's key, and keys in PKCS #1 as older versions of OpenSSL wrote them. Certificates have no extensions,
# so OpenSSL writes leaves of X.509 version 1 with a common name only, and the CA without keyUsage.
set -eu
dir=$1
form=${2:-scripts}
mkdir -p "$dir"
cd "$dir"

case $form in
scripts)
	ca_key=ca.key
	openssl genrsa -out "$ca_key" 4096 2>/dev/null
	openssl req -x509 -new -nodes -key "$ca_key" -sha256 -days 365 -subj "/CN=Gaia Development CA" -out ca.pem
	key() { openssl genrsa -out "$1" 2048 2>/dev/null; }
	;;
guide)
	ca_key=ca-key.pem
	openssl genrsa -traditional -out "$ca_key" 2048 2>/dev/null
	openssl req -x509 -new -nodes -key "$ca_key" -sha256 -days 3650 \
		-subj "/C=US/ST=CA/L=San Francisco/O=Gaia/CN=Gaia Platform CA" -out ca.pem
	key() { openssl genrsa -traditional -out "$1" 2048 2>/dev/null; }
	;;
*)
	echo "unknown form: $form" >&2
	exit 64
	;;
esac

key jwt-signing.key
openssl rsa -in jwt-signing.key -pubout -out jwt-signing.pub 2>/dev/null

for service in gateway auth-service asset-service chat-service web-service; do
	mkdir -p "$service"
	key "$service/key.pem"
	openssl req -new -key "$service/key.pem" -subj "/CN=$service" -out "$service/$service.csr"
	openssl x509 -req -in "$service/$service.csr" -CA ca.pem -CAkey "$ca_key" -CAcreateserial -days 365 -sha256 \
		-out "$service/cert.pem" 2>/dev/null
	rm "$service/$service.csr"
done

chmod 644 ca.pem jwt-signing.pub ./*/cert.pem
chmod 600 "$ca_key" jwt-signing.key ./*/key.pem
