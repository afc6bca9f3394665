# Sourced by the scripts beside it.
# shellcheck shell=bash

# Where the pieces of a build wait until they are seen to differ from the last ones.
# shellcheck disable=SC2034 # used where this is sourced
work=.tools/build

# Directories with Go in them. A top-level name that does not exist yet is left out.
go_dirs=()
for dir in adapter agent pkg; do
	[[ ! -d $dir ]] || go_dirs+=("$dir")
done

# step NAME COMMAND...: runs it, says how long it took, and ends the script with the step's name if it fails.
# The command runs in a shell of its own, so that `set -e` holds in it (in a function called by `if` it does not).
step() {
	local name=$1 start=$SECONDS status=0
	shift
	printf '== %s\n' "$name"
	set +e
	(
		set -e
		"$@"
	)
	status=$?
	set -e
	if ((status != 0)); then
		printf '== %s FAILED after %d s\n' "$name" $((SECONDS - start)) >&2
		exit 1
	fi
	printf '== %s: %d s\n' "$name" $((SECONDS - start))
}

# preload_library LIBC CC OUT FLAG...: builds libstepin.so. No function but the intercepted ones is exported, and each is
# bound at the start: later would be in a signal handler, or a vfork child.
preload_library() {
	local libc=$1 cc=$2 out=$3
	shift 3
	# shellcheck disable=SC2054 # the commas are the linker's
	local flags=(-std=gnu11 -D_GNU_SOURCE -O2 -Wall -Wextra -Werror -fPIC -shared -fvisibility=hidden -fno-plt
		-Wl,--build-id=none -Wl,-z,now -Wl,-z,relro -Wl,-z,noexecstack -Wl,-z,defs
		-Wl,--version-script=preload/symbols.map)
	# Before glibc 2.34 dlsym was in libdl; since then that library is there, empty, for programs built earlier.
	local libraries=()
	[[ $libc != glibc ]] || libraries+=('-Wl,--no-as-needed' -l:libdl.so.2)
	"$cc" "${flags[@]}" "$@" -o "$out" preload/*.c "${libraries[@]}"
}
