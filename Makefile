# The project's commands. `make` or `make help` lists them.
#
# PYTHON=python3.12   another interpreter (3.11 or newer) for a new .venv
# MODEL=DIR           what demo, serve and chat run: "demo", "gemma3-270m" or a checkpoint directory
# BACKEND=torch       what runs it: torch; sim, TT-Lang's functional simulator; or tt, a card
# PYTHON312=…         the Python 3.12 for .venv-tt (TT-Lang's compiler knows no other)
# SIMULATOR=wolfpine  a simulated chip for BACKEND=tt and test-chip, or the path of the vendor's libttsim_bh.so
# PIP_ARGS=…          more arguments for pip, e.g. an index with CPU builds of torch

PYTHON ?= python3
MODEL ?= demo
BACKEND ?= torch
PYTHON312 ?= $(firstword $(wildcard $(HOME)/.pyenv/versions/3.12.*/bin/python) python3.12)
SIMULATOR ?=
PIP_ARGS ?=

VENV := .venv
VENV_TT := .venv-tt
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check $(PIP_ARGS)
LOCAL = $(BIN)/python -m deploy.local --model "$(or $(MODEL),demo)" --backend "$(or $(BACKEND),torch)" \
    --simulator "$(SIMULATOR)"
NEEDS_sim := $(VENV)/.sim
NEEDS_tt := .chip $(VENV)/.serve $(VENV_TT)/.serve
NEEDS = $(or $(NEEDS_$(BACKEND)),$(VENV)/.serve)
PIP_TT := $(VENV_TT)/bin/python -m pip --disable-pip-version-check $(PIP_ARGS)
PROTOS := $(shell find protos -name '*.proto')

.DEFAULT_GOAL := help
.PHONY: help demo serve chat test test-kernels test-chip test-hardware .chip chip-e2b chip-e4b chip-real-model \
        chip-report mock-cards traffic traffic-cycles test-real-model test-soak check format proto \
        bench-decode bench-precision model-demo model-gemma3-270m clean

help: ## This list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

# --- What a person runs -----------------------------------------------------------------------

demo: $(NEEDS) ## Starts both programs on the demo model and streams a few answers
	@$(LOCAL) demo

serve: $(NEEDS) ## Runs both programs in the foreground until Ctrl-C
	@$(LOCAL) serve

chat: $(NEEDS) ## Starts both programs and a chat with them
	@$(LOCAL) chat

model-gemma3-270m: $(VENV)/.gguf ## Brings the real Gemma 3 270M (267 MB; Gemma's terms apply)
	@$(BIN)/python -m deploy.models.gemma3_270m

# --- What a developer runs --------------------------------------------------------------------

test: $(VENV)/.dev ## All tests that need nothing but this machine (under 15 minutes on 2 cores)
	@$(BIN)/python -m pytest -m "not real_model and not soak and not kernels and not chip" tests

test-kernels: $(VENV)/.dev $(VENV_TT)/.serve ## Kernels at true E2B and E4B sizes: functional simulator and compiler
	@$(BIN)/python -m pytest -m kernels tests/kernels

test-chip chip-e2b chip-e4b chip-real-model: SIMULATOR := $(or $(SIMULATOR),wolfpine)
test-chip: .chip $(VENV)/.dev $(VENV_TT)/.serve ## Compiled kernels on a simulated Blackhole (SIMULATOR=… for the vendor's)
	@TESSERA_SIMULATOR="$(SIMULATOR)" $(BIN)/python -m pytest -m chip tests/chip; failed=$$?; \
	    [ "$(SIMULATOR)" = wolfpine ] || $(BIN)/python -m tests.chip.report; exit $$failed

HAS_CHIP := $(SIMULATOR)$(TT_METAL_SIMULATOR)$(wildcard /dev/tenstorrent/[0-9]*)
test-hardware: $(if $(HAS_CHIP),$(VENV)/.dev $(VENV_TT)/.serve) ## What only a card can say, into .cache/hardware-report.md; skips without one
	@$(if $(HAS_CHIP),$(BIN)/python,$(PYTHON)) -m tests.hardware --simulator "$(SIMULATOR)" \
	    $(if $(MODEL:demo=),--model "$(MODEL)")

chip-e2b: .chip $(VENV)/.dev $(VENV_TT)/.serve ## A decode step of a full-size random E2B on the vendor's simulator (SIMULATOR=…; half an hour)
	$(call full_size,e2b)

chip-e4b: .chip $(VENV)/.dev $(VENV_TT)/.serve ## The same of E4B, 15 GB of disk (SIMULATOR=…, WEIGHTS=bfp8; an hour)
	$(call full_size,e4b)

define full_size
@TESSERA_SIMULATOR="$(SIMULATOR)" $(BIN)/python -m tests.chip.full_size $(1) --weights "$(or $(WEIGHTS),bf16)"; \
    failed=$$?; $(BIN)/python -m tests.chip.report; exit $$failed
endef

chip-real-model: .chip $(VENV)/.dev $(VENV_TT)/.serve model-gemma3-270m ## The real Gemma 3 270M served from the vendor's simulator (SIMULATOR=…; half an hour)
	@TESSERA_SIMULATOR="$(SIMULATOR)" $(BIN)/python -m pytest -m real_model tests/chip; failed=$$?; \
	    $(BIN)/python -m tests.chip.report; exit $$failed

chip-report: $(VENV)/.dev ## Writes kernels/chip-report.md from the rows of the last runs of test-chip
	@$(BIN)/python -m tests.chip.report

mock-cards: $(VENV)/.dev $(VENV_TT)/.serve ## Places every model on every board's mock; writes device_service/model/mock-cards.md
	@$(BIN)/python -m tests.chip.mock_report

test-real-model: $(VENV)/.dev model-gemma3-270m ## Tests on the real Gemma 3 270M, against transformers
	@$(BIN)/python -m pytest -m real_model tests/real_model

test-soak: $(VENV)/.dev ## The long form of the fault tests (thousands of cancelled requests)
	@$(BIN)/python -m pytest -m soak tests

check: $(VENV)/.dev ## Formatting, lint, types, import contracts, protos
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash .ci/check

format: $(VENV)/.dev ## Formats the code and mends what lint can mend
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix . && $(BIN)/buf format -w protos

proto: $(VENV)/.dev ## Makes the Python stubs anew from the contracts
	@PATH="$(CURDIR)/$(BIN):$$PATH" python -m grpc_tools.protoc -I protos --python_out=protos \
	    --grpc_python_out=protos --mypy_out=quiet:protos --mypy_grpc_out=quiet:protos $(PROTOS)

bench-decode: $(VENV)/.dev ## Decode and prefill speed beside transformers on a full-size random E2B (9 GB of disk)
	@$(BIN)/python -m tests.benchmarks.bench_decode

bench-precision: $(VENV)/.dev model-gemma3-270m ## What bf16, bfp8 and bfp4 weights cost on a real model and a real text
	@$(BIN)/python -m tests.benchmarks.precision

traffic: $(VENV)/.dev ## What a decode step moves, and what that predicts: kernels/traffic.md, traffic.svg
	@$(BIN)/python -m tests.traffic

traffic-cycles: SIMULATOR := wolfpine
traffic-cycles: .chip $(VENV)/.dev $(VENV_TT)/.serve ## What wolfpine's timing model charges, for traffic (half an hour)
	@$(BIN)/python -m tests.traffic.cycles

model-demo: $(VENV)/.dev ## Trains the demo model anew (a quarter of an hour)
	@$(BIN)/python deploy/demo-model/train.py

clean: ## Removes everything that the commands above made
	rm -rf $(VENV) $(VENV_TT) .cache build *.egg-info

# --- Environments: one .venv that grows with what is asked of it ------------------------------

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "error: $(PYTHON) is missing or older than 3.11; name a newer one: make PYTHON=python3.12 …" >&2; exit 1; }
	@echo "==> Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.serve: pyproject.toml | $(VENV)/bin/python
	@echo "==> Installing what both programs need (torch is the large one; a minute or two, once)"
	@$(PIP) install --quiet --editable '.[device,gateway]'
	@touch $@

$(VENV)/.sim: $(VENV)/.serve
	@echo "==> Installing TT-Lang's functional simulator"
	@$(PIP) install --quiet --editable '.[device,gateway,sim]'
	@touch $@

$(VENV)/.gguf: $(VENV)/.serve
	@echo "==> Installing the GGUF importer"
	@$(PIP) install --quiet --editable '.[device,gateway,gguf]'
	@touch $@

$(VENV)/.dev: $(VENV)/.serve
	@echo "==> Installing the tools for tests and checks (a minute or two, once)"
	@$(PIP) install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.gguf $(VENV)/.sim

# Asked before minutes are spent on environments.
.chip:
	@$(PYTHON) -m deploy.chip "$(SIMULATOR)"

# A second environment: TT-Lang's compiler and ttnn exist for Python 3.12 only. Resolved in one go: left
# alone they take the newest torch, which the device service may not know yet. torch's wheel for Linux has
# CUDA with it, 5 of the 6 GB: PIP_ARGS can name an index with CPU builds.
$(VENV_TT)/.serve: pyproject.toml
	@$(PYTHON312) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' 2>/dev/null || { \
	    echo "error: no Python 3.12 at $(PYTHON312): install it (pyenv install 3.12) and say make PYTHON312=PATH …" >&2; exit 1; }
	@echo "==> Making $(VENV_TT) with TT-Lang, ttnn, a simulated chip and the device service (6 GB, once)"
	@[ -x $(VENV_TT)/bin/python ] || $(PYTHON312) -m venv $(VENV_TT)
	@$(PIP_TT) install --quiet --editable '.[device,tt]' wolfpine==2.2
	@touch $@
