// Package preload is the session's end of the preload front end: the protocol that libstepin.so (the folder preload at
// the top) speaks with the session over a unix socket. It must never decide: what a call gets is the session's to say.
package preload
