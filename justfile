# Called by ./just, which brings what each recipe needs; the work is in .ci/, in plain shell.

set shell := ["bash", "-euo", "pipefail", "-c"]

export PATH := justfile_directory() + "/.tools/bin:" + env_var("PATH")

# list the recipes
[private]
default:
    @just --justfile "{{ justfile() }}" --list --unsorted

# make bin/stepin, one self-contained file, for this machine (or `build arm64`, `build amd64`: bin/stepin-ARCH)
[no-exit-message]
build arch="":
    @.ci/build {{ arch }}

# lint, build and every test under the race detector; prints each step's seconds
[no-exit-message]
test:
    @.ci/test

# build, the tests that need no namespaces of their own, and the main job
[no-exit-message]
test-quick:
    @.ci/test quick

# gofmt, go vet, staticcheck, shellcheck, and the C in cppcheck and gcc's analyzer
[no-exit-message]
lint:
    @.ci/lint

# one set of small programs, in the pod itself and in its place: what they say has to be the same (`conform -run TestConform/c`)
[no-exit-message]
conform *arguments: build
    @.ci/conform {{ arguments }}

# a pod made of namespaces, a breakpoint in its place: the whole thing on this machine
[no-exit-message]
demo: build
    @bin/stepin demo

# start a real Kubernetes in namespaces of its own, as root (the first time it is built: some 9 minutes)
[no-exit-message]
cluster-up:
    @.ci/cluster up

# end it and remove everything it has left
[no-exit-message]
cluster-down:
    @.ci/cluster down

# build the tests' images anew and give them to the cluster, or import OCI archives (`cluster-image FILE...`)
[no-exit-message]
cluster-image *archives:
    @.ci/cluster image {{ archives }}

# whether one runs
[private]
[no-exit-message]
cluster-running:
    @.ci/cluster running

# print where the cluster's kubeconfig is
[no-exit-message]
cluster-kubeconfig:
    @.ci/cluster kubeconfig

# the tests against a real Kubernetes: the one $KUBECONFIG names, else the one that runs, else one for the time being
[no-exit-message]
e2e *arguments: build
    @.ci/e2e {{ arguments }}

# stepin beside the plain way, on the same cluster: seconds to main's first line, requests/s, MB/s (`bench f5-warm`, `bench -list`)
[no-exit-message]
bench *arguments: build
    @.ci/bench {{ arguments }}

# check the VS Code extension and make bin/stepin-linux-x64.vsix of it, with bin/stepin inside (or `vscode arm64`)
[no-exit-message]
vscode arch="": (build arch)
    @.ci/vscode {{ arch }}

# F5 in a real VS Code in a real browser: in the demo's pod, and in a cluster, as `e2e` finds one (`e2e-vscode --test-name-pattern=go`)
[no-exit-message]
e2e-vscode *arguments: vscode
    @.ci/e2e-vscode {{ arguments }}

# format the Go files
fmt:
    @find {{ go_dirs }} -name '*.go' -not -path '*/testdata/*' -exec gofmt -l -w {} +

# fuzz one target (`fuzz FuzzParse 5m`), or each in turn
[no-exit-message]
fuzz target="" time="20s":
    @.ci/fuzz '{{ target }}' '{{ time }}'

# remove what build made; .tools/ and Go's caches stay
clean:
    rm -rf bin .tools/build
    find pkg/embedded/files -type f -not -name README -delete

go_dirs := "adapter agent pkg"
