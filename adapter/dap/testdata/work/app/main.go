// Command app uses another module of its workspace.
package main

import (
	"fmt"

	"example.com/lib"
)

func main() {
	answer := lib.Answer()
	fmt.Println("answer", answer) // stop here
}
