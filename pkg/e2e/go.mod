module github.com/stepin-dev/stepin/pkg/e2e

go 1.26.0

replace github.com/stepin-dev/stepin => ../..

require (
	github.com/vishvananda/netlink v1.3.1
	golang.org/x/sys v0.49.0
)

require github.com/vishvananda/netns v0.0.5 // indirect
