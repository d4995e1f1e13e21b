# Everything runs inside .venv, which is made on first use from the pins in requirements.txt.
.DEFAULT_GOAL := help
SHELL := /bin/sh
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export VIRTUAL_ENV := $(CURDIR)/.venv
# Without bytecode on disk, each process compiles everything that it imports again.
unexport PYTHONPATH PYTHONHOME PYTHONDONTWRITEBYTECODE

READY := .venv/.ready
PEERS := .venv/.bench-ready
PAGE := .dvc/plots.html
# uv does not read the variables that say where pip looks for packages.
UV := $(if $(PIP_INDEX_URL)$(PIP_EXTRA_INDEX_URL)$(PIP_FIND_LINKS),,$(shell command -v uv))
INSTALL := $(if $(UV),uv,python -m) pip install --quiet $(if $(UV),,--disable-pip-version-check --no-compile)
# Waits while another installation holds dpkg's lock.
APT := LC_ALL=C apt-get --quiet --yes -o DPkg::Lock::Timeout=600

.PHONY: help setup repro honest protocol test portable check browser bench bench-serving docs clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-13s %s\n", $$1, $$2}' Makefile

setup: $(READY) $(PAGE) ## Make .venv with the pinned packages (the other targets do it by themselves)

repro: setup ## Run the whole pipeline on the embedded data, push everything to the S3 store
	@alzmri doctor --before-run
	@alzmri store run -- sh -c 'dvc repro && echo "pushing to the store" && dvc push'
	@alzmri results --baseline

honest: setup ## Cross-validate over subjects (SOURCE=name for another collection, ARGS=-j 2), write docs/results.md
	@alzmri honest $(if $(SOURCE),--source $(SOURCE)) $(ARGS)

protocol: setup ## Run the published protocol's two settings; its slice split LEAKS (SOURCE=name)
	@alzmri protocol $(if $(SOURCE),--source $(SOURCE)) $(ARGS)

# Files go to the workers in their own order: xdist would leave e2e's, of few tests but long, for
# last, when one worker of two has nothing else to do.
test: check browser ## Set up, lint, check types, run every test (ARGS=-k name for some)
	@OMP_NUM_THREADS=1 pytest --numprocesses auto --dist loadfile --no-loadscope-reorder $(ARGS)

check: setup ## Lint and check types only
	@ruff check .
	@ruff format --check .
	@pyrefly check --summary=none

# The lists of packages are fetched only where they are missing or too old.
browser: ## Install Chromium, dcmtk and Orthanc where they are missing and may be, for the tests
	@PATH="$$PATH:/usr/sbin"; for name in chromium chromium-browser google-chrome; do \
	  which $$name dcm2xml dciodvfy Orthanc >/dev/null 2>&1 && exit 0; done; \
	tools="chromium dcmtk dicom3tools orthanc"; \
	if test "$$(id -u)" = 0 && command -v apt-get >/dev/null; then \
	  echo "installing Chromium, dcmtk and Orthanc for the tests"; \
	  $(APT) install --no-install-recommends $$tools >/dev/null 2>&1 && exit 0; \
	  while $(APT) update 2>&1 | grep -q "Could not get lock"; do sleep 3; done; \
	  $(APT) install --no-install-recommends $$tools >/dev/null; \
	else \
	  echo "warning: without them tests fail: install chromium dcmtk dicom3tools orthanc (Debian)" >&2; \
	fi

portable: setup ## Compare a tiny run's bytes with those on emulated Intel and AMD processors (qemu-user)
	@command -v qemu-x86_64 >/dev/null || { \
	  test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
	    && echo "installing qemu-user, which emulates other processors" \
	    && $(APT) install --no-install-recommends qemu-user >/dev/null; \
	} || true
	@PYTHONPATH="$(CURDIR)/src" python bench/portable.py $(ARGS)

bench: $(PEERS) ## Measure every figure of docs/performance.md on a quiet machine (ARGS=--strict, --gpu, --quick)
	@PYTHONPATH="$(CURDIR)/src" python bench/measure.py $(ARGS)

bench-serving: setup ## Measure what serving costs over the bare model, on a quiet machine (ARGS=--strict, --quick)
	@PYTHONPATH="$(CURDIR)/src" python bench/serving.py $(ARGS)

docs: ## Copy what docs/ quote of this run there (commit it together with dvc.lock)
	@cp plots/confusion.png plots/mistakes.png models/evaluation.json models/ood.json docs/

clean: ## Remove what was computed here (data imported by you, .dvc/cache and .store stay)
	@rm -rf data/phantom data/prepared models plots .checkpoints

# The pins are complete, so nothing else is resolved and two pips unpack at once, without warnings
# of what the other has half unpacked; only torch has libraries that differ by machine. Python
# compiles what is imported, which is a fifth of all files.
$(READY): requirements.txt pyproject.toml
	@test -w . || { echo "error: no permission to write in $(CURDIR): clone into a folder of yours" >&2; exit 1; }
	@for python in $(or $(PYTHON),.venv/bin/python python3.14 python3.13 python3.12 python3.11 python3 python); do \
	  "$$python" -c 'import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))' 2>/dev/null \
	    && { found=$$python; break; }; \
	done; \
	test -n "$$found" || { echo "error: $(if $(PYTHON),$(PYTHON) is not Python 3.11 to 3.14,no Python 3.11 to 3.14 found) with its venv package (Debian: apt install python3-venv): install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.13" >&2; exit 1; }; \
	"$$found" -m venv .venv
	@echo "installing the pinned packages into .venv (once, one to five minutes)"
	@sed 's/ *#.*//; /^$$/d' requirements.txt | sort -r | tr '\n' '\0' \
	  | xargs -0 -n 50 -P 2 $(INSTALL) --quiet --no-deps
	@$(INSTALL) --constraint requirements.txt torch
	@$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(PEERS): $(READY) bench/requirements.txt
	@echo "installing what we compare with into .venv (once)"
	@$(INSTALL) --constraint requirements.txt --requirement bench/requirements.txt
	@touch $@

$(PAGE): $(READY) src/alzmri/plots_page.py
	@python -c 'from alzmri.plots_page import write; write()'
