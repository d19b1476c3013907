# Each target sets up all that it needs; a repeated run only starts.
#   make demo                      see streams being traced, in the terminal
#   make test ARGS="-k tap -x"     the tests, or some of them
#   make lint                      style, types and import floors
#   make fuzz                      a minute of fuzzing the decoders; ARGS="--seconds 600": more
#   make dashboards-preview        the dashboards with live data, as pictures
#   make bench                     what it costs, on this machine; ARGS="micro growth --short"
#   make bench-gate                whether anything got slower than what is committed
#   make test PY=python3.13 VENV=.venv-3.13

PY ?=
VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin
INPUTS := pyproject.toml constraints.txt .ci/setup hatch_build.py $(wildcard streamtrace/c/*)

.PHONY: demo test lint fuzz dashboards-preview bench bench-gate pin clean

demo: $(VENV)/ready-demo
	$(BIN)/streamtrace demo $(ARGS)

test: $(VENV)/ready-dev
	PYTHONPATH=tests $(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fuzz: $(VENV)/ready-dev
	$(BIN)/python tests/fuzz/decoders.py $(ARGS)

dashboards-preview: $(VENV)/ready-dev
	$(BIN)/python -m dashboards.preview $(ARGS)

bench: $(VENV)/ready-dev
	$(BIN)/python -m benchmarks $(ARGS)

bench-gate: $(VENV)/ready-dev
	$(BIN)/python -m benchmarks.gate $(ARGS)

# The newest versions of everything, written to constraints.txt.
pin:
	.ci/pin "$(PY)"

clean:
	rm -rf $(VENV) $(VENV)-langgraph $(VENV)-frameworks .services streamtrace/*.so tests/clients/node_modules \
	  dashboards/preview/node_modules dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(VENV)/ready-demo: $(INPUTS)
	.ci/setup $(VENV) "$(PY)" -e '.[all]'
	@touch $@

$(VENV)/ready-dev: $(INPUTS) .ci/clients tests/clients/package.json .ci/services \
  .ci/producers $(wildcard tests/producers/*-constraints.txt)
	.ci/setup $(VENV) "$(PY)" -e '.[all]' --group dev
	.ci/clients $(VENV)
	.ci/producers $(VENV) $(BIN)/python
	.ci/services
	@touch $@
