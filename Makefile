# Targets and what they do: `make help`.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help deps up demo test test-long bench fuzz image cluster node down crds fmt lint

version := $(shell sed -n '0,/^version = "\(.*\)"/s//\1/p' Cargo.toml)
target := $(abspath $(or $(CARGO_TARGET_DIR),target))
debug := $(target)/debug
release := $(target)/release
image := localhost/gaia:$(version)

# Always the whole workspace: with --package, cargo would compile the dependencies again for other features.
build := cargo build --quiet --locked --workspace --bins
host = $(shell rustc --version --verbose | sed -n 's/^host: //p')
runner = CARGO_TARGET_$(subst -,_,$(shell tr a-z A-Z <<<'$(host)'))_RUNNER
cargo_test = env GAIA_BIN_DIR=$(debug) $(runner)=$(abspath .ci/test-runner) cargo test --locked --workspace --no-fail-fast

help: ## Print this
	@sed -n 's/^\([a-z-]*\): .*## \(.*\)/\1\t\2/p' Makefile | expand -t 10

deps: ## Install missing packages for the build and all tests (as root on Debian and Ubuntu; else print the line to run)
	@.ci/deps

# Only these two programs: a first build is shorter than that of the workspace.
up: ## Run the platform on this machine, web page and chat included; Ctrl-C stops it, ARGS are those of `gaia local up`
	@echo 'building (the first time takes some minutes)' && \
	  cargo build --quiet --locked --package gaia-cli --bin gaia --package gaia-stand-ins --bin gaia-stand-ins
	@$(debug)/gaia local up $(ARGS)

demo: ## Run the demo on a real API server; KEEP=1 leaves it running
	@.ci/deps essential
	@echo 'building (the first time takes some minutes)' && $(build)
	@GAIA_BIN_DIR=$(debug) $(debug)/gaia-e2e demo $(if $(filter-out 0,$(KEEP)),--keep)

test: ## Run every test that this machine can run; with REQUIRE_KUBE=1 REQUIRE_NODE=1 the others are failures
	@.ci/deps || true
	$(build)
	$(cargo_test)

test-long: ## Run the long forms of tests overnight: years of rotations, each attack alone, 10,000 cases of each property, and a kill at every write
	@.ci/deps || true
	$(build)
	GAIA_E2E_LONG=1 $(cargo_test) --test cluster -- rehearsal
	GAIA_E2E_LONG=1 $(cargo_test) --test standalone -- blast_radius
	PROPTEST_CASES=10000 $(cargo_test) --test properties
	GAIA_E2E_LONG=1 $(cargo_test) --lib -- directory::tests::crashes
bench: ## Measure the speed of release binaries, as a table and JSON
	@.ci/deps essential
	$(build) --release
	GAIA_BIN_DIR=$(release) $(release)/gaia-e2e bench

# Coverage for libFuzzer, by options of the stable compiler (docs/adr/0010).
fuzz_flags := -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
  -Cllvm-args=-sanitizer-coverage-trace-compares --cfg=fuzzing -Ccodegen-units=4
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= $(notdir $(wildcard fuzz/corpus/*))

fuzz: ## Fuzz each target for FUZZ_SECONDS (60); FUZZ_TARGETS names some of them. Findings are in target/fuzz
	@.ci/deps essential
	RUSTFLAGS='$(fuzz_flags)' cargo build --quiet --locked --package gaia-fuzz --features libfuzzer --profile fuzz \
	  --target $(host) --target-dir $(target)/fuzz
	@for name in $(FUZZ_TARGETS); do \
	  found=$(target)/fuzz/corpus/$$name; mkdir -p $$found; echo "=== $$name"; \
	  GAIA_FUZZ_TARGET=$$name $(target)/fuzz/$(host)/fuzz/gaia-fuzz -max_total_time=$(FUZZ_SECONDS) -max_len=8192 \
	    -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 -verbosity=0 -artifact_prefix=$(target)/fuzz/$$name- \
	    $$found fuzz/corpus/$$name; \
	done

# The executable of the image is built in release; the tool that packs it may be a debug build.
image: ## Build the container image into target/gaia-image.tar, with docker where there is one, else without
	@mkdir -p target
	@if docker version >/dev/null 2>&1; then \
	  docker build --tag $(image) . && docker save --output target/gaia-image.tar $(image); \
	else \
	  echo 'no docker daemon answers: building without one (the first time takes some minutes)' && \
	  cargo build --quiet --locked --release --package gaia-cli --bin gaia && \
	  $(build) && $(debug)/gaia-e2e image --bin-dir $(release) --out target/gaia-image.tar --tag $(image); \
	fi
	@echo '$(image) is in target/gaia-image.tar'

cluster: ## Start a control plane on loopback and print its kubeconfig's path
	@.ci/deps essential
	@$(build) && $(debug)/gaia-e2e cluster up

node: ## Start a cluster with one node (needs root) and print its kubeconfig's path
	@.ci/deps essential
	@$(build) && $(debug)/gaia-e2e cluster up --node

down: ## Stop the clusters of `make cluster` and `make node`
	@$(build) && $(debug)/gaia-e2e cluster down && $(debug)/gaia-e2e cluster down --node

crds: ## Generate crds/ from the code, and the chart's copy
	@$(build)
	@rm -f crds/*.yaml && $(debug)/gaia-operator crd --dir crds
	@mkdir -p charts/gaia/files/crds && rm -f charts/gaia/files/crds/* && cp crds/*.yaml charts/gaia/files/crds/

fmt: ## Format the code
	cargo fmt --all
	if command -v gofmt >/dev/null; then gofmt -w e2e/controlplane; fi

lint: ## Check format, clippy, documentation, dependencies (unused, licences, sources, versions), charts
	cargo fmt --all --check
	cargo clippy --quiet --locked --workspace --all-targets -- --deny warnings
	RUSTDOCFLAGS='--deny warnings' cargo doc --quiet --locked --workspace --no-deps
	.ci/cargo-tool shear
	.ci/cargo-tool deny --log-level warn check bans licenses sources
	$(build) && HELM=$$($(debug)/gaia-e2e helm) charts/tests/values
