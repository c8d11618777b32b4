# Targets and what they do: `make help`.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help deps demo test bench image cluster node down crds fmt lint

version := $(shell sed -n '0,/^version = "\(.*\)"/s//\1/p' Cargo.toml)
target := $(abspath $(or $(CARGO_TARGET_DIR),target))
debug := $(target)/debug
release := $(target)/release
image := localhost/gaia:$(version)

# Always the whole workspace: with --package, cargo would compile the dependencies again for other features.
build := cargo build --quiet --locked --workspace --bins

help: ## Print this
	@sed -n 's/^\([a-z]*\): .*## \(.*\)/\1\t\2/p' Makefile | expand -t 10

deps: ## Install what is missing to build and test (as root on Debian and Ubuntu; else print the line to run)
	@.ci/deps

demo: ## Show Gaia at work on a real API server; KEEP=1 leaves it running
	@.ci/deps || true
	@echo 'building (the first time takes some minutes)' && $(build)
	@GAIA_BIN_DIR=$(debug) $(debug)/gaia-e2e demo $(if $(filter-out 0,$(KEEP)),--keep)

test: ## Run every test this machine can run; REQUIRE_KUBE=1 REQUIRE_NODE=1 make those that it cannot a failure
	@.ci/deps || true
	$(build)
	GAIA_BIN_DIR=$(debug) cargo test --locked --workspace --no-fail-fast

bench: ## Measure the speed of release binaries, as a table and JSON
	@.ci/deps || true
	$(build) --release
	GAIA_BIN_DIR=$(release) $(release)/gaia-e2e bench

image: ## Build the container image into target/gaia-image.tar, with docker where there is one, else without
	@mkdir -p target
	@if docker version >/dev/null 2>&1; then \
	  docker build --tag $(image) . && docker save --output target/gaia-image.tar $(image); \
	else \
	  echo 'no docker daemon answers: building without one (the first time takes some minutes)' && $(build) --release && \
	  $(release)/gaia-e2e image --bin-dir $(release) --out target/gaia-image.tar --tag $(image); \
	fi
	@echo '$(image) is in target/gaia-image.tar'

cluster: ## Start a control plane on loopback and print its kubeconfig's path
	@.ci/deps || true
	@$(build) && $(debug)/gaia-e2e cluster up

node: ## Start a cluster with one node (needs root) and print its kubeconfig's path
	@.ci/deps || true
	@$(build) && $(debug)/gaia-e2e cluster up --node

down: ## Stop what `make cluster` and `make node` started
	@$(build) && $(debug)/gaia-e2e cluster down && $(debug)/gaia-e2e cluster down --node

crds: ## Write crds/ anew from the code, and the chart's copy
	@$(build)
	@rm -f crds/*.yaml && $(debug)/gaia-operator crd --dir crds
	@mkdir -p charts/gaia/files/crds && rm -f charts/gaia/files/crds/* && cp crds/*.yaml charts/gaia/files/crds/

fmt: ## Format the code
	cargo fmt --all
	if command -v gofmt >/dev/null; then gofmt -w e2e/controlplane; fi

lint: ## Check format, clippy, documentation, licences and sources of dependencies, charts
	cargo fmt --all --check
	cargo clippy --quiet --locked --workspace --all-targets -- --deny warnings
	RUSTDOCFLAGS='--deny warnings' cargo doc --quiet --locked --workspace --no-deps
	.ci/cargo-deny --log-level warn check bans licenses sources
	$(build) && HELM=$$($(debug)/gaia-e2e helm) charts/tests/values
