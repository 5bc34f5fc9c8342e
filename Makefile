# The front door. `make help` says what there is; CI runs the same targets.
# The tests run the release builds of the programs; the tests themselves are built with checks on.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
ARGS ?=
CARGO ?= cargo
AS_ROOT := $(if $(filter-out 0,$(shell id -u)),sudo)
DOCKER ?= docker
VERSION = $(shell sed -n '/^\[workspace.package\]/,/^$$/s/^version = "\(.*\)"/\1/p' Cargo.toml)
DENY := .tools/bin/cargo-deny
CYCLONEDX := .tools/bin/cargo-cyclonedx
FUZZ := .tools/bin/cargo-fuzz
# The fault trials mount file systems: they run as root, in a mount namespace that ends with them.
KEPT_VARIABLES := --preserve-env=POSTRIDER_FAULTS_SEED,KEEP_WORLDS
AS_ROOT_APART = $(if $(AS_ROOT),$(AS_ROOT) $(KEPT_VARIABLES)) unshare --mount
FAULTS = $(CARGO) test --workspace --test faults --config 'target."cfg(unix)".runner = "$(strip $(AS_ROOT_APART))"'

.PHONY: help dev test faults fuzz bench build configuration images sbom setup lint fmt clippy doc deny audit ci clean

help: ## Say what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 15

dev: ## Run all of Postrider on this machine and deliver an example event (ARGS="--once" to stop after it)
	$(CARGO) run --release -- dev $(ARGS)

test: setup build $(CYCLONEDX) ## Install what the tests need, and pass every test
	$(CARGO) test --workspace
	$(FAULTS)
	tests/python/.venv/bin/python -m pytest tests/charts
	tests/python/.venv/bin/python -m pytest tests/prometheus
	tests/python/.venv/bin/python -m pytest tests/supply
	$(AS_ROOT) unshare --net --mount tests/python/.venv/bin/python -m pytest tests/pods
	CARGO_TARGET_DIR=$${CARGO_TARGET_DIR:-$(CURDIR)/target} tests/readme.sh

faults: setup build ## Run every fault trial in its long form, about half an hour (ARGS="power full" for some)
	$(FAULTS) -- --full $(ARGS)

fuzz: $(FUZZ) ## Run each fuzz target on its seeds, then for 10 s (ARGS="180 url" for longer, or for some)
	fuzz/run.sh $(ARGS)

bench: build ## Measure speed and memory; figures go to target/bench/latest.json (ARGS="--quick" for a short run)
	target/release/postrider-bench $(ARGS)

build: ## Build every program
	$(CARGO) build --release --workspace --bins

configuration: ## Write docs/configuration.md anew, from the programs' own settings
	WRITE_CONFIGURATION=1 $(CARGO) test -p postrider-cli --test configuration the_page_has_every_setting

images: ## Build both container images with docker, or what DOCKER names (TAG="…" instead of the version)
	for image in control-plane agent; do \
	  $(DOCKER) build -f images/Dockerfile --target $$image --build-arg VERSION=$(VERSION) \
	    --build-arg REVISION=$$(git rev-parse HEAD) -t ghcr.io/postrider/$$image:$(or $(TAG),$(VERSION)) .; \
	done

sbom: $(CYCLONEDX) ## Write a CycloneDX SBOM of each program into target/sbom
	images/sbom.sh target/sbom

setup: ## Install what the tests need and this machine lacks
	tests/setup.sh

lint: fmt clippy doc deny ## Check style, lints, documentation, and the dependencies' licences and sources

fmt:
	$(CARGO) fmt --all -- --check
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml -- --check

clippy:
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) clippy --workspace --test faults -- -D warnings

doc:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps

deny: $(DENY)
	$(DENY) check bans licenses sources

audit: $(DENY) ## Check dependencies for known vulnerabilities; fetches the list of advisories from the network
	$(DENY) check advisories

# Unoptimised: it is built in a third of the time, and its work takes seconds either way.
$(DENY):
	$(CARGO) install cargo-deny --locked --version 0.20.2 --debug --root .tools

$(CYCLONEDX):
	$(CARGO) install cargo-cyclonedx --locked --version 0.5.9 --debug --root .tools

$(FUZZ):
	$(CARGO) install cargo-fuzz --locked --version 0.13.2 --debug --root .tools

# An error of a test has a cause; a backtrace of the test harness hides it.
ci: export RUST_BACKTRACE = 0
ci: ARGS = same
ci: lint fuzz test ## All of it, as CI runs it

clean: ## Remove what was built and installed here
	$(CARGO) clean
	rm -rf fuzz/target fuzz/corpus fuzz/*.log .tools tests/python/.venv tests/node/node_modules
