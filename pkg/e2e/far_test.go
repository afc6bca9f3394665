package e2e

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What a session's start may cost on a road of farTrip, in round trips one after the other.
const (
	farTrip  = 100 * time.Millisecond
	farCold  = 14 // beyond the agent's own start and the upload
	farWarm  = 9
	farTries = 3 // of each; the quickest counts, since this machine has other things to do
)

// TestFar: on a cluster far away round trips are all that a start costs, and there are few. They are counted by the time
// that the road adds, and listed by name from stepin's own log; the API server's log says who asked it for what.
func TestFar(t *testing.T) {
	c := Up(t)
	n := c.Node(t)
	ns := c.Namespace(t, "")
	c.Apply(t, ns, Web("web", 2))
	c.Ready(t, ns, "deployment/web")
	f := &far{c: c, ns: ns, kubeconfig: c.User(t, ns, "far", Allow([]string{"*"}, "*", "*")), state: t.TempDir()}

	var near, away [2]run // cold, warm
	var pace [2]time.Duration
	for _, road := range []time.Duration{0, farTrip} {
		for range farTries {
			f.removeAgent(t)
			c.Road(t, Road{RoundTrip: road})
			begun := time.Now()
			cold := f.start(t)
			warm := f.start(t)
			took := c.Upload(t, f.kubeconfig, ns)
			c.Road(t, Road{})
			quickest := &near
			i := 0
			if road != 0 {
				quickest, i = &away, 1
			}
			quickest[0], quickest[1] = quicker(quickest[0], cold), quicker(quickest[1], warm)
			if pace[i] == 0 || took < pace[i] {
				pace[i] = took
			}
			if asked := n.Requests(t, "system:serviceaccount:"+ns+":far", begun); len(asked) == 0 {
				t.Error("the API server's log has nothing of it")
			} else if testing.Verbose() && road != 0 {
				f.asked = asked
			}
		}
	}
	upload := pace[1] - pace[0]
	for i, name := range []string{"cold", "warm"} {
		allowed, sent := farCold, upload
		if i == 1 {
			allowed, sent = farWarm, 0
		}
		added := away[i].took - near[i].took - sent
		trips := int(math.Round(float64(added) / float64(farTrip)))
		path, listed := away[i].path()
		t.Logf("%s: %v, with %v more of round trip %v, of which %v is the upload: %d round trips; by name %d:\n%s", name,
			near[i].took.Round(time.Millisecond), farTrip, away[i].took.Round(time.Millisecond), sent.Round(time.Millisecond), trips, listed, path)
		if trips > allowed || listed > allowed {
			t.Errorf("%s: %d round trips in sequence by the clock and %d by name, more than %d", name, trips, listed, allowed)
		}
		if trips < 4 {
			t.Errorf("%s: no more than %d round trips: the road was not there", name, trips)
		}
	}
	for _, r := range f.asked {
		t.Logf("asked: %s %s %s (%d)", r.At.Format("05.000"), r.Verb, r.URI, r.Response.Code)
	}
}

// far is a user on a cluster far away.
type far struct {
	c          *Cluster
	ns         string
	kubeconfig string
	state      string // tickets
	asked      []Request
}

// run is one session's start.
type run struct {
	took  time.Duration // from the command to the debuggee's first word
	begun time.Time
	trips []trip
}

func quicker(a, b run) run {
	if a.took == 0 || b.took < a.took {
		return b
	}
	return a
}

// trip is one line of stepin's log.
type trip struct {
	what       string
	begin, end time.Time
}

var tripLine = regexp.MustCompile(`^time=(\S+) level=DEBUG msg="round trip" what=("[^"]*"|\S+) took=(\S+)`)

// start runs a session to the debuggee's first word.
func (f *far) start(t *testing.T) run {
	t.Helper()
	s := Stepin{Kubeconfig: f.kubeconfig, Dir: t.TempDir(), Env: []string{"STEPIN_LOG=debug", "XDG_RUNTIME_DIR=" + f.state}}
	cmd := s.Exec(Limit(t), t, map[string]any{"target": "deployment/web", "namespace": f.ns, "incoming": map[string]any{"mode": "off"},
		"agent": map[string]any{"mode": "pod"}}, "echo", "begun")
	var log bytes.Buffer
	cmd.Stderr = &log
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	r := run{begun: time.Now()}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	r.took = time.Since(r.begun)
	if err := cmd.Wait(); err != nil || line != "begun\n" {
		t.Fatalf("%q, %v\n%s", line, err, log.String())
	}
	for line := range strings.Lines(log.String()) {
		m := tripLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		end, err1 := time.Parse(time.RFC3339Nano, m[1])
		took, err2 := time.ParseDuration(m[3])
		if err1 != nil || err2 != nil {
			t.Fatalf("%v, %v in %s", err1, err2, line)
		}
		if end.Before(r.begun.Add(r.took)) {
			r.trips = append(r.trips, trip{strings.Trim(m[2], `"`), end.Add(-took), end})
		}
	}
	return r
}

// slack is how far two steps may lie apart, or over each other, by the log's own millisecond and the machine's.
const slack = 5 * time.Millisecond

// path is what the start waited for, one after the other: from the last trip backwards to whatever ended right before.
// Each counts as often as the road fits into it; the upload, of which there is an own account, not at all.
func (r run) path() (text string, count int) {
	last := r.begun.Add(r.took)
	var lines []string
	var joined time.Time
	for _, x := range r.trips {
		if x.what == "hello" && (joined.IsZero() || x.end.Before(joined)) {
			joined = x.end
		}
	}
	for {
		var before *trip
		for i := range r.trips {
			x := &r.trips[i]
			if beside := x.end.After(joined) && !strings.HasPrefix(x.what, "stream ") || strings.HasPrefix(x.what, "spare: ") ||
				strings.HasPrefix(x.what, "PATCH ") && strings.Contains(x.what, "/configmaps/"); beside {
				continue // the agent of the other replica, a connection made ahead, or what the Job comes to own
			}
			if x.end.Before(last.Add(slack)) && x.begin.Before(last.Add(-slack)) && (before == nil || later(x, before)) {
				before = x
			}
		}
		if before == nil {
			break
		}
		if gap := last.Sub(before.end); gap > 10*slack {
			lines = append(lines, fmt.Sprintf("      %4d ms without any", gap.Milliseconds()))
		}
		n := int(before.end.Sub(before.begin) / farTrip)
		if strings.HasPrefix(before.what, "POST") && strings.HasSuffix(before.what, "/configmaps") {
			n = 0
		}
		count += n
		within := ""
		for _, x := range r.trips {
			if (x.what == "TLS" || strings.HasPrefix(x.what, "TCP ")) && !x.begin.Before(before.begin.Add(-slack)) && !x.end.After(before.end) && x != *before {
				within += ", " + x.what + " in it"
			}
		}
		lines = append(lines, fmt.Sprintf("  %d × %4d ms %s%s", n, before.end.Sub(before.begin).Milliseconds(), before.what, within))
		last = before.begin
	}
	slices.Reverse(lines)
	return strings.Join(lines, "\n"), count
}

// later prefers what ended last, and of what ended together the shortest: a request ends with its connection within it.
func later(a, b *trip) bool {
	if d := a.end.Sub(b.end); d.Abs() > slack {
		return d > 0
	}
	return cmp.Compare(a.begin.UnixNano(), b.begin.UnixNano()) > 0
}

// removeAgent makes the next start a cold one.
func (f *far) removeAgent(t *testing.T) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(f.state, "stepin")); err != nil {
		t.Fatal(err)
	}
	foreground := metav1.DeletePropagationForeground
	err := f.c.Client.BatchV1().Jobs(f.ns).DeleteCollection(Limit(t), metav1.DeleteOptions{PropagationPolicy: &foreground}, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	f.c.LeavesNothing(t, f.ns, Patience)
}
