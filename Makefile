# make run    the main job on real text          make test    every test
# Both create .venv and install what they need on a fresh machine; the second time they start at once.

SHELL  := /bin/bash
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV   := .venv
BIN    := $(VENV)/bin
# Without bytecode of all modules, most of which are never imported: a third of the time.
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt
# What an extra of pyproject.toml asks for; rotary itself is built once, by $(VENV)/.run.
EXTRA   = $(BIN)/python tools/extras.py $(1) >$(VENV)/extras.txt && $(PIP) --requirement $(VENV)/extras.txt
NATIVE := $(wildcard setup.py src/rotary/_native/*.cpp src/rotary/_native/*.h src/rotary/_native/build.py)
# The tests of the GPU kernels; test_gpu is tests/_angles/test_gpu.py, whose tests have no "triton" in their names.
ON_GPU := tests/_rotation tests/_angles tests/_fused tests/transformers/test_wrapper.py

.PHONY: run examples test distributed docs hub sanitize aarch64 models mutants soak fuzz core lint lint-workflows wheel accuracy bench gpu clean
.DELETE_ON_ERROR:

run: $(VENV)/.run
	$(BIN)/python examples/quickstart.py

# What each needs and shows: examples/README.md. The long ones run in their short form.
examples: $(VENV)/.examples
	@for example in patch.py convert.py multimodal.py train.py "streaming.py --quick" "vision.py --quick" "decode.py --quick"; do \
		echo "== $$example"; $(BIN)/python examples/$$example || exit 1; done
	@echo "== distributed.py --steps 2"; $(BIN)/torchrun --standalone --nproc-per-node 4 examples/distributed.py --steps 2

# Two halves side by side, for two cores: the GPU kernels in software, models, checkpoints, several processes, examples; and all else.
# Threads of OpenMP that wait for others sleep: spinning, they hold the core that the other half needs (a test took 5 times as long).
BESIDE := tests/transformers tests/config tests/checkpoints tests/test_distributed.py tests/test_examples.py
# What reads compiled code runs nothing on a GPU, and passes once, in the other half.
IN_SOFTWARE := $(ON_GPU) -k "(triton or test_gpu) and not test_triton_kernel and not test_triton_code"
test: export OMP_WAIT_POLICY = passive
test: $(VENV)/.dev
	@half_log=$$(mktemp); trap 'rm -f "$$half_log"' EXIT; \
	{ export OMP_NUM_THREADS=1; TRITON_INTERPRET=1 $(BIN)/python -m pytest -q $(IN_SOFTWARE) && ROTARY_CHIP=90 $(BIN)/python -m pytest -q $(IN_SOFTWARE) && \
		$(BIN)/python -m pytest -q $(BESIDE); } >"$$half_log" 2>&1 & half=$$!; \
	$(BIN)/python -m pytest -q $(addprefix --ignore=,$(BESIDE)); rest=$$?; wait $$half; half=$$?; cat "$$half_log"; \
	if [ $$rest -eq 0 ] && [ $$half -eq 0 ]; then echo "make test: every test passed"; else echo "make test: FAILED"; exit 1; fi

# Four processes on this machine train as one does: tensor and context parallel, then with FSDP2 as well.
distributed: $(VENV)/.run
	$(BIN)/torchrun --standalone --nproc-per-node 4 examples/distributed.py
	$(BIN)/torchrun --standalone --nproc-per-node 4 examples/distributed.py --fsdp

# The site, in site/. Strict: a broken link or a page outside the navigation is an error. Nothing is fetched.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# The folder for the kernels hub, in out/hub, loaded from there once.
hub: $(VENV)/.dev
	$(BIN)/python -m tools.hub

sanitize: $(VENV)/.dev
	ROTARY_FUZZ=$${ROTARY_FUZZ:-5000} tests/_native/sanitize.sh $(BIN)/python

# The native library as cross-compiled for aarch64 and run by qemu, with the bits of the formula. Debian: apt-get install g++-aarch64-linux-gnu qemu-user
aarch64: $(VENV)/.dev
	$(BIN)/python tests/_native/replay.py --aarch64

mutants: $(VENV)/.dev
	$(PIP) cosmic-ray
	$(BIN)/python -m tools.mutants $(EACH)

soak: $(VENV)/.dev
	MALLOC_ARENA_MAX=2 $(BIN)/python -m tools.soak

# Ten rounds of 10,500 inputs, and 50,000 calls of the operators under sanitizers, since hypothesis remembers all that it tried in one, a few GB for 100,000.
fuzz: $(VENV)/.dev
	for seed in 1 2 3 4 5 6 7 8 9 10; do \
		ROTARY_FUZZ=5000 $(BIN)/python -m pytest -q tests/test_fuzz.py --hypothesis-seed=$$seed || exit 1; \
		ROTARY_FUZZ=50000 ROTARY_FUZZ_SEED=$$seed tests/_native/sanitize.sh $(BIN)/python fuzz || exit 1; done

models: $(VENV)/.dev
	$(BIN)/python -m benchmarks.models
	$(BIN)/python -m tools.model_page

# What is left of the tests without transformers and the peers, by the Python that PYTHON names, for other versions of Python and torch.
CORE := $(addprefix tests/,_angles _embedding _inputs _native _operators _rotation _subclasses positions scaling) \
	$(addprefix tests/test_,$(addsuffix .py,axes buffers checks compile embedding functional laws machine pairing positions state tables torch))

core:
	$(PYTHON) -m pytest -q $(CORE) --ignore=tests/scaling/test_parity.py -k "not of_transformers"

lint: $(VENV)/.dev lint-workflows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/pyright -p tools/pyrightconfig.json  # benchmarks and tools, which tests do not run
	$(BIN)/python -m tools.verify_types

# Offline. actionlint is no package of Python: it is used where it is installed.
lint-workflows: $(VENV)/.dev
	$(BIN)/zizmor --offline --pedantic --quiet .github
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/bug.yml .github/ISSUE_TEMPLATE/feature.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.citation-file-format CITATION.cff
	@if command -v actionlint >/dev/null; then actionlint; else echo "actionlint is not installed: left out"; fi

# sdist and wheel into dist/, tried by every Python of this machine. The first time it installs torch for each of them.
wheel: $(VENV)/.dev
	$(BIN)/python -m tools.wheel

accuracy: $(VENV)/.dev
	$(BIN)/python -m benchmarks.accuracy.run

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks.cpu.run
	$(BIN)/python -m benchmarks.cpu.page

# On a machine with a GPU: the battery on the device, then under compute-sanitizer where it is installed, then the figures.
gpu: $(VENV)/.dev
	$(BIN)/python -m pytest -q tests/_rotation tests/_angles tests/_fused tests/test_cuda.py -k "triton or test_gpu or cuda"
	@if command -v compute-sanitizer >/dev/null; then for tool in memcheck racecheck; do \
		PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool $$tool --error-exitcode 1 $(BIN)/python -m pytest -q tests/_rotation tests/_angles -k "triton and numbers" || exit 1; done; \
		else echo "compute-sanitizer is not installed: left out"; fi
	$(BIN)/python -m benchmarks.gpu.run
	$(BIN)/python -m benchmarks.gpu.models
	$(BIN)/python -m benchmarks.gpu.fused

clean:
	rm -rf $(VENV) build dist out site src/*.egg-info

$(VENV)/.created:
	@test -n "$(PYTHON)" || { echo "rotary's development needs Python 3.11 or later; none was found (PYTHON=... names one)"; exit 1; }
	@echo "1/3 creating $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# torch first and by itself: a range asked for by another package may choose a build with several GB for GPUs.
$(VENV)/.run: $(VENV)/.created pyproject.toml constraints.txt $(NATIVE)
	@echo "2/3 installing torch 2.13.0 (the longest step)"
	@$(PIP) torch==2.13.0
	@echo "3/3 installing rotary and what the example shows"
	@$(PIP) numpy matplotlib mpmath
	@$(PIP) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@echo "installing the development tools and the libraries rotary is compared with"
	@$(call EXTRA,dev docs)
	@touch $@

$(VENV)/.examples: $(VENV)/.run
	@echo "installing what the examples need"
	@$(call EXTRA,examples)
	@touch $@

$(VENV)/.docs: $(VENV)/.run
	@echo "installing what builds the documentation"
	@$(call EXTRA,docs)
	@touch $@
