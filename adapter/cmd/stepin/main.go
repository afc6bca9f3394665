// Command stepin lets a program under the debugger run as if inside a pod. Its commands are in adapter/cli; it must
// never do anything itself.
package main

import (
	"os"

	"github.com/stepin-dev/stepin/adapter/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:])) }
