# hitless: the two commands are `make demo` and `make test`. Both install what is missing and leave nothing running.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PY := .venv/bin/python
# Namespaces and guests need root; everything else does not.
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: help demo test lint unit kernel scenarios bench setup setup-test lock clean

help:
	@echo 'make demo       keys rotated and a firewall restarted under traffic; a report with the losses and where the pictures are'
	@echo 'make test       everything that CI runs: lint, unit tests, tests inside a real kernel, all scenarios'
	@echo 'make lint       ruff, mypy --strict, import contracts'
	@echo 'make bench      the figures of bench/, against the kernel'"'"'s own tools'
	@echo 'make clean      remove .venv, caches and results'

setup:
	@packaging/setup.sh

demo: setup
	@$(SUDO) $(PY) -m hitless lab demo

test: setup-test lint unit kernel scenarios

setup-test:
	@packaging/setup.sh test

lint: setup
	@.venv/bin/ruff check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-logo 2>/dev/null || .venv/bin/lint-imports

unit: setup-test
	@$(PY) -m pytest -q -n auto --dist loadfile --no-loadscope-reorder --durations 10 -m "not kernel and not scenario"

kernel: setup
	@$(SUDO) $(PY) -m hitless.lab.kernel --timeout 1200 --results results/kernel -- $(PY) -m pytest -q -p no:cacheprovider -m kernel

scenarios: setup
	@$(SUDO) $(PY) -m pytest -q -n auto --dist loadfile --durations 10 -m scenario

bench: setup
	@$(SUDO) $(PY) bench/footprint.py
	@$(PY) bench/flow_text.py
	@$(PY) bench/firewall.py
	@$(SUDO) $(PY) -m hitless.lab.kernel --timeout 1200 --results results/bench -- $(PY) bench/xfrm_install.py

lock: setup # needs pip-tools, which nothing else here does
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check pip-tools
	@.venv/bin/python -m piptools compile -q --generate-hashes --allow-unsafe --strip-extras --no-emit-index-url \
		--no-emit-find-links --no-emit-trusted-host --extra dev --extra etcd --extra kubernetes --build-deps-for editable -o requirements.lock pyproject.toml

clean:
	@rm -rf .venv results .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
