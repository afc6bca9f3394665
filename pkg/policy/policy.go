// Package policy holds the decisions of a session as pure functions of their input: which variables the debuggee
// gets, which paths come from the pod, where a flow leaves from, and which programs are none of the pod's business.
// Each is a table with a reason beside each row.
//
// It must never do I/O, read the process's own environment, or print: the same input gives the same answer, so that
// every row can be tested.
package policy
