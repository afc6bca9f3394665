// Command tally reads `go test -json` on its standard input and shows what a person wants of it: each package's line
// as it ends, the output of what failed, the reason of each skip, and a count at the end. It must never call a run
// passed of which it has not seen the results: a package without an end, or no test at all, is a failure.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

func main() {
	counts := flag.String("counts", "", "file to add the line \"PASSED FAILED SKIPPED\" to")
	failed := flag.String("failed", "", "file to leave the names of the failed tests in, one a line")
	flag.Parse()
	t := newTally(os.Stdout)
	err := t.read(os.Stdin)
	if *counts != "" {
		line := fmt.Sprintf("%d %d %d\n", t.passed, t.failed, t.skipped)
		err = errors.Join(err, add(*counts, line))
	}
	if *failed != "" {
		err = errors.Join(err, os.WriteFile(*failed, []byte(strings.Join(t.names, "")), 0o600))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "tally:", err)
		os.Exit(1)
	}
}

// add appends a line: a run of all tests takes several of go test.
func add(file, line string) error {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line)
	return errors.Join(err, f.Close())
}

// event is what `go doc test2json` describes, less the times.
type event struct {
	Action      string
	Package     string
	Test        string
	Output      string
	FailedBuild string // what did not build, where a package fails by that
}

// tally counts top-level tests: a subtest is a detail of the test it is in. A package that fails without a failing
// test (it does not build, its process died) counts as one failure.
type tally struct {
	passed, failed, skipped int
	names                   []string // of the tests that failed, each a line; a package without such a test has none

	out    io.Writer
	open   map[string]bool     // packages that have begun and not ended
	broken map[string]bool     // packages with a failure counted
	output map[string][]string // by package and test, until the test has ended
}

func newTally(out io.Writer) *tally {
	return &tally{out: out, open: map[string]bool{}, broken: map[string]bool{}, output: map[string][]string{}}
}

// read returns an error unless every test that ran has passed or was skipped.
func (t *tally) read(in io.Reader) error {
	d := json.NewDecoder(in)
	for {
		var e event
		err := d.Decode(&e)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("reading go test's events: %w", err)
		}
		t.take(e)
	}
	for name := range t.open {
		t.fail(name, "ended without a result")
	}
	fmt.Fprintf(t.out, "%d passed, %d failed, %d skipped\n", t.passed, t.failed, t.skipped)
	if t.failed > 0 {
		return fmt.Errorf("%d failed", t.failed)
	}
	if t.passed == 0 {
		return errors.New("no test ran")
	}
	return nil
}

func (t *tally) take(e event) {
	key := e.Package + " " + e.Test
	switch {
	case e.Action == "build-output":
		fmt.Fprint(t.out, e.Output)
	case e.Action == "start":
		t.open[e.Package] = true
	case e.Action == "output" && e.Test != "":
		t.output[key] = append(t.output[key], e.Output)
	case e.Action == "output":
		t.packageLine(e.Output)
	case e.Test != "":
		t.endTest(e, key)
	case e.Action == "fail":
		delete(t.open, e.Package)
		t.endPackage(e)
	case e.Action == "pass" || e.Action == "skip":
		delete(t.open, e.Package)
	}
}

// packageLine shows what belongs to no test: the line that ends a package, and whatever its process said.
func (t *tally) packageLine(line string) {
	if line != "PASS\n" && line != "FAIL\n" && !strings.HasSuffix(line, "[no test files]\n") {
		fmt.Fprint(t.out, line)
	}
}

func (t *tally) endTest(e event, key string) {
	top := !strings.Contains(e.Test, "/")
	switch e.Action {
	case "pass":
		if top {
			t.passed++
		}
	case "skip":
		if top {
			t.skipped++
		}
		t.show(key)
	case "fail":
		if top {
			t.failed++
			t.names = append(t.names, e.Test+"\n")
		}
		t.broken[e.Package] = true
		t.show(key)
	default:
		return // run, pause, cont: the test goes on
	}
	delete(t.output, key)
}

// endPackage is for one that failed. Output still held is that of tests that had not ended when the process died.
func (t *tally) endPackage(e event) {
	keys := make([]string, 0, len(t.output))
	for key := range t.output {
		if strings.HasPrefix(key, e.Package+" ") {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	for _, key := range keys {
		t.show(key)
		delete(t.output, key)
	}
	switch {
	case e.FailedBuild != "":
		t.fail(e.Package, "does not build")
	case !t.broken[e.Package]:
		t.fail(e.Package, "failed outside of its tests, or its process ended in one")
	}
}

func (t *tally) fail(name, why string) {
	t.failed++
	t.broken[name] = true
	fmt.Fprintf(t.out, "FAIL\t%s: %s\n", name, why)
}

// show prints a test's output without the lines that only say that it goes on.
func (t *tally) show(key string) {
	for _, line := range t.output[key] {
		if !strings.HasPrefix(line, "=== ") {
			fmt.Fprint(t.out, line)
		}
	}
}
