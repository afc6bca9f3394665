package oci

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestWrite(t *testing.T) {
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, []byte("#!"), 0o600); err != nil {
		t.Fatal(err)
	}
	image := Image{Name: "stepin.test/some/thing:7", Entrypoint: []string{"/bin/program"}, Env: []string{"A=b"}, Files: []File{
		{Path: "bin/program", Mode: 0o755, From: program}, {Path: "bin/link", To: "program"},
		{Path: "etc/deep/file", Mode: 0o640, Data: []byte("text")}, {Path: "tmp/", Mode: 0o1777},
	}}
	var once, twice bytes.Buffer
	for _, b := range []*bytes.Buffer{&once, &twice} {
		if err := image.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(once.Bytes(), twice.Bytes()) {
		t.Error("the same image gives other bytes")
	}
	files := untar(t, once.Bytes())
	for name, f := range files {
		if sum, ok := strings.CutPrefix(name, "blobs/sha256/"); ok {
			if got := sha256.Sum256(f.data); hex.EncodeToString(got[:]) != sum {
				t.Errorf("%s is not its own sum", name)
			}
		}
	}
	type descriptor struct {
		Digest      string
		Size        int
		Annotations map[string]string
	}
	read := func(d descriptor, v any) {
		t.Helper()
		f, ok := files["blobs/"+strings.Replace(d.Digest, ":", "/", 1)]
		if !ok || len(f.data) != d.Size {
			t.Fatalf("%+v: %d bytes", d, len(f.data))
		}
		if err := json.Unmarshal(f.data, v); err != nil {
			t.Fatal(err)
		}
	}
	var index struct{ Manifests []descriptor }
	if err := json.Unmarshal(files["index.json"].data, &index); err != nil || len(index.Manifests) != 1 {
		t.Fatal(index, err)
	}
	if got := index.Manifests[0].Annotations; got["io.containerd.image.name"] != image.Name || got["org.opencontainers.image.ref.name"] != "7" {
		t.Errorf("%q", got)
	}
	var manifest struct {
		Config descriptor
		Layers []descriptor
	}
	read(index.Manifests[0], &manifest)
	var config struct {
		Config struct{ Entrypoint, Env []string }
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	read(manifest.Config, &config)
	if len(manifest.Layers) != 1 || config.RootFS.DiffIDs[0] != manifest.Layers[0].Digest || config.Config.Entrypoint[0] != "/bin/program" {
		t.Errorf("%+v %+v", manifest, config)
	}
	layer := untar(t, files["blobs/"+strings.Replace(manifest.Layers[0].Digest, ":", "/", 1)].data)
	for name, want := range map[string]entry{
		"bin/": {'5', 0o755, "", nil}, "bin/program": {'0', 0o755, "", []byte("#!")}, "bin/link": {'2', 0o777, "program", nil},
		"etc/": {'5', 0o755, "", nil}, "etc/deep/": {'5', 0o755, "", nil}, "etc/deep/file": {'0', 0o640, "", []byte("text")},
		"tmp/": {'5', 0o1777, "", nil},
	} {
		got, ok := layer[name]
		if !ok || got.kind != want.kind || got.mode != want.mode || got.link != want.link || !bytes.Equal(got.data, want.data) {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if len(layer) != 7 {
		t.Errorf("%d entries", len(layer))
	}
}

func TestMissing(t *testing.T) {
	image := Image{Name: "stepin.test/x:1", Files: []File{{Path: "x", From: filepath.Join(t.TempDir(), "none")}}}
	if err := image.Write(io.Discard); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

type entry struct {
	kind byte
	mode int64
	link string
	data []byte
}

func untar(t *testing.T, archive []byte) map[string]entry {
	t.Helper()
	all := map[string]entry{}
	r := tar.NewReader(bytes.NewReader(archive))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		all[h.Name] = entry{h.Typeflag, h.Mode, h.Linkname, data}
	}
}
