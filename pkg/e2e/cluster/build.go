package cluster

import (
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/stepin-dev/stepin/pkg/e2e/node"
)

// Version is what the binary says of itself, and what kubernetes/go.mod requires.
const Version = "v1.34.4"

// unused is the age at which a cached binary is removed when another is built. One costs 50 MB.
const unused = 30 * 24 * time.Hour

// Build leaves the components in the cache, for an Up to come.
func (c *Cluster) Build(ctx context.Context) error {
	_, _, err := c.cached(ctx)
	return err
}

// cached is the components' archive and what it depends on; they are built if they are not there.
func (c *Cluster) cached(ctx context.Context) (packed, key string, err error) {
	source := filepath.Join(c.Source, "kubernetes")
	if key, err = buildKey(ctx, source); err != nil {
		return "", "", err
	}
	if err := os.MkdirAll(c.Cache, 0o700); err != nil {
		return "", "", fmt.Errorf("cluster: %w", err)
	}
	release, err := lock(filepath.Join(c.Cache, "lock")) // whoever builds it meanwhile
	if err != nil {
		return "", "", err
	}
	defer release()
	packed = filepath.Join(c.Cache, "kubernetes-"+key+".gz")
	if _, err := os.Stat(packed); errors.Is(err, os.ErrNotExist) {
		err = c.buildKubernetes(ctx, source, packed)
		return packed, key, err
	} else if err != nil {
		return "", "", fmt.Errorf("cluster: %w", err)
	}
	return packed, key, nil
}

// tidy removes archives that nothing has been built from for long.
func (c *Cluster) tidy() {
	all, _ := filepath.Glob(filepath.Join(c.Cache, "kubernetes-*.gz")) // the pattern is good
	for _, file := range all {
		if st, err := os.Stat(file); err == nil && time.Since(st.ModTime()) > unused {
			_ = os.Remove(file) // it costs space, nothing else
		}
	}
}

// installKubernetes puts the components into the state directory.
func (c *Cluster) installKubernetes(ctx context.Context) error {
	packed, key, err := c.cached(ctx)
	if err != nil {
		return err
	}
	program := filepath.Join(c.State, node.Kubernetes)
	stamp := program + ".key"
	if have, err := os.ReadFile(stamp); err == nil && string(have) == key {
		return nil
	}
	if err := unpack(packed, program); err != nil {
		return err
	}
	for _, name := range []string{"kubectl"} { // what people call by name
		link := filepath.Join(filepath.Dir(program), name)
		if err := os.Symlink(filepath.Base(program), link); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("cluster: %w", err)
		}
	}
	if err := os.WriteFile(stamp, []byte(key), 0o600); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	return nil
}

// buildKey changes with whatever the binary depends on: its sources and versions, how it is built, and by which Go.
func buildKey(ctx context.Context, source string) (string, error) {
	sum := sha256.New()
	files, err := filepath.Glob(filepath.Join(source, "*"))
	if err != nil {
		return "", fmt.Errorf("cluster: %w", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return "", fmt.Errorf("cluster: %w", err)
		}
		fmt.Fprintf(sum, "%s %d\n%s", filepath.Base(file), len(text), text)
	}
	cmd := exec.CommandContext(ctx, "go", "env", "GOVERSION", "GOARCH")
	cmd.Dir = source
	env, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("cluster: go env: %w", err)
	}
	fmt.Fprintf(sum, "%s%q", env, ldflags())
	return hex.EncodeToString(sum.Sum(nil))[:16], nil
}

// ldflags tell the components their version: the API server refuses to be one of none.
func ldflags() string {
	flags := []string{"-s", "-w"}
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		for name, value := range map[string]string{
			"gitVersion": Version, "gitMajor": "1", "gitMinor": "34", "gitTreeState": "clean", "gitCommit": "stepin-e2e",
			"buildDate": "1970-01-01T00:00:00Z",
		} {
			flags = append(flags, fmt.Sprintf("-X=%s.%s=%s", pkg, name, value))
		}
	}
	slices.Sort(flags)
	return strings.Join(flags, " ")
}

func (c *Cluster) buildKubernetes(ctx context.Context, source, packed string) error {
	c.Log.Info("building Kubernetes "+Version+": once per version; some 9 minutes on two cores, unless Go's cache has it", "cache", c.Cache)
	c.tidy()
	dir, err := os.MkdirTemp(c.Cache, "build-")
	if err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "kubernetes")
	if err := goBuild(ctx, source, program, ".", ldflags()); err != nil {
		return err
	}
	if err := pack(program, filepath.Join(dir, "packed")); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(dir, "packed"), packed); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	return nil
}

// goBuild makes a static program that holds no path of this machine.
func goBuild(ctx context.Context, dir, out, pkg, ldflags string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags="+ldflags, "-o", out, pkg)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cluster: go build in %s: %w\n%s", dir, err, text)
	}
	return nil
}

// pack compresses from to a third, quickly.
func pack(from, to string) error {
	return through(from, to, 0o600, func(w io.Writer, r io.Reader) error {
		z, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
		if err != nil {
			return err
		}
		if _, err := io.Copy(z, r); err != nil {
			return err
		}
		return z.Close()
	})
}

// unpack replaces to, which may be running, with what pack has made.
func unpack(from, to string) error {
	return through(from, to, 0o700, func(w io.Writer, r io.Reader) error {
		z, err := gzip.NewReader(r)
		if err != nil {
			return err
		}
		_, err = io.Copy(w, z)
		return err
	})
}

// through makes a file from another, whole or not at all.
func through(from, to string, mode os.FileMode, do func(io.Writer, io.Reader) error) error {
	in, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	defer in.Close()
	out, err := os.OpenFile(to+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	err = errors.Join(do(out, in), out.Close())
	if err == nil {
		err = os.Rename(out.Name(), to)
	}
	if err != nil {
		os.Remove(out.Name())
		return fmt.Errorf("cluster: making %s: %w", to, err)
	}
	return nil
}
