# Every target installs what it needs. `make demo` shows it, `make test` is what CI runs.
CARGO ?= cargo

.PHONY: build dist demo test bench lint fmt deny advisories

build:
	$(CARGO) build --workspace

# What is installed: target/release/{hostler-controller,hostlerctl} and target/small/hostler-agent.
dist:
	$(CARGO) build --release -p hostler-controller -p hostlerctl
	$(CARGO) build --profile small -p hostler-agent

# A throw-away fleet on this machine, until Ctrl-C.
demo:
	CARGO="$(CARGO)" deploy/demo

# Every test, on real servers and booted hosts. Arguments for the runner: make test TESTS="-E 'test(audit)'"
test:
	CARGO="$(CARGO)" tests/run $(TESTS)

# A simulated fleet of 100, 1,000 and 10,000 hosts against a real controller, the same with checks, and
# probes beside the commands that they replace; some minutes.
bench:
	$(CARGO) build --release --workspace
	$(CARGO) build --profile small -p hostler-agent
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
