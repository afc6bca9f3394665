package conform

// Exceptions are all differences between the pod itself and its place that are allowed. Each is seen by a test: one that
// no program needs any more is taken out.
var Exceptions = []Exception{
	{Namespaces, "", `files unlink absent: EROFS$`, "files unlink absent: ENOENT",
		"the kernel knows the mount as writable, so that each refused change is heard of and said: it looks the name up first"},
	{Namespaces, "", `files statvfs: ok read-only$`, "files statvfs: ok writable", "for the same reason"},
	{Namespaces, "", `files getxattr: ENODATA$`, "files getxattr: ENOTSUP",
		"extended attributes of the pod's files are not carried; programs take both for none"},
}
