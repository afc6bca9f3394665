// Package unit is something to test.
package unit

// Double doubles.
func Double(n int) int { return 2 * n }
