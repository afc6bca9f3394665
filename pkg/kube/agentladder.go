package kube

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/stepin-dev/stepin/pkg/fail"
)

// rung is a way for the agent to be with the pod. The first that the cluster admits is taken.
type rung int

const (
	rungJob    rung = iota // a pod of its own on the target's node
	rungNet                // a container in the target's pod that may change its network
	rungPlain              // one with what the runtime gives to any container
	rungBare               // one with nothing
	rungsCount             // how many there are
)

// rungTable is the one place that says what each rung can do: the start message, doctor and docs/cluster.md read it.
// Each cell was measured on a real cluster.
var rungTable = [rungsCount]struct {
	name    string // in tickets and reports; stable
	title   string // in sentences: "the agent as …"
	steals  bool   // takes requests
	mirrors bool   // can copy them
	level   string // of PodSecurity, which has to admit it
	lacks   []string
}{
	rungJob: {name: "pod", title: "a pod on the node", steals: true, mirrors: true,
		level: "privileged"},
	rungNet: {name: "ephemeral with NET_ADMIN and BPF", title: "an ephemeral container with NET_ADMIN and BPF", steals: true, mirrors: true,
		level: "privileged",
		lacks: []string{staysListed}},
	rungPlain: {name: "ephemeral", title: "an ephemeral container with the default capabilities", mirrors: true,
		level: "baseline",
		lacks: []string{noSteal, staysListed}},
	rungBare: {name: "ephemeral without capabilities", title: "an ephemeral container without capabilities",
		level: "restricted",
		lacks: []string{noSteal, noMirror, staysListed}},
}

const (
	worksAlways = "variables, files, names, outgoing connections and the host name are the pod's"
	noSteal     = "requests stay with the pod: to take them the agent needs NET_ADMIN and BPF, which this namespace does not admit"
	noMirror    = "nor can requests be mirrored: for that the agent needs NET_RAW, which this namespace does not admit"
	staysListed = "the agent's entry stays in the pod's list of ephemeral containers after its end; Kubernetes cannot remove it"
)

func (r rung) String() string { return rungTable[r].name }

// says is the start message: what works on this rung, and what does not.
func (r rung) says() []string {
	works := worksAlways
	switch {
	case rungTable[r].steals:
		works = "requests, " + works
	case rungTable[r].mirrors:
		works = "copies of requests, " + works
	}
	return append([]string{fmt.Sprintf("the agent is %s: %s", rungTable[r].title, works)}, rungTable[r].lacks...)
}

// serves says whether it can do what the user wrote.
func (r rung) serves(incoming string) bool {
	switch incoming {
	case "steal":
		return rungTable[r].steals
	case "mirror":
		return rungTable[r].mirrors
	}
	return true
}

// rungByName finds a rung that a ticket names.
func rungByName(name string) (rung, bool) {
	for r := range rungsCount {
		if rungTable[r].name == name {
			return r, true
		}
	}
	return 0, false
}

// done is what cannot be done to requests.
var done = map[string]string{"steal": "taken", "mirror": "mirrored"}

// detail is what PodSecurity adds in parentheses, about each container and field. A start that goes on by another way
// names the kinds of violations only; one that fails quotes everything.
var detail = regexp.MustCompile(` \([^()]*(\([^()]*\)[^()]*)*\)`)

// ruling is what the API server said when it was asked, by a dry run, about one rung.
type ruling struct {
	admitted bool
	right    string // the missing right, "create jobs.batch in namespace shop"
	policy   string // or the words of the policy, quota or webhook that refuses
}

func (a ruling) why() string {
	switch {
	case a.right != "":
		return "the right to " + a.right + " is missing"
	case a.policy != "":
		return a.policy
	}
	return "it was refused without a word"
}

// wish is what the configuration says about the ladder.
type wish struct {
	mode string // auto, pod, ephemeral
	// incoming is what the user wrote that he wants done to requests: steal or mirror; else "".
	incoming string
}

// decide takes the first rung that is admitted and that mode allows. notices name each that was refused before it. An
// admitted rung that cannot do what the user asked for is an error which says what would be needed.
func decide(w wish, answers [rungsCount]ruling) (chosen rung, notices []string, err error) {
	first, last := rungJob, rungBare
	switch w.mode {
	case "pod":
		last = rungJob
	case "ephemeral":
		first = rungNet
	}
	var refused []string
	for r := first; r <= last; r++ {
		if !answers[r].admitted {
			refused = append(refused, fmt.Sprintf("the agent as %s is refused: %s", rungTable[r].title, answers[r].why()))
			continue
		}
		if !r.serves(w.incoming) {
			var wanted []string // the ways that would have done; doctor quotes the policies in full
			for i, why := range refused {
				if (first + rung(i)).serves(w.incoming) {
					wanted = append(wanted, detail.ReplaceAllString(why, ""))
				}
			}
			return 0, nil, fail.New(fail.ClusterForbidden,
				`ask the cluster's owner for one of these, or write "incoming": {"mode": "off"}: stepin doctor -t TARGET lists what is missing`,
				"requests cannot be %s here: the cluster admits no more than %s; %s", done[w.incoming], rungTable[r].title, strings.Join(wanted, "; "))
		}
		for i := range refused {
			refused[i] = detail.ReplaceAllString(refused[i], "")
			next := rungTable[min(first+rung(i)+1, r)].title
			refused[i] += "; next: " + next
		}
		return r, refused, nil
	}
	code := fail.AgentStart
	if answers[last].right != "" {
		code = fail.ClusterForbidden
	}
	hint := "ask the cluster's owner; stepin doctor -t TARGET lists what is missing"
	if w.mode == "pod" || w.mode == "ephemeral" {
		hint = `"agent": {"mode": "auto"} tries the other ways, too; ` + hint
	}
	return 0, nil, fail.New(code, hint, "the agent cannot be brought to the pod: %s", strings.Join(refused, "; "))
}
