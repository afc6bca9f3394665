// Package embedded holds what bin/stepin carries inside: the agent and its boot program for both architectures (the
// node decides which), and for its own the stub and keeper of the namespaces front end and the library of the preload
// one. `./just build` puts them into the folder files; on a fresh clone it holds a placeholder only, so that everything
// compiles. This package must never write to disk: what it returns is run from memory, but for the library, which a
// session keeps in its private directory.
package embedded

import (
	"bytes"
	"embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"

	"github.com/pierrec/lz4/v4"

	"github.com/stepin-dev/stepin/pkg/fail"
)

//go:embed files
var built embed.FS

// Agent returns the agent's ELF image for a GOARCH. It inflates anew at each call (about 10 MiB, ten milliseconds).
func Agent(arch string) ([]byte, error) { return agent(built, arch) }

// Packed returns the agent as an LZ4 frame, which the boot program inflates in the pod, and the size in bytes of what
// is in it. The same source gives the same bytes, so that their hash tells one agent from another.
func Packed(arch string) (frame []byte, size int, err error) { return packed(built, arch) }

// Boot returns the ELF image of the program that makes the agent of the frame's parts (agent/boot).
func Boot(arch string) ([]byte, error) { return part(built, "boot-"+arch) }

// Stub returns the ELF image of the program that enters the namespaces and executes the debuggee in place.
func Stub() ([]byte, error) { return part(built, "stub-"+runtime.GOARCH) }

// Keeper returns the ELF image of the program that cleans up when session and holder die at once.
func Keeper() ([]byte, error) { return part(built, "keeper-"+runtime.GOARCH) }

// Preload returns the library of the preload front end for programs of a libc: "glibc" or "musl".
func Preload(libc string) ([]byte, error) {
	return part(built, "preload-"+libc+"-"+runtime.GOARCH+".so")
}

// Where an LZ4 frame says how long its content is (lz4_Frame_format.md): 8 bytes behind magic number and flags, if a
// flag says so. maxImage is more than an agent will ever have.
const (
	sizeAt   = 6
	sizeFlag = 8
	maxImage = 64 << 20
)

func packed(files fs.FS, arch string) ([]byte, int, error) {
	frame, err := part(files, "agent-"+arch+".lz4")
	if err != nil {
		return nil, 0, err
	}
	if len(frame) < sizeAt+8 || frame[4]&sizeFlag == 0 {
		return nil, 0, fmt.Errorf("embedded: the agent for %s is no LZ4 frame of a known size", arch)
	}
	size := binary.LittleEndian.Uint64(frame[sizeAt:])
	if size > maxImage {
		return nil, 0, fmt.Errorf("embedded: the agent for %s is said to have %d bytes", arch, size)
	}
	return frame, int(size), nil
}

func agent(files fs.FS, arch string) ([]byte, error) {
	frame, size, err := packed(files, arch)
	if err != nil {
		return nil, err
	}
	image := make([]byte, size)
	r := lz4.NewReader(bytes.NewReader(frame))
	if _, err := io.ReadFull(r, image); err != nil {
		return nil, fmt.Errorf("embedded: inflating the agent for %s: %w", arch, err)
	}
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, io.EOF) { // the checksum is looked at where the end is
		return nil, fmt.Errorf("embedded: inflating the agent for %s: the frame's end: %w", arch, err)
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
