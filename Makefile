# Sets up and runs everything in a fresh clone. Needs make and Python 3.11 to 3.13: see README.md.

PYTHON ?= python3
FOLDER := data/celeba
BIN := .venv/bin
# For a shell, whatever characters it has.
quoted = '$(subst ','\'',$(1))'
WITH_PATH := PATH=$(call quoted,$(CURDIR)/$(BIN)):"$$PATH"
DVC := $(WITH_PATH) $(BIN)/dvc
PYTEST := $(WITH_PATH) $(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

# What a shell has set for another Python is not for this project's.
unexport $(filter PYTHON%,$(.VARIABLES))

# Whether .venv is whole and this folder's. In one that was moved or copied, or whose Python has gone or
# is another version now, Python does not find the project here. A link to one is taken as it is.
FINDS := -I -c 'import facevae, os, sys; sys.exit(not os.path.samefile(facevae.__path__[0], "src/facevae"))' 2>/dev/null
WHOLE := $(shell test -f $(BIN)/.installed && test ! -f .venv/.unfinished && { test -L .venv || $(BIN)/python $(FINDS); } && echo yes)

.PHONY: help repro celeba check fits test test-fast lint format check-docs docs-figures bench-data bench-train bench-onednn bench-decoder bench-start bench-rewrites bench-profile bench-memory bench-quality study-extra-layer study-losses study-kl-weight study-decoder study-published study-memory-options gpu bench-faces bench-explorer faces export notebook check-pictures clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 24

repro: repository $(BIN)/.installed check ## install the environment and run the whole pipeline
	$(DVC) repro
	@$(BIN)/python -m facevae.reports.summary

celeba: $(BIN)/.installed ## download CelebA into data/celeba, or FOLDER=..., and verify it
	@$(BIN)/python -m facevae.data.download -- $(call quoted,$(value FOLDER))

check: repository $(BIN)/.installed ## check params.yaml without running anything
	@$(BIN)/python -m facevae.common.parameters

fits: $(BIN)/.installed ## estimate which batch sizes fit on a card of VRAM=4GiB; BATCH=256: how to make this one fit
	@$(BIN)/python -m facevae.memory.cli "$(VRAM)" $(if $(BATCH),--batch-size "$(BATCH)")

test: $(BIN)/.installed-dev ## run all tests (7 minutes)
	$(PYTEST)

test-fast: $(BIN)/.installed-dev ## run the tests without pipeline runs, long trainings and processes of their own (2 minutes)
	$(PYTEST) -m "not slow"

lint: $(BIN)/.installed-dev ## check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check-docs: $(BIN)/.installed-dev ## run the commands of README and docs in a small clone (8 minutes)
	$(BIN)/python tests/documents.py

check-pictures: $(BIN)/.installed ## measure what the pictures of a finished make repro show, beside the bars (1 minute)
	@$(BIN)/python tests/built_in_pictures.py

docs-figures: $(BIN)/.installed ## write the charts of docs from a finished make repro
	$(BIN)/python docs/figures.py

format: $(BIN)/.installed-dev ## fix style and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-data: $(BIN)/.installed-dev ## measure the data path beside what this machine could do (8 minutes)
	$(BIN)/python -m benchmarks.data_pipeline

bench-train: $(BIN)/.installed .venv-peers/.installed ## measure training beside PyTorch, Keras and the machine (40 minutes)
	$(BIN)/python -m benchmarks.training_speed

bench-onednn: $(BIN)/.installed ## measure a step with and without oneDNN, and PyTorch's if it is installed (7 minutes)
	$(BIN)/python -m benchmarks.onednn

bench-decoder: $(BIN)/.installed ## measure what each way to enlarge the Decoder's images costs (7 minutes)
	$(BIN)/python -m benchmarks.decoder

bench-start: $(BIN)/.installed ## measure how long stages take to start (4 minutes)
	$(BIN)/python -m benchmarks.stage_start

bench-rewrites: $(BIN)/.installed ## measure what each rewrite of Keras' layers gains training (10 minutes)
	$(BIN)/python -m benchmarks.custom_layers

bench-profile: $(BIN)/.installed ## measure where the time of a training step goes, by operation (3 minutes)
	$(BIN)/python -m benchmarks.step_profile

bench-memory: $(BIN)/.installed ## measure the memory of training steps beside the estimated one, and what their start adds (7 minutes)
	$(BIN)/python -m benchmarks.memory_model
	$(BIN)/python -m benchmarks.start_memory

bench-quality: $(BIN)/.installed-dev ## measure what the metrics of generated images cost (8 minutes)
	$(BIN)/python -m benchmarks.metric_cost

bench-faces: $(BIN)/.installed-dev ## measure what the metrics of faces see, and their time (5 minutes)
	$(BIN)/python -m benchmarks.face_metrics

bench-explorer: $(BIN)/.installed-dev ## measure what the explorer of a finished make repro draws, beside Keras (1 minute)
	@$(BIN)/python -m benchmarks.explorer

study-extra-layer: $(BIN)/.installed ## measure what the extra layer costs, and its pilot (12 hours); ONLY=main SEEDS="1 2": a part of it; SETTINGS=...
	$(BIN)/python -m studies.extra_layer_pilot $(SETTINGS)
	$(BIN)/python -m studies.extra_layer $(if $(ONLY),--only $(ONLY)) $(if $(SEEDS),--seeds $(SEEDS)) $(SETTINGS)

study-losses: $(BIN)/.installed .venv-peers/.installed ## measure losses and priors beside the default and pythae (3 hours); SETTINGS=...
	$(BIN)/python -m studies.losses $(SETTINGS)

study-kl-weight: $(BIN)/.installed ## measure KL weights near zero beside the plain autoencoder (30 minutes); SETTINGS=...
	$(BIN)/python -m studies.kl_weight $(SETTINGS)

study-decoder: $(BIN)/.installed ## measure how the Decoder enlarges images, and how it is trained (60 minutes); SETTINGS=...
	$(BIN)/python -m studies.decoder $(SETTINGS)

study-published: $(BIN)/.installed .venv-peers/.installed ## measure the default beside what others publish (50 minutes); SETTINGS=...
	$(BIN)/python -m studies.published $(SETTINGS)

study-memory-options: $(BIN)/.installed ## measure what each way to less memory saves and costs (50 minutes); SETTINGS=...
	$(BIN)/python -m studies.memory_options $(SETTINGS)

gpu: $(BIN)/.installed ## install the CUDA libraries that TensorFlow needs on an NVIDIA GPU
	sh tools/pip.sh .venv "$$(grep '^tensorflow==' requirements.txt | sed 's/==/[and-cuda]==/')"

faces: $(BIN)/.installed ## install what evaluate.faces needs (136 MiB)
	sh tools/pip.sh .venv -r requirements-faces.txt

export: $(BIN)/.installed-export ## write Encoder and Decoder as ONNX files, and a model card, into models/ (fetches 9 MB)
	@sh stages/python.sh stages/export.py

notebook: $(BIN)/.installed-dev ## run docs/explore.ipynb on a finished make repro, into reports/explore.ipynb (1 minute)
	@$(BIN)/python docs/run_notebook.py

clean: ## delete the environments, but not data, models and DVC's cache
	rm -rf .venv .venv-peers

.PHONY: repository renew
repository:
	@$(if $(WHOLE),$(BIN)/python,$(PYTHON)) tools/preflight.py repository

ifeq ($(WHOLE),)
$(BIN)/.installed .venv-peers/.installed: renew
endif

$(BIN)/.installed: requirements.txt pyproject.toml
ifeq ($(WHOLE),)
	@test ! -e .venv || echo "Building .venv again, which is unfinished, or made for another folder or Python; for an NVIDIA card, say make gpu again, and for evaluate.faces make faces" >&2
	@rm -rf .venv
	@$(PYTHON) tools/preflight.py environment || { test $$? -ne 127 || echo "facevae needs Python: make PYTHON=python3.11 ..." >&2; exit 2; }
	$(PYTHON) -m venv .venv
endif
	sh tools/pip.sh .venv -r requirements.txt
	sh tools/pip.sh .venv --no-deps --editable .
	@$(BIN)/python $(FINDS) || { echo "pip has installed elsewhere than into .venv: '$(BIN)/pip config list' shows where" >&2; exit 2; }
	@touch $@

$(BIN)/.installed-export: requirements-export.txt $(BIN)/.installed
	sh tools/pip.sh .venv -r requirements-export.txt
	@touch $@

$(BIN)/.installed-dev: requirements-dev.txt requirements-faces.txt requirements-export.txt $(BIN)/.installed
	sh tools/pip.sh .venv -r requirements-dev.txt
	@touch $@

.venv-peers/.installed: requirements-peers.txt | $(BIN)/.installed
	@rm -rf .venv-peers
	$(BIN)/python -m venv .venv-peers
	sh tools/pip.sh .venv-peers -r requirements-peers.txt
	@touch $@
