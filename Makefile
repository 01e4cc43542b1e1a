# Needs make and Python 3.10 or newer; everything else goes into .venv. `make` alone lists the targets.

PYTHON  ?= python3
JOBS    ?= 2
PROFILE ?= laptop
OUT     ?= build
# TORCH=cpu: PyTorch without GPU libraries, from its own index; only read when .venv is made
TORCH   ?=

BIN   := .venv/bin
STAMP := .venv/installed
TINY  := $(CURDIR)/build/walkers-tiny
SMALL := data/walkers-small
# first, so that both cores end together
LONGEST := notebooks/06_training.ipynb
RUN   := $(BIN)/python -m reidlab lessons run --jobs $(JOBS)
# one thread for each worker: two workers with all threads each are slower than one
PYTEST := env -u MPLBACKEND OMP_NUM_THREADS=1 TQDM_DISABLE=1 $(BIN)/python -m pytest -q -n $(JOBS)

.PHONY: help env lessons test unit strict smoke cuhk03 lab refresh weights lint clean
.NOTPARALLEL:
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -E '^[a-z0-9]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9]+):[^#]*## /  make \1\t/' | expand -t 18

env: $(STAMP) ## make .venv with everything the lessons and tests need

$(STAMP): pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON): not found; install Python 3.10 or newer, or say which: make PYTHON=/path/to/python3 ..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "$$($(PYTHON) --version) is too old; 3.10 or newer is needed: make PYTHON=/path/to/python3 ..."; exit 1; }
	@case "$(TORCH)" in ''|cpu) ;; *) echo "TORCH=$(TORCH): expected cpu, or nothing for the usual packages"; exit 1;; esac
	@echo "environment: installing into .venv (minutes, the first time)"
	@$(PYTHON) -m venv .venv || { echo "no environment was made; on Debian and Ubuntu install the package python3-venv"; rm -rf .venv; exit 1; }
	@if [ "$(TORCH)" = cpu ]; then $(BIN)/python -m pip install -qq --disable-pip-version-check \
		torch torchvision --index-url https://download.pytorch.org/whl/cpu; fi
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[lessons,test]'
	@touch $@
	@echo "environment: done"

lessons: $(STAMP) ## run every lesson: notebooks, pages, index and results under build/ (PROFILE=laptop JOBS=2 OUT=build)
	@$(BIN)/python -m reidlab world $(SMALL) --size small
	@$(RUN) --out $(OUT) --profile $(PROFILE)
	@echo "Open $(OUT)/index.html in a browser."

test: lint unit strict smoke cuhk03 ## all tests: lint, unit, notebooks strictly, lessons small, lessons on CUHK03's layout
	@echo "All tests passed. Lessons as run by the tests: build/smoke/index.html, build/cuhk03/index.html"

unit: $(STAMP) ## unit tests and docstring examples, with the coverage of the package
	@echo "== unit tests and docstring examples"
	@$(PYTEST) --dist worksteal -p no:nbval --cov=reidlab --cov-report=term:skip-covered --cov-fail-under=90

strict: $(STAMP) ## run the committed notebooks and compare their outputs cell by cell
	@echo "== committed notebooks: outputs compared cell by cell"
	@$(BIN)/python -m reidlab world $(SMALL) --size small
	@$(PYTEST) --dist loadfile --no-loadscope-reorder -p no:cacheprovider --nbval --nbval-current-env \
		--nbval-cell-timeout=600 --nbval-sanitize-with tests/nbval_sanitize.cfg \
		$(LONGEST) $(filter-out $(LONGEST),$(wildcard notebooks/*.ipynb))

smoke: $(STAMP) ## run every lesson on the tiny world
	@echo "== lessons, profile smoke"
	@$(RUN) --out build/smoke --profile smoke

cuhk03: $(STAMP) ## run every lesson as for the real CUHK03, on a tiny world in its layout
	@echo "== lessons, DATASET=cuhk03"
	@$(BIN)/python -m reidlab world $(TINY) --size tiny
	@$(RUN) --out build/cuhk03 --profile smoke -p DATASET=cuhk03 -p DATA_DIR=$(TINY)

lab: $(STAMP) ## open JupyterLab on this computer only, at lesson 00
	@$(BIN)/jupyter lab --ip=127.0.0.1 $(if $(filter 0,$(shell id -u)),--allow-root) --ServerApp.root_dir="$(CURDIR)" \
		--LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb

refresh: $(STAMP) ## execute the committed notebooks in place
	@$(BIN)/python -m reidlab world $(SMALL) --size small
	@$(BIN)/python -m reidlab lessons refresh

weights: $(STAMP) ## make the shipped weights again, from drawn people alone (about an hour on two cores)
	@$(BIN)/python -m reidlab weights --record results/walkers_small_weights.json

lint: $(STAMP) ## check style and spelling
	@echo "== style and spelling"
	@$(BIN)/ruff check -q .
	@$(BIN)/ruff format -q --check .
	@$(BIN)/codespell

clean: ## remove build/ and caches; .venv and data/ stay
	@rm -rf build .pytest_cache .ruff_cache .hypothesis .coverage .coverage.*
	@find reidlab tests benchmarks notebooks -name __pycache__ -prune -exec rm -rf {} +
	@find notebooks -name .ipynb_checkpoints -prune -exec rm -rf {} +
	@echo "removed build/ and caches; worlds are in data/, the environment in .venv"
