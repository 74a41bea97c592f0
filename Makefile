# make demo     watch an experiment run on two lab machines made on this computer
# make test     every test this computer can run; what it cannot run is named with the reason
# make check    format, lint, types and the fast tests
# make repeat   run the fast tests 20 times and name those that ever fail; TIMES=3 SUITE='lab or container'
# make bench    one table: our speed beside that of other programs
# make soak-syscalls strike every system call of the installed daemon; ranges add up: FROM=0 COUNT=100
# make soak     1,000 seeded faults in the container lab; ranges add up: FROM=1020 COUNT=600
# make recovery measure how long it takes until work goes on after a crash, a reboot, a power cut
# make soak-sim live through 50,000 seeds of faults on virtual time; ranges add up: FROM=50000 COUNT=1000
# make mutants  a table of deliberate bugs and of the layers of tests that catch each
# make proof    how much damage to result files the verdict sees, by kind, beside a naive rule
# make install  for systemd; DESTDIR and PREFIX as usual, EXTRAS="report parquet"; make uninstall leaves data alone
# make deb      a Debian package in dist/, with EXTRAS="report page"; REVISION=2 for another of the same version
# make help     these lines

PYTHON ?= python3
VENV = .venv
BIN = $(VENV)/bin
TOOL ?= perftest
PYTEST_ARGS ?=

PREFIX ?= /usr
DESTDIR ?=
EXTRAS ?=
SYSTEM_PYTHON ?= /usr/bin/python3
LIB = $(PREFIX)/lib/autoperfd
TARGET = $(DESTDIR)$(PREFIX)
UNITS = autoperfd.service autoperfd@.service autoperfd-failed.service autoperfd-failed@.service autoperfd-places@.service
PIP = -m pip install --quiet --disable-pip-version-check --use-pep517
PIP_INSTALL = $(DESTDIR)$(LIB)/bin/python $(PIP) --no-compile

LOOPBACK = sshd:openssh-server ssh-keygen:openssh-client
CONTAINER = dh:debhelper systemd-nspawn:systemd-container mmdebstrap:mmdebstrap ip:iproute2 nft:nftables git:git strace:strace
DISKS = mkfs.ext4:e2fsprogs mount:mount
DDSPERF = ddsperf:cyclonedds-tools
BROWSER = chromium:chromium
IPERF = iperf3:iperf3
GROFF = groff:groff-base
DOCS = jq:jq curl:curl
SHELLS = busybox:busybox mksh:mksh tcsh:tcsh fish:fish zsh:zsh

help:
	@sed -n '/^# make/s/^# //p' Makefile

# ------------------------------------------------------------------------------------------------ development

venv: $(VENV)/.made

$(VENV)/.made: pyproject.toml
	@PYTHON=$(PYTHON) .ci/need module.ensurepip:python3-venv
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "autoperfd needs Python 3.11 or newer; name one with: make PYTHON=…" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) --editable '.[test,check]'
	@touch $@

$(VENV)/.made-bench: $(VENV)/.made
	$(BIN)/python $(PIP) --editable '.[bench]'
	@touch $@

lint: venv
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

FAST = not lab and not container and not install and not long
check: lint
	$(BIN)/pytest --quiet -m '$(FAST)' $(PYTEST_ARGS)

test: venv
	@.ci/need --go-on $(LOOPBACK) $(DDSPERF) $(SHELLS) $(BROWSER) $(IPERF) $(GROFF) $(DOCS) $(if $(filter 0,$(shell id -u)),$(CONTAINER) $(DISKS))
	$(BIN)/pytest $(PYTEST_ARGS)

FROM ?= 0
COUNT ?= 50000

soak-sim: venv
	@$(BIN)/python -m autoperfd.rehearsal soak --from $(FROM) --count $(COUNT)

# Each range of points in a container lab of its own; COUNT beyond the last point ends there.
soak-syscalls: venv
	@AUTOPERF_REQUIRE_CONTAINER=1 AUTOPERF_POINTS=$(FROM):$(COUNT) $(BIN)/pytest --quiet -s \
	    tests/e2e/test_syscalls_in_containers.py -k struck

mutants: venv
	@$(BIN)/python -m tests.rehearsal

# What was done is in .soak and is not done again; remove it to begin anew.
soak: venv
	@.ci/need $(CONTAINER)
	@$(BIN)/python -m tests.e2e.soak --from $(FROM) $(if $(filter file,$(origin COUNT)),,--count $(COUNT))

# COUNT attempts, each damaged in every way.
proof: venv
	@$(BIN)/python -m tests.tools.proof $(if $(filter file,$(origin COUNT)),,$(COUNT))

recovery: venv
	@.ci/need $(CONTAINER)
	@$(BIN)/python -m tests.e2e.recovery

demo: venv
	@.ci/need $(LOOPBACK) $(if $(filter ddsperf,$(TOOL)),$(DDSPERF))
	@$(BIN)/python -m autoperfd.lab.demo --tool $(TOOL)

bench: $(VENV)/.made-bench
	@.ci/need --go-on $(LOOPBACK) parallel:parallel ansible:ansible-core
	@$(BIN)/python -m autoperfd.lab.bench

# Whether a test is flaky: the fast suite, or with SUITE='lab or container' the labs', so many times.
TIMES ?= 20
SUITE ?= $(FAST)
repeat: venv
	@$(BIN)/python .ci/repeat $(TIMES) -m '$(SUITE)' $(PYTEST_ARGS)

# FAULTS.md, from the fault model and the tests marked with its rows; names the rows that no test shows.
faults: venv
	@$(BIN)/python .ci/fault_table

# RULES.md, from the rules that say what an attempt is.
rules: venv
	@$(BIN)/python -m tests.tools.rule_table

# docs/COMMANDS.md, docs/SETTINGS.md, docs/EXPERIMENTS.md, man/, completion/ and systemd/*@.service, from what the code
# runs on.
manual: venv
	@$(BIN)/python .ci/manual

# The parts of docs/ that are made from tables of the code.
pages: venv
	@$(BIN)/python -m tests.pages

# The state diagram of README.md, written from the table the daemon runs on.
diagram: venv
	@$(BIN)/python .ci/diagram README.md

clean:
	rm -rf $(VENV) .demo build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ------------------------------------------------------------------------------------------------ installation

# The dependencies alone, in the virtual environment the daemon will live in; done again only when they change.
# setuptools goes: nothing needs it, and its hook costs every start of autoperfctl 2 ms.
install-venv:
	@PYTHON=$(SYSTEM_PYTHON) .ci/need module.ensurepip:python3-venv
	@set -e; wanted=$$(mktemp); trap 'rm -f "$$wanted"' EXIT; \
	$(SYSTEM_PYTHON) .ci/wanted $(EXTRAS) >"$$wanted"; \
	if ! cmp -s "$$wanted" $(DESTDIR)$(LIB)/dependencies.txt; then \
	    $(SYSTEM_PYTHON) -m venv --clear $(DESTDIR)$(LIB); \
	    $(PIP_INSTALL) --requirement "$$wanted"; \
	    $(DESTDIR)$(LIB)/bin/python -m pip --quiet uninstall --yes setuptools; \
	    install -m 644 "$$wanted" $(DESTDIR)$(LIB)/dependencies.txt; \
	fi

# pip builds in a copy, so that an installation leaves nothing in the sources.
install: install-venv
	@set -e; copy=$$(mktemp -d); trap 'rm -rf "$$copy"' EXIT; \
	cp -R autoperfd pyproject.toml README.md LICENSE "$$copy"; \
	$(PIP_INSTALL) --no-deps --force-reinstall "$$copy"
	@$(DESTDIR)$(LIB)/bin/python -m compileall -q $(COMPILE) $(if $(DESTDIR),-s $(DESTDIR) -p /) $(DESTDIR)$(LIB)/lib
	@$(if $(DESTDIR),grep -rlIZF '$(DESTDIR)' $(DESTDIR)$(LIB)/bin $(DESTDIR)$(LIB)/pyvenv.cfg | xargs -0r sed -i 's|$(DESTDIR)||g')
	install -d $(TARGET)/bin $(TARGET)/lib/systemd/system $(TARGET)/share/doc/autoperfd/examples
	ln -sf $(LIB)/bin/autoperfd $(LIB)/bin/autoperfctl $(TARGET)/bin/
	for unit in $(UNITS); do \
	    sed 's|/usr/|$(PREFIX)/|; s|^ExecPaths=|&$(filter-out /usr,$(PREFIX)) |' systemd/$$unit >$(TARGET)/lib/systemd/system/$$unit; \
	done
	install -m 755 systemd/autoperfd-failed $(DESTDIR)$(LIB)/autoperfd-failed
	sed 's|/usr/lib|$(PREFIX)/lib|' systemd/autoperfd-places >$(DESTDIR)$(LIB)/autoperfd-places
	chmod 755 $(DESTDIR)$(LIB)/autoperfd-places
	install -D -m 644 systemd/autoperfd.sysusers.conf $(TARGET)/lib/sysusers.d/autoperfd.conf
	install -D -m 644 systemd/autoperfd.tmpfiles.conf $(TARGET)/lib/tmpfiles.d/autoperfd.conf
	install -D -m 644 systemd/autoperfd.sysctl.conf $(TARGET)/lib/sysctl.d/60-autoperfd.conf
	install -m 644 README.md CHANGELOG.md ARCHITECTURE.md FAULTS.md RULES.md LICENSE $(TARGET)/share/doc/autoperfd
	install -d $(TARGET)/share/doc/autoperfd/docs/images $(TARGET)/share/doc/autoperfd/docs/examples/iperf3
	install -m 644 docs/*.md $(TARGET)/share/doc/autoperfd/docs
	install -m 644 docs/images/*.png $(TARGET)/share/doc/autoperfd/docs/images
	install -m 644 docs/examples/iperf3/*.py docs/examples/iperf3/*.toml $(TARGET)/share/doc/autoperfd/docs/examples/iperf3
	install -m 644 etc/queue-examples/*.toml $(TARGET)/share/doc/autoperfd/examples
	install -D -m 644 completion/autoperfctl.bash $(TARGET)/share/bash-completion/completions/autoperfctl
	install -D -m 644 completion/_autoperfctl $(TARGET)/share/zsh/vendor-completions/_autoperfctl
	install -D -m 644 completion/autoperfctl.fish $(TARGET)/share/fish/vendor_completions.d/autoperfctl.fish
	install -d $(TARGET)/share/man/man1 $(TARGET)/share/man/man5 $(TARGET)/share/man/man8
	install -m 644 man/*.1 $(TARGET)/share/man/man1
	install -m 644 man/*.5 $(TARGET)/share/man/man5
	install -m 644 man/*.8 $(TARGET)/share/man/man8
	install -d $(DESTDIR)/etc/autoperf
	[ -e $(DESTDIR)/etc/autoperf/autoperfd.toml ] || install -m 644 etc/autoperfd.toml $(DESTDIR)/etc/autoperf
	@$(if $(DESTDIR),,$(MAKE) --no-print-directory settle)

# Accounts, folders and, where systemd runs, the kernel's setting and the unit.
settle:
	@.ci/need systemd-sysusers:systemd systemd-tmpfiles:systemd
	systemd-sysusers $(PREFIX)/lib/sysusers.d/autoperfd.conf
	systemd-tmpfiles --create $(PREFIX)/lib/tmpfiles.d/autoperfd.conf
	@if [ -d /run/systemd/system ]; then \
	    /lib/systemd/systemd-sysctl $(PREFIX)/lib/sysctl.d/60-autoperfd.conf || true; \
	    systemctl daemon-reload; \
	    if systemctl --quiet is-active autoperfd; then \
	        echo "installed; the old version runs until: systemctl restart autoperfd (tests on machines go on)"; \
	    else echo "installed; now: systemctl enable --now autoperfd"; fi; \
	fi

REVISION ?= 1
deb:
	@PYTHON=$(SYSTEM_PYTHON) .ci/need dh:debhelper module.ensurepip:python3-venv
	.ci/deb dist $(REVISION) $(if $(filter file,$(origin EXTRAS)),report page,$(EXTRAS))

uninstall:
	@if [ -z '$(DESTDIR)' ] && [ -d /run/systemd/system ]; then systemctl --quiet disable --now autoperfd || true; fi
	rm -rf $(DESTDIR)$(LIB) $(TARGET)/share/doc/autoperfd
	rm -f $(TARGET)/bin/autoperfd $(TARGET)/bin/autoperfctl
	rm -f $(addprefix $(TARGET)/lib/systemd/system/,$(UNITS))
	rm -f $(TARGET)/lib/sysusers.d/autoperfd.conf $(TARGET)/lib/tmpfiles.d/autoperfd.conf
	rm -f $(TARGET)/lib/sysctl.d/60-autoperfd.conf
	rm -f $(TARGET)/share/bash-completion/completions/autoperfctl $(TARGET)/share/zsh/vendor-completions/_autoperfctl
	rm -f $(TARGET)/share/fish/vendor_completions.d/autoperfctl.fish
	rm -f $(foreach page,$(wildcard man/*),$(TARGET)/share/man/man$(lastword $(subst ., ,$(page)))/$(notdir $(page)))
	@if [ -z '$(DESTDIR)' ] && [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
	@echo "left alone: $(DESTDIR)/etc/autoperf, $(DESTDIR)/var/lib/autoperf and the user autoperf"

.PHONY: help venv lint check test soak soak-sim soak-syscalls recovery mutants demo bench proof rules manual pages diagram faults repeat clean install-venv install settle deb uninstall
