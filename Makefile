.DEFAULT_GOAL := help
.PHONY: help setup demo demo-full test check format bench openapi k8s clean

help:          ## what there is to make
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup:         ## build .venv with pinned versions
	@scripts/setup.sh

demo: setup    ## the main job end to end on this machine: about 15 minutes, then runs/demo/report.html
	@.venv/bin/cacherl demo --out runs/demo

demo-full: setup ## the same with longer training
	@.venv/bin/cacherl demo --size full --out runs/demo-full

test: setup    ## the whole suite
	@.venv/bin/python -m pytest -n 2 --dist loadgroup

check: setup   ## lint, formatting, types, rules of dependency
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/basedpyright
	@.venv/bin/lint-imports

format: setup  ## format the code
	@.venv/bin/ruff check --fix -q . ; .venv/bin/ruff format .

bench: setup   ## measure; results go to benchmarks/results
	@.venv/bin/python -m benchmarks

openapi: setup ## write the OpenAPI snapshots
	@.venv/bin/python -m services.kit.openapi docs/openapi

k8s: setup     ## render deploy/k8s/install.yaml
	@kubectl kustomize deploy/k8s/base > deploy/k8s/install.yaml

clean:         ## remove runs and caches, keep .venv
	@rm -rf runs .pytest_cache .ruff_cache .hypothesis
