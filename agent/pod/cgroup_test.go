package pod

import (
	"os"
	"strings"
	"testing"
)

const (
	uid   = "0f5b1c9e-7a41-4d5f-9d39-6f2f3a1b2c4d"
	under = "0f5b1c9e_7a41_4d5f_9d39_6f2f3a1b2c4d"
	one   = "4c01db0b339c4c01db0b339c4c01db0b339c4c01db0b339c4c01db0b339cabcd"
	two   = "9d0fdb0b339c4c01db0b339c4c01db0b339c4c01db0b339c4c01db0b339cabcd"
)

func TestParseCgroup(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want Cgroup
	}{
		"v2, systemd, containerd":   {"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + under + ".slice/cri-containerd-" + one + ".scope", Cgroup{uid, one}},
		"v2, systemd, CRI-O":        {"0::/kubepods.slice/kubepods-pod" + under + ".slice/crio-" + one + ".scope/container", Cgroup{uid, one}},
		"v2, CRI-O's conmon":        {"0::/kubepods.slice/kubepods-pod" + under + ".slice/crio-conmon-" + one + ".scope", Cgroup{}},
		"v2, cgroupfs":              {"0::/kubepods/besteffort/pod" + uid + "/" + one, Cgroup{uid, one}},
		"v2, another namespace":     {"0::/../../kubepods-besteffort-pod" + under + ".slice/cri-containerd-" + one + ".scope", Cgroup{uid, one}},
		"v2, in the pod's":          {"0::/../" + one, Cgroup{"", one}},
		"v2, own":                   {"0::/", Cgroup{}},
		"v1, cgroupfs":              {"9:name=systemd:/kubepods/burstable/pod" + uid + "/" + one + "\n5:memory:/kubepods/burstable/pod" + uid + "/" + one + "\n0::/", Cgroup{uid, one}},
		"v1, a controller without":  {"4:memory:/\n3:cpu:/kubepods/pod" + uid + "/" + one, Cgroup{uid, one}},
		"v1, containerd's mismatch": {"1:name=systemd:/system.slice/containerd.service/kubepods-burstable-pod" + under + ".slice:cri-containerd:" + one, Cgroup{uid, one}},
		"v1, docker":                {"4:memory:/kubepods.slice/kubepods-pod" + under + ".slice/docker-" + one + ".scope", Cgroup{uid, one}},
		"kind":                      {"0::/docker/" + two + "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod" + under + ".slice/cri-containerd-" + one + ".scope", Cgroup{uid, one}},
		"a runtime in the pod":      {"0::/kubepods/pod" + uid + "/" + one + "/docker/" + two, Cgroup{uid, one}},
		"static pod":                {"0::/kubepods/burstable/pod" + strings.Repeat("0a", 16) + "/" + one, Cgroup{strings.Repeat("0a", 16), one}},
		"no kubelet":                {"0::/k8s.io/" + one, Cgroup{"", one}},
		"a service":                 {"0::/system.slice/podman.service", Cgroup{}},
		"a user":                    {"0::/user.slice/user-1000.slice/session-3.scope", Cgroup{}},
		"nothing":                   {"", Cgroup{}},
	} {
		if got := ParseCgroup([]byte(c.text + "\n")); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

func FuzzCgroup(f *testing.F) {
	f.Add("0::/kubepods/pod" + uid + "/" + one + "\n1:x:y")
	f.Fuzz(func(t *testing.T, s string) {
		c := ParseCgroup([]byte(s))
		if c.Container != "" && (len(c.Container) != idLen || !isHex(c.Container)) {
			t.Errorf("%+v", c)
		}
	})
}

func TestParseStart(t *testing.T) {
	for text, want := range map[string]uint64{
		"7 (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 0 0": 4711,
	} {
		if got, err := ParseStart([]byte(text)); err != nil || got != want {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
	for _, bad := range []string{"", "7 (a) S 1", "7 a S"} {
		if _, err := ParseStart([]byte(bad)); err == nil {
			t.Errorf("%q", bad)
		}
	}
	own, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := ParseStart(own); err != nil || n == 0 {
		t.Errorf("own: %d, %v", n, err)
	}
}
