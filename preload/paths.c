// The path table: see paths.h.
#include "paths.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fetch.h"

// ---- Filters: which names occur in prefixes, as bits of their hashes. A path whose names are not there is the host's.

enum { WORDS = 16, BITS = WORDS * 64 };

static struct {
	_Atomic uint64_t first[WORDS]; // the first name of each prefix
	_Atomic uint64_t any[WORDS];   // any name of any prefix
	_Atomic uint32_t ready;        // FILLED; ALL: the root itself is covered; NONE: no paths at all (a changed root)
	_Atomic long owner;            // the process whose memory this is
	_Atomic bool fetches;          // some rule says that the session is asked
} filter;

enum { FILLED = 1, ALL = 2, NONE = 3 };

// The working directory: whether a relative path can be the pod's, and a count of its changes above that, so that who
// looks while another thread moves keeps nothing old.
static _Atomic uint64_t here;

enum { HERE_UNKNOWN, HERE_FAR, HERE_POD, HERE_NEAR, HERE_STEP };

static inline uint32_t add(uint32_t hash, char c) { return (hash ^ (unsigned char)c) * 16777619u; }

static inline bool has(const _Atomic uint64_t *set, uint32_t hash)
{
	hash ^= hash >> 16;
	return atomic_load_explicit(&set[hash % BITS / 64], memory_order_relaxed) >> (hash % 64) & 1;
}

static void put(_Atomic uint64_t *set, uint32_t hash)
{
	hash ^= hash >> 16;
	atomic_fetch_or(&set[hash % BITS / 64], (uint64_t)1 << (hash % 64));
}

static const struct sp_rule *rules(void) { return (const struct sp_rule *)(sp.table + 1); }

static const char *text(uint32_t offset) { return (const char *)sp.table + offset; }

void sp_path_forked(void) { atomic_store(&filter.owner, sp_sys0(SYS_getpid)); }

static uint32_t fill(void)
{
	uint32_t ready = FILLED, empty = 0;
	for (uint32_t i = 0; i < sp.table->count; i++) {
		const char *c = text(rules()[i].prefix);
		uint32_t hash = 0;
		bool first = true;
		if (rules()[i].action == SP_PATH_FETCH)
			atomic_store(&filter.fetches, true);
		if (!*c) {
			ready = ALL;
			continue;
		}
		for (c++;; c++) {
			if (*c && *c != '/') {
				hash = add(hash, *c);
				continue;
			}
			put(filter.any, hash);
			if (first)
				put(filter.first, hash);
			first = false;
			hash = 0;
			if (!*c)
				break;
		}
	}
	sp_path_forked();
	atomic_compare_exchange_strong(&filter.ready, &empty, ready);
	return atomic_load(&filter.ready);
}

bool sp_path_fetches(void)
{
	return sp_serves(SP_SERVE_FILES) && (atomic_load_explicit(&filter.ready, memory_order_acquire) || fill()) &&
	       atomic_load_explicit(&filter.fetches, memory_order_relaxed);
}

void sp_path_rooted(void) { atomic_store(&filter.ready, NONE); }

// climbs tells whether a path has a name "..".
static inline bool climbs(const char *path)
{
	const char *c = path;
	for (;;) {
		if (c[0] == '.' && c[1] == '.' && (!c[2] || c[2] == '/'))
			return true;
		while (*c && *c != '/')
			c++;
		if (!*c)
			return false;
		c++;
	}
}

static uint32_t look_around(void);

bool sp_path_near(int dirfd, const char *path, enum sp_how how)
{
	uint32_t ready = atomic_load_explicit(&filter.ready, memory_order_acquire), hash = 0, at;
	if (!ready)
		ready = fill();
	// What no program can have there is the kernel's to refuse; another bad pointer is not looked for: it would cost a
	// system call each time.
	if (ready == NONE || (uintptr_t)path < 4096 || !*path)
		return false;
	if (*path == '/') {
		const char *c = path + 1;
		if (ready == ALL)
			return true;
		for (; *c && *c != '/'; c++)
			hash = add(hash, *c);
		return has(filter.first, hash) || c == path + 1 || path[1] == '.' || climbs(c);
	}
	if (dirfd == AT_FDCWD) {
		at = (uint32_t)(atomic_load_explicit(&here, memory_order_acquire) % HERE_STEP);
		if (at == HERE_UNKNOWN)
			at = look_around();
		return at == HERE_NEAR || (at == HERE_POD && how != SP_READS) || climbs(path);
	}
	if (ready == ALL || sp_path_fetches())
		return true;
	for (const char *c = path; *c && *c != '/'; c++)
		hash = add(hash, *c);
	return has(filter.any, hash) || *path == '.' || climbs(path);
}

// ---- The rules.

// find returns the rule of the longest prefix of a clean path, or NULL.
static const struct sp_rule *find(const char *path, size_t length)
{
	for (;;) {
		uint32_t low = 0, high = sp.table->count;
		while (low < high) {
			uint32_t middle = (low + high) / 2;
			const struct sp_rule *r = &rules()[middle];
			size_t common = r->length < length ? r->length : length;
			int order = memcmp(text(r->prefix), path, common);
			if (!order && r->length == length)
				return r;
			if (order < 0 || (!order && r->length < length))
				low = middle + 1;
			else
				high = middle;
		}
		if (!length)
			return NULL;
		while (path[--length] != '/')
			;
	}
}

// beneath tells whether some rule's prefix lies below a clean path.
static bool beneath(const char *path, size_t length)
{
	for (uint32_t i = 0; i < sp.table->count; i++) {
		const struct sp_rule *r = &rules()[i];
		if (r->length > length && !memcmp(text(r->prefix), path, length) && text(r->prefix)[length] == '/')
			return true;
	}
	return false;
}

// translating is a rule that leads into the session's mount.
static bool translating(const struct sp_rule *r) { return r && r->action == SP_PATH_TRANSLATE && r->to_length; }

static bool fetching(const struct sp_rule *r) { return r && r->action == SP_PATH_FETCH; }

// led returns the rule that leads to a path of the kernel's, or NULL.
static const struct sp_rule *led(const char *path, size_t length)
{
	const struct sp_rule *best = NULL;
	for (uint32_t i = 0; sp.table && i < sp.table->count; i++) {
		const struct sp_rule *r = &rules()[i];
		if ((translating(r) || fetching(r)) && r->to_length && r->to_length <= length &&
		    (!best || r->to_length > best->to_length) && !memcmp(text(r->to), path, r->to_length) &&
		    (length == r->to_length || path[r->to_length] == '/'))
			best = r;
	}
	return best;
}

bool sp_path_stood(const char *path) { return fetching(led(path, strlen(path))); }

long sp_path_back(char *path, size_t length, size_t room)
{
	const struct sp_rule *best = led(path, length);
	size_t rest;
	if (!best)
		return (long)length;
	rest = length - best->to_length;
	if (best->length + rest + 2 > room)
		return -1;
	memmove(path + best->length, path + best->to_length, rest);
	memcpy(path, text(best->prefix), best->length);
	length = best->length + rest;
	if (!length)
		path[length++] = '/';
	path[length] = 0;
	return (long)length;
}

long sp_path_here(char *buffer, size_t room)
{
	long n = sp_sys2(SYS_getcwd, buffer, room); // with its NUL
	if (n <= 0)
		return n;
	n = sp_path_back(buffer, (size_t)n - 1, room);
	return n < 0 ? -ERANGE : n;
}

void sp_path_moved(void)
{
	uint64_t old = atomic_load(&here);
	while (!atomic_compare_exchange_weak(&here, &old, (old / HERE_STEP + 1) * HERE_STEP + HERE_UNKNOWN))
		;
}

// look_around finds out about the working directory. A vfork child, which has one of its own, does not keep it: the
// parent's memory is not the place.
static uint32_t look_around(void)
{
	char buffer[SP_PATH_MAX];
	uint64_t old = atomic_load(&here);
	long n = sp_path_here(buffer, sizeof buffer);
	uint32_t at = HERE_NEAR;
	if (n > 0) {
		size_t length = n == 1 ? 0 : (size_t)n;
		const struct sp_rule *r = find(buffer, length);
		if (!beneath(buffer, length))
			at = !r || r->action == SP_PATH_HOST ? HERE_FAR : fetching(r) ? HERE_NEAR : HERE_POD;
	}
	if (old % HERE_STEP == HERE_UNKNOWN && atomic_load(&filter.owner) == sp_sys0(SYS_getpid))
		atomic_compare_exchange_strong(&here, &old, old + at);
	return at;
}

// ---- Finding.

// A path in the making: clean, absolute, without a slash at the end.
struct clean {
	char *text;
	size_t length;
	size_t lowest; // its length at the lowest point of what was added last
};

// extend adds a path's names; false: too long.
static bool extend(struct clean *c, const char *path)
{
	c->lowest = c->length;
	while (*path) {
		size_t n = strcspn(path, "/");
		if (n == 2 && path[0] == '.' && path[1] == '.') {
			while (c->length && c->text[--c->length] != '/')
				;
			if (c->length < c->lowest)
				c->lowest = c->length;
		} else if (n && !(n == 1 && path[0] == '.')) {
			if (c->length + n + 2 > SP_PATH_MAX)
				return false;
			c->text[c->length++] = '/';
			memcpy(c->text + c->length, path, n);
			c->length += n;
		}
		path += n;
		while (*path == '/')
			path++;
	}
	c->text[c->length] = 0;
	return true;
}

// base is the directory that a relative path begins at, as the program sees it; false: not to be had, so the host's.
static bool base(struct clean *c, int dirfd)
{
	long n;
	if (dirfd == AT_FDCWD) {
		n = sp_path_here(c->text, SP_PATH_MAX);
	} else {
		char link[32];
		if (dirfd < 0)
			return false;
		sp_fetch_link(link, dirfd);
		n = sp_sys4(SYS_readlinkat, AT_FDCWD, link, c->text, SP_PATH_MAX - 1);
		if (n > 0)
			n = sp_path_back(c->text, (size_t)n, SP_PATH_MAX);
	}
	if (n <= 0 || c->text[0] != '/')
		return false;
	c->length = n == 1 ? 0 : (size_t)n;
	return true;
}

// stays tells whether what follows a prefix never leaves it by "..".
static bool stays(const char *rest)
{
	long depth = 0;
	while (*rest) {
		size_t n = strcspn(rest, "/");
		if (n == 2 && rest[0] == '.' && rest[1] == '.') {
			if (--depth < 0)
				return false;
		} else if (n && !(n == 1 && rest[0] == '.'))
			depth++;
		rest += n;
		while (*rest == '/')
			rest++;
	}
	return true;
}

// folder tells whether a path says by its end that it is a directory's.
static bool folder(const char *path)
{
	size_t n = strlen(path);
	return path[n - 1] == '/' || (n > 1 && !strcmp(path + n - 2, "/.")) || (n > 2 && !strcmp(path + n - 3, "/.."));
}

// said tells the developer, in the words of the session's own.
static void said(const char *path, size_t length)
{
	static const char before[] = "writing to \"", after[] = "\" was refused: the pod's files are read-only here";
	char line[sizeof before + 256 + sizeof after];
	if (length > 256)
		length = 256;
	memcpy(line, before, sizeof before - 1);
	memcpy(line + sizeof before - 1, path, length);
	memcpy(line + sizeof before - 1 + length, after, sizeof after);
	sp_notice(SP_NOTICE_TEXT, line);
}

// look tells what is at a path of the kernel's, or of the session's: 0 or -errno.
static long look(const struct sp_rule *r, int dirfd, const char *path, bool nofollow)
{
	struct stat s;
	if (!fetching(r))
		return sp_sys4(SYS_newfstatat, dirfd, path, &s, nofollow ? AT_SYMLINK_NOFOLLOW : 0);
	return sp_fetch_stat(path, nofollow, &s) ? -errno : 0;
}

// above is look at the directory of a path.
static long above(const struct sp_rule *r, int dirfd, const char *path)
{
	char directory[SP_PATH_MAX];
	size_t n = strnlen(path, sizeof directory - 2);
	while (n > 1 && path[n - 1] == '/')
		n--;
	while (n && path[n - 1] != '/')
		n--;
	memcpy(directory, path, n);
	memcpy(directory + n, ".", 2);
	return look(r, dirfd, directory, false);
}

// refusal is the errno of a call that would write, as a read-only file system has it: it comes after the look-up of what
// must be there, and before all else. dirfd and path are the kernel's, clean is what is said.
static int refusal(const struct sp_rule *r, int dirfd, const char *path, const struct clean *clean, enum sp_how how)
{
	long there;
	if (how == SP_READS || !r->write_error)
		return 0;
	if (how == SP_CREATES && look(r, dirfd, path, true) == 0)
		return EEXIST;
	there = how == SP_CHANGES ? look(r, dirfd, path, false) : above(r, dirfd, path);
	if (there < 0)
		return (int)-there;
	said(clean->text, clean->length);
	return r->write_error;
}

// place makes p.use of a clean path and its rule; rest is what the program wrote behind the prefix, or NULL.
static int place(struct sp_where *p, const struct clean *c, const char *rest, bool slash)
{
	const struct sp_rule *r = p->rule;
	size_t n = 0, length;
	if (r && r->action == SP_PATH_HIDDEN)
		return ENOENT;
	if (translating(r)) {
		n = r->to_length;
		if (n >= SP_PATH_MAX)
			return ENAMETOOLONG;
		memcpy(p->buffer, text(r->to), n);
	} else {
		rest = NULL;
	}
	if (rest || !n)
		slash = false;
	if (!rest)
		rest = c->text + (n ? r->length : 0);
	length = strlen(rest);
	if (n + length + 2 > SP_PATH_MAX)
		return ENAMETOOLONG;
	memcpy(p->buffer + n, rest, length + 1);
	n += length;
	if (slash || !n) {
		p->buffer[n++] = '/';
		p->buffer[n] = 0;
	}
	p->use = p->buffer;
	return 0;
}

// asked makes p.use of what the session follows by itself: the program's own words, behind the directory that they begin at,
// which p.buffer holds.
static int asked(struct sp_where *p, size_t base, const char *path)
{
	size_t n = strlen(path);
	if (base + n + 2 > SP_PATH_MAX)
		return ENAMETOOLONG;
	p->use = path;
	if (*path == '/')
		return 0;
	p->buffer[base] = '/';
	memcpy(p->buffer + base + 1, path, n + 1);
	p->use = p->buffer;
	return 0;
}

int sp_path_find(struct sp_where *p, int dirfd, const char *path, enum sp_how how)
{
	char buffer[SP_PATH_MAX];
	struct clean c = {.text = buffer};
	const struct sp_rule *from = NULL, *through = NULL;
	const char *rest = NULL;
	size_t begun;
	bool ours, words;
	if (*path != '/') {
		if (!base(&c, dirfd))
			return 0;
		buffer[c.length] = 0;
		from = find(buffer, c.length);
		if (fetching(from))
			memcpy(p->buffer, buffer, c.length);
	}
	begun = c.length;
	if (!extend(&c, path))
		return 0; // too long for the kernel as well
	p->rule = find(buffer, c.length);
	ours = p->rule && p->rule->action != SP_PATH_HOST;
	if (*path == '/') {
		size_t n = ours ? p->rule->length : 0;
		if (ours && !strncmp(path, text(p->rule->prefix), n) && (!path[n] || path[n] == '/') && stays(path + n))
			rest = path + n;
		else if (!ours) // "/data/../etc/x": the way leads through what only the pod has
			through = find(path, strspn(path, "/") == 1 ? 1 + strcspn(path + 1, "/") : 0);
	} else if (ours && from == p->rule && translating(from) && c.lowest >= from->length) {
		// The kernel is there already, and follows links better. Its answer is the rule's all the same.
		return p->error = refusal(from, dirfd, path, &c, how);
	} else if (!ours) {
		through = from;
	}
	if (!ours && !(through && through->action != SP_PATH_HOST)) {
		p->rule = NULL;
		return 0;
	}
	if (!ours)
		p->rule = NULL;
	words = fetching(p->rule) && (*path == '/' ? rest != NULL : from == p->rule && c.lowest >= from->length);
	p->error = words ? asked(p, begun, path) : place(p, &c, rest, folder(path));
	if (!p->error && ours)
		p->error = refusal(p->rule, AT_FDCWD, p->use, &c, how);
	return p->error;
}
