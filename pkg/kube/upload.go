package kube

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/metadata"
)

const (
	// maxPart bounds the binaryData of one ConfigMap in bytes: the API server takes 1 MiB, and the first part shares it
	// with boot.
	maxPart = 1_000_000
	// orphanAge is how old a ConfigMap without an owner must be before another session removes it: the session that made
	// it puts the Job in place within seconds.
	orphanAge = 2 * time.Minute
	// adoptTries bounds the tries to become an owner of a ConfigMap that others' Jobs become owners of at the same moment.
	adoptTries = 5
	// sentLife is how long an upload is taken to be there still: the agents of a target's other replicas start right after
	// the first one, and three megabytes for each would be in the way of everything else on a slow road. adopt makes up for
	// one that has gone.
	sentLife = time.Minute
	// sweepLimit bounds how many are looked at in one session.
	sweepLimit = 500
	// sendTries bounds the tries to find names that nobody has put something else under: no second one is guessed.
	sendTries = 3
)

// errForeign: a ConfigMap has a name of ours and is none of ours. To create ConfigMaps is a lesser right than to run what is
// in them as root on a node, so what is there already is looked at before it is used.
var errForeign = errors.New("kube: a ConfigMap with a name of stepin's holds something else")

// upload is the agent on its way: what is put into ConfigMaps, and by which hash it is known.
type upload struct {
	hash  string // of boot and all parts, 32 hex digits
	names []string
	data  []map[string][]byte
	uids  []types.UID // of the ConfigMaps that send has made or looked at
}

// newUpload cuts the agent into parts. The names come from the content: who uses the same stepin shares them. That what is
// found under such a name is what it says is not to be taken for granted: see send.
func newUpload(boot, frame []byte) *upload {
	sum := sha256.New()
	sum.Write(boot)
	sum.Write(frame)
	u := &upload{hash: hex.EncodeToString(sum.Sum(nil)[:16])}
	for i := 0; i == 0 || len(frame) > 0; i++ {
		part := map[string][]byte{}
		room := maxPart
		if i == 0 {
			part["boot"] = boot
			room -= len(boot)
		}
		n := min(room, len(frame))
		part["agent."+strconv.Itoa(i)], frame = frame[:n], frame[n:]
		u.data = append(u.data, part)
	}
	u.name("")
	return u
}

// sent is an upload that has been made.
type sent struct {
	at    time.Time
	names []string
	uids  []types.UID
}

// name gives the parts their names, which suffix is to tell from others of the same content.
func (u *upload) name(suffix string) {
	u.names, u.uids = nil, make([]types.UID, len(u.data))
	for i := range u.data {
		u.names = append(u.names, fmt.Sprintf("stepin-%s%s-%d", u.hash, suffix, i))
	}
}

// is says that a ConfigMap holds these parts' number i and always will.
func (u *upload) is(m *corev1.ConfigMap, i int) bool {
	return m.Immutable != nil && *m.Immutable && m.DeletionTimestamp == nil && len(m.Data) == 0 && maps.EqualFunc(m.BinaryData, u.data[i], bytes.Equal)
}

func (u *upload) configMap(i int, namespace string, owner *batchv1.Job) *corev1.ConfigMap {
	yes := true
	m := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: u.names[i], Namespace: namespace,
			Labels: map[string]string{labelName: ourName, labelManager: ourName}},
		BinaryData: u.data[i],
		Immutable:  &yes,
	}
	if owner != nil {
		m.OwnerReferences = []metav1.OwnerReference{ownedBy(owner)}
	}
	return m
}

// ownedBy makes what bears it go with the Job. Without blockOwnerDeletion, which some clusters want a further right for.
func ownedBy(job *batchv1.Job) metav1.OwnerReference {
	return metav1.OwnerReference{APIVersion: "batch/v1", Kind: "Job", Name: job.Name, UID: job.UID}
}

// send creates the ConfigMaps, all at once. What exists already is taken only if it is the same for good; else all parts get
// other names.
//
// They come before the Job, and so without an owner: kubelet looks for a pod's volumes the moment it sees the pod, and
// tries again only after half a second and more, so a Job before its ConfigMaps would start slower. An owner must exist
// before it can own, so adopt comes after the Job; what a session that died in between leaves is swept by the next.
func (c *Cluster) send(ctx context.Context, namespace string, u *upload) error {
	c.sending.Lock()
	defer c.sending.Unlock()
	at := namespace + "/" + u.hash
	if was, known := c.sent[at]; known && time.Since(was.at) < sentLife {
		u.names, u.uids = slices.Clone(was.names), slices.Clone(was.uids)
		if there, err := c.still(ctx, namespace, u); there || err != nil {
			return err
		}
		u.name("")
	}
	for n := 1; ; n++ {
		err := each(len(u.names), func(i int) error { return c.put(ctx, u.configMap(i, namespace, nil), u, i) })
		if err == nil {
			c.sent[at] = sent{time.Now(), slices.Clone(u.names), slices.Clone(u.uids)}
		}
		if !errors.Is(err, errForeign) || n == sendTries {
			return err
		}
		raw := make([]byte, 8)
		_, _ = rand.Read(raw) // never fails (crypto/rand)
		u.name("-" + hex.EncodeToString(raw))
		c.log.Debug("kube: the agent goes by another name", "err", err, "names", u.names)
	}
}

// still says that the ConfigMaps of an upload are there, the very ones: another may have been put in the place of one that
// has gone. What is immutable and has the same UID holds the same.
func (c *Cluster) still(ctx context.Context, namespace string, u *upload) (bool, error) {
	maps, err := c.maps(namespace)
	if err != nil {
		return false, err
	}
	var other atomic.Bool
	err = each(len(u.names), func(i int) error {
		m, err := maps.Get(ctx, u.names[i], metav1.GetOptions{})
		if err == nil && m.UID == u.uids[i] && m.DeletionTimestamp == nil {
			return nil
		}
		other.Store(true)
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})
	return !other.Load(), err
}

// put creates one ConfigMap, or finds that it is there.
func (c *Cluster) put(ctx context.Context, m *corev1.ConfigMap, u *upload, i int) error {
	uid, err := c.createMap(ctx, m)
	if apierrors.IsAlreadyExists(err) {
		there, gone := c.client.CoreV1().ConfigMaps(m.Namespace).Get(ctx, m.Name, metav1.GetOptions{})
		switch err = gone; {
		case apierrors.IsNotFound(err): // it went just now
			uid, err = c.createMap(ctx, m)
		case err == nil && !u.is(there, i):
			return fmt.Errorf("%w: %s", errForeign, m.Name)
		case err == nil:
			uid = there.UID
		}
	}
	if err == nil {
		u.uids[i] = uid
	}
	return err
}

// adopt makes the Job an owner of each ConfigMap, beside others' Jobs that use it: it goes with the last of them. One that
// went with its last owner just now is made again, before kubelet asks a second time. errForeign: somebody has put something
// else in its place.
func (c *Cluster) adopt(ctx context.Context, job *batchv1.Job, u *upload) error {
	maps, err := c.maps(job.Namespace)
	if err != nil {
		return err
	}
	return each(len(u.names), func(i int) error {
		// A strategic merge adds to the list, by UID. A ConfigMap of another UID makes it invalid.
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": u.uids[i], "ownerReferences": []metav1.OwnerReference{ownedBy(job)}}})
		if err != nil {
			return fmt.Errorf("kube: owning the agent's ConfigMaps: %w", err)
		}
		for n := 1; ; n++ {
			_, err = maps.Patch(ctx, u.names[i], types.StrategicMergePatchType, patch, metav1.PatchOptions{})
			if !apierrors.IsConflict(err) || n == adoptTries {
				break
			}
			select {
			case <-ctx.Done():
			case <-time.After(time.Duration(n) * pollEvery):
			}
		}
		if apierrors.IsNotFound(err) || apierrors.IsInvalid(err) {
			err = c.put(ctx, u.configMap(i, job.Namespace, job), u, i)
		}
		return err
	})
}

// disown keeps a Job's ConfigMaps from going with it, for the Job that takes its place: else they would vanish just when that
// one's pod looks for them. If none comes they are swept.
func (c *Cluster) disown(ctx context.Context, job *batchv1.Job) error {
	maps, err := c.maps(job.Namespace)
	if err != nil {
		return err
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"ownerReferences": []any{map[string]any{"$patch": "delete", "uid": job.UID}}}})
	if err != nil {
		return fmt.Errorf("kube: keeping the agent's ConfigMaps: %w", err)
	}
	names := parts(job.Spec.Template.Spec)
	return each(len(names), func(i int) error {
		_, err := maps.Patch(ctx, names[i], types.StrategicMergePatchType, patch, metav1.PatchOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})
}

// onlyMetadata asks for an answer without the object's content: the API server sends back what it was sent otherwise, a
// megabyte each.
const onlyMetadata = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"

// createMap sends a ConfigMap, as it is and not in base64, and returns its UID.
func (c *Cluster) createMap(ctx context.Context, m *corev1.ConfigMap) (types.UID, error) {
	m.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}
	body, err := runtime.Encode(protobuf.NewSerializer(scheme.Scheme, scheme.Scheme), m)
	if err != nil {
		return "", fmt.Errorf("kube: writing a ConfigMap: %w", err)
	}
	result := c.client.CoreV1().RESTClient().Post().Namespace(m.Namespace).Resource("configmaps").
		SetHeader("Content-Type", runtime.ContentTypeProtobuf).SetHeader("Accept", onlyMetadata).Body(body).Do(ctx)
	if err := result.Error(); err != nil { // in the API server's words, which Raw does not read
		return "", err
	}
	raw, err := result.Raw()
	if err != nil {
		return "", err
	}
	var made metav1.PartialObjectMetadata
	if err := json.Unmarshal(raw, &made); err != nil {
		return "", fmt.Errorf("kube: reading what became of a ConfigMap: %w", err)
	}
	return made.UID, nil
}

// maps are a namespace's ConfigMaps without their content.
func (c *Cluster) maps(namespace string) (metadata.ResourceInterface, error) {
	client, err := metadata.NewForConfigAndClient(c.config, c.http)
	if err != nil {
		return nil, fmt.Errorf("kube: looking at ConfigMaps: %w", err)
	}
	return client.Resource(corev1.SchemeGroupVersion.WithResource("configmaps")).Namespace(namespace), nil
}

// abandon removes the ConfigMaps that nobody owns, after a start that failed.
func (c *Cluster) abandon(ctx context.Context, namespace string, u *upload) error {
	maps, err := c.maps(namespace)
	if err != nil {
		return err
	}
	return each(len(u.names), func(i int) error {
		m, err := maps.Get(ctx, u.names[i], metav1.GetOptions{})
		if err == nil && len(m.OwnerReferences) == 0 {
			err = maps.Delete(ctx, m.Name, unchanged(m.UID, m.ResourceVersion))
		}
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			return nil
		}
		return err
	})
}

// unchanged deletes only what nobody has changed since it was looked at: somebody's Job may just have become its owner.
func unchanged(uid types.UID, version string) metav1.DeleteOptions {
	return metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &version}}
}

// sweep removes ConfigMaps of ours that have no owner and are older than orphanAge by the API server's own clock: of
// sessions that were killed before their Job was there. It reads names and dates only, not a megabyte each.
func (c *Cluster) sweep(ctx context.Context, namespace string, now time.Time) error {
	maps, err := c.maps(namespace)
	if err != nil {
		return err
	}
	list, err := maps.List(ctx, metav1.ListOptions{LabelSelector: labelManager + "=" + ourName, Limit: sweepLimit})
	if err != nil {
		return fmt.Errorf("kube: sweeping: %w", err)
	}
	var old []*metav1.PartialObjectMetadata
	for i := range list.Items {
		m := &list.Items[i]
		if len(m.OwnerReferences) == 0 && now.Sub(m.CreationTimestamp.Time) > orphanAge {
			old = append(old, m)
		}
	}
	return each(len(old), func(i int) error {
		err := maps.Delete(ctx, old[i].Name, unchanged(old[i].UID, old[i].ResourceVersion))
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			return nil
		}
		return err
	})
}

// each calls f for 0 to n-1 at once and returns the first error.
func each(n int, f func(i int) error) error {
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { errs[i] = f(i) })
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
