package kube

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

const clusterPage = "../../docs/cluster.md"

// roleNames are what the Roles of docs/cluster.md are called, which the tests on a real cluster apply.
var roleNames = map[use]string{forAll: "stepin", forTarget: "stepin-targets", forJob: "stepin-pod", forEphemeral: "stepin-ephemeral",
	forCarried: "stepin-ephemeral-without-image", forJoining: "stepin-join", forComfort: "stepin-comfort"}

// TestClusterPage: what docs/cluster.md says of rungs, rights and capabilities is what the code does. The rest is prose.
func TestClusterPage(t *testing.T) {
	raw, err := os.ReadFile(clusterPage)
	if err != nil {
		t.Fatal(err)
	}
	page := string(raw)
	for part, text := range map[string]string{"rungs": rungsText(), "rights": rightsText(), "capabilities": capabilitiesText()} {
		begin, end := "<!-- "+part+": written by go test ./pkg/kube -run TestClusterPage -update -->\n", "<!-- end of "+part+" -->\n"
		before, rest, ok := strings.Cut(page, begin)
		_, after, ok2 := strings.Cut(rest, end)
		if !ok || !ok2 {
			t.Fatalf("%s has no part %q", clusterPage, part)
		}
		page = before + begin + text + end + after
	}
	if page == string(raw) {
		return
	}
	if !*updateGolden {
		t.Fatalf("%s is out of date: go test ./pkg/kube -run TestClusterPage -update", clusterPage)
	}
	if err := os.WriteFile(clusterPage, []byte(page), 0o644); err != nil {
		t.Fatal(err)
	}
}

// rungsText is a table of the ladder.
func rungsText() string {
	yes := map[bool]string{true: "yes", false: "no"}
	var b strings.Builder
	b.WriteString("| the agent is | PodSecurity | takes requests | copies them | what it lacks |\n|---|---|---|---|---|\n")
	for _, r := range rungTable {
		lacks := strings.Join(r.lacks, "; ")
		if lacks == "" {
			lacks = "nothing"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", r.title, r.level, yes[r.steals], yes[r.mirrors], lacks)
	}
	fmt.Fprintf(&b, "\nOn every rung %s.\n", worksAlways)
	return b.String()
}

// rightsText is a Role for each use, and what each right is for.
func rightsText() string {
	var b strings.Builder
	for _, u := range []use{forAll, forTarget, forJob, forEphemeral, forCarried, forJoining, forComfort} {
		fmt.Fprintf(&b, "### For %s\n\n", u)
		var rights []Right
		for _, n := range needs {
			if n.use != u {
				continue
			}
			resource := n.resource
			if n.group != "" {
				resource += "." + n.group
			}
			for _, v := range n.verbs {
				rights = append(rights, Right{Verb: v, Resource: resource})
			}
			fmt.Fprintf(&b, "- `%s` (%s): %s\n", resource, strings.Join(n.verbs, ", "), n.why)
		}
		role := strings.Replace(manifest(rights), "name: stepin\n", "name: "+roleNames[u]+"\n", 1)
		fmt.Fprintf(&b, "\n```yaml\n%s```\n\n", strings.Replace(role, "  namespace: \"\"\n", "", 1))
	}
	return b.String()
}

// capabilitiesText is a table of what the agent's pod may do on the node.
func capabilitiesText() string {
	var b strings.Builder
	b.WriteString("| capability | without it |\n|---|---|\n")
	for _, c := range jobCapabilities {
		fmt.Fprintf(&b, "| %s | %s |\n", c.name, c.without)
	}
	return b.String()
}
