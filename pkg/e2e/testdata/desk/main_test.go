package main

import (
	"os"
	"strings"
	"testing"
)

// TestOrder sees what main.go sees of its pod.
func TestOrder(t *testing.T) {
	given := os.Getenv("GIVEN")
	variable := os.Getenv(os.Getenv("VARIABLE"))
	text, err := os.ReadFile(os.Getenv("FILE"))
	file := strings.TrimSpace(string(text))
	host, _ := os.Hostname()

	if t.Log(host, given); variable == "" || file == "" || err != nil { // a breakpoint's line
		t.Fatal("not in a pod's place")
	}
}
