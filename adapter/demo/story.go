package demo

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// story prints numbered chapters: a title, when it is done the time it took, and what there is to see.
type story struct {
	out     io.Writer
	colors  bool
	number  int
	begin   time.Time // of the story
	chapt   time.Time // of the chapter
	midLine bool      // a title waits for its time
}

func newStory(out io.Writer, colors bool) *story {
	return &story{out: out, colors: colors, begin: time.Now()}
}

// The styles: ECMA-48 SGR parameters.
const (
	bold  = "1"
	dim   = "2"
	green = "32"
	cyan  = "36"
)

func (s *story) style(code, text string) string {
	if !s.colors || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// width is that of a title's column, in characters; the times stand behind it.
const width = 60

// chapter begins one; its title is seen while it runs.
func (s *story) chapter(title string) {
	s.number++
	s.chapt, s.midLine = time.Now(), true
	pad := strings.Repeat(" ", max(1, width-len([]rune(title))))
	fmt.Fprintf(s.out, "\n%s %s%s", s.style(cyan, fmt.Sprintf("%d.", s.number)), s.style(bold, title), pad)
}

// done ends the title's line.
func (s *story) done() {
	fmt.Fprintln(s.out, s.style(dim, since(s.chapt)))
	s.midLine = false
}

// endLine ends a line that a failure has left open.
func (s *story) endLine() {
	if s.midLine {
		fmt.Fprintln(s.out)
		s.midLine = false
	}
}

// say prints a sentence.
func (s *story) say(text string) { fmt.Fprintln(s.out, text) }

// line prints a thing and what there is to say of it.
func (s *story) line(name, text string) {
	fmt.Fprintf(s.out, "   %s %s\n", s.style(dim, fmt.Sprintf("%-10s", name)), text)
}

// answer prints what a caller got.
func (s *story) answer(text string) {
	fmt.Fprintf(s.out, "   %s %s\n", s.style(dim, fmt.Sprintf("%-10s", "answer")), s.style(green, text))
}

// code prints the lines around line, which is marked.
func (s *story) code(text string, line, around int) {
	for i, l := range strings.Split(text, "\n") {
		n := i + 1
		if n < line-around || n > line+around {
			continue
		}
		row := fmt.Sprintf("%4d  %s", n, strings.ReplaceAll(l, "\t", "    "))
		if n == line {
			fmt.Fprintf(s.out, "   %s\n", s.style(bold, ">"+row))
		} else {
			fmt.Fprintf(s.out, "   %s\n", s.style(dim, " "+row))
		}
	}
}

// variable prints one and where its value is from.
func (s *story) variable(name, value, origin string) {
	pad := strings.Repeat(" ", max(1, 20-len([]rune(value))))
	fmt.Fprintf(s.out, "   %-10s %s%s%s\n", name, s.style(green, value), pad, s.style(dim, origin))
}

// next are the commands to try.
func (s *story) next(stepin string) {
	fmt.Fprintf(s.out, `
%s
   %[2]s demo --stay      keeps the pod, for your own editor
   %[2]s exec --help      runs a command in a pod's place, without a debugger
   %[2]s doctor           says what works on this machine
`, s.style(bold, "Try it yourself"), stepin)
}

// tryPlain tells what to do next where namespaces cannot be made.
func (s *story) tryPlain(stepin, cures string) {
	fmt.Fprintf(s.out, "\n%s\n", s.style(bold, "That was it, in "+since(s.begin)+". The pod and its files are gone."))
	s.next(stepin)
	fmt.Fprintf(s.out, "\n   With namespaces the demo shows the rest: %s\n", cures)
}

// tryIt tells what to do next.
func (s *story) tryIt(stepin string) {
	fmt.Fprintf(s.out, "\n%s\n", s.style(bold, "That was all of it, in "+since(s.begin)+". The pod, its network and its files are gone."))
	s.next(stepin)
	fmt.Fprintf(s.out, `
   A pod is any process in namespaces of its own: a container's, by its process id on this machine. launch.json:

%s
%s
`, s.style(green, launchJSON("PID", "${workspaceFolder}")), howToStart(stepin))
}

// launchJSON is the launch configuration as a person writes it.
func launchJSON(pid, program string) string {
	return fmt.Sprintf(`   {
     "type": "stepin", "request": "launch", "name": "orders, in its pod's place",
     "target": "local/%s",
     "debugger": { "type": "go", "program": %q },
     "incoming": { "mode": "steal", "ports": [%d] }
   }`, pid, program, service.Port())
}

// howToStart says how an editor comes to the adapter.
func howToStart(stepin string) string {
	return fmt.Sprintf(`
   VS Code takes it with our extension: ./just vscode makes one to install. Any other editor
   that speaks DAP starts "%[1]s dap" for it, or connects to an adapter that runs:
   "debugServer": 4711 and %[1]s dap --listen 127.0.0.1:4711`, stepin)
}
