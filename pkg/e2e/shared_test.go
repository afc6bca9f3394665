package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// TestSharedProcesses: in a pod whose containers share their processes, where process 1 is the sandbox's, an ephemeral
// agent finds its target all the same, with and without rights.
func TestSharedProcesses(t *testing.T) {
	c := Up(t)
	image, roles := c.agentImage(t), documented(t)
	for _, r := range []rungCase{
		{name: "shared-net", level: "privileged", image: scratch, roles: []string{"stepin-ephemeral"}, own: true, mode: "ephemeral", says: []string{asNet, staysThen}, steals: true},
		{name: "shared-bare", level: "restricted", image: scratch, roles: []string{"stepin-ephemeral"}, own: true, says: []string{asBare, noSteal, noMirror, staysThen}},
	} {
		t.Run(r.name, func(t *testing.T) {
			m := newMarket(t, c, r.level, nil)
			c.Apply(t, m.ns, strings.Replace(fmt.Sprintf(shop, r.name, r.image), "\nspec:\n", "\nspec:\n  shareProcessNamespace: true\n", 1))
			c.Ready(t, m.ns, "pod/"+r.name)
			if p := c.Pods(t, m.ns, "app="+r.name)[0]; p.Spec.ShareProcessNamespace == nil || !*p.Spec.ShareProcessNamespace {
				t.Fatal("it shares nothing")
			}
			m.rung(t, r, roles, map[string]any{"image": image})
		})
	}
}
