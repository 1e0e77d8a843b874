# Every target installs what it needs. `make test` is what CI runs.
CARGO ?= cargo

.PHONY: build test lint fmt

build:
	$(CARGO) build --workspace

# Runs every test. cargo-nextest is used where it is installed.
test:
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
	  $(CARGO) nextest run --workspace; \
	else \
	  $(CARGO) test --workspace; \
	fi

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

fmt:
	$(CARGO) fmt --all
