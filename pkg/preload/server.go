package preload

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/mux"
	"github.com/stepin-dev/stepin/pkg/namespaces"
	"github.com/stepin-dev/stepin/pkg/peer"
)

// Bounds.
const (
	maxConns   = 4096 // processes that have loaded the library; one more finds its session gone
	maxWaiting = 4096 // questions that wait for the pod; one more gets ENOBUFS, as where the kernel has no room for a socket
	maxNotices = 1000 // lines from the library; each is said once, and remembered for that
	maxRights  = 8    // descriptors that one message may bring; it takes two
	sweepEvery = 10 * time.Second
)

// Handler decides. Its methods are called from many goroutines; what takes a context may wait for the pod, the rest
// must not. Errors carry a syscall.Errno, which the program gets.
type Handler interface {
	// Greet says whether a process is the debuggee's. One that is not has the library go to sleep.
	Greet(pid int, program string) (debuggee bool)
	// Route decides on a flow: whether it leaves from this machine, and to where there; the zero address is dst itself.
	Route(network string, dst netip.AddrPort) (host bool, to netip.AddrPort, err error)
	// DialTCP opens a flow that Route gave to the pod, and returns what then serves it. src is the debuggee's own address.
	DialTCP(ctx context.Context, src, dst netip.AddrPort) (serve func(mux.End), err error)
	// ServeUDP serves an association until it ends.
	ServeUDP(ctx context.Context, a *Association)
	// Own is the pod's address that a socket of the debuggee's has, of the family of a.
	Own(a netip.Addr) netip.Addr
	// Lookup, Reverse and Resolve answer for the pod's libc.
	Lookup(ctx context.Context, name string, family uint32) Found
	Reverse(ctx context.Context, a netip.Addr) Found
	Resolve(ctx context.Context, query []byte, search bool) (answer []byte, result uint32)
	// Exec says what becomes of a program that is about to be executed; words are those of ExecWrap.
	Exec(pid int, program string) (verdict uint32, words []string, err error)
	// Notice is a line for the developer, from the library.
	Notice(line string)
	// Moved says that a port of the debuggee's is another one here.
	Moved(network string, asked, got netip.AddrPort)
}

// Found is the answer to a look-up: Result is one of LookupFound and its like.
type Found struct {
	Result    uint32
	Addrs     []netip.Addr
	Canonical string
}

// Config is what a Server needs.
type Config struct {
	Dir      string        // where the socket is made
	Others   bool          // the debuggee may become another user: whoever can reach the socket may ask, if he has the token
	Became   func(uid int) // told once that it has; nil: nobody
	Serve    uint32        // ServeTCP | …
	LostHost bool          // where the session is gone, go on as on the host
	Hostname string
	Table    []Rule
	Handler  Handler
	Files    Files  // for PathFetch; nil: none
	Stand    string // where directories stand for those of Files
	Log      *slog.Logger
}

// Server is what libstepin.so asks.
//
// Goroutines: accept (ends with the listener); one a connection (ends with it, or with Close); one a question that waits
// for the pod (maxWaiting, ends with ctx); those of relays and copies (datagram.go, copies.go); sweep (ends with ctx). Close waits for all.
type Server struct {
	cfg      Config
	log      *slog.Logger
	token    string
	path     string
	listener *net.UnixListener
	machine  *namespaces.Machine
	table    *os.File // sealed memfd
	size     int

	book      book
	flows     flows
	listeners listeners
	relays    relays
	copies    copies
	refusals  refusals

	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	waiting chan struct{}
	notices atomic.Int64
	stands  atomic.Int64 // directories made
	close   sync.Once

	mu    sync.Mutex
	conns map[*net.UnixConn]bool
	first chan struct{} // closed at the first greeting
	once  sync.Once
	other sync.Once
}

// socketName is the socket's name in the private directory.
const socketName = "preload"

// maxSocketPath is what sockaddr_un holds, without the NUL (unix(7)).
const maxSocketPath = 107

// New begins to serve.
func New(cfg Config) (*Server, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	var random [TokenLen / 2]byte
	if _, err := rand.Read(random[:]); err != nil {
		return nil, fmt.Errorf("preload: making a token: %w", err)
	}
	s := &Server{cfg: cfg, log: cfg.Log, token: hex.EncodeToString(random[:]), path: filepath.Join(cfg.Dir, socketName),
		waiting: make(chan struct{}, maxWaiting), conns: map[*net.UnixConn]bool{}, first: make(chan struct{})}
	if len(s.path) > maxSocketPath {
		return nil, fmt.Errorf("preload: the socket's path %s is longer than %d bytes", s.path, maxSocketPath)
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.relays.s, s.listeners.s = s, s
	if _, err := rand.Read(s.relays.probe[:]); err != nil {
		return nil, fmt.Errorf("preload: making a probe: %w", err)
	}
	if err := s.open(); err != nil {
		s.Close()
		return nil, err
	}
	s.wg.Go(s.accept)
	s.wg.Go(s.sweep)
	return s, nil
}

func (s *Server) open() (err error) {
	if s.table, s.size, err = tableFile(s.cfg.Table); err != nil {
		return err
	}
	if s.machine, err = namespaces.OpenMachine(); err != nil {
		return err
	}
	if s.listener, err = net.ListenUnix("unixpacket", &net.UnixAddr{Name: s.path, Net: "unixpacket"}); err != nil {
		return fmt.Errorf("preload: listening: %w", err)
	}
	if s.cfg.Others {
		if err := os.Chmod(s.path, 0o666); err != nil {
			return fmt.Errorf("preload: letting the debuggee's other users connect: %w", err)
		}
	}
	raw, err := s.listener.SyscallConn()
	if err != nil {
		return fmt.Errorf("preload: listening: %w", err)
	}
	var operr error
	err = raw.Control(func(fd uintptr) { operr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1) }) // its children inherit it
	if err = errors.Join(err, operr); err != nil {
		return fmt.Errorf("preload: asking for credentials: %w", err)
	}
	return nil
}

// Value is the value of the variable STEPIN_PRELOAD.
func (s *Server) Value() string {
	flags := "-"
	if s.cfg.LostHost {
		flags = "h"
	}
	return fmt.Sprintf("%d:%s:%s:%s", Version, flags, s.token, s.path)
}

// First is closed when the first process has greeted: the library has been loaded.
func (s *Server) First() <-chan struct{} { return s.first }

// Machine is the kernel's word on this machine's sockets.
func (s *Server) Machine() *namespaces.Machine { return s.machine }

// Close ends the service: programs that ask later find their session gone. It is idempotent.
func (s *Server) Close() {
	s.close.Do(func() {
		s.cancel()
		if s.listener != nil {
			s.listener.Close()
		}
		s.mu.Lock()
		for c := range s.conns {
			c.Close()
		}
		s.mu.Unlock()
		s.listeners.shut()
		s.relays.shut()
		s.wg.Wait()
		s.copies.drop(func(uint64, copied) bool { return true })
		if s.machine != nil {
			s.machine.Close()
		}
		if s.table != nil {
			s.table.Close()
		}
	})
}

func (s *Server) accept() {
	for {
		c, err := s.listener.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // as EMFILE: who connects waits in the queue
			s.log.Warn("preload: accepting", "err", err)
			select {
			case <-time.After(100 * time.Millisecond):
			case <-s.ctx.Done():
				return
			}
			continue
		}
		if err := peer.SameUser(c); err != nil {
			if !s.cfg.Others {
				s.log.Warn("preload: refused a caller", "err", err)
				c.Close()
				continue
			}
			_ = c.SetReadDeadline(time.Now().Add(GreetingMS * time.Millisecond)) // until he has shown the token
		}
		if !s.join(c) {
			s.log.Warn("preload: too many processes", "limit", maxConns)
			c.Close()
			continue
		}
		s.wg.Go(func() {
			defer s.leave(c)
			s.converse(c)
		})
	}
}

func (s *Server) join(c *net.UnixConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil || len(s.conns) >= maxConns {
		return false
	}
	s.conns[c] = true
	return true
}

func (s *Server) leave(c *net.UnixConn) {
	c.Close()
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
}

// converse serves one connection until it ends.
func (s *Server) converse(c *net.UnixConn) {
	greeted := false
	buf, oob := make([]byte, MessageMax+1), make([]byte, unix.CmsgSpace(4*maxRights)+unix.CmsgSpace(unix.SizeofUcred))
	for {
		n, oobn, flags, _, err := c.ReadMsgUnix(buf, oob)
		if err != nil || n == 0 {
			return
		}
		q, err := parse(buf[:n], oob[:oobn], flags)
		if err != nil {
			s.log.Debug("preload: a malformed question", "err", err)
			q.fail(syscall.EPROTO)
			q.closeAlong()
			continue
		}
		switch {
		case q.head.Kind == KindHello:
			if greeted = s.hello(q); !greeted {
				return
			}
			_ = c.SetReadDeadline(noDeadline)
		case !greeted:
			q.fail(syscall.EACCES)
			return
		default:
			if q.uid >= 0 && q.uid != os.Getuid() && s.cfg.Became != nil {
				s.other.Do(func() { s.cfg.Became(q.uid) })
			}
			s.dispatch(q)
		}
		q.closeAlong()
	}
}

// hello answers a greeting, and says whether it was one.
func (s *Server) hello(q *question) bool {
	var body HelloQuestion
	tail, err := DecodeBody(q.body, &body)
	switch {
	case q.head.Version != Version:
		q.fail(syscall.EPROTONOSUPPORT)
		return false
	case err != nil:
		q.fail(syscall.EPROTO)
		return false
	case subtle.ConstantTimeCompare(body.Token[:], []byte(s.token)) != 1:
		q.fail(syscall.EACCES)
		return false
	}
	answer := HelloAnswer{Table: uint32(s.size)}
	if s.cfg.LostHost {
		answer.Lost = LostHost
	}
	if s.cfg.Handler.Greet(q.pid, string(tail)) {
		answer.Serve = s.cfg.Serve
	}
	s.once.Do(func() { close(s.first) })
	copy(answer.Hostname[:len(answer.Hostname)-1], s.cfg.Hostname)
	if body.Flags&HelloBrief != 0 {
		q.answer(answer, nil)
	} else {
		s.copies.drop(func(_ uint64, c copied) bool { return c.pid == q.pid }) // what a program before it had, and may have lost
		q.answer(answer, nil, s.table)
	}
	return true
}

// dispatch answers a question, at once or, where it waits for the pod, in a goroutine of its own.
func (s *Server) dispatch(q *question) {
	var run func(q *question)
	switch q.head.Kind {
	case KindConnect:
		var body ConnectQuestion
		if _, err := DecodeBody(q.body, &body); err != nil {
			break
		}
		if body.Network == UDP {
			s.connectUDP(q, body)
			return
		}
		run = func(q *question) { s.connect(q, body) }
	case KindDatagram:
		var body DatagramQuestion
		if _, err := DecodeBody(q.body, &body); err != nil {
			break
		}
		answer, err := s.association(body.Inode, body.To.AddrPort(), body.Local.AddrPort(), datagramTTL)
		if err != nil {
			q.fail(errno(err))
			return
		}
		q.answer(answer, nil)
		return
	case KindWhy:
		var body WhyQuestion
		if _, err := DecodeBody(q.body, &body); err != nil {
			break
		}
		q.answer(WhyAnswer{Reason: int32(s.refusals.take(body.Inode))}, nil)
		return
	case KindClosing:
		var body ClosingQuestion
		if _, err := DecodeBody(q.body, &body); err != nil {
			break
		}
		s.copies.drop(func(inode uint64, _ copied) bool { return inode == body.Inode })
		q.answer(nil, nil)
		return
	case KindBind, KindBound, KindListen, KindWho:
		s.socket(q)
		return
	case KindExec:
		run = s.exec
	case KindNotice:
		var body Notice
		if tail, err := DecodeBody(q.body, &body); err == nil && s.notices.Add(1) <= maxNotices {
			s.cfg.Handler.Notice(string(tail))
		}
		q.drop()
		return
	case KindLookup, KindReverse, KindResolve:
		run = s.name
	case KindFetch, KindStat, KindLink, KindList:
		run = s.file
	default:
		q.fail(syscall.ENOSYS)
		return
	}
	if run == nil {
		q.fail(syscall.EPROTO)
		return
	}
	select {
	case s.waiting <- struct{}{}:
	default:
		q.fail(syscall.ENOBUFS)
		return
	}
	q.own() // the connection's buffer serves the next
	s.wg.Go(func() {
		defer func() { <-s.waiting }()
		run(q)
	})
}

func (s *Server) exec(q *question) {
	var body ExecQuestion
	tail, err := DecodeBody(q.body, &body)
	if err != nil {
		q.fail(syscall.EPROTO)
		return
	}
	verdict, words, err := s.cfg.Handler.Exec(q.pid, string(tail))
	if err != nil {
		q.fail(errno(err))
		return
	}
	var out []byte
	for _, w := range words {
		out = append(append(out, w...), 0)
	}
	q.answer(ExecAnswer{Verdict: verdict, Count: uint32(len(words))}, out)
}

// sweep forgets what has ended.
func (s *Server) sweep() {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-s.ctx.Done():
			return
		}
		pairs, err := s.machine.Pairs()
		if err != nil {
			s.log.Debug("preload: reading this machine's connections", "err", err)
			continue
		}
		s.flows.sweep(pairs)
	}
}

// errno is what a program gets of err.
func errno(err error) syscall.Errno {
	var no syscall.Errno
	switch {
	case errors.As(err, &no) && no != 0:
		return no
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return syscall.ETIMEDOUT
	case errors.Is(err, context.Canceled):
		return syscall.ECONNABORTED
	}
	return syscall.EHOSTUNREACH
}
