# Everything that people and CI run. `make help` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
TOOLS   := $(CURDIR)/.tools
BIN     := $(CURDIR)/bin
PACKAGES := ./cmd/...
export PATH := $(TOOLS)/bin:$(PATH)

GOLANGCI_VERSION  := v2.15.0
GOTESTSUM_VERSION := v1.13.0
GOVULNCHECK_VERSION := v1.9.0
GOTESTSUM         := $(TOOLS)/bin/gotestsum-$(GOTESTSUM_VERSION)
GOLANGCI          := $(TOOLS)/bin/golangci-lint-$(GOLANGCI_VERSION)

FUZZTIME ?= 60s

.PHONY: help build build-pkcs11 deps demo demo-stop test test-long lint generate bench fuzz race clean licenses sbom reproducible vuln

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

build: ## build bin/assayd, bin/assay and bin/assay-agent (static)
	@mkdir -p $(BIN)
	@CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o $(BIN)/ $(PACKAGES)

build-pkcs11: ## build bin/assayd with PKCS #11 (needs a C compiler; not static)
	@mkdir -p $(BIN)
	@CGO_ENABLED=1 go build -tags pkcs11 -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o $(BIN)/assayd ./cmd/assayd

deps: ## install what demo and test need (Debian packages), if it is missing
	@integration/deps.sh

demo: deps build ## run the whole story on real evidence and leave the service running
	@integration/demo/run.sh

demo-stop: ## end the demo and remove its data
	@integration/demo/stop.sh

$(GOTESTSUM):
	@mkdir -p $(TOOLS)/bin && GOBIN=$(TOOLS)/bin go install gotest.tools/gotestsum@$(GOTESTSUM_VERSION) && mv $(TOOLS)/bin/gotestsum $@

$(GOLANGCI):
	@echo "building golangci-lint $(GOLANGCI_VERSION) (once, some minutes)"
	@mkdir -p $(TOOLS)/bin && GOBIN=$(TOOLS)/bin go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION) && mv $(TOOLS)/bin/golangci-lint $@

test: deps $(GOTESTSUM) lint ## lint, run all tests, and a short form of the long suites
	@integration/fuzz.sh 5000x verifier
	@integration/fuzz.sh 1000x baseline server/auth server/token store/keyring store/backup
	@go test -race -count=1 -run 'Concurrent|Nonce|Race|Group' ./store ./server/attest
	@CGO_ENABLED=1 go test -tags pkcs11 -count=1 ./store/keyring/hsm
	@CGO_ENABLED=1 go test -tags pkcs11 -count=1 -run '^TestKeysInAToken$$' ./cmd/assayd
	@$(GOTESTSUM) --format pkgname-and-test-fails --rerun-fails=2 --rerun-fails-max-failures=3 --packages=./... -- -count=1 -timeout 15m

test-long: deps $(GOTESTSUM) race fuzz reproducible ## the long suites: race detector, fuzzing, long property runs
	@ASSAY_TEST_LONG=1 $(GOTESTSUM) --format pkgname-and-test-fails -- -count=1 -timeout 120m ./...

race: deps $(GOTESTSUM) ## all tests under the race detector
	@$(GOTESTSUM) --format pkgname-and-test-fails -- -race -count=1 -timeout 60m ./...

fuzz: ## fuzz every parser for FUZZTIME each
	@integration/fuzz.sh $(FUZZTIME)

lint: $(GOLANGCI) ## golangci-lint, shellcheck, deployment files
	@$(GOLANGCI) run ./...
	@$(GOLANGCI) run --build-tags pkcs11 ./store/keyring/hsm/...
	@integration/lint.sh

generate: ## make the code of openapi/openapi.yaml, and the catalogue of findings, again
	@go generate ./openapi/... ./verifier/finding

bench: deps build ## measure PERFORMANCE workloads against a real Postgres, as multiples of the calibrators
	@go run ./integration/bench

licenses: ## list what the programs carry that others made (THIRD_PARTY.md)
	@go run ./integration/release licenses

sbom: build ## write a bill of materials (CycloneDX 1.6) beside each program in bin/
	@go run ./integration/release sbom '$(VERSION)' $(BIN) $(BIN)/assay $(BIN)/assay-agent $(BIN)/assayd

reproducible: ## build twice in two folders with two caches, and compare the bytes
	@integration/reproducible.sh

vuln: ## look the code up in the Go vulnerability database (needs the network)
	@mkdir -p $(TOOLS)/bin && GOBIN=$(TOOLS)/bin go install golang.org/x/vuln/cmd/govulncheck@$(GOVULNCHECK_VERSION)
	@$(TOOLS)/bin/govulncheck ./...

clean: ## remove what builds leave behind
	@rm -rf $(BIN) $(TOOLS) .bench
