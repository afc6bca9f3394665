package cli

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"log"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/stepin-dev/stepin/pkg/embedded"
	"github.com/stepin-dev/stepin/pkg/fail"
)

// built says whether this tree has an agent to make images of.
func built(t *testing.T) {
	t.Helper()
	if _, err := embedded.Agent("arm64"); fail.CodeOf(err) == fail.NotBuiltIn {
		t.Skip("no agent is built into this test: ./just build")
	}
}

// What is saved is the same each time, and an OCI layout with both architectures.
func TestImageSave(t *testing.T) {
	built(t)
	var first, second bytes.Buffer
	if err := saveImage(&first, "-", "registry.example/team/agent:7"); err != nil {
		t.Fatal(err)
	}
	if err := saveImage(&second, "-", "registry.example/team/agent:7"); err != nil || !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Errorf("%d and %d bytes, %v", first.Len(), second.Len(), err)
	}
	var outer, index v1.IndexManifest
	blobs := map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(first.Bytes())); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if digest, ok := strings.CutPrefix(h.Name, "blobs/sha256/"); ok {
			blobs[digest] = data
		}
		if h.Name == "index.json" {
			if err := json.Unmarshal(data, &outer); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(outer.Manifests) != 1 || outer.Manifests[0].Annotations["io.containerd.image.name"] != "registry.example/team/agent:7" ||
		outer.Manifests[0].Annotations["org.opencontainers.image.ref.name"] != "7" {
		t.Fatalf("%+v", outer)
	}
	if err := json.Unmarshal(blobs[outer.Manifests[0].Digest.Hex], &index); err != nil {
		t.Fatal(err)
	}
	if len(index.Manifests) != 2 || index.Manifests[0].Platform.Architecture != "amd64" || index.Manifests[1].Platform.Architecture != "arm64" || len(blobs) != 7 {
		t.Errorf("%d blobs, %+v", len(blobs), index.Manifests)
	}
	tag, err := name.NewTag("registry.example/team/agent:7")
	if err != nil {
		t.Fatal(err)
	}
	image, err := tarball.Image(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(first.Bytes())), nil }, &tag) // as docker load does
	if err != nil {
		t.Fatal(err)
	}
	if config, err := image.ConfigFile(); err != nil || config.Architecture != runtime.GOARCH {
		t.Errorf("%+v, %v", config, err)
	}
	layers, err := image.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers, %v", len(layers), err)
	}
	files, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	if h, err := tar.NewReader(files).Next(); err != nil || h.Name != agentEntry {
		t.Errorf("%+v, %v", h, err)
	}
}

// The name is what a node looks for, and a user's that is none is refused.
func TestImageName(t *testing.T) {
	for ref, full := range map[string]string{defaultImage("v1.2.3+dirty"): "docker.io/library/stepin-agent:v1.2.3-dirty", defaultImage("devel-1a+"): "docker.io/library/stepin-agent:devel-1a-",
		"team/agent": "docker.io/team/agent:latest", "localhost:5000/agent:1": "localhost:5000/agent:1"} {
		tag, err := name.NewTag(ref)
		if err != nil {
			t.Error(ref, err)
		} else if got := fullName(tag); got != full {
			t.Errorf("%s is %s, want %s", ref, got, full)
		}
	}
	if err := saveImage(io.Discard, "-", "UPPER CASE"); fail.CodeOf(err) != fail.ConfigValue || fail.Hint(err) == "" {
		t.Error(err)
	}
}

// What is pushed is what a node of either architecture pulls.
func TestImagePush(t *testing.T) {
	built(t)
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	ref := strings.TrimPrefix(server.URL, "http://") + "/team/agent:1"
	var out bytes.Buffer
	if err := pushImage(t.Context(), &out, ref); err != nil {
		t.Fatal(err)
	}
	pushed, err := name.ParseReference(strings.TrimSpace(out.String()))
	if err != nil {
		t.Fatal(err)
	}
	image, err := remote.Image(pushed, remote.WithPlatform(v1.Platform{OS: "linux", Architecture: "arm64"}))
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil || config.Architecture != "arm64" || len(config.Config.Entrypoint) != 1 || config.Config.Entrypoint[0] != "/stepin-agent" {
		t.Errorf("%+v, %v", config, err)
	}
	if err := pushImage(t.Context(), &out, "UPPER CASE"); fail.CodeOf(err) != fail.ConfigValue {
		t.Error(err)
	}
	server.Close()
	if err := pushImage(t.Context(), &out, ref); fail.CodeOf(err) != fail.AgentStart || fail.Hint(err) == "" {
		t.Error(err)
	}
}
