// Package oci writes container images as OCI archives, which containerd imports without a registry: an index, a
// manifest, a configuration and one uncompressed layer (OCI image specification 1.0, image-layout.md). The same files
// give the same bytes. It must never push or pull.
package oci

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
)

// Image is one image for this machine's architecture.
type Image struct {
	Name       string // with its tag: stepin.test/shell:1
	Entrypoint []string
	Env        []string
	Files      []File
}

// File is one entry of the image: a link if To is set, a copy of the file From of this machine if that is set, a
// folder if the path ends in a slash, else Data.
type File struct {
	Path string
	Mode int64
	From string
	To   string
	Data []byte
}

// Write writes the archive. The layer is held in memory: test images have some ten MiB.
func (i *Image) Write(w io.Writer) error {
	layer, err := i.layer()
	if err != nil {
		return fmt.Errorf("oci: %s: %w", i.Name, err)
	}
	type object = map[string]any
	const oci = "application/vnd.oci.image."
	archive := tar.NewWriter(w)
	blob := func(kind string, data []byte) (object, error) {
		sum := sha256.Sum256(data)
		name := hex.EncodeToString(sum[:])
		return object{"mediaType": oci + kind, "digest": "sha256:" + name, "size": len(data)},
			put(archive, File{Path: "blobs/sha256/" + name, Mode: 0o644}, data)
	}
	layered, err := blob("layer.v1.tar", layer)
	if err != nil {
		return err
	}
	config, err := encoded(blob, "config.v1+json", object{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": object{"Entrypoint": i.Entrypoint, "Env": i.Env},
		"rootfs": object{"type": "layers", "diff_ids": []any{layered["digest"]}},
	})
	if err != nil {
		return err
	}
	manifest, err := encoded(blob, "manifest.v1+json", object{
		"schemaVersion": 2, "mediaType": oci + "manifest.v1+json", "config": config, "layers": []any{layered},
	})
	if err != nil {
		return err
	}
	_, tag, _ := strings.Cut(path.Base(i.Name), ":")
	manifest["annotations"] = object{"io.containerd.image.name": i.Name, "org.opencontainers.image.ref.name": tag}
	index, err := json.Marshal(object{"schemaVersion": 2, "manifests": []any{manifest}})
	if err != nil {
		return fmt.Errorf("oci: %w", err)
	}
	if err := put(archive, File{Path: "index.json", Mode: 0o644}, index); err != nil {
		return err
	}
	if err := put(archive, File{Path: "oci-layout", Mode: 0o644}, []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return err
	}
	if err := archive.Close(); err != nil {
		return fmt.Errorf("oci: %w", err)
	}
	return nil
}

func encoded(blob func(string, []byte) (map[string]any, error), kind string, v any) (map[string]any, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("oci: %w", err)
	}
	return blob(kind, text)
}

// layer is the image's files in one archive, with the folders that lead to them.
func (i *Image) layer() ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	made := map[string]bool{}
	for _, f := range i.Files {
		for _, dir := range parents(f.Path) {
			if !made[dir] {
				made[dir] = true
				if err := put(w, File{Path: dir, Mode: 0o755}, nil); err != nil {
					return nil, err
				}
			}
		}
		data := f.Data
		if f.From != "" {
			var err error
			if data, err = os.ReadFile(f.From); err != nil {
				return nil, err
			}
		}
		if strings.HasSuffix(f.Path, "/") {
			made[f.Path] = true
		}
		if err := put(w, f, data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// parents are the folders above a path, the topmost first, each with a slash at its end.
func parents(name string) []string {
	var all []string
	for dir := path.Dir(strings.TrimSuffix(name, "/")); dir != "."; dir = path.Dir(dir) {
		all = append(all, dir+"/")
	}
	slices.Reverse(all)
	return all
}

func put(w *tar.Writer, f File, data []byte) error {
	h := &tar.Header{Name: f.Path, Mode: f.Mode, Size: int64(len(data)), Typeflag: tar.TypeReg}
	switch {
	case f.To != "":
		h.Typeflag, h.Linkname, h.Size, h.Mode = tar.TypeSymlink, f.To, 0, 0o777
	case strings.HasSuffix(f.Path, "/"):
		h.Typeflag, h.Size = tar.TypeDir, 0
	}
	if err := w.WriteHeader(h); err != nil {
		return fmt.Errorf("oci: %w", err)
	}
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	if _, err := w.Write(data); err != nil {
		return fmt.Errorf("oci: %w", err)
	}
	return nil
}
