package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/stepin-dev/stepin/pkg/e2e/node"
	"github.com/stepin-dev/stepin/pkg/e2e/oci"
)

// The images of the tests. Pods name them with imagePullPolicy Never.
const (
	Workload = "stepin.test/workload:1" // one static program, FROM scratch
	Shell    = "stepin.test/shell:1"    // the same, with a shell and what belongs to it
)

// busybox is where Debian's busybox-static puts its one program.
const busybox = "/bin/busybox"

// BuildImages makes all images and returns the archives.
func (c *Cluster) BuildImages(ctx context.Context) ([]string, error) {
	dir := filepath.Join(c.State, "images")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	program := filepath.Join(dir, "workload")
	if err := goBuild(ctx, c.Source, program, "./workload", "-s -w"); err != nil {
		return nil, err
	}
	images, err := testImages(ctx, program)
	if err != nil {
		return nil, err
	}
	var archives []string
	for _, image := range images {
		name, _, _ := strings.Cut(filepath.Base(image.Name), ":")
		archive := filepath.Join(dir, name+".tar")
		if err := write(image, archive); err != nil {
			return nil, err
		}
		archives = append(archives, archive)
	}
	return archives, nil
}

func testImages(ctx context.Context, program string) ([]oci.Image, error) {
	binary := oci.File{Path: "workload", Mode: 0o755, From: program}
	shell := []oci.File{
		binary, {Path: "bin/busybox", Mode: 0o755, From: busybox}, {Path: "tmp/", Mode: 0o1777},
		{Path: "etc/passwd", Mode: 0o644, Data: []byte("root:x:0:0:root:/:/bin/sh\nuser:x:1000:1000:user:/:/bin/sh\n")},
		{Path: "etc/group", Mode: 0o644, Data: []byte("root:x:0:\nuser:x:1000:\n")},
	}
	list, err := exec.CommandContext(ctx, busybox, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("cluster: %s (package busybox-static): %w", busybox, err)
	}
	for _, applet := range strings.Fields(string(list)) {
		if applet != "busybox" {
			shell = append(shell, oci.File{Path: "bin/" + applet, To: "busybox"})
		}
	}
	return []oci.Image{
		{Name: node.PauseImage, Entrypoint: []string{"/workload", "pause"}, Files: []oci.File{binary}},
		{Name: Workload, Entrypoint: []string{"/workload"}, Files: []oci.File{binary}},
		{Name: Shell, Entrypoint: []string{"/workload"}, Files: shell, Env: []string{"PATH=/usr/local/bin:/usr/bin:/bin"}},
	}, nil
}

func write(image oci.Image, archive string) error {
	f, err := os.OpenFile(archive, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	return errors.Join(image.Write(f), f.Close())
}

// Images builds the tests' images anew, or takes the archives named instead, and gives them to the running node.
func (c *Cluster) Images(ctx context.Context, archives ...string) error {
	if len(archives) == 0 {
		var err error
		if archives, err = c.BuildImages(ctx); err != nil {
			return err
		}
	}
	return c.importImages(ctx, archives)
}

// importImages hands archives to the node's containerd through its socket, as seen from the machine.
func (c *Cluster) importImages(ctx context.Context, archives []string) error {
	root, err := c.Root()
	if err != nil {
		return err
	}
	socket := root + node.ContainerdAPI
	if err := poll(ctx, "containerd", 50*time.Millisecond, func() (bool, error) {
		return exec.CommandContext(ctx, "ctr", "--address", socket, "version").Run() == nil, nil
	}); err != nil {
		return err
	}
	for _, archive := range archives {
		cmd := exec.CommandContext(ctx, "ctr", "--address", socket, "--namespace", "k8s.io", "images", "import", archive)
		if text, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("cluster: ctr images import %s: %w: %s", archive, err, strings.TrimSpace(string(text)))
		}
		c.Log.Info("imported", "archive", archive)
	}
	return nil
}
