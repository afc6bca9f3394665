// Command stepin lets a program under the debugger run as if inside a pod. Its commands are in adapter/cli; it must
// never do anything itself.
package main

import (
	"os"

	"github.com/stepin-dev/stepin/adapter/cli"
)

// version is set by `./just build`; without it, what Go knows of the source counts.
var version string

func main() { os.Exit(cli.Main(version, os.Args[1:])) }
