// Package dap is the adapter proper: it talks the Debug Adapter Protocol to an editor on one side and to a real
// debugger on the other, and puts a session between the two, so that the debuggee runs in the pod's place.
//
// Messages pass as raw JSON: only seq, type, command, request_seq, event and success are read, and only what stepin
// treats itself (the switch in requests.go) is looked into. It must never log a message's body, since launch
// arguments and evaluated values hold what the pod holds; never believe a peer's seq (each side has a counter of its
// own, answers are matched by request_seq only); and never let one peer's silence keep it from answering the other.
//
// Sources: the Debug Adapter Protocol specification 1.71, and Delve's service/dap for what its users are used to.
package dap
