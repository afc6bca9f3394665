package files

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// parseEvents reads what one read of an inotify descriptor returned (inotify(7)): the watches that saw something, and
// whether events were lost.
func parseEvents(b []byte) (dirty map[int32]bool, overflow bool) {
	dirty = map[int32]bool{}
	for len(b) >= unix.SizeofInotifyEvent {
		wd, mask := int32(binary.NativeEndian.Uint32(b)), binary.NativeEndian.Uint32(b[4:])
		n := uint64(unix.SizeofInotifyEvent) + uint64(binary.NativeEndian.Uint32(b[12:]))
		if mask&unix.IN_Q_OVERFLOW != 0 {
			overflow = true
		}
		dirty[wd] = true
		if n > uint64(len(b)) {
			break
		}
		b = b[n:]
	}
	return dirty, overflow
}
