// Package house lets the repository check itself: what lives where, which package may import what, how long a file or a
// function may be, and that the documentation names nothing that is not there. All of it is in the tests; each rule
// carries its reason, and a rule that is in the way is changed there, with the new reason. The package must never be
// imported.
package house
