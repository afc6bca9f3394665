// Command hello prints what it was given and exits with a status.
package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"
)

var build = "plain"

func main() {
	dir, _ := os.Getwd()
	fmt.Println("args", strings.Join(os.Args[1:], "|"))
	fmt.Println("cwd", dir)
	greeting, set := os.LookupEnv("GREETING")
	_, home := os.LookupEnv("UNSET_ME")
	fmt.Println("env", greeting, set, home)
	total := sum(3)
	fmt.Println("build", build, total) // stop here
	fmt.Fprintln(os.Stderr, "to stderr äöü")
	line, _ := bufio.NewReader(os.Stdin).ReadString('\n')
	fmt.Printf("stdin %q\n", line)
	os.Exit(total + 1)
}
