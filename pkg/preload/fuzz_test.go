package preload

import (
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzQuestion: whatever a process sends, the server answers it or drops it, and goes on.
func FuzzQuestion(f *testing.F) {
	for kind := KindHello; kind <= KindLater; kind++ {
		m, err := Encode(Head{Kind: kind}, ConnectQuestion{Network: TCP}, []byte("/etc/config"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(m, []byte{}, 0)
	}
	f.Add([]byte{}, unix.UnixRights(), unix.MSG_CTRUNC)
	s := &Server{cfg: Config{Handler: &decider{}}, waiting: make(chan struct{}, 1)}
	s.waiting <- struct{}{} // nothing that waits is begun
	f.Fuzz(func(t *testing.T, message, oob []byte, flags int) {
		for _, m := range [][]byte{oob} { // descriptors that a fuzzer names are not ours to close
			if messages, err := unix.ParseSocketControlMessage(m); err == nil {
				for i := range messages {
					if fds, err := unix.ParseUnixRights(&messages[i]); err == nil && len(fds) > 0 {
						t.Skip()
					}
				}
			}
		}
		q, err := parse(message, oob, flags)
		if q == nil {
			t.Fatal("no question")
		}
		if err != nil || q.head.Kind == KindDatagram || q.head.Kind == KindConnect {
			return // relays need the machine
		}
		if q.head.Kind == KindHello {
			s.hello(q)
			return
		}
		s.dispatch(q)
	})
}
