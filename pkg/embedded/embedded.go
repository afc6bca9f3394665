// Package embedded holds what bin/stepin carries inside: the agent for both architectures (the node decides which), and
// the stub and keeper of the namespaces front end for its own. `./just build` puts them into the folder files; on a
// fresh clone it holds a placeholder only, so that everything compiles. This package must never write to disk: what it
// returns is run from memory.
package embedded

import (
	"bytes"
	"compress/gzip"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"

	"github.com/stepin-dev/stepin/pkg/fail"
)

//go:embed files
var built embed.FS

// Agent returns the agent's ELF image for a GOARCH. It inflates anew at each call (about 10 MiB, tens of milliseconds).
func Agent(arch string) ([]byte, error) { return agent(built, arch) }

// Stub returns the ELF image of the program that enters the namespaces and executes the debuggee in place.
func Stub() ([]byte, error) { return part(built, "stub-"+runtime.GOARCH) }

// Keeper returns the ELF image of the program that cleans up when session and holder die at once.
func Keeper() ([]byte, error) { return part(built, "keeper-"+runtime.GOARCH) }

func agent(files fs.FS, arch string) ([]byte, error) {
	packed, err := part(files, "agent-"+arch+".gz")
	if err != nil {
		return nil, err
	}
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("embedded: inflating the agent for %s: %w", arch, err)
	}
	image, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("embedded: inflating the agent for %s: %w", arch, err)
	}
	return image, nil
}

// part reads one file. Its absence is the user's to mend, every other error ours.
func part(files fs.FS, name string) ([]byte, error) {
	data, err := fs.ReadFile(files, "files/"+name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fail.New(fail.NotBuiltIn, "build it with `./just build`", "this stepin was built without its %s", name)
	}
	if err != nil {
		return nil, fmt.Errorf("embedded: reading %s: %w", name, err)
	}
	return data, nil
}
