package node

import (
	"bytes"
	"embed"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"text/template"

	"golang.org/x/sys/unix"
)

// The components' configuration files, as templates. Each says in comments why it is as it is.
//
//go:embed conf
var files embed.FS

// configure writes them where the command lines look for them.
func configure(state string) error {
	values := map[string]any{
		"Home": Home, "PKI": pki, "Name": Name, "Pods": Pods, "DNS": DNS, "Domain": Domain, "Cgroup": "/" + Cgroup(state),
		"CNI": CNI, "Pause": PauseImage, "Socket": ContainerdAPI, "Snapshotter": snapshotter(Home),
	}
	return fs.WalkDir(files, "conf", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		out := filepath.Join(Home, path)
		if filepath.Ext(path) == ".conflist" {
			out = filepath.Join(Home, "cni", entry.Name())
		}
		return render(path, out, values)
	})
}

func render(path, out string, values map[string]any) error {
	t, err := template.New(filepath.Base(path)).Option("missingkey=error").ParseFS(files, path)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	if err := t.Execute(&text, values); err != nil {
		return err
	}
	if err := os.WriteFile(out, text.Bytes(), 0o644); err != nil {
		return fmt.Errorf("writing %s: %w", out, err)
	}
	return nil
}

// snapshotter is how containerd lays images over each other: overlayfs, which cannot lie on another overlayfs (as in a
// developer's own container); native copies.
func snapshotter(dir string) string {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) == nil && st.Type == unix.OVERLAYFS_SUPER_MAGIC {
		return "native"
	}
	return "overlayfs"
}
