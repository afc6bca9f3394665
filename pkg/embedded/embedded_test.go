package embedded

import (
	"bytes"
	"debug/elf"
	"io/fs"
	"runtime"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/pierrec/lz4/v4"

	"github.com/stepin-dev/stepin/pkg/fail"
)

// frame packs s as pack does, with the size in the header.
func frame(t *testing.T, s string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := lz4.NewWriter(&b)
	if err := w.Apply(lz4.SizeOption(uint64(len(s))), lz4.ChecksumOption(true)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(s)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestAgent(t *testing.T) {
	whole := frame(t, "an ELF image")
	changed := bytes.Clone(whole)
	changed[len(changed)-12] ^= 1
	files := fstest.MapFS{
		"files/agent-amd64.lz4":   {Data: whole},
		"files/agent-arm64.lz4":   {Data: whole[:len(whole)-3]},
		"files/agent-ppc64le.lz4": {Data: changed},
		"files/agent-riscv64.lz4": {Data: []byte("not LZ4")},
	}
	for _, test := range []struct{ arch, want, err string }{
		{"amd64", "an ELF image", ""},
		{"arm64", "", "embedded: inflating the agent for arm64: "},
		{"ppc64le", "", "embedded: inflating the agent for ppc64le: "},
		{"riscv64", "", "embedded: the agent for riscv64 is no LZ4 frame of a known size"},
		{"mips", "", "this stepin was built without its agent-mips.lz4"},
	} {
		got, err := agent(files, test.arch)
		if string(got) != test.want || (err == nil) != (test.err == "") || err != nil && !strings.HasPrefix(err.Error(), test.err) {
			t.Errorf("%s: %q, %v; want %q, %q", test.arch, got, err, test.want, test.err)
		}
	}
	if got, size, err := packed(files, "amd64"); err != nil || size != len("an ELF image") || !bytes.Equal(got, whole) {
		t.Errorf("packed: %d bytes, size %d, %v", len(got), size, err)
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
		boot, err := Boot(arch)
		check("boot", arch, 8<<10, boot, err) // in one of them
	}
	stub, err := Stub()
	check("stub", runtime.GOARCH, 8<<10, stub, err) // executed for each child: no page more than needed
	keeper, err := Keeper()
	check("keeper", runtime.GOARCH, 16<<10, keeper, err)
}
