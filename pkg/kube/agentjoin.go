package kube

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// joinPod joins the agent of a Job by its pod, for those who may neither make a Job nor look at one: the dry run has told
// them nothing of whether there is one. Its pod has all that the Job says of it.
func (a *Agent) joinPod(ctx context.Context) (joined bool, err error) {
	namespace := agentNamespace(a.o.Config, a.o.Pod)
	pods, err := a.c.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: labelPod + "=" + a.o.Pod.UID + "," + labelManager + "=" + ourName})
	if apierrors.IsForbidden(err) {
		return false, nil
	}
	if err != nil {
		return false, a.c.explain(err, "looking for the pod's agent")
	}
	for _, p := range pods.Items {
		if by := controller(p.OwnerReferences); ended(&p) || over(&p) || by.Kind != "Job" || by.Name != agentName(a.o.Pod.UID) {
			continue
		}
		if err := a.trusted(ctx, p.ObjectMeta, p.Spec); err != nil {
			return false, err
		}
		a.rung, a.says = rungJob, rungJob.says()
		a.t = ticket{Namespace: namespace, Pod: p.Name, Container: agentContainer, Target: a.o.Pod.Container,
			Port: listening(p.Spec.Containers[0].Args), Rung: rungJob.String()}
		return true, a.askToken(ctx, nil, a.joinCommand(false)) // by its own word only: nothing is watched here that would tell when it is up
	}
	return false, nil
}
