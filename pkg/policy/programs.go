package policy

import (
	"path"
	"slices"
	"strings"
)

// hostPrograms are programs that keep the host's network and names, by the file name of their executable: what makes
// a program and what looks at it, never the program. An interpreter (python, node, java, ruby, bun) is not here,
// because the debuggee may be one; nor are sh, make, air and curl, which do nothing by themselves or do in the pod's
// place what the debuggee's own scripts do there.
var hostPrograms = index(
	// Debuggers, and what they ask.
	"dlv gdb gdbserver lldb lldb-server lldb-dap debugserver codelldb rr debuginfod-find perf strace ltrace",
	// Go, but for its tools, which are known by their directory.
	"go gofmt gopls staticcheck golangci-lint",
	// Version control; git's own helpers are known by their prefix.
	"git hg svn",
	// Package managers of languages that are programs themselves.
	"cargo rustup uv uvx mamba micromamba volta fnm nuget",
	// Compilers and linkers.
	"rustc rustdoc rust-analyzer gcc g++ cc c++ cpp cc1 cc1plus collect2 lto1 as ld ld.bfd ld.gold ld.lld lld mold clang clang++ clangd",
	"ccache sccache cmake ninja bazel bazelisk javac",
	// Package managers of systems.
	"apt apt-get aptitude dpkg apk dnf yum rpm zypper pacman brew flatpak nix nix-build nix-env nix-store",
	// Containers and clusters.
	"docker dockerd podman buildah skopeo nerdctl kubectl helm kustomize skaffold tilt",
	"stepin",
)

// scriptPrograms are host programs that an interpreter runs: the kernel knows npm as node. With their links' targets.
var scriptPrograms = index(
	"npm npm-cli.js npx npx-cli.js yarn yarn.js yarn.cjs yarnpkg pnpm pnpm.js pnpm.cjs pnpx pnpx.cjs corepack corepack.js corepack.cjs",
	"pip pipx poetry pipenv conda hg",
	"gem bundle bundler composer composer.phar",
	"mvn mvnw gradle gradlew",
	"apt-add-repository add-apt-repository dnf yum",
)

// symbolFinder is what debuggers run to fetch symbols from the network.
const symbolFinder = "debuginfod-find"

// Blank returns where programs may lie, by a PATH, that must not run in the pod's place although a debugger runs them
// there: with the debuggee's variables, and through children that nobody knows for the debugger's.
func Blank(search string) (files []string) {
	for _, dir := range strings.Split(search, ":") {
		if file := dir + "/" + symbolFinder; strings.HasPrefix(dir, "/") {
			files = append(files, path.Clean(file))
		}
	}
	return files
}

// javaMains begin the main classes of Java's build tools.
var javaMains = []string{"org.gradle.", "org.codehaus.plexus.classworlds.launcher.", "org.codehaus.classworlds.", "org.apache.maven."}

// goTools is where the go command keeps compile, link, asm, cgo and the rest; by their names alone they could be
// anybody's services.
const goTools = "/pkg/tool/"

func index(rows ...string) map[string]bool {
	set := map[string]bool{}
	for _, row := range rows {
		for name := range strings.FieldsSeq(row) {
			set[name] = true
		}
	}
	return set
}

// IsHostProgram says whether a process is none of the pod's business. Exe is the target of its /proc/PID/exe, args its
// command line, extra config's hostPrograms: file names, or absolute paths as exe has them. The caller asks first
// whether exe is the debuggee's own program, which may be called anything.
//
// Exe is the kernel's word and counts; args are the process's own and count only where exe is an interpreter, whose
// program is then its first argument that is a file. A debuggee that renames itself to be taken for npm gets the
// developer's own network, which it has without stepin.
func IsHostProgram(exe string, args []string, extra []string) bool {
	exe = strings.TrimSuffix(exe, " (deleted)") // proc_pid_exe(5): the file has been removed or replaced meanwhile
	base := path.Base(exe)
	if hostPrograms[base] || strings.HasPrefix(base, "git-") || strings.Contains(exe, goTools) || listed(exe, extra) {
		return true
	}
	if len(args) < 2 {
		return false
	}
	if base == "java" {
		return slices.ContainsFunc(args[1:], func(a string) bool {
			return slices.ContainsFunc(javaMains, func(m string) bool { return strings.HasPrefix(a, m) })
		})
	}
	if !isInterpreter(base) {
		return false
	}
	script := scriptOf(args[1:])
	name := path.Base(script)
	return script != "" && (scriptPrograms[name] || scriptPrograms[unversioned(name)] || isYarnRelease(name) || listed(script, extra))
}

func listed(program string, extra []string) bool {
	return slices.Contains(extra, program) || slices.Contains(extra, path.Base(program))
}

// isInterpreter accepts versions: python3.12, ruby3.1, php8.2.
func isInterpreter(base string) bool {
	switch unversioned(base) {
	case "node", "nodejs", "python", "ruby", "perl", "sh", "bash", "dash", "zsh", "php":
		return true
	}
	return false
}

// unversioned cuts pip3.12 to pip.
func unversioned(name string) string { return strings.TrimRight(name, "0123456789.-") }

// isYarnRelease knows the copies that yarn puts into repositories: .yarn/releases/yarn-4.1.0.cjs.
func isYarnRelease(name string) bool {
	return strings.HasPrefix(name, "yarn-") && (strings.HasSuffix(name, ".cjs") || strings.HasSuffix(name, ".js"))
}

// scriptOf returns the script among an interpreter's arguments, or the module of python -m, "" for code on the command
// line. An option with a value of its own (node -r x) makes that value the script, which is no host program: the
// mistake leaves the process where it was, in the pod.
func scriptOf(args []string) string {
	for i, a := range args {
		switch {
		case a == "-m" && i+1 < len(args):
			return args[i+1]
		case a == "-c", a == "-e", a == "--eval", a == "-":
			return ""
		case !strings.HasPrefix(a, "-"):
			return a
		}
	}
	return ""
}
