# The commands of this repository. `make` alone lists them.
# What they fetch is pinned by version and SHA-256 and kept in HALNY_CACHE.

export HALNY_CACHE ?= $(HOME)/.cache/halny
export HALNY_ONNXRUNTIME ?= $(HALNY_CACHE)/onnxruntime/1.32.0/libonnxruntime.so
export CARGO_TARGET_DIR ?= $(HALNY_CACHE)/target
export PYTHONDONTWRITEBYTECODE := 1

# How llama.cpp is built inside its crate. One profile and one cache of compiled files, so that debug
# and release builds of Halny compile it once.
export LLAMA_LIB_PROFILE := Release
export CMAKE_GENERATOR := Ninja
export CMAKE_C_COMPILER_LAUNCHER := ccache
export CMAKE_CXX_COMPILER_LAUNCHER := ccache
export CCACHE_DIR ?= $(HALNY_CACHE)/ccache

VENV := $(HALNY_CACHE)/venv
PYTHON := $(VENV)/bin/python
SETUP := python3 tools/setup
PYTEST := $(PYTHON) -m pytest -p no:cacheprovider --timeout 600 -q
DENY_VERSION := 0.20.2

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup models build demo test check-fmt lint test-rust test-tools test-e2e deny bench-embed fmt clean

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

setup: ## Install what is missing: build tools, a Python environment, ONNX Runtime
	@$(SETUP) system graphs runtime

models: ## Fetch and build the demo's models and texts
	@$(SETUP) models corpus

build: setup ## Build the release binary
	cargo build --locked --release --package halny

demo: setup models build ## Start the demo, send it requests, keep serving (CHECK=1: check the answers and stop)
	@$(SETUP) tests
	@$(PYTHON) demo/run.py --binary $(CARGO_TARGET_DIR)/release/halny $(if $(CHECK),--check)

test: check-fmt lint test-rust test-tools test-e2e ## Formatting, lints, Rust tests, tools' tests, end-to-end tests

check-fmt: setup
	cargo fmt --all --check

lint: setup
	cargo clippy --locked --workspace --all-targets -- -D warnings

test-rust: setup models ## The Rust tests alone
	@$(SETUP) nextest
	cargo nextest run --locked --workspace

test-tools: ## The tests of the Python tools alone
	@$(SETUP) tests
	$(PYTEST) tools/tests

test-e2e: setup models ## The end-to-end tests alone
	@$(SETUP) tests chromium node
	cargo build --locked --package halny
	HALNY_BIN=$(CARGO_TARGET_DIR)/debug/halny $(PYTEST) tests

deny: setup ## Check licences, bans and sources against deny.toml
	@cargo deny --version >/dev/null 2>&1 || cargo install --locked cargo-deny --version $(DENY_VERSION)
	cargo deny --locked --all-features check licenses bans sources

bench-embed: setup models build ## Embeddings against a bare ONNX Runtime loop, LitServe and mosec (PEERS=infinity,triton adds)
	@$(SETUP) bench
	@$(PYTHON) bench/embed.py --binary $(CARGO_TARGET_DIR)/release/halny $(if $(PEERS),--peers $(PEERS))

fmt: ## Format the Rust code
	cargo fmt --all

clean: ## Remove build outputs (models and environments in HALNY_CACHE stay)
	cargo clean
