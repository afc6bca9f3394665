// Package lib is found by go.work only.
package lib

// Answer is one.
func Answer() int { return 42 }
