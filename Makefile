# Every target installs what it needs; nothing is expected beyond Debian 12 with Python 3.11.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
HOME_DIR := $(or $(MESHHOLD_HOME),$(HOME)/.meshhold)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help run install dev test faults mesh jepsen chunks sim check clients s3tests bench format clean

help: ## List the targets
	@grep -hE '^[a-z0-9]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

# make-venv picks a Python of 3.11 or later, and installs Debian's venv package where it is missing.
$(VENV)/.installed: pyproject.toml .ci/make-venv
	@PYTHON="$(PYTHON)" .ci/make-venv $(VENV)
	@$(PIP) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.installed
	@$(PIP) -e '.[dev]'
	@touch $@

install: $(VENV)/.installed ## Install MeshHold into .venv (the program is .venv/bin/meshhold)
	@echo "installed: $(BIN)/meshhold"

dev: $(VENV)/.dev

run: $(VENV)/.installed ## Start a node with a bucket and a key, ready for S3
	@exec $(BIN)/meshhold quickstart --home "$(HOME_DIR)"

test: $(VENV)/.dev ## Run the tests
	@.ci/need strace:strace ip:iproute2 nft:nftables faketime:faketime
	@# Where even its time-out cannot end a test, all stacks are printed and the run stops, rather than stand still.
	@$(BIN)/python -m pytest -m "not clients and not slow" -o faulthandler_timeout=300

faults: $(VENV)/.dev ## Run the long fault tests: 200 kills, full disks, 1 GiB in bounded memory (as root)
	@.ci/need strace:strace
	@$(BIN)/python -m pytest -m slow tests/faults -v -rsP

mesh: $(VENV)/.dev ## Run the long tests of real meshes: five daemons, partitions, routers (as root)
	@.ci/need ip:iproute2 nft:nftables tshark:tshark
	@$(BIN)/python -m pytest -m slow tests/cluster -v -rsP --ignore-glob='*/test_consistency_*' \
		--ignore-glob='*/test_chunks_*' --ignore-glob='*/test_operations*'

# Runs of each scenario, and seconds of clients' work in each; SCENARIOS= plays some of them only.
RUNS ?= 5
SECONDS ?= 60
SCENARIOS ?=

jepsen: $(VENV)/.dev ## Break three and five real nodes while clients work, and judge what they saw (as root)
	@.ci/need ip:iproute2 nft:nftables faketime:faketime
	@$(BIN)/python -m tests.cluster.consistency_run --runs $(RUNS) --seconds $(SECONDS) \
		$(if $(SCENARIOS),--scenarios $(SCENARIOS))
	@$(BIN)/python -m pytest -m slow tests/cluster/test_consistency_*.py -v -rsP

# Further words for pytest, such as -k crawls; MESHHOLD_SEED, MESHHOLD_SECONDS and MESHHOLD_KILLS change the runs.
ONLY ?=

chunks: $(VENV)/.dev ## Break nodes that keep chunks, fill, slow, lose and drain them; the guide's procedures (as root)
	@.ci/need ip:iproute2 nft:nftables tc:iproute2
	@$(BIN)/python -m pytest -m slow tests/cluster/test_chunks_*.py tests/cluster/test_operations.py -v -rsP $(ONLY)

# Seeds of the simulations of index and chunks. Sizes of the mesh, lost messages in percent, simulated hours with starved nodes, processes, hostile inputs.
SEED ?= 1
SEEDS ?= 2000
CHUNK_SEEDS ?= 500
N ?= 5,20,100
LOSS ?= 0,5,20
HOURS ?= 1
JOBS ?= 2
INPUTS ?= 1000000

sim: $(VENV)/.dev ## Simulate index, chunks, versions and membership, fuzz the wire and S3 (SEED= SEEDS= N=5,20 LOSS=0,5 HOURS=)
	@$(BIN)/python -m tests.simulation.index_sim --seed $(SEED) --seeds $(SEEDS) --jobs $(JOBS)
	@$(BIN)/python -m tests.simulation.chunk_sim --seed $(SEED) --seeds $(CHUNK_SEEDS) --jobs $(JOBS)
	@$(BIN)/python -m tests.simulation.versions_sim --seed $(SEED) --seeds $(CHUNK_SEEDS)
	@$(BIN)/python -m tests.simulation.membership_sim \
		--seed $(SEED) --nodes $(N) --loss $(LOSS) --only deaths,news,idle,split,join
	@$(BIN)/python -m tests.simulation.membership_sim \
		--seed $(SEED) --nodes 20 --loss 5 --hours $(HOURS) --jobs $(JOBS) --only endurance
	@$(BIN)/python -m tests.fuzz_wire $(INPUTS) $(SEED)
	@$(BIN)/python -m tests.fuzz_s3 $(INPUTS) $(SEED)

check: $(VENV)/.dev ## Lint, format, types, floors
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(VENV)/.dev ## Rewrite the sources as `make check` wants them
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clients: $(VENV)/.dev ## Run the real S3 clients against a node (installs them)
	@$(BIN)/python -m pytest -m clients tests/clients -vv

# A clone of ceph/s3-tests outside this repository; the doors to run it through; ONLY= names some tests or families.
COPY ?= ../s3-tests
DOORS ?= http tls mesh

s3tests: $(VENV)/.dev ## Run a copy of ceph/s3-tests: plain, behind nginx with TLS, in a mesh (COPY=dir DOORS=http)
	@for door in $(DOORS); do \
		echo "== $$door"; \
		$(BIN)/python -m tests.clients.s3_tests "$(COPY)" --door $$door --only "$(ONLY)" || failed=1; \
	done; test -z "$$failed"

bench: $(VENV)/.dev ## Measure beside SeaweedFS and rclone, one node and three, and the links beside TLS and libp2p
	@$(BIN)/python -m bench
	@$(BIN)/python -m bench.mesh
	@$(BIN)/python -m bench.index3
	@$(BIN)/python -m bench.chunks3
	@$(BIN)/python -m bench.mastodon

clean: ## Remove what the targets made here (never a node's data)
	rm -rf $(VENV) build dist
