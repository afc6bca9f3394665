package probe

// Unacked takes the acknowledgement of Settings out of what an HTTP/2 client sends, wherever it comes: the server has not
// sent that and would end the connection for it (RFC 9113 §6.5.3). The zero value is at the connection's beginning.
type Unacked struct {
	Done    bool // it is out; all that follows is left as it is
	preface int  // bytes of it that have passed
	header  [frameHeader]byte
	have    int // bytes of header, which are held back until it is whole
	payload int // of the frame under way, still to come
}

// Filter appends what passes of b to out.
func (u *Unacked) Filter(out, b []byte) []byte {
	for len(b) > 0 && !u.Done {
		if pass := min(len(b), len(Preface)-u.preface); pass > 0 {
			u.preface += pass
			out, b = append(out, b[:pass]...), b[pass:]
			continue
		}
		if pass := min(len(b), u.payload); pass > 0 {
			u.payload -= pass
			out, b = append(out, b[:pass]...), b[pass:]
			continue
		}
		n := copy(u.header[u.have:], b)
		b = b[n:]
		if u.have += n; u.have < frameHeader {
			break
		}
		h := u.header
		u.have, u.payload = 0, int(h[0])<<16|int(h[1])<<8|int(h[2])
		if u.Done = h[3] == frameSettings && h[4]&flagAck != 0 && u.payload == 0; !u.Done {
			out = append(out, h[:]...)
		}
	}
	return append(out, b...)
}

// Held is what Filter holds back, for the connection's end.
func (u *Unacked) Held() []byte { return u.header[:u.have] }
