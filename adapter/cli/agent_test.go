package cli

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"log"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

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
	if err := saveImage(&first, "-"); err != nil {
		t.Fatal(err)
	}
	if err := saveImage(&second, "-"); err != nil || !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Errorf("%d and %d bytes, %v", first.Len(), second.Len(), err)
	}
	var index v1.IndexManifest
	blobs := 0
	for r := tar.NewReader(&first); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(h.Name, "blobs/sha256/") {
			blobs++
		}
		if h.Name == "index.json" {
			if err := json.NewDecoder(r).Decode(&index); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(index.Manifests) != 2 || index.Manifests[0].Platform.Architecture != "amd64" || index.Manifests[1].Platform.Architecture != "arm64" || blobs != 6 {
		t.Errorf("%d blobs, %+v", blobs, index.Manifests)
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
