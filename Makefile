# The two commands of the README: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
BIN := $(VENV)/bin
# stations of the legs, with the outlines of a reader
DEMO_MUSCLE := --muscle-low-mm -860 --muscle-high-mm -60 --muscle-n-t2w 2 --muscle-n-dwi 2 \
  --muscle-t2w-mm 7 --muscle-t2w-slice-mm 7 --muscle-dwi-mm 8 --muscle-dwi-slice-mm 12 \
  --muscle-legs-mm 5 --muscle-legs-slice-mm 30 --no-muscle-hands --muscle-readers 1
# slabs of half the resolution, through the upper half of the brain
DEMO_SLAB := --cortex7t-mm 0.5

.PHONY: demo test setup lint image-check release-check clean
.DELETE_ON_ERROR:

setup: $(VENV)/.installed

$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "bids_alsmri needs Python 3.11 or later; call make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	  || { echo "no venv: on Debian, install the package python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,docs]'
	@touch $@

# coarser than the defaults, so that it ends within twenty minutes or so on two cores
demo: setup
	$(BIN)/python -m bids_alsmri.phantom $(DEMO)/raw --controls 3 --fast 3 --slow 3 --seed 1 --clinical \
	  --modalities anat,dwi,muscle,cortex7t --t1w-mm 3 --dwi-mm 3 --n-directions 12 $(DEMO_MUSCLE) $(DEMO_SLAB)
	$(BIN)/bids_alsmri $(DEMO)/raw $(DEMO)/derivatives participant -w $(DEMO)/work \
	  -d reader=$(DEMO)/raw/derivatives/reader1 \
	  --anatomical-template-registration-mm 3 --anatomical-template-resolution-mm 2 \
	  --diffusion-template-resolution-mm 2 --cortex7t-registration-voxel-mm 2 \
	  --cortex7t-registration-reach-mm 8 --cortex7t-registration-reach-deg 4
	$(BIN)/bids_alsmri $(DEMO)/raw $(DEMO)/derivatives group -w $(DEMO)/work \
	  --group-resolution-mm 2 --group-refinement-iterations 1 --group-refinement-resolution-mm 4 \
	  --group-maps fa md
	@echo
	@echo "Reports:"; ls $(DEMO)/derivatives/*.html

test: setup lint
	$(BIN)/python -m pytest -n auto

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# the image of this tree, built where the store holds none, under docker's and Apptainer's limits
image-check: setup
	ALSMRI_REQUIRE="container leisure" $(BIN)/python -m pytest -m "container or slurm or leisure" tests/containers
	$(BIN)/python tests/containers/recipes.py > tests/containers/checked_recipes.txt

# the wheel, in an environment of its own and from a folder without the source, runs the demo
release-check:
	rm -rf build dist
	$(PYTHON) -m venv dist/venv
	dist/venv/bin/python -m pip install --quiet --upgrade pip
	dist/venv/bin/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	dist/venv/bin/python -m pip install --quiet --constraint constraints.txt dist/*.whl
	$(MAKE) -C dist -f ../Makefile -o $(CURDIR)/dist/venv/.installed demo VENV=$(CURDIR)/dist/venv

clean:
	rm -rf $(VENV) $(DEMO) build dist *.egg-info
