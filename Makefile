# Every target installs what it needs. `make demo` shows it, `make test` is what CI runs.
CARGO ?= cargo

.PHONY: build dist small demo test bench lint fmt deny advisories

build:
	$(CARGO) build --workspace

# Functions of the same code become one, which the linker can that Rust brings along for this platform. Where
# another one links: make dist ICF=
ICF ?= $(if $(findstring host: x86_64-unknown-linux-gnu,$(shell rustc -vV)),-Clink-arg=-Xlinker -Clink-arg=--icf=all)

# What is installed: target/release/{hostler-controller,hostlerctl} and target/small/hostler-agent.
dist: small
	$(CARGO) build --release -p hostler-controller -p hostlerctl

small:
	$(CARGO) rustc --profile small -p hostler-agent --bin hostler-agent -- $(ICF)

# A throw-away fleet on this machine, until Ctrl-C.
demo:
	CARGO="$(CARGO)" deploy/demo

# Every test, on real servers and booted hosts. Arguments for the runner: make test TESTS="-E 'test(audit)'"
test:
	CARGO="$(CARGO)" tests/run $(TESTS)

# A simulated fleet of 100, 1,000 and 10,000 hosts against a real controller, the same with checks, and
# probes beside the commands that they replace; some minutes.
bench: small
	$(CARGO) build --release --workspace
	ulimit -n $$(ulimit -Hn) && target/release/hostler-bench $(HOSTS)
	ulimit -n $$(ulimit -Hn) && target/release/hostler-bench 10000 --checks-s 60
	ulimit -n $$(ulimit -Hn) && target/release/hostler-bench 10000 --checks-s 2
	tests/bench/probes

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

# Licences, bans and sources of every dependency, with a cargo-deny that is installed when missing.
deny:
	command -v cargo-deny || $(CARGO) install --locked cargo-deny
	$(CARGO) deny check bans licenses sources

# Known vulnerabilities; fetches the advisory database from its repository.
advisories:
	command -v cargo-deny || $(CARGO) install --locked cargo-deny
	$(CARGO) deny check advisories

fmt:
	$(CARGO) fmt --all
