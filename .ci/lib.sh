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

# beside LOG COMMAND...: runs it in the background, in a process group of its own, which does not outlive the script.
beside=
beside() {
	local log=$1
	shift
	set -m
	"$@" >"$log" 2>&1 </dev/null &
	set +m
	beside=$!
	ending
}

# joined LOG: waits for what runs beside, shows what it has said and takes its status.
joined() {
	local status=0
	wait "$beside" || status=$?
	beside=
	cat "$1"
	return "$status"
}

# a_cluster sets KUBECONFIG: to what it names already, else to the cluster that runs, else to one for the time being, which
# ends with the script.
cluster_started=
a_cluster() {
	[[ -z ${KUBECONFIG:-} ]] || return 0
	if ! .ci/cluster running 2>/dev/null; then
		cluster_started=yes
		ending
		step 'a cluster' .ci/cluster up
	fi
	KUBECONFIG=$(.ci/cluster kubeconfig)
	export KUBECONFIG
}

# ending sees to it that what a script has started ends with it, in the opposite order.
ending() {
	trap '[[ -z $beside ]] || kill -- "-$beside" 2>/dev/null || true; [[ -z $cluster_started ]] || .ci/cluster down' EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
}

# node_rows TAP COMMAND...: `node` with node:test's results in words, and as TAP in that file. They count as those of go test.
node_rows() {
	local tap=$1 status=0
	shift
	rm -f "$tap"
	node --test-reporter=spec --test-reporter-destination=stdout --test-reporter=tap --test-reporter-destination="$tap" "$@" ||
		status=$?
	count_rows "$tap"
	return "$status"
}

# count_rows TAP adds what its last lines say to the tally's file, where there is one.
count_rows() {
	[[ -z ${STEPIN_TALLY:-} || ! -e $1 ]] || awk '
		/^# (pass|fail|cancelled|skipped|todo) [0-9]+$/ { n[$2] = $3 }
		END { print n["pass"] + 0, n["fail"] + n["cancelled"], n["skipped"] + n["todo"] }' "$1" >>"$STEPIN_TALLY"
}
