package kube

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/stepin-dev/stepin/pkg/fail"
	"github.com/stepin-dev/stepin/pkg/wire"
)

var noteTime = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// TestNote: what is written is a merge patch of the Job's annotations; where it may not be, the right is named.
func TestNote(t *testing.T) {
	const path = "/apis/batch/v1/namespaces/shop/jobs/"
	uid := "5b0c"
	var patches []string
	forbidden := false
	s := newServer(t, map[string]http.HandlerFunc{"PATCH " + path + agentName(uid): func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if patches = append(patches, string(body)); forbidden {
			forbid("patch", "jobs")(w, r)
			return
		}
		if got := r.Header.Get("Content-Type"); got != string(types.MergePatchType) {
			t.Error(got)
		}
		answer(batchv1.Job{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{
			noteSession + "me": "{}", noteSession + "other": "x", noteWho: "ann"}}})(w, r)
	}})
	c := open(t, s)
	a := &Agent{c: c, o: AgentOptions{Pod: Pod{UID: uid}}, rung: rungJob, t: ticket{Namespace: "shop"}}
	ids, err := a.Note(t.Context(), map[string]*Note{"me": {ID: "not here", Who: "ann\x1b[31m@desk\n", Mode: "steal", Ports: []wire.Port{{Network: "tcp", Port: 80}}, Since: noteTime}, "gone": nil})
	slices.Sort(ids)
	if err != nil || fmt.Sprint(ids) != "[me other]" {
		t.Error(ids, err)
	}
	want := `{"metadata":{"annotations":{"session.stepin.dev/gone":null,"session.stepin.dev/me":"{\"who\":\"ann[31m@desk\",\"mode\":\"steal\",\"ports\":[{\"network\":\"tcp\",\"port\":80}],\"since\":\"2026-11-24T12:00:00Z\"}"}}}`
	if len(patches) != 1 || patches[0] != want {
		t.Errorf("%q\nwant %s", patches, want)
	}
	forbidden = true
	if _, err := a.Note(t.Context(), map[string]*Note{"me": nil}); fail.CodeOf(err) != fail.ClusterForbidden {
		t.Error(err)
	}
	a.o.Pod.UID = "of a Job that is gone"
	if ids, err := a.Note(t.Context(), map[string]*Note{"me": nil}); len(ids) > 0 || err != nil {
		t.Error(ids, err)
	}
	a.rung = rungPlain
	if ids, err := a.Note(t.Context(), map[string]*Note{"me": nil}); len(ids) > 0 || err != nil || len(patches) != 2 {
		t.Error("an agent inside has no Job:", ids, err)
	}
}

// TestNoteFits: the longest entries of all that an agent serves are less than an object's annotations may be.
func TestNoteFits(t *testing.T) {
	n := Note{Who: strings.Repeat("<", 1000), Mode: "mirror", Since: noteTime}
	for range 1000 {
		n.Ports = append(n.Ports, wire.Port{Network: "tcp", Port: 65535, Loopback: true})
	}
	text, err := n.text()
	if err != nil || (len(text)+100)*maxNotes > 128<<10+64*100 {
		t.Error(len(text), err)
	}
	if got := notesOf(map[string]string{noteSession + "a": text}); len(got) != 1 || len(got[0].Ports) != maxNotePorts || len(got[0].Who) != maxNoteText {
		t.Errorf("%+v", got)
	}
}

// FuzzNotes: anybody may have written what stands there.
func FuzzNotes(f *testing.F) {
	good, _ := Note{Who: "ann@desk", Mode: "steal", Ports: []wire.Port{{Network: "udp", Port: 53}}, Since: noteTime}.text()
	f.Add("4f3a", good)
	f.Add("", `{"who":"\u001b[2J\u009b\u0000x","ports":[{"network":"\n"}]}`)
	f.Fuzz(func(t *testing.T, id, text string) {
		for _, n := range notesOf(map[string]string{noteSession + id: text, "other": text}) {
			if n.ID != id || len(n.Who) > maxNoteText || strings.ContainsAny(n.Who+n.Mode, "\x00\x1b\n\u009b") || len(n.Ports) > maxNotePorts {
				t.Errorf("%q: %+v", text, n)
			}
			if _, err := json.Marshal(n); err != nil && n.Since.Year() < 10000 {
				t.Error(err)
			}
		}
	})
}

// TestTargetsTellUsers: who is on a pod is told of what means it, without a call more; and what is stepin's own is no target.
func TestTargetsTellUsers(t *testing.T) {
	meta := func(name string, more map[string]string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("uid-" + name), Labels: more}
	}
	yes := true
	web := func(name string) corev1.Pod {
		p := corev1.Pod{ObjectMeta: meta(name, map[string]string{"app": "web", "pod-template-hash": "abc"})}
		p.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "web-abc", Controller: &yes}}
		return p
	}
	agent := func(pod string, notes map[string]string) batchv1.Job {
		j := batchv1.Job{ObjectMeta: meta("stepin-"+pod, map[string]string{labelManager: ourName, labelPod: "uid-" + pod})}
		j.Annotations = notes
		j.Status.Active = 1
		return j
	}
	note := func(who string, at int) string {
		text, err := Note{Who: who, Mode: "steal", Ports: []wire.Port{{Network: "tcp", Port: 80}}, Since: noteTime.Add(time.Duration(at))}.text()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	stranger := agent("web-1", map[string]string{noteSession + "x": note("mallory", 0)})
	stranger.Labels = nil
	stranger.Status.Active = 0
	over := agent("web-1", map[string]string{noteSession + "y": note("over", 0)})
	over.Status.Succeeded = 1
	l := &listed{
		pods: []corev1.Pod{web("web-1"), web("web-2"), {ObjectMeta: meta("stepin-web-1-xyz", map[string]string{labelManager: ourName, labelPod: "uid-web-1"})}},
		jobs: []batchv1.Job{agent("web-1", map[string]string{noteSession + "b": note("bob", 2), noteSession + "a": note("ann", 1), noteSession + "c": "nonsense"}),
			agent("web-2", map[string]string{noteSession + "a": note("ann", 1)}), agent("elsewhere", map[string]string{noteSession + "d": note("dan", 1)}), stranger, over},
		services:    []corev1.Service{{ObjectMeta: meta("web", nil), Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "web"}}}, {ObjectMeta: meta("none", nil)}},
		deployments: []appsv1.Deployment{{ObjectMeta: meta("web", nil)}, {ObjectMeta: meta("other", nil)}},
	}
	got := map[string]string{}
	for _, i := range l.items() {
		var who []string
		for _, n := range i.Sessions {
			who = append(who, n.Who+" "+n.ID)
		}
		got[i.Target] = strings.Join(who, ", ")
	}
	want := map[string]string{"deployment/web": "ann a, bob b", "deployment/other": "", "service/web": "ann a, bob b", "pod/web-1": "ann a, bob b", "pod/web-2": "ann a"}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%q\nwant %q", got, want)
	}
}
