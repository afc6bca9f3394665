package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const (
	bootSource = "../../../agent/boot/boot.c"
	decoder    = "../../../agent/boot/testdata/decode.c"
)

// compile makes a program of C; flags follow gcc's usual ones.
func compile(t testing.TB, source string, flags ...string) string {
	t.Helper()
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip("no gcc on this machine, and without it no boot program:", err)
	}
	out := filepath.Join(t.TempDir(), "program")
	args := append([]string{"-std=gnu11", "-Wall", "-Wextra", "-Werror", "-o", out}, flags...)
	if said, err := exec.Command(gcc, append(args, source)...).CombinedOutput(); err != nil {
		t.Fatalf("gcc %s: %v\n%s", source, err, said)
	}
	return out
}

// sanitized is the decoder under the address and undefined-behaviour sanitizers: whatever it does wrong ends it with
// another status than 0.
func sanitized(t testing.TB) string {
	return compile(t, decoder, "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
}

// decode returns what the decoder makes of each frame, nil where it refuses it.
func decode(t testing.TB, program string, frames [][]byte, room int, args ...string) [][]byte {
	t.Helper()
	cmd := exec.Command(program, append([]string{fmt.Sprint(room)}, args...)...)
	cmd.Env = []string{"ASAN_OPTIONS=exitcode=99:detect_leaks=0", "UBSAN_OPTIONS=exitcode=99"}
	var in, out, said bytes.Buffer
	for _, f := range frames {
		in.Write(binary.NativeEndian.AppendUint32(nil, uint32(len(f))))
		in.Write(f)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = &in, &out, &said
	err := cmd.Run()
	var contents [][]byte
	for out.Len() >= 4 {
		n := int32(binary.NativeEndian.Uint32(out.Next(4)))
		if n < 0 {
			contents = append(contents, nil)
			continue
		}
		contents = append(contents, append([]byte{}, out.Next(int(n))...))
	}
	if err != nil || said.Len() > 0 || len(contents) != len(frames) {
		bad := frames[min(len(contents), len(frames)-1)]
		t.Fatalf("frame %d of %d, %d bytes, room for %d: %v\n%s\n%x", len(contents), len(frames), len(bad), room, err, &said, bad[:min(len(bad), 200)])
	}
	return contents
}

// contents have all that a frame may hold: literals only, long matches, several blocks, a block that
// does not shrink, and a program.
func contents(t testing.TB) map[string][]byte {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	noise := make([]byte, 100<<10)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(noise)
	const block = 4 << 20 // what pack asks for
	return map[string][]byte{
		"a byte": {1}, "a word": []byte("agent"), "text": bytes.Repeat([]byte("one two three "), 5000),
		"noise": noise, "a program": self[:min(len(self), 300<<10)], "three blocks": append(make([]byte, 2*block), noise...),
	}
}

// What pack makes is what boot's decoder reads, byte for byte, twice the same.
func TestRoundTrip(t *testing.T) {
	program := sanitized(t)
	for name, content := range contents(t) {
		frame, err := pack(content)
		if err != nil {
			t.Fatal(err)
		}
		again, err := pack(content)
		if err != nil || !bytes.Equal(frame, again) {
			t.Errorf("%s: packed differently the second time (%v)", name, err)
		}
		if got := decode(t, program, [][]byte{frame}, len(content))[0]; !bytes.Equal(got, content) {
			t.Errorf("%s: %d bytes of %d came out", name, len(got), len(content))
		}
		if decode(t, program, [][]byte{frame}, len(content)-1)[0] != nil {
			t.Errorf("%s: decoded into less room than it needs", name)
		}
	}
}

// A frame that is cut, changed or made up is refused, without a step outside its memory.
func TestDamage(t *testing.T) {
	program := sanitized(t)
	content := bytes.Repeat([]byte("the agent's own bytes, "), 40)
	frame, err := pack(content)
	if err != nil {
		t.Fatal(err)
	}
	if got := decode(t, program, [][]byte{frame}, len(content), "100000")[0]; !bytes.Equal(got, content) {
		t.Error("the whole frame is not decoded any more after so many damaged ones")
	}
	var bad [][]byte
	for n := range frame {
		bad = append(bad, frame[:n])
	}
	for at := range frame {
		for bit := range 8 {
			changed := bytes.Clone(frame)
			changed[at] ^= 1 << bit
			bad = append(bad, changed)
		}
	}
	for i, got := range decode(t, program, bad, len(content)) {
		if got != nil && (len(bad[i]) < len(frame) || !bytes.Equal(got, content)) {
			t.Errorf("decoded:\n%x\nthe whole:\n%x", bad[i], frame)
		}
	}
}

// FuzzDecode gives the decoder what a fuzzer thinks of. Its header's checksum would stop nearly all of it, so the fuzzer
// makes the blocks and the test a header.
func FuzzDecode(f *testing.F) {
	program := sanitized(f)
	for _, seed := range []string{"\x10a", "\x1fa\x01\x00\xff\xff\x00", "\xf0\xff\xff\x00", "\x00\x00\x00", "\x40abcd\x04\x00\x00"} {
		f.Add([]byte(seed), uint16(64))
	}
	f.Fuzz(func(t *testing.T, block []byte, size uint16) {
		frame, err := pack(make([]byte, size))
		if err != nil {
			t.Fatal(err)
		}
		const head = 15
		n := len(block) & 0x7fffffff
		frame = append(frame[:head:head], byte(n), byte(n>>8), byte(n>>16), 0)
		frame = append(append(frame, block...), 0, 0, 0, 0, 1, 2, 3, 4)
		decode(t, program, [][]byte{frame}, int(size))
	})
}

// guest is what the tests' boot program becomes.
const guest = `#include <stdio.h>
#include <string.h>
#include <unistd.h>
int main(int argc, char **argv, char **env)
{
	char exe[256];
	long n = readlink("/proc/self/exe", exe, sizeof exe - 1);
	exe[n < 0 ? 0 : n] = 0;
	printf("pid %d exe %s\n", getpid(), exe);
	for (int i = 0; i < argc; i++)
		printf("arg %s\n", argv[i]);
	for (; *env; env++)
		printf("env %s\n", *env);
	for (int fd = 3; fd < 20; fd++) { /* what boot had open */
		char path[32];
		snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
		n = readlink(path, exe, sizeof exe - 1);
		exe[n < 0 ? 0 : n] = 0;
		if (strstr(exe, "agent") || strstr(exe, "/tmp/Test"))
			printf("fd %d is %s\n", fd, exe);
	}
	return 7;
}
`

// bootProgram builds boot with its parts in dir/agent.N and its files in dir/tmp/; flags may stand for a kernel that refuses.
func bootProgram(t *testing.T, dir string, flags ...string) string {
	return compile(t, bootSource, append([]string{"-Os", "-static", "-nostdlib", "-no-pie", "-ffreestanding", "-fno-stack-protector",
		"-DSTEPIN_PARTS=\"" + dir + "/agent.\"", "-DSTEPIN_TMP=\"" + dir + "/tmp/\""}, flags...)...)
}

func writeParts(t *testing.T, dir string, frame []byte, n int) {
	t.Helper()
	for i := range n {
		part := frame[i*len(frame)/n : (i+1)*len(frame)/n]
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("agent.%d", i)), part, 0o444); err != nil {
			t.Fatal(err)
		}
	}
}

// The program in the parts runs in boot's place, with its arguments and environment and nothing else.
func TestBoot(t *testing.T) {
	source := filepath.Join(t.TempDir(), "guest.c")
	if err := os.WriteFile(source, []byte(guest), 0o600); err != nil {
		t.Fatal(err)
	}
	image, err := os.ReadFile(compile(t, source, "-O1", "-static"))
	if err != nil {
		t.Fatal(err)
	}
	frame, err := pack(image)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, exe string
		flags     []string
		behind    bool // the frame follows the program in its file
	}{
		{"memory", "/memfd:stepin-agent (deleted)", nil, false},
		{"a node that forbids to execute memory", "/tmp/", []string{"-DSTEPIN_TEST_NOEXEC"}, false},
		{"one file", "/memfd:stepin-agent (deleted)", nil, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Mkdir(filepath.Join(dir, "tmp"), 0o700); err != nil {
				t.Fatal(err)
			}
			program := bootProgram(t, dir, test.flags...)
			if test.behind {
				boot, err := os.ReadFile(program)
				if err == nil {
					err = os.WriteFile(program, append(boot, frame...), 0o700)
				}
				if err != nil {
					t.Fatal(err)
				}
			} else {
				writeParts(t, dir, frame, 12) // two digits, too
			}
			cmd := exec.Command(program, "--pod", "kube/x", "")
			cmd.Env = []string{"A=1", "B="}
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 7 {
				t.Fatalf("%v\n%s", err, out)
			}
			head, rest, _ := strings.Cut(string(out), "\n")
			if !strings.HasPrefix(head, fmt.Sprintf("pid %d exe ", cmd.Process.Pid)) || !strings.Contains(head, test.exe) {
				t.Errorf("%s", head)
			}
			if want := "arg stepin-agent\narg --pod\narg kube/x\narg \nenv A=1\nenv B=\n"; rest != want {
				t.Errorf("got\n%swant\n%s", rest, want)
			}
			if left, err := os.ReadDir(filepath.Join(dir, "tmp")); err != nil || len(left) > 0 {
				t.Errorf("left: %v, %v", left, err)
			}
		})
	}
}

// What cannot be booted is one line and status 1.
func TestBootRefuses(t *testing.T) {
	frame, err := pack([]byte("no ELF image at all"))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, want string
		frame      []byte
		flags      []string
	}{
		{"no parts", "the agent's parts are damaged, or not all there", nil, nil}, // nor is there a frame behind the program
		{"cut off", "the agent's parts are damaged, or not all there", frame[:len(frame)-5], nil},
		{"not a program", "executing the agent from memory: errno 8", frame, nil},
		{"nowhere to run", "this node forbids to execute from memory, and there is no %s/tmp/: errno 13", frame, []string{"-DSTEPIN_TEST_NOEXEC"}},
		{"too much", "there is more than an agent takes: %s/agent.0", make([]byte, 16<<20), nil},
	} {
		dir := t.TempDir()
		if test.frame != nil {
			writeParts(t, dir, test.frame, 1)
		}
		cmd := exec.Command(bootProgram(t, dir, test.flags...))
		out, err := cmd.CombinedOutput()
		want := "stepin boot: " + strings.ReplaceAll(test.want, "%s", dir) + "\n"
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 1 || string(out) != want {
			t.Errorf("%s: %v, %q, want %q", test.name, err, out, want)
		}
	}
}
