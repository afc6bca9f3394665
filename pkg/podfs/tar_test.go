package podfs

import (
	"archive/tar"
	"bytes"
	"strings"
	"syscall"
	"testing"
)

// pack makes a tar of headers; a regular file's content is its Linkname, for brevity.
func pack(t testing.TB, hs ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range hs {
		data := ""
		if h.Typeflag == tar.TypeReg {
			data, h.Linkname = h.Linkname, ""
			h.Size = int64(len(data))
		}
		if h.Mode == 0 {
			h.Mode = 0o640
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func reg(name, data string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeReg, Linkname: data}
}
func sym(name, target string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target}
}
func dir(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o750} }

func TestReadTar(t *testing.T) {
	tree, err := ReadTar(bytes.NewReader(pack(t,
		dir("./"), dir("./..2026/"), reg("./..2026/key", "value"), sym("..data", "..2026"), sym("key", "..data/key"),
		reg("made/on/the/way", "x"), tar.Header{Name: "hard", Typeflag: tar.TypeLink, Linkname: "./..2026/key"})))
	if err != nil {
		t.Fatal(err)
	}
	if got := tree.root.find("..2026/key"); got == nil || string(got.data) != "value" || got.mode != syscall.S_IFREG|0o640 {
		t.Errorf("..2026/key is %+v", got)
	}
	if got := tree.root.find("..data"); got == nil || got.target != "..2026" {
		t.Errorf("..data is %+v", got)
	}
	if got := tree.root.find("hard"); got == nil || string(got.data) != "value" {
		t.Errorf("hard is %+v", got)
	}
	if got := tree.root.find("made/on/the"); got == nil || got.children == nil {
		t.Errorf("made/on/the is %+v", got)
	}
	if got, want := strings.Join(tree.root.names, " "), "..2026 ..data hard key made"; got != want {
		t.Errorf("names %q, want %q", got, want)
	}
	if tree.root.mode != syscall.S_IFDIR|0o750 {
		t.Errorf("the root's mode is %o", tree.root.mode)
	}

	one, err := ReadTar(bytes.NewReader(pack(t, reg(".", "alone"))))
	if err != nil || string(one.root.data) != "alone" {
		t.Errorf("a single file: %+v, %v", one, err)
	}
}

func TestReadTarRefuses(t *testing.T) {
	many := make([]tar.Header, maxTreeEntries+1)
	for i := range many {
		many[i] = reg(strings.Repeat("d/", i%3)+"f"+string(rune('a'+i%26))+strings.Repeat("x", i/26%200)+string(rune('a'+i/5200)), "")
	}
	for name, hs := range map[string][]tar.Header{
		"absolute":           {reg("/etc/passwd", "x")},
		"leaves the volume":  {reg("a/../../b", "x")},
		"dots alone":         {reg("..", "x")},
		"long name":          {reg(strings.Repeat("x", maxName+1), "x")},
		"device":             {{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}},
		"fifo":               {{Name: "f", Typeflag: tar.TypeFifo}},
		"below a file":       {reg("a", "x"), reg("a/b", "x")},
		"below a symlink":    {sym("a", "/"), reg("a/b", "x")},
		"file for directory": {reg("a/b", "x"), reg("a", "x")},
		"root is a symlink":  {sym(".", "/")},
		"hard link outwards": {{Name: "h", Typeflag: tar.TypeLink, Linkname: "../x"}},
		"hard link to none":  {{Name: "h", Typeflag: tar.TypeLink, Linkname: "x"}},
		"too large":          {reg("a", strings.Repeat("x", maxTreeBytes/2)), reg("b", strings.Repeat("x", maxTreeBytes/2))},
		"too many":           many,
	} {
		if tree, err := ReadTar(bytes.NewReader(pack(t, hs...))); err == nil {
			t.Errorf("%s: accepted, %d entries", name, tree.Entries())
		}
	}
	whole := pack(t, reg("a", strings.Repeat("x", 3000)))
	if _, err := ReadTar(bytes.NewReader(whole[:2000])); err == nil {
		t.Error("a tar that ends within a file was accepted")
	}
}

func FuzzReadTar(f *testing.F) {
	f.Add(pack(f, dir("./"), reg("a/b", "x"), sym("c", "a/b")))
	f.Add(pack(f, reg(".", "x")))
	f.Add(pack(f, reg("a", "x"), tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "a"}))
	f.Add([]byte("not a tar"))
	f.Fuzz(func(t *testing.T, b []byte) {
		tree, err := ReadTar(bytes.NewReader(b))
		if err != nil {
			return
		}
		if tree.Bytes() > maxTreeBytes || tree.Entries() > maxTreeEntries {
			t.Fatalf("%d bytes, %d entries", tree.Bytes(), tree.Entries())
		}
		var walk func(n *treeNode, depth int) int
		walk = func(n *treeNode, depth int) int {
			count := 1
			if (n.children != nil) != (n.mode&syscall.S_IFMT == syscall.S_IFDIR) || len(n.names) != len(n.children) {
				t.Fatalf("not sealed: %+v", n)
			}
			for name, c := range n.children {
				if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") || len(name) > maxName {
					t.Fatalf("name %q", name)
				}
				count += walk(c, depth+1)
			}
			return count
		}
		if n := walk(tree.root, 0); n > tree.Entries()+1 {
			t.Fatalf("%d entries, counted %d", n, tree.Entries())
		}
	})
}
