package conform

// Exceptions are all differences between the pod itself and its place that are allowed. Each is seen by a test: one that
// no program needs any more is taken out. One no line can show, since the pod's volumes do not change while a program runs
// natively: inotify on the pod's files gives no event, under any front end (docs/preload.md).
var Exceptions = []Exception{
	{Namespaces, "", `files unlink absent: EROFS$`, "files unlink absent: ENOENT",
		"the kernel knows the mount as writable, so that each refused change is heard of and said: it looks the name up first"},
	{Namespaces, "", `files statvfs: ok read-only$`, "files statvfs: ok writable", "for the same reason"},
	{Namespaces, "", `files getxattr: ENODATA$`, "files getxattr: ENOTSUP",
		"extended attributes of the pod's files are not carried; programs take both for none"},
	{Preload, "", `files getxattr: ENODATA$`, "files getxattr: ENOTSUP", "as under namespaces"},
	{Preload, "", `names v4 localhost: ok 127.0.0.1 127.0.0.1$`, "names v4 localhost: ok 127.0.0.1",
		"glibc takes the hosts file's line for ::1 for another 127.0.0.1; the session says each address once"},
	{Preload, "", `(listen itself 10\.244\.1\.9.*: .*)10\.244\.1\.9( port.*)10\.244\.1\.9( port.*)$`, "${1}127.0.0.1${2}127.0.0.1${3}",
		"a program that calls itself does so on this machine's loopback: no interface here has the pod's address"},
	{Preload, "", `(listen itself 10\.244\.1\.9.*: .*)10\.244\.1\.9( port.*)$`, "${1}127.0.0.1${2}", "likewise"},
}
