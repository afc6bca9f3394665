package cli

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/spf13/cobra"

	"github.com/stepin-dev/stepin/pkg/embedded"
	"github.com/stepin-dev/stepin/pkg/fail"
)

// agentEntry is the agent's path in its image, which is what agent.image is started by.
const agentEntry = "stepin-agent"

// agentArchs are the architectures of the image's index: those that the agent is built for.
var agentArchs = []string{"amd64", "arm64"}

func agentCommand(version string) *cobra.Command {
	image := &cobra.Command{
		Use:   "image",
		Short: "Make an image of the agent, for agent.image",
		Long: "An image is needed only where the agent cannot come without one: in an ephemeral container, if the pod's own image\n" +
			"has no shell, and where a policy wants every image to be of a certain registry.",
		Args: onlyCommands,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	image.AddCommand(&cobra.Command{
		Use:   "save FILE [NAME]",
		Short: "Write it to a file, as an OCI archive for amd64 and arm64 (- for standard output)",
		Long: "Write it to a file, as an OCI archive for amd64 and arm64 (- for standard output). The archive holds the image's name,\n" +
			"so that what reads it knows how to call the image: NAME, else stepin-agent with this stepin's version.",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 {
				return nil
			}
			return exactly(1)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			ref := defaultImage(version)
			if len(args) > 1 {
				ref = args[1]
			}
			return saveImage(cmd.OutOrStdout(), args[0], ref)
		},
	}, &cobra.Command{
		Use:   "load NAME",
		Short: "Give it to this machine's docker, podman or nerdctl",
		Args:  exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return loadImage(cmd.Context(), cmd.ErrOrStderr(), args[0])
		},
	}, &cobra.Command{
		Use:   "push NAME",
		Short: "Push it to a registry, with the credentials that docker login has left",
		Args:  exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return pushImage(cmd.Context(), cmd.OutOrStdout(), args[0])
		},
	})
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Make images of the agent",
		Args:  onlyCommands,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(image)
	return cmd
}

// agentIndex is the image for both architectures. The same stepin makes the same bytes: there is no time in it.
func agentIndex() (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range agentArchs {
		image, err := agentImage(arch)
		if err != nil {
			return nil, err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	return index, nil
}

// agentImage is FROM scratch with one file.
func agentImage(arch string) (v1.Image, error) {
	program, err := embedded.Agent(arch)
	if err != nil {
		return nil, err
	}
	var files bytes.Buffer
	w := tar.NewWriter(&files)
	if err := w.WriteHeader(&tar.Header{Name: agentEntry, Mode: 0o755, Size: int64(len(program)), Format: tar.FormatPAX}); err != nil {
		return nil, fmt.Errorf("cli: making the image: %w", err)
	}
	if _, err := w.Write(program); err != nil {
		return nil, fmt.Errorf("cli: making the image: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("cli: making the image: %w", err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files.Bytes())), nil },
		tarball.WithMediaType(types.OCILayer), tarball.WithCompressedCaching) // else it is compressed for its digest, and again
	if err != nil {
		return nil, fmt.Errorf("cli: making the image: %w", err)
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	if image, err = mutate.AppendLayers(image, layer); err != nil {
		return nil, fmt.Errorf("cli: making the image: %w", err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("cli: making the image: %w", err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", arch
	config.Config.Entrypoint = []string{"/" + agentEntry}
	if image, err = mutate.ConfigFile(image, config); err != nil {
		return nil, fmt.Errorf("cli: making the image: %w", err)
	}
	return image, nil
}

// defaultImage is the image's name where the user gives none.
func defaultImage(version string) string {
	tag := strings.Map(func(r rune) rune {
		if r == '+' { // which a module's version may have, and a tag may not
			return '-'
		}
		return r
	}, version)
	return agentEntry + ":" + tag
}

// fullName is a name as containerd and kubelet write it.
func fullName(tag name.Tag) string {
	return strings.Replace(tag.Name(), name.DefaultRegistry+"/", "docker.io/", 1)
}

// named is what an archive's index.json says: one image, by its name. containerd reads the first note, and adds no name
// where there is none; others read the second (OCI image specification, annotations.md).
func named(tag name.Tag) (v1.ImageIndex, error) {
	index, err := agentIndex()
	if err != nil {
		return nil, err
	}
	return mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), mutate.IndexAddendum{Add: index,
		Descriptor: v1.Descriptor{Annotations: map[string]string{
			"io.containerd.image.name": fullName(tag), "org.opencontainers.image.ref.name": tag.TagStr()}}}), nil
}

// dockerManifest is manifest.json, by which docker without containerd's store finds an image in an archive, and its name. It
// knows one architecture, which is this machine's.
func dockerManifest(tag name.Tag) ([]byte, error) {
	image, err := agentImage(runtime.GOARCH)
	if err != nil {
		return nil, err
	}
	manifest, err := image.Manifest()
	if err != nil {
		return nil, fmt.Errorf("cli: making the image: %w", err)
	}
	blob := func(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }
	d := tarball.Descriptor{Config: blob(manifest.Config.Digest), RepoTags: []string{fullName(tag)}}
	for _, l := range manifest.Layers {
		d.Layers = append(d.Layers, blob(l.Digest))
	}
	raw, err := json.Marshal(tarball.Manifest{d})
	if err != nil {
		return nil, fmt.Errorf("cli: making the image: %w", err)
	}
	return raw, nil
}

// saveImage writes an OCI archive: a tar of an image layout, which containerd, podman, skopeo and docker import.
func saveImage(stdout io.Writer, path, ref string) (err error) {
	tag, err := name.NewTag(ref)
	if err != nil {
		return fail.Wrap(fail.ConfigValue, err, "write for example stepin-agent:1", "%q is no name of an image", ref)
	}
	index, err := named(tag)
	if err != nil {
		return err
	}
	docker, err := dockerManifest(tag)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "stepin-image")
	if err != nil {
		return fail.Wrap(fail.AgentStart, err, "set TMPDIR to a directory with 10 MB to spare", "the image cannot be put together")
	}
	defer os.RemoveAll(dir)
	if _, err = layout.Write(dir, index); err == nil {
		err = os.WriteFile(filepath.Join(dir, "manifest.json"), docker, 0o600)
	}
	if err != nil {
		return fail.Wrap(fail.AgentStart, err, "set TMPDIR to a directory with 10 MB to spare", "the image cannot be put together")
	}
	out := stdout
	if path != "-" {
		f, e := os.Create(path)
		if e != nil {
			return fail.Wrap(fail.AgentStart, e, "name a file that can be written to", "the image cannot be saved")
		}
		defer func() {
			if e := f.Close(); err == nil && e != nil {
				err = fail.Wrap(fail.AgentStart, e, "", "the image cannot be saved")
			}
		}()
		out = f
	}
	if err := archive(out, dir); err != nil {
		return fail.Wrap(fail.AgentStart, err, "", "the image cannot be saved")
	}
	return nil
}

// archive writes a directory's files as a tar without times and owners, in the order of their names.
func archive(out io.Writer, dir string) error {
	w := tar.NewWriter(out)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Name: filepath.ToSlash(rel), Mode: 0o644, Size: int64(len(data)), Format: tar.FormatPAX}); err != nil {
			return err
		}
		_, err = w.Write(data)
		return err
	})
	return errors.Join(err, w.Close())
}

// loaders are the programs that take an image from their standard input.
var loaders = [][]string{{"docker", "load"}, {"podman", "load"}, {"nerdctl", "load"}}

// loadImage gives the image for this machine's architecture to a container engine here; clusters on this machine have
// commands of their own to take it from there, or from `save`.
func loadImage(ctx context.Context, stderr io.Writer, ref string) error {
	tag, err := name.NewTag(ref)
	if err != nil {
		return fail.Wrap(fail.ConfigValue, err, "write for example stepin-agent:1", "%q is no name of an image", ref)
	}
	image, err := agentImage(runtime.GOARCH)
	if err != nil {
		return err
	}
	var names []string
	for _, loader := range loaders {
		names = append(names, loader[0])
		program, err := exec.LookPath(loader[0])
		if err != nil {
			continue
		}
		var content bytes.Buffer
		if err := tarball.Write(tag, image, &content); err != nil {
			return fmt.Errorf("cli: making the image: %w", err)
		}
		cmd := exec.CommandContext(ctx, program, loader[1:]...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = &content, stderr, stderr
		if err := cmd.Run(); err != nil {
			return fail.Wrap(fail.AgentStart, err, "its own words are above", "%s did not take the image", loader[0])
		}
		return nil
	}
	return fail.New(fail.AgentStart, "write it to a file by `stepin agent image save`, and import that where it is needed",
		"there is neither of %s on this machine", strings.Join(names, ", "))
}

// pushImage pushes the index, and prints the name by digest, which is what agent.image should be.
func pushImage(ctx context.Context, stdout io.Writer, ref string) error {
	tag, err := name.ParseReference(ref)
	if err != nil {
		return fail.Wrap(fail.ConfigValue, err, "write for example registry.example/team/stepin-agent:1", "%q is no name of an image", ref)
	}
	index, err := agentIndex()
	if err != nil {
		return err
	}
	if err := remote.WriteIndex(tag, index, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain), remote.WithUserAgent("stepin")); err != nil {
		return fail.Wrap(fail.AgentStart, err, "docker login "+tag.Context().RegistryStr()+", if it wants a login", "the image was not pushed")
	}
	digest, err := index.Digest()
	if err != nil {
		return fmt.Errorf("cli: the image's digest: %w", err)
	}
	fmt.Fprintf(stdout, "%s@%s\n", tag.Context().Name(), digest)
	return nil
}
