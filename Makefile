# make demo   hear it work: installs the wheel into .venv (no torch) and runs `ssast-edge demo`
# make test   every test, in .venv-test (torch and all; some GB and minutes the first time)
# make check  ruff and mypy, in .venv-test
# make gpu-check  on a machine with a GPU, a Jetson too: kernel, engines, tests, bench -> results/
# make clean  remove both environments and what was built

PYTHON ?= python3
DEMO := .venv
TEST := .venv-test
PACKAGES = $(wildcard ssast_edge train optimize)
RUNTIME := pyproject.toml LICENSE $(shell find ssast_edge -type f ! -name '*.py[co]' 2>/dev/null)

.PHONY: demo test check lint types clean gpu-check
.DELETE_ON_ERROR:

demo: $(DEMO)/installed.stamp
	@$(DEMO)/bin/ssast-edge demo

test: $(TEST)/installed.stamp $(TEST)/system.stamp
	$(TEST)/bin/python -m pytest $(PYTEST_ARGS)

# In the active environment, which on a Jetson is the one that has NVIDIA's TensorRT; else in ours.
gpu-check:
	@if [ -n "$$VIRTUAL_ENV" ] || [ ! -x $(TEST)/bin/python ]; then \
	  $(PYTHON) tools/gpu-check $(GPU_CHECK_ARGS); \
	else $(TEST)/bin/python tools/gpu-check $(GPU_CHECK_ARGS); fi

check: lint types

lint: $(TEST)/installed.stamp
	$(TEST)/bin/ruff check
	$(TEST)/bin/ruff format --check

types: $(TEST)/installed.stamp
	$(TEST)/bin/mypy $(PACKAGES) benchmarks demo tests/train tests/native tests/optimize \
	  $(addprefix tests/ssast_edge/,cuda cuda_driver engines test_backend_choice.py \
	  test_spotter_new_frames.py test_tensorrt_on_gpu.py) \
	  $(addprefix tests/ssast_edge/evaluation/test_,external.py picovoice.py field_comparison.py)

clean:
	rm -rf $(DEMO) $(TEST) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

# The wheel is built by pip and installed alone: what a user of `pip install ssast-edge` gets.
$(DEMO)/installed.stamp: $(RUNTIME) | $(DEMO)/bin/python $(DEMO)/system.stamp
	@echo "installing ssast-edge and its runtime dependencies into $(DEMO)"
	@$(DEMO)/bin/pip install --quiet --disable-pip-version-check .
	@touch $@

# Editable: the tests run the checkout, whose sources may change without another install; only a
# module that has become a package would still be looked for where it was.
$(TEST)/installed.stamp: pyproject.toml $(wildcard ssast_edge/*/__init__.py) | $(TEST)/bin/python
	@echo "installing ssast-edge with torch and the test tools into $(TEST)"
	@$(TEST)/bin/pip install --quiet --disable-pip-version-check -e '.[train,optimize,align,dev]'
	@tools/tensorrt-rtx $(TEST)/bin/python || \
	  echo "(going on: the tests that need TensorRT are skipped)"
	@tools/tensorrt-headers $(TEST)/bin/python || \
	  echo "(going on: the tests that compile the TensorRT plugin are skipped)"
	@touch $@

# Debian's python3 comes without ensurepip, which `python3 -m venv` needs.
%/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "$(PYTHON) is older than 3.10: make $(firstword $(MAKECMDGOALS)) PYTHON=python3.X" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || tools/apt-packages python3-venv
	@$(PYTHON) -m venv $*

# Only a microphone needs PortAudio: without it the demo and the other tests still run.
$(DEMO)/system.stamp: | $(DEMO)/bin/python
	@$(PYTHON) -c 'import ctypes.util, sys; sys.exit(not ctypes.util.find_library("portaudio"))' || \
	  tools/apt-packages libportaudio2 || echo "(needed for a microphone only: going on without)"
	@touch $@

# For the tests with a virtual microphone, and those of the synthetic voices for training.
MICROPHONE_PACKAGES := libportaudio2 pulseaudio pulseaudio-utils libasound2-plugins
VOICE_PACKAGES := espeak-ng flite festival festvox-kallpc16k festvox-us-slt-hts
$(TEST)/system.stamp: | $(TEST)/bin/python
	@tools/apt-packages $(MICROPHONE_PACKAGES) $(VOICE_PACKAGES) || \
	  echo "(going on: the tests that need them are skipped)"
	@touch $@
