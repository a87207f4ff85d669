# make run    the app on http://127.0.0.1:7860        make test   everything tests need, then all tests
# make train  the embedded models, from nothing        make captures   their captures in assets/runs
# make benchmarks   the tables of results in assets/runs
# make space  a folder that is a Space of the Hugging Face Hub, build/space
# make docs   the site of docs/ in site/
# make bench  every figure that the README and the notes quote

PYTHON ?= python3
BIN := .venv/bin
export GRADIO_ANALYTICS_ENABLED := False
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: run test train captures benchmarks space bench docs lint clean

run: .venv/run.done
	$(BIN)/dmq serve

test: lint
	tools/browser.sh
	$(BIN)/dmq doctor
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
	tools/lesser.sh $(BIN)/python

train: .venv/train.done
	$(BIN)/python -m training

captures: .venv/run.done
	$(BIN)/python -m training.captures

benchmarks: .venv/run.done
	$(BIN)/python -m training.benchmarks --time-again

space: .venv/run.done
	$(BIN)/python -m tools.space build/space

bench: .venv/dev.done
	for script in capture simulate interactive start; do $(BIN)/python -m bench.$$script || exit 1; done
	$(BIN)/python -m bench.time --out build/bench-time.json
	$(BIN)/python -m bench.progress --ranges MinMax --text --out build/bench-progress.json
	$(BIN)/python -m bench.progress --speed
	$(BIN)/python -m bench.device --out build/bench-device.json

docs: .venv/docs.done
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: .venv/dev.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -f pages/widgets/*.pyi  # Gradio writes them anew; old ones would be read in place of the code
	$(BIN)/mypy

.venv/bin/python:
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'dmq needs Python 3.11 or newer; try make PYTHON=python3.12')"
	$(PYTHON) -m venv .venv

.venv/run.done: requirements.txt pyproject.toml setup.py | .venv/bin/python
	tools/install.sh requirements.txt
	touch $@

.venv/docs.done: requirements-docs.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet -r requirements-docs.txt
	touch $@

.venv/dev.done: requirements.txt requirements-dev.txt pyproject.toml setup.py | .venv/bin/python
	tools/install.sh requirements-dev.txt
	touch .venv/run.done $@

.venv/train.done: requirements.txt requirements-train.txt pyproject.toml | .venv/bin/python
	tools/install.sh requirements-train.txt
	touch .venv/run.done $@

clean:
	rm -rf .venv build site *.egg-info
