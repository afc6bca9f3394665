package kube

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/stepin-dev/stepin/pkg/fail"
	"github.com/stepin-dev/stepin/pkg/wire"
)

// noteSession begins the key of a session's annotation on the agent's Job; its id follows.
const noteSession = "session.stepin.dev/"

// Bounds of what stands there. All annotations of an object may have 256 KiB; an agent serves 64 sessions, so that theirs take
// half of that at most.
const (
	maxNotes     = 64
	maxNote      = 2 << 10 // bytes
	maxNotePorts = 16
	maxNoteText  = 100 // bytes of a name
)

// Note is what a session says of itself to whoever may list Jobs, so that nobody needs to ask the agent.
type Note struct {
	ID    string      `json:"id,omitempty"` // not in the annotation, whose key it is
	Who   string      `json:"who"`
	Mode  string      `json:"mode,omitempty"`
	Ports []wire.Port `json:"ports,omitempty"` // the pod's
	Since time.Time   `json:"since"`
}

// Note writes the annotations of sessions, and removes those of the ids that have none, as far as the agent is a Job's. It returns
// the ids that stand there then. A right that is missing is a fail.ClusterForbidden; a Job that is gone has none.
func (a *Agent) Note(ctx context.Context, notes map[string]*Note) (ids []string, err error) {
	a.mu.Lock()
	namespace := a.t.Namespace
	a.mu.Unlock()
	if a.rung != rungJob {
		return nil, nil
	}
	values := map[string]*string{}
	for id, n := range notes {
		values[noteSession+id] = nil
		if n != nil {
			text, err := n.text()
			if err != nil {
				return nil, err
			}
			values[noteSession+id] = &text
		}
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": values}})
	if err != nil {
		return nil, fmt.Errorf("kube: noting a session: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	job, err := a.c.client.BatchV1().Jobs(namespace).Patch(ctx, agentName(a.o.Pod.UID), types.MergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, a.c.explain(err, "noting the session on the agent's Job")
	}
	for key := range job.Annotations {
		if id, ok := strings.CutPrefix(key, noteSession); ok {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// text is the annotation's value.
func (n Note) text() (string, error) {
	n.ID, n.Who, n.Ports = "", cleanText(n.Who), n.Ports[:min(len(n.Ports), maxNotePorts)]
	text, err := json.Marshal(n)
	if err == nil && len(text) > maxNote {
		return "", fail.New(fail.Internal, "", "a session's note is too long")
	}
	return string(text), err
}

// notesOf reads what sessions say on a Job. Anybody may have written it who may change Jobs.
func notesOf(annotations map[string]string) (notes []Note) {
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		id, ok := strings.CutPrefix(key, noteSession)
		text := annotations[key]
		var n Note
		if !ok || len(text) > maxNote || json.Unmarshal([]byte(text), &n) != nil || len(n.Ports) > maxNotePorts {
			continue
		}
		n.ID, n.Who, n.Mode = id, cleanText(n.Who), cleanText(n.Mode)
		for i := range n.Ports {
			n.Ports[i].Network = cleanText(n.Ports[i].Network)
		}
		if notes = append(notes, n); len(notes) == maxNotes {
			break
		}
	}
	return notes
}

// cleanText keeps what others will read on one line, printable and short.
func cleanText(text string) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == utf8.RuneError {
			return -1
		}
		return r
	}, text)
	for len(text) > maxNoteText {
		_, size := utf8.DecodeLastRuneInString(text)
		text = text[:len(text)-size]
	}
	return text
}

// ours says that an object is stepin's own, which nobody means as a target.
func ours(meta *metav1.ObjectMeta) bool {
	return meta.Labels[labelManager] == ourName && meta.Labels[labelPod] != ""
}

// users are who says to be on the pods, by namespace and target: a pod is its workload's, and its Services', too.
func (l *listed) users() map[[2]string][]Note {
	pods := map[string]*corev1.Pod{}
	for i := range l.pods {
		pods[string(l.pods[i].UID)] = &l.pods[i]
	}
	found := map[[2]string][]Note{}
	for i := range l.jobs {
		job := &l.jobs[i]
		pod := pods[job.Labels[labelPod]]
		if pod == nil || !ours(&job.ObjectMeta) || finished(job) {
			continue
		}
		notes := notesOf(job.Annotations)
		for _, target := range l.targetsOf(pod) {
			at := [2]string{pod.Namespace, target}
			for _, n := range notes { // a session is with several pods of one target
				if !slices.ContainsFunc(found[at], func(have Note) bool { return have.ID == n.ID }) {
					found[at] = append(found[at], n)
				}
			}
		}
	}
	for _, notes := range found {
		slices.SortFunc(notes, func(a, b Note) int { return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.ID, b.ID)) })
	}
	return found
}

// targetsOf are those of the listed that mean a pod.
func (l *listed) targetsOf(p *corev1.Pod) []string {
	targets := []string{"pod/" + p.Name}
	if by := workloadOf(p); by != targets[0] {
		targets = append(targets, by)
	}
	for _, s := range l.services {
		if len(s.Spec.Selector) > 0 && s.Namespace == p.Namespace && labels.SelectorFromSet(s.Spec.Selector).Matches(labels.Set(p.Labels)) {
			targets = append(targets, "service/"+s.Name)
		}
	}
	return targets
}
