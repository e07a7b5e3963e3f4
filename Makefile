# Two commands matter: `make demo` shows the main job, `make test` is the gate.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
export PATH := $(shell scripts/cargo-tools --path):$(PATH)

.PHONY: demo test bench sim soak compat help

demo:           ## the main job from end to end on this machine, nine steps
	@command -v python3 >/dev/null || scripts/packages
	@demo/run

test:           ## format, lints, licences, unused crates, docs, all tests
	@scripts/packages --check || scripts/packages
	@scripts/cargo-tools
	cargo fmt --all --check
	cargo deny --log-level error check licenses bans sources
	cargo machete --with-metadata
	cargo clippy --release --workspace --all-targets --locked -- -D warnings
	@# The readers of these docs read the code, too: links to private items are wanted.
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" cargo doc --release --workspace --no-deps --document-private-items --locked
	cargo test --release --workspace --doc --locked
	cargo nextest run --release --workspace --locked

AREA ?=
bench:          ## make bench AREA=engine|nbd|s3: measure, beside peers where there are any (docs/BENCHES.md)
	@case "$(AREA)" in \
	  engine|nbd|s3) ;; \
	  cluster|vm|placement|providers) \
	    echo "the bench $(AREA) comes with a later release; this one has engine, nbd and s3"; exit 2;; \
	  *) echo "which? make bench AREA=engine, AREA=nbd or AREA=s3"; exit 2;; \
	esac
	@scripts/packages --check || scripts/packages
	cargo bench --bench "$(AREA)" --locked

SEEDS ?= 100
sim:            ## make sim SEEDS=n: power cuts of the value log, faults of replication; INFALL_SIM_SEED=… repeats one
	INFALL_SIM_SEEDS=$(SEEDS) cargo test --release --locked -p replica --lib nothing_acknowledged -- --nocapture
	INFALL_SIM_SEEDS=$(SEEDS) cargo test --release --locked -p blockstore --lib no_answered_flush -- --nocapture

MINUTES ?= 10
soak:           ## make soak MINUTES=n: kill -9 the server again and again under a guest that writes
	@demo/soak $(MINUTES)

SUITE ?=
compat:         ## make compat [SUITE=…]: a Debian image with cloud-init; ceph/s3-tests
	@scripts/packages --compat --check || scripts/packages --compat
	cargo build --release --locked
	INFALL="$${CARGO_TARGET_DIR:-target}/release/infall" tests/compat/cloud-image.sh
	@if [ -n "$(SUITE)" ]; then INFALL="$${CARGO_TARGET_DIR:-$(CURDIR)/target}/release/infall" tests/compat/s3-tests.sh "$(SUITE)"; \
	else echo "ceph/s3-tests are not run: make compat SUITE=a checkout at 8f0ae7b (docs/S3.md)"; fi

help:           ## this list
	@sed -n 's/^\([a-z]*\): *## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 16
	@echo "Presumed: make, a C compiler, Rust (rustup.rs). Everything else is installed by scripts/packages."
