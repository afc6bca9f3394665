package embedded

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"io/fs"
	"runtime"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stepin-dev/stepin/pkg/fail"
)

func packed(t *testing.T, s string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write([]byte(s)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestAgent(t *testing.T) {
	whole := packed(t, "an ELF image")
	files := fstest.MapFS{
		"files/agent-amd64.gz":   {Data: whole},
		"files/agent-arm64.gz":   {Data: whole[:len(whole)-3]},
		"files/agent-riscv64.gz": {Data: []byte("not gzip at all")},
	}
	for _, test := range []struct{ arch, want, err string }{
		{"amd64", "an ELF image", ""},
		{"arm64", "", "embedded: inflating the agent for arm64: unexpected EOF"},
		{"riscv64", "", "embedded: inflating the agent for riscv64: gzip: invalid header"},
		{"mips", "", "this stepin was built without its agent-mips.gz"},
	} {
		got, err := agent(files, test.arch)
		if string(got) != test.want || (err != nil || test.err != "") && (err == nil || err.Error() != test.err) {
			t.Errorf("%s: %q, %v; want %q, %q", test.arch, got, err, test.want, test.err)
		}
	}
}

// A plain `go build` leaves a stepin that says what it lacks.
func TestNotBuilt(t *testing.T) {
	fresh := fstest.MapFS{"files/README": {Data: []byte("placeholder")}}
	_, err := part(fresh, "stub-amd64")
	if fail.CodeOf(err) != fail.NotBuiltIn || !strings.Contains(fail.Hint(err), "./just build") {
		t.Errorf("%v, hint %q", err, fail.Hint(err))
	}
}

// What the last build left, if there was one, is static programs of the right architecture that fit their purpose.
func TestBuilt(t *testing.T) {
	names, err := fs.Glob(built, "files/*")
	if err != nil || len(names) == 0 {
		t.Fatalf("nothing is embedded, not even the placeholder: %v", err)
	}
	machines := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}
	check := func(name, arch string, limit int, image []byte, err error) {
		if fail.CodeOf(err) == fail.NotBuiltIn {
			t.Logf("%s for %s is not built", name, arch)
			return
		}
		if err != nil {
			t.Errorf("%s for %s: %v", name, arch, err)
			return
		}
		f, err := elf.NewFile(bytes.NewReader(image))
		if err != nil {
			t.Errorf("%s for %s: %v", name, arch, err)
			return
		}
		if f.Machine != machines[arch] {
			t.Errorf("%s for %s is for %v", name, arch, f.Machine)
		}
		for _, p := range f.Progs {
			if p.Type == elf.PT_INTERP {
				t.Errorf("%s for %s is not static", name, arch)
			}
		}
		if len(image) > limit {
			t.Errorf("%s for %s has %d bytes, at most %d expected", name, arch, len(image), limit)
		}
	}
	for arch := range machines {
		image, err := Agent(arch)
		check("agent", arch, 16<<20, image, err) // it travels to the cluster in a few ConfigMaps of 1 MiB
	}
	stub, err := Stub()
	check("stub", runtime.GOARCH, 8<<10, stub, err) // executed for each child: no page more than needed
	keeper, err := Keeper()
	check("keeper", runtime.GOARCH, 16<<10, keeper, err)
}
