package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"golang.org/x/sys/unix"
)

// inside makes connections in a pod's network, whatever becomes of the road between this machine and the API server.
type inside struct {
	network *os.File
	ports   *atomic.Uint32 // how many were taken
}

// firstPort and ports are those that connections are from, one after the other, as the kernel does it (and bind(2), which
// takes any, does not): a port that comes again within seconds meets what the node knows of its last connection. Where a
// pod's end has reset that one, the next is let through to the same pod, into silence, for 10 s, and where the end was not seen
// for days (the kernel's net/netfilter/nf_conntrack_proto_tcp.c).
const firstPort, ports = 20000, 40000

// inside opens the network of a pod that is ready.
func (c *Cluster) inside(t testing.TB, namespace, pod string) inside {
	t.Helper()
	p, err := c.Client.CoreV1().Pods(namespace).Get(Limit(t), pod, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	in := c.Node(t).In(t, p.Status.ContainerStatuses[0].ContainerID)
	if len(in) == 0 {
		t.Fatalf("no process of pod %s", pod)
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", in[0].Pid))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return inside{f, new(atomic.Uint32)}
}

// dial is net.Dialer's DialContext for an IPv4 address. Its thread stays in the pod's network, and so ends with its
// goroutine. The port that it is from is told to the request's way beforehand: that of a connection that is never made is
// known, too.
func (i inside) dial(ctx context.Context, network, address string) (net.Conn, error) {
	way, _ := ctx.Value(wayKey{}).(*way)
	dialer := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		port, berr := 0, error(unix.EADDRINUSE)
		err := raw.Control(func(fd uintptr) {
			for tries := 0; berr == unix.EADDRINUSE && tries < ports; tries++ {
				port = firstPort + int(i.ports.Add(1)%ports)
				berr = unix.Bind(int(fd), &unix.SockaddrInet4{Port: port})
			}
		})
		way.dials(port)
		return errors.Join(err, berr)
	}}
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(int(i.network.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- result{nil, err}
			return
		}
		conn, err := dialer.DialContext(ctx, network, address)
		done <- result{conn, err}
	}()
	r := <-done
	if r.err != nil {
		return nil, r.err
	}
	return &made{r.conn, time.Now()}, nil
}

// reply is what has become of one request.
type reply struct {
	n               int
	asked, answered time.Time
	who, host       string // who has answered
	err             error  // why nobody has
	way             *way   // of what nobody has answered
	led             string // where that leads, see asker.trace
}

func (r reply) String() string {
	took := r.answered.Sub(r.asked).Round(time.Millisecond)
	if r.err != nil {
		return fmt.Sprintf("%s: #%d lost after %v, %s%s: %v", r.asked.Format("15:04:05.000"), r.n, took, r.way.since(r.asked), r.led, r.err)
	}
	return fmt.Sprintf("%s: #%d by %s@%s after %v", r.asked.Format("15:04:05.000"), r.n, r.who, r.host, took)
}

// asker asks an address all the time from within a pod, and remembers every answer.
//
// Goroutines: one, and one a request; all end with stop.
type asker struct {
	client  *http.Client
	url     string
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu      sync.Mutex
	replies []reply
	trace   func(port int) string // says of what is lost where its connection leads
}

// ask begins; fresh is a connection per request.
func (i inside) ask(t testing.TB, url string, every, patience time.Duration, fresh bool) *asker {
	const idle = 64
	transport := &http.Transport{DialContext: i.dial, DisableKeepAlives: fresh, MaxIdleConnsPerHost: idle}
	a := &asker{client: &http.Client{Transport: transport, Timeout: patience}, url: url}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	a.running.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for n := 0; ; n++ {
			a.running.Go(func() { a.once(n) })
			select {
			case <-tick.C:
			case <-a.ctx.Done():
				return
			}
		}
	})
	t.Cleanup(func() { a.stop() })
	return a
}

// traces has what is lost from now on traced.
func (a *asker) traces(trace func(port int) string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.trace = trace
}

func (a *asker) once(n int) {
	r := reply{n: n, asked: time.Now()}
	way := &way{}
	answer, err := a.get(n, way)
	r.answered, r.who, r.host, r.err = time.Now(), answer.Who, answer.Host, err
	a.mu.Lock()
	trace := a.trace
	a.mu.Unlock()
	if err != nil {
		if r.way = way; trace != nil {
			r.led = trace(way.from())
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.replies = append(a.replies, r)
}

func (a *asker) get(n int, way *way) (answer Answer, err error) {
	ctx := httptrace.WithClientTrace(context.WithValue(context.Background(), wayKey{}, way), way.client())
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s?n=%d", a.url, n), nil)
	if err != nil {
		return answer, err
	}
	response, err := a.client.Do(request)
	if err != nil {
		return answer, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return answer, err
	}
	if err := json.Unmarshal(text, &answer); err != nil || response.StatusCode != http.StatusOK || answer.Query != fmt.Sprintf("n=%d", n) {
		return Answer{}, fmt.Errorf("status %d, and not the answer to this request: %.100q", response.StatusCode, text)
	}
	return answer, nil
}

// stop ends the asking; what is under way is waited for. It returns all replies in the order of their questions.
func (a *asker) stop() []reply {
	a.cancel()
	a.running.Wait()
	a.client.CloseIdleConnections()
	return a.so()
}

// so are the replies so far, in the order of their questions.
func (a *asker) so() []reply {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := slices.Clone(a.replies)
	slices.SortFunc(all, func(a, b reply) int { return a.asked.Compare(b.asked) })
	return all
}

var errNobody = errors.New("nobody")

// first waits for an answer by who to a question asked since a time.
func (a *asker) first(since time.Time, within time.Duration, who string) (reply, error) {
	for {
		for _, r := range a.so() {
			if r.err == nil && r.who == who && !r.asked.Before(since) {
				if r.answered.After(since.Add(within)) {
					return r, fmt.Errorf("%s answered only %v later", who, r.answered.Sub(since).Round(time.Millisecond))
				}
				return r, nil
			}
		}
		if time.Now().After(since.Add(within)) {
			return reply{}, fmt.Errorf("%s did not answer within %v: %w; last: %v", who, within, errNobody, a.tail())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (a *asker) tail() []reply {
	const most = 5
	all := a.so()
	return all[max(0, len(all)-most):]
}

// service is the address of a Service.
func (c *Cluster) service(t testing.TB, namespace, name string) string {
	t.Helper()
	s, err := c.Client.CoreV1().Services(namespace).Get(Limit(t), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return s.Spec.ClusterIP
}

// address is a pod's.
func (c *Cluster) address(t testing.TB, namespace, pod string) string {
	t.Helper()
	p, err := c.Client.CoreV1().Pods(namespace).Get(Limit(t), pod, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return p.Status.PodIP
}

// agents are the processes of a pod's agent, 0 where there is none.
func agents(pod corev1.Pod) (parent, child int) {
	all := everybody()
	for _, p := range all {
		if strings.HasPrefix(strings.Join(p.argv, " "), agent+" --pod kube/"+string(pod.UID)+"/") {
			parent = p.pid
		}
	}
	for _, p := range all {
		if parent != 0 && p.parent == parent && strings.Join(p.argv, " ") == agent+" child" {
			child = p.pid
		}
	}
	return parent, child
}
