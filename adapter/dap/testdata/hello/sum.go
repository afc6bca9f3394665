package main

func sum(n int) int {
	total := 0
	for i := range n {
		total += i
	}
	return total // and here
}
