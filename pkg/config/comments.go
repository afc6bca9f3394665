package config

// WithoutComments makes JSON of what editors write as JSON: comments, and a comma before a closing bracket, become blanks,
// so that each byte stays where it was. Nothing else is changed, and what is no JSON stays none. (Readers of such files
// that could be imported descend once for each bracket and without a bound, and refuse a comment that ends the file.)
func WithoutComments(data []byte) []byte {
	out := append([]byte(nil), data...)
	last, comma := byte(0), 0 // the last byte that is neither blank nor comment; where the last comma is
	for i := 0; i < len(out); {
		end := i + 1
		switch c := out[i]; c {
		case ' ', '\t', '\r', '\n':
		case '/':
			if end = commentEnd(out, i); end < 0 {
				return out // it does not end: no JSON
			}
			blankOut(out[i:end])
		case '"':
			end, last = stringEnd(out, i), c
		case ',':
			if last == ',' || last == '{' || last == '[' {
				last = 0 // no value is before it: not ours to mend
			} else {
				last, comma = c, i
			}
		case '}', ']':
			if last == ',' {
				out[comma] = ' '
			}
			last = c
		default:
			last = c
		}
		i = end
	}
	return out
}

// stringEnd returns the end of the string that begins at i, behind its quote.
func stringEnd(data []byte, i int) int {
	for i++; i < len(data); i++ {
		switch data[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(data)
}

// commentEnd returns the end of the comment that begins with the slash at i, or -1.
func commentEnd(data []byte, i int) int {
	if i+1 == len(data) {
		return -1
	}
	switch data[i+1] {
	case '/':
		end := i
		for end < len(data) && data[end] != '\n' {
			end++
		}
		return end
	case '*':
		for end := i + 4; end <= len(data); end++ {
			if data[end-2] == '*' && data[end-1] == '/' {
				return end
			}
		}
	}
	return -1
}

// blankOut leaves the lines as they are.
func blankOut(data []byte) {
	for i, c := range data {
		if c != '\n' {
			data[i] = ' '
		}
	}
}
