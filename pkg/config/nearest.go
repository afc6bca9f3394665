package config

import "strings"

// nearest returns the candidate that word was most likely meant to be, or "". At most a third of the longer word may
// differ: beyond that a suggestion is a guess that sends people the wrong way.
func nearest(word string, candidates []string) string {
	const longest = 64 // runes; no key of ours is longer, and the distance costs the product of both lengths
	best, least := "", 1<<30
	if len(word) > longest {
		return ""
	}
	for _, c := range candidates {
		d := distance([]rune(strings.ToLower(word)), []rune(strings.ToLower(c)))
		if limit := max(len(word), len(c)) / 3; d <= max(limit, 1) && d < least && d < len(c) {
			best, least = c, d
		}
	}
	return best
}

// distance is Damerau's edit distance (optimal string alignment): insertions, deletions, replacements and swaps of
// neighbours count one each.
func distance(a, b []rune) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			same := 1
			if a[i-1] == b[j-1] {
				same = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+same)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}

// Nearest returns the candidate that word was most likely meant to be, or "".
func Nearest(word string, candidates []string) string { return nearest(word, candidates) }
