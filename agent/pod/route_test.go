package pod

import (
	"encoding/binary"
	"fmt"
	"testing"
)

func TestParseRoutes(t *testing.T) {
	word := fmt.Sprintf("%08X", binary.NativeEndian.Uint32([]byte{10, 244, 0, 1}))
	got := ParseRoutes([]byte("Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\n" +
		"eth0\t00000000\t" + word + "\t0003\t0\t0\t0\t00000000\t0\neth0\t0000F40A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\nx\n"))
	if fmt.Sprint(got) != "[10.244.0.1]" {
		t.Error(got)
	}
	const none = "00000000000000000000000000000000"
	got = ParseRoutes6([]byte(none + " 00 " + none + " 00 fd770000000000000000000000000001 00000400 00000001 00000000 00000003     eth0\n" +
		none + " 00 " + none + " 00 " + none + " ffffffff 00000001 00000000 00200200       lo\n"))
	if fmt.Sprint(got) != "[fd77::1]" {
		t.Error(got)
	}
}

func FuzzRoutes(f *testing.F) {
	f.Add("eth0 0 0100007F 3 0 0 0 0 0 0 0")
	f.Fuzz(func(t *testing.T, s string) {
		for _, a := range append(ParseRoutes([]byte(s)), ParseRoutes6([]byte(s))...) {
			if !a.IsValid() || a.IsUnspecified() {
				t.Error(a)
			}
		}
	})
}
