package config

import (
	"strings"
	"testing"
)

func TestFromMirrord(t *testing.T) {
	for in, want := range map[string]string{
		`{"target": "pod/x"}`: "target: pod/x\n",
		`{"target": {"path": {"deployment": "x", "container": "app"}}}`:                                "target: deployment/x/container/app\n",
		`{"target": {"path": {"labels": {"b": "2", "a": "1"}}}}`:                                       "target: label/a=1,b=2\n",
		`{"target": "targetless"}`:                                                                     "{}\n!target: a program without a pod does not exist here: name one",
		`{"feature": {"network": false}}`:                                                              "dns: false\nincoming:\n  mode: \"off\"\noutgoing:\n  tcp: false\n  udp: false\n",
		`{"feature": {"network": {"incoming": "steal", "outgoing": false, "dns": {"enabled": true}}}}`: "dns: true\nincoming:\n  mode: steal\noutgoing:\n  tcp: false\n  udp: false\n",
		`{"feature": {"network": {"incoming": true, "outgoing": {"filter": {"local": ["a:1"]}}}}}`:     "incoming:\n  mode: mirror\noutgoing:\n  host:\n  - a:1\n",
		`{"feature": {"env": false, "fs": "local"}}`:                                                   "env:\n  exclude:\n  - '*'\nfiles:\n  mode: \"off\"\n",
		`{"feature": {"env": true, "hostname": null}}`:                                                 "{}\n",
		"feature:\n  env:\n    exclude: [A, B]\n":                                                      "env:\n  exclude:\n  - A\n  - B\n",
		`{"skip_processes": ["a"], "skip_extra_build_tools": "b;c"}`:                                   "hostPrograms:\n- b\n- c\n- a\n",
		`{"agent": {"image": "x"}, "nonsense": {"a": [1]}}`:                                            "{}\n!agent.image: the agent is another: leave it out, or make an image by stepin agent image push!nonsense.a: the key is not known",
	} {
		out, left, err := FromMirrord("mirrord.json", []byte(in))
		have := string(out)
		for _, line := range left {
			have += "!" + line
		}
		if err != nil || have != want {
			t.Errorf("%s:\nhave %q, %v\nwant %q", in, have, err, want)
		}
	}
}

// TestMirrordsKeys: each key of theirs goes somewhere or is left with a reason, and not both.
func TestMirrordsKeys(t *testing.T) {
	for at, take := range mirrordKeys() {
		if (take.into == nil) == (take.why == "") {
			t.Errorf("%s: neither taken nor left", at)
		}
	}
}

func FuzzFromMirrord(f *testing.F) {
	f.Add([]byte(`{"target": {"path": {"labels": {"a": "b"}}}, "feature": {"network": {"incoming": {"ports": [1], "port_mapping": [[1, 2]]}, "outgoing": {"filter": {"remote": 1}}}}}`))
	f.Add([]byte(`{"feature": {"fs": {"local": ["^/a\\.b(/|$)", 3]}, "env": {"include": "A;B", "override": []}}, "agent": {"image_pull_secrets": [{}, 1], "labels": 3}}`))
	f.Add([]byte("skip_processes: a\nskip_extra_build_tools: [b]\nagent: x\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		out, left, err := FromMirrord("f", data)
		if err != nil {
			sound(t, nil, err)
			return
		}
		if _, err := ParseYAML("f", out); err != nil {
			t.Fatalf("what was made is refused: %v\n%s", err, out)
		}
		for _, line := range left {
			if !strings.Contains(line, ": ") {
				t.Fatalf("left without a reason: %q", line)
			}
		}
	})
}
