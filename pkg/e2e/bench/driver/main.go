// Command driver is package drive as a program: orders on standard input, reports on standard output. It must never be
// more, so that it can stand for a user's program on the machine, in a pod and under stepin.
package main

import (
	"fmt"
	"os"

	"github.com/stepin-dev/stepin/pkg/e2e/bench/drive"
)

func main() {
	if err := drive.Serve(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
