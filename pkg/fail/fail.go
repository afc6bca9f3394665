// Package fail holds the errors a person can meet: a number, one sentence that says what happened and why, and a
// hint that says what to do. Errors that only another part of stepin reads stay plain; this package must never
// import another package of the project, and never print.
package fail

import (
	"errors"
	"fmt"
)

// Error is one user-visible error.
type Error struct {
	Code Code   // what documentation and tests refer to
	What string // what happened and why, lower-case, no period
	Hint string // what to do; may be empty
	Err  error  // the cause, not repeated in What; may be nil
}

// Error returns the sentence and its cause, without the hint.
func (e *Error) Error() string {
	if e.Err == nil {
		return e.What
	}
	return e.What + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// New makes an error without a cause.
func New(code Code, hint, format string, args ...any) *Error {
	return &Error{Code: code, Hint: hint, What: fmt.Sprintf(format, args...)}
}

// Wrap makes an error with a cause that callers may match.
func Wrap(code Code, err error, hint, format string, args ...any) *Error {
	return &Error{Code: code, Hint: hint, What: fmt.Sprintf(format, args...), Err: err}
}

// Hint returns the hint of the outermost Error in err's chain, or "".
func Hint(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Hint
	}
	return ""
}

// CodeOf returns the number of the outermost Error in err's chain, or Internal.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return Internal
}
