package child

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// capset is capset(2) for every thread.
func capset(header *unix.CapUserHeader, data *[2]unix.CapUserData) error {
	return all(unix.SYS_CAPSET, uintptr(unsafe.Pointer(header)), uintptr(unsafe.Pointer(data)), 0)
}
