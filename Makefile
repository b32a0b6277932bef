# Sets up and runs everything in a fresh clone. Needs make and Python 3.11 to 3.13: see README.md.

PYTHON ?= python3
FOLDER := data/celeba
BIN := .venv/bin
DVC := PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/dvc
PYTEST := PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

.PHONY: help repro celeba check fits test test-fast lint format bench-data bench-train bench-onednn bench-start bench-rewrites bench-memory bench-quality study-layer-size study-losses study-kl-weight study-memory-options gpu clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 24

repro: $(BIN)/.installed check ## install the environment and run the whole pipeline
	$(DVC) repro

celeba: $(BIN)/.installed ## download CelebA into data/celeba, or FOLDER=..., and verify it
	@$(BIN)/python -m facevae.data.download "$(FOLDER)"

check: $(BIN)/.installed ## check params.yaml without running anything
	@$(BIN)/python -m facevae.common.parameters

fits: $(BIN)/.installed ## estimate which batch sizes fit on a card of VRAM=4GiB; BATCH=256: how to make this one fit
	@$(BIN)/python -m facevae.memory.cli "$(VRAM)" $(if $(BATCH),--batch-size "$(BATCH)")

test: $(BIN)/.installed-dev ## run all tests (5 minutes)
	$(PYTEST)

test-fast: $(BIN)/.installed-dev ## run the tests without processes, pipeline runs and long trainings (2 minutes)
	$(PYTEST) -m "not slow"

lint: $(BIN)/.installed-dev ## check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(BIN)/.installed-dev ## fix style and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-data: $(BIN)/.installed-dev ## measure the data path beside what this machine could do (15 minutes)
	$(BIN)/python -m benchmarks.data_pipeline

bench-train: $(BIN)/.installed .venv-peers/.installed ## measure training beside PyTorch, Keras and the machine (15 minutes)
	$(BIN)/python -m benchmarks.training_speed

bench-onednn: $(BIN)/.installed ## measure a step with and without oneDNN, and PyTorch's if it is installed (5 minutes)
	$(BIN)/python -m benchmarks.onednn

bench-start: $(BIN)/.installed ## measure how long stages take to start (4 minutes)
	$(BIN)/python -m benchmarks.stage_start

bench-rewrites: $(BIN)/.installed ## measure what each rewrite of Keras' layers gains training (10 minutes)
	$(BIN)/python -m benchmarks.custom_layers

bench-memory: $(BIN)/.installed ## measure the memory of training steps beside the estimated one (6 minutes)
	$(BIN)/python -m benchmarks.memory_model

bench-quality: $(BIN)/.installed-dev ## measure what the metrics of generated images cost (8 minutes)
	$(BIN)/python -m benchmarks.metric_cost

study-layer-size: $(BIN)/.installed ## measure 64 to 512 units in the extra layer, and none (60 minutes); SETTINGS="train.epochs=8"
	$(BIN)/python -m studies.layer_size $(SETTINGS)

study-losses: $(BIN)/.installed .venv-peers/.installed ## measure losses and priors beside the default and pythae (75 minutes); SETTINGS=...
	$(BIN)/python -m studies.losses $(SETTINGS)

study-kl-weight: $(BIN)/.installed ## measure KL weights near zero beside the plain autoencoder (15 minutes); SETTINGS=...
	$(BIN)/python -m studies.kl_weight $(SETTINGS)

study-memory-options: $(BIN)/.installed ## measure what each way to less memory saves and costs (50 minutes); SETTINGS=...
	$(BIN)/python -m studies.memory_options $(SETTINGS)

gpu: $(BIN)/.installed ## install the CUDA libraries that TensorFlow needs on an NVIDIA GPU
	$(BIN)/pip install "$$(grep '^tensorflow==' requirements.txt | sed 's/==/[and-cuda]==/')"

clean: ## delete the environments, but not data, models and DVC's cache
	rm -rf .venv .venv-peers

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
		|| { echo "facevae needs Python 3.11 to 3.13: make PYTHON=python3.11 ..." >&2; exit 2; }
	$(PYTHON) -m venv .venv

$(BIN)/.installed: requirements.txt pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

$(BIN)/.installed-dev: requirements-dev.txt $(BIN)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

.venv-peers/.installed: requirements-peers.txt | $(BIN)/python
	$(BIN)/python -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-peers.txt
	@touch $@
