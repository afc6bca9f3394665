package e2e

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// census is what is known of the pods of a test by their addresses, those that have gone included.
//
// Goroutines: one, which ends with the test.
type census struct {
	mu  sync.Mutex
	all []*resident // in the order of their coming
}

// resident is a pod, and when it was first seen, seen to be ending, and seen no more.
type resident struct {
	uid                types.UID
	name, address      string
	come, ending, gone time.Time
}

const (
	// censusPause is kept between two looks, and censusPatience bounds one: the network may be cut.
	censusPause    = 200 * time.Millisecond
	censusPatience = time.Second
)

// count looks at the pods from now on. While the network is cut it sees nothing: what happens then is seen late.
func (l *life) count(t testing.TB) *census {
	s := &census{}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			within, cancel := context.WithTimeout(ctx, censusPatience)
			pods, err := l.c.Client.CoreV1().Pods(l.ns).List(within, metav1.ListOptions{LabelSelector: "app=web"})
			cancel()
			if err == nil {
				s.note(pods.Items, time.Now())
			}
			select {
			case <-time.After(censusPause):
			case <-ctx.Done():
			}
		}
	}()
	return s
}

func (s *census) note(pods []corev1.Pod, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	there := map[types.UID]corev1.Pod{}
	for _, p := range pods {
		if p.Status.PodIP != "" {
			there[p.UID] = p
		}
	}
	for _, r := range s.all {
		p, ok := there[r.uid]
		delete(there, r.uid)
		if ok && p.DeletionTimestamp != nil && r.ending.IsZero() {
			r.ending = now
		}
		if !ok && r.gone.IsZero() {
			r.gone = now
		}
	}
	for _, p := range there {
		r := &resident{uid: p.UID, name: p.Name, address: p.Status.PodIP, come: now}
		if p.DeletionTimestamp != nil {
			r.ending = now
		}
		s.all = append(s.all, r)
	}
}

// who tells of the pod that had an address last.
func (s *census) who(address string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.all) - 1; i >= 0; i-- {
		r := s.all[i]
		if r.address != address {
			continue
		}
		text := fmt.Sprintf("pod %s, there since %s", r.name, clockOf(r.come))
		if !r.ending.IsZero() {
			text += ", being deleted since " + clockOf(r.ending)
		}
		if !r.gone.IsZero() {
			text += ", gone since " + clockOf(r.gone)
		}
		return text
	}
	return "no pod that was seen (" + address + ")"
}

func clockOf(t time.Time) string { return t.Format("15:04:05.000") }
