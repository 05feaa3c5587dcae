# make demo [SEED=1]   draw a data set, train on it, evaluate, print a table and the path of a picture
# make pictures        the demo, and from it every picture that README and docs show
# make test            the fast tests; make test-all adds the slow ones; make lint
PYTHON ?= python3
SEED ?= 1
RUN := runs/demo_seed$(SEED)_$(shell date +%Y-%m-%d_%H-%M-%S)
BIN := .venv/bin

.PHONY: demo pictures test test-all lint

.venv/installed: requirements.txt
	@$(PYTHON) -c "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))" || \
	  { echo "Python 3.11 to 3.13 is needed; '$(PYTHON)' is $$($(PYTHON) --version). Try: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	touch $@

demo: .venv/installed
	$(BIN)/python train.py dataset_name=synthetic seed=$(SEED) output_dir=$(RUN) logging.wandb=disabled
	$(BIN)/python evaluate.py dataset_name=synthetic seed=$(SEED) checkpoint=$(RUN) output_dir=$(RUN)/evaluation \
	  baseline=[untrained,kmeans_features,kmeans_colours] logging.wandb=disabled

pictures: demo
	cp $(RUN)/evaluation/parts.png docs/parts.png

# Most tests start programs, which import more than they compute: several at once, a thread each.
test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" --numprocesses auto --maxprocesses 4

test-all: test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow --numprocesses auto --maxprocesses 2

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
