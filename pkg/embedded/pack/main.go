// Command pack makes of an agent's ELF image the LZ4 frame that bin/stepin carries: `pack IMAGE FRAME`. The same image
// gives the same bytes wherever and whenever it is packed, since a running agent is known by their hash, and where FRAME
// holds the image already it is left alone. It must never be part of a program that users run.
package main

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"github.com/pierrec/lz4/v4"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "pack: %v\n", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("usage: pack IMAGE FRAME")
	}
	image, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	frame, err := pack(image)
	if err != nil {
		return err
	}
	if old, err := os.ReadFile(args[1]); err == nil && bytes.Equal(old, frame) {
		return nil
	}
	if err := os.WriteFile(args[1]+".new", frame, 0o644); err != nil {
		return err
	}
	return os.Rename(args[1]+".new", args[1])
}

// pack compresses hard: it is done once, and every session uploads it. The content's length and checksum are in the
// frame (agent/boot/lz4.h wants the one and checks the other). One block at a time: the library's goroutines would not
// change the bytes today, and nobody promises that.
func pack(image []byte) ([]byte, error) {
	var b bytes.Buffer
	w := lz4.NewWriter(&b)
	err := w.Apply(lz4.CompressionLevelOption(lz4.Level9), lz4.BlockSizeOption(lz4.Block4Mb), lz4.ChecksumOption(true),
		lz4.SizeOption(uint64(len(image))), lz4.ConcurrencyOption(1))
	if err != nil {
		return nil, fmt.Errorf("setting up: %w", err)
	}
	if _, err := io.Copy(w, bytes.NewReader(image)); err != nil {
		return nil, fmt.Errorf("compressing: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("compressing: %w", err)
	}
	return b.Bytes(), nil
}
