// Package whole tests the whole path on one machine: from DAP messages on standard input to a breakpoint in a pod's
// place, through bin/stepin as users get it, a pod made of namespaces, and a real Delve. It holds tests only: nothing
// may import it, and it must never look inside another package for what a user would see outside.
package whole
