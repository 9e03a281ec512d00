# SPDX-License-Identifier: BSD-2-Clause
# The front end for people; meson does the work. `make help` lists the targets.

PYTHON ?= /usr/bin/python3
JOBS ?= $(shell nproc)
SEEDS ?= 2000
BLOCKS ?= 20
SECONDS ?= 60
ISSUE ?= 1-core
prefix ?= /usr/local

.DEFAULT_GOAL := build
.DELETE_ON_ERROR:

## build          installs missing packages, builds build/weir and build/libweir.{a,so}
.PHONY: build
build: build-gcc

# The stamp keeps a build from asking dpkg each time; a change of the list asks again.
.cache/deps.stamp: scripts/packages.txt scripts/deps
	@scripts/deps
	@mkdir -p .cache && touch $@

.PHONY: deps
## deps           installs missing Debian packages
deps: .cache/deps.stamp

# One build directory for each way of building. configure: directory, compiler, meson options.
configure = [ -f $(1)/build.ninja ] || CC=$(2) meson setup $(3) $(1) >/dev/null || { cat $(1)/meson-logs/meson-log.txt; exit 1; }
sanitize = -Db_lundef=false -Db_sanitize=

.PHONY: build-gcc build-clang build-asan build-tsan build-fuzz
build-gcc: .cache/deps.stamp
	@$(call configure,build,gcc,--prefix=$(prefix))
	@ninja -C build -j $(JOBS)
## build-clang    the same with clang
build-clang: .cache/deps.stamp
	@$(call configure,build-clang,clang,)
	@ninja -C build-clang -j $(JOBS)
## build-asan     with AddressSanitizer and UndefinedBehaviorSanitizer
build-asan: .cache/deps.stamp
	@$(call configure,build-asan,gcc,$(sanitize)address$(comma)undefined)
	@ninja -C build-asan -j $(JOBS)
## build-tsan     with ThreadSanitizer (run its programs under `setarch -R`)
build-tsan: .cache/deps.stamp
	@$(call configure,build-tsan,gcc,$(sanitize)thread)
	@ninja -C build-tsan -j $(JOBS)
## build-fuzz     libFuzzer programs with ASan, UBSan and coverage
build-fuzz: .cache/deps.stamp
	@$(call configure,build-fuzz,clang,$(sanitize)address$(comma)undefined -Dfuzz=true)
	@ninja -C build-fuzz -j $(JOBS)
comma := ,

.PHONY: check
## check          every test and lint; ends with `N passed, N failed`. CHECK="unit lint" runs these stages only
check: .cache/deps.stamp
	@$(PYTHON) scripts/check $(CHECK)

.PHONY: lint
## lint           style, layers, annotations, docs (CHECKS="layers sizes" runs these checks only)
lint: .cache/deps.stamp
	@$(PYTHON) scripts/lint $(CHECKS)

.PHONY: demo
## demo           serves a live disk, mirrors it while fio writes, pivots, proves that nothing was lost
demo: build
	@$(PYTHON) scripts/demo

.PHONY: sim sim-laws
## sim            the library in simulated worlds: SEEDS=n (2000), SEED=n replays one
sim: build
	@$(PYTHON) scripts/sim $(if $(SEED),--seed $(SEED),--seeds $(SEEDS)) --jobs $(JOBS)
## sim-laws       removes one law at a time and demands that the simulator notices, in each of BLOCKS=n (20) blocks
sim-laws: build
	@$(PYTHON) scripts/sim-laws --jobs $(JOBS) --blocks $(BLOCKS)

.PHONY: golden
## golden         qcow2 images of every kind that qemu-img can make, written here and judged there, and back (GOLDEN="--only ...")
golden: build
	@$(PYTHON) tests/golden/golden.py --all --jobs $(JOBS) $(GOLDEN)

.PHONY: fuzz
## fuzz           fuzzes TARGET=name (all) for SECONDS=n (60) each and prints the coverage of its parser
fuzz: build-fuzz
	@$(PYTHON) scripts/fuzz --seconds $(SECONDS) $(TARGET)

.PHONY: bench bench-instr
## bench          side by side with qemu-storage-daemon and nbdkit; fails where a promised ratio is missed
bench: build
	@$(PYTHON) bench/nbd_raw.py $(BENCH)
## bench-instr    instructions of one request on an in-process null node (callgrind)
bench-instr: build
	@$(PYTHON) bench/instr.py

.PHONY: accept
## accept         acceptance line N=k of ISSUE=name (1-core, 2-qcow2, 3-jobs, 4-graph); writes docs/acceptance/ISSUE.md
accept: .cache/deps.stamp
	@$(PYTHON) scripts/accept $(ISSUE) $(N)

.PHONY: install
## install        into $(prefix), below DESTDIR if given
install: build
	@meson install -C build --no-rebuild $(if $(DESTDIR),--destdir $(DESTDIR))

.PHONY: clean help
## clean          removes the build directories
clean:
	rm -rf build build-clang build-asan build-tsan build-fuzz .cache
help:
	@sed -n 's/^## /  make /p' $(MAKEFILE_LIST)
