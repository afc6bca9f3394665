package pod

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stepin-dev/stepin/pkg/wire"
)

const statusSample = "Name:\tsleep\nUid:\t1000\t1001\t1002\t1003\nGid:\t5\t6\t7\t8\nGroups:\t4 24 2000 \nCapEff:\t00000000a80425fb\n"

func TestParseStatus(t *testing.T) {
	s, err := ParseStatus([]byte(statusSample))
	if err != nil || s.Name != "sleep" || s.UID != 1001 || s.GID != 6 || !slices.Equal(s.Groups, []int{4, 24, 2000}) || s.CapEff != 0xa80425fb {
		t.Errorf("%+v, %v", s, err)
	}
	for _, bad := range []string{"", "Uid:\t1 2 3\n", "Uid:\t1 2 3 x\n", strings.Replace(statusSample, "CapEff", "CapX", 1),
		strings.Replace(statusSample, "2000", "-1", 1), strings.Replace(statusSample, "a80425fb", "g", 1)} {
		if s, err := ParseStatus([]byte(bad)); err == nil {
			t.Errorf("%q: %+v", bad, s)
		}
	}
	raw, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	if s, err = ParseStatus(raw); err != nil || s.UID != os.Geteuid() || s.GID != os.Getegid() {
		t.Errorf("own: %+v, %v", s, err)
	}
}

func TestParseEnviron(t *testing.T) {
	got := ParseEnviron([]byte("A=1\x00B=\x00=x\x00nothing\x00C=a=b\nc\x00"))
	if !slices.Equal(got, []wire.Name{"A=1", "B=", "C=a=b\nc"}) {
		t.Errorf("%q", got)
	}
	if got := ParseEnviron(nil); got == nil || len(got) != 0 {
		t.Errorf("%#v", got)
	}
}

func TestVolumes(t *testing.T) {
	theirs := `36 35 98:0 / / rw - overlay overlay rw
37 36 0:5 / /proc rw - proc proc rw
38 36 0:6 / /dev rw - tmpfs tmpfs rw
39 38 0:7 / /dev/shm rw - tmpfs shm rw
40 36 0:8 / /sys rw - sysfs sysfs rw
41 36 0:9 / /etc/config rw,relatime shared:1 master:2 - tmpfs tmpfs rw
42 36 8:1 /var/lib/x/resolv.conf /etc/resolv.conf rw - ext4 /dev/sda1 rw
43 36 0:10 / /with\040space\134 rw - tmpfs tmpfs rw
44 36 0:11 / /etc/config rw - tmpfs twice rw
45 36 8:2 / /home rw - ext4 /dev/sdb rw
46 36 0:12 / /gone//deleted rw - tmpfs tmpfs rw
47 36 0:13 / /development rw - tmpfs tmpfs rw
`
	ours := `45 36 8:2 / /home rw - ext4 /dev/sdb rw
46 36 0:99 / /development rw - tmpfs tmpfs rw
`
	m, err := ParseMountinfo([]byte(theirs))
	if err != nil {
		t.Fatal(err)
	}
	o, err := ParseMountinfo([]byte(ours))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"/etc/config", "/etc/resolv.conf", `/with space\`, "/development"}
	if got := Volumes(m, o); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	own, err := ParseMountinfo(raw)
	if err != nil || len(Volumes(own, own)) != 0 {
		t.Errorf("own mounts are volumes: %q, %v", Volumes(own, own), err)
	}
}

func FuzzMountinfo(f *testing.F) {
	f.Add("36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n")
	f.Add(" - \n")
	f.Fuzz(func(t *testing.T, s string) {
		m, err := ParseMountinfo([]byte(s))
		if err != nil {
			return
		}
		for _, v := range Volumes(m, nil) {
			if !strings.HasPrefix(v, "/") || v == "/" {
				t.Errorf("volume %q", v)
			}
		}
	})
}

func FuzzStatus(f *testing.F) {
	f.Add(statusSample)
	f.Fuzz(func(t *testing.T, s string) {
		if st, err := ParseStatus([]byte(s)); err == nil && (st.UID < 0 || st.GID < 0) {
			t.Errorf("%+v", st)
		}
	})
}
