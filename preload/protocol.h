// What libstepin.so and the session say to each other. The Go half is pkg/preload/protocol.go; a test has a C program
// print every message (preload/test/vectors.c) and compares the bytes with Go's.
//
// Way. A unix socket of type SOCK_SEQPACKET in a private directory (0700; root's may be passed through): one message is one packet. The variable
// STEPIN_PRELOAD says where it is:  VERSION:FLAGS:TOKEN:PATH   (FLAGS: "-" none; "h" = where nobody answers go on as on
// the host, without it such a program ends with status 125; TOKEN: 32 hexadecimal digits).
//
// Questions and answers. A process connects once, in the library's constructor, and says SP_HELLO. Each question carries
// by SCM_RIGHTS one end of a socket pair (SOCK_SEQPACKET) made for it: the one answer comes through that pair, never
// through the connection. So any thread, a signal handler, a fork child that inherited the connection and a program
// that changed its root or its user can ask at any time, without a lock; and who waits longest holds up nobody.
// (An SP_CONNECT of UDP brings the socket as well, behind it.) A message without a descriptor is not answered. A pair that closes without an answer means: the session is gone.
// The asker's end closed before the answer means: nobody wants it any more, undo what was begun.
// The session handles the messages of one connection in their order, but for what waits for the pod (SP_CONNECT of TCP,
// SP_LOOKUP, SP_RESOLVE, SP_REVERSE, SP_FETCH, SP_STAT, SP_LINK, SP_LIST), which must not hold up those behind.
// Who asks: the kernel's credentials of each message (SO_PASSCRED), since children share the connection; head.pid is
// only what the library believes.
//
// Form. Little-endian, fixed structures without padding, then a tail of bytes where noted. An answer has the question's
// kind with SP_ANSWER set; head.error is 0 or the errno for the program, in which case the answer is a head only. An
// unknown kind is answered with ENOSYS, a malformed one with EPROTO. A message longer than its structure is read as
// far as it is known; a shorter one is malformed.
#ifndef STEPIN_PROTOCOL_H
#define STEPIN_PROTOCOL_H

#include <stdint.h>

#define SP_VERSION 1          // a session that speaks another answers SP_HELLO with EPROTONOSUPPORT
#define SP_VARIABLE "STEPIN_PRELOAD"
#define SP_TOKEN 32           // characters
#define SP_MESSAGE_MAX 16384  // bytes of any message; more travels in a descriptor
#define SP_PATH_MAX 4096      // bytes of a path, with its NUL, as Linux has it
#define SP_NAME_MAX 255       // bytes of a host name (RFC 1035, 2.3.4)
#define SP_ADDRESSES_MAX 256  // in one SP_LOOKUP answer
#define SP_GREETING_MS 2000   // how long the constructor waits
#define SP_LATE_MS 20         // how long a non-blocking connect waits

enum sp_kind {
	SP_HELLO = 1,
	SP_CONNECT = 2,
	SP_BIND = 3,
	SP_BOUND = 4,
	SP_LISTEN = 5,
	SP_WHO = 6,
	SP_DATAGRAM = 7,
	SP_LOOKUP = 8,
	SP_REVERSE = 9,
	SP_RESOLVE = 10,
	SP_FETCH = 11,
	SP_STAT = 12,
	SP_LINK = 13,
	SP_LIST = 14,
	SP_EXEC = 15,
	SP_NOTICE = 16,
	SP_LATER = 17,
	SP_WHY = 18,
	SP_CLOSING = 19,
	SP_ANSWER = 0x8000,
};

struct sp_head {
	uint16_t version; // SP_VERSION
	uint16_t kind;
	uint32_t size;    // of the whole message, bytes
	uint32_t pid;     // questions: the asking process; answers: 0
	int32_t error;    // answers: errno or 0; questions: 0
};

// An address and port. family 0: none.
struct sp_address {
	uint16_t family;  // AF_INET (2), AF_INET6 (10)
	uint16_t port;    // host byte order
	uint32_t scope;   // IPv6 interface index
	uint8_t ip[16];   // IPv4: the first four
};

enum sp_network { SP_TCP = 1, SP_UDP = 2 };

// What to do with a call. SP_POD: do it, but with the address in the answer. SP_LATER_PLACE: see SP_CONNECT.
enum sp_verdict { SP_HOST = 0, SP_POD = 1, SP_LATER_PLACE = 2 };

// ---- SP_HELLO: the first message of a connection. The token is checked, and the peer's uid, unless the session is root's,
// whose debuggee may become another user; a wrong one is answered with EACCES and the connection is closed.
enum sp_hello_flags {
	SP_HELLO_MUSL = 1,   // the musl build
	SP_HELLO_BRIEF = 2,  // no table wanted: a process that lost its connection (or a vfork child) has it already
};
struct sp_hello {
	struct sp_head head;
	char token[SP_TOKEN];
	uint32_t flags;
	uint32_t parent;     // getppid
	// tail: the program's path (/proc/self/exe), without NUL
};
enum sp_serve {              // what the session wants to be asked about
	SP_SERVE_TCP = 1,        // connect, bind, listen, accept, names of sockets
	SP_SERVE_UDP = 2,
	SP_SERVE_NAMES = 4,      // getaddrinfo and its family
	SP_SERVE_HOSTNAME = 8,
	SP_SERVE_FILES = 16,
	SP_SERVE_EXEC = 32,      // ask SP_EXEC before each exec; without: children get the library as it is
};
enum sp_lost { SP_LOST_FAIL = 0, SP_LOST_HOST = 1 };
// The answer brings, unless SP_HELLO_BRIEF, one descriptor: a sealed memfd with the path table (below), to be mapped.
// serve 0: this process is not the debuggee's (a host program): the library goes to sleep.
struct sp_hello_answer {
	struct sp_head head;
	uint32_t serve;          // enum sp_serve
	uint32_t lost;           // enum sp_lost: what to do when the session is gone
	uint32_t table;          // bytes of the path table
	uint32_t reserved;
	char hostname[72];       // NUL-terminated, at most 64 characters
};

// The path table: struct sp_table, count struct sp_rule sorted by prefix (bytes, ascending), then NUL-terminated strings.
// All paths are absolute, clean and without a slash at the end ("/" itself is the empty prefix). A rule covers its prefix
// and what lies beneath ("/a" covers "/a" and "/a/b", not "/ab"); the longest wins; no rule: the host's file.
#define SP_TABLE_MAGIC 0x31547053 // "SpT1"
enum sp_action {
	SP_PATH_HOST = 0,      // the host's file
	SP_PATH_TRANSLATE = 1, // replace the prefix by the string `to` (a directory of the session's FUSE mount)
	SP_PATH_FETCH = 2,     // no FUSE here: SP_FETCH, SP_STAT, SP_LINK, SP_LIST; the kernel sees a directory of it at `to`
	SP_PATH_HIDDEN = 3,    // ENOENT
};
struct sp_table {
	uint32_t magic;
	uint32_t count;
	uint32_t size;         // of the whole table, bytes
	uint32_t reserved;
};
struct sp_rule {
	uint32_t prefix;       // offset in the table of its first byte
	uint32_t length;       // bytes without NUL
	uint32_t to;           // offset; 0 = none (of SP_PATH_TRANSLATE and SP_PATH_FETCH)
	uint32_t to_length;
	uint16_t action;
	uint16_t reserved;
	int32_t write_error;   // errno of every call that would write there (EROFS); 0: allowed
};

// ---- SP_CONNECT, for TCP and for UDP sockets (connect of a UDP socket; see SP_DATAGRAM for sendto).
// TCP: the answer comes when the pod-side dial has ended: error, SP_HOST (connect to `to` yourself), SP_POD (connect to
// `to`, a listener of the session on loopback that waits for this one connection). Never success before the dial's.
// If the dial takes longer than `wait`, or the asker sends SP_LATER through the pair: SP_LATER_PLACE: `to` is a listener
// with a full queue; connect there without blocking (EINPROGRESS). The session completes that by simultaneous open from
// `to`, or refuses it by closing the listener.
// SP_HOST with to.family 0: the address that was asked for.
// UDP: a second descriptor may come along, of the socket itself. The session keeps it where the answer is SP_POD, until
// SP_CLOSING, another connect, a new program in the process or its end: a datagram of the pod's that was refused is told
// to the socket by the kernel, when another one is sent through that descriptor to where nobody is.
enum sp_connect_flags {
	SP_CONNECT_NONBLOCK = 1,
	SP_CONNECT_V6ONLY = 2,   // an IPv6 socket that may not reach IPv4-mapped addresses
};
struct sp_connect {
	struct sp_head head;
	uint32_t network;
	uint32_t wait;           // ms before SP_LATER_PLACE; 0: as long as it takes. From O_NONBLOCK (SP_LATE_MS), SO_SNDTIMEO
	uint32_t flags;
	uint32_t reserved;
	uint64_t inode;          // of the socket (fstat): who it is in sock_diag
	struct sp_address to;
	struct sp_address local; // getsockname before the call; family 0 or port 0: not bound
};
struct sp_connect_answer {
	struct sp_head head;
	uint32_t verdict;
	uint32_t ttl;            // UDP: ms for which the answer may be used again without asking; 0: once
	struct sp_address to;
};
// SP_LATER: a head only, sent through the *pair* of an SP_CONNECT whose caller was interrupted by a signal (EINTR).

// ---- SP_WHY: a connect that was left connecting (SP_LATER_PLACE) has been refused, and the program reads the error: why.
// Of a listener that closes the kernel tells ECONNREFUSED, whatever the pod's errno was. Told once.
struct sp_why {
	struct sp_head head;
	uint64_t inode;
};
struct sp_why_answer {
	struct sp_head head;
	int32_t reason;          // errno; 0: as the kernel says
	uint32_t reserved;
};

// ---- SP_CLOSING: a UDP socket that the session has a descriptor of is about to be closed. Answer: a head, when the session has
// closed its own; the socket's port is free as soon as the program's is closed.
struct sp_closing {
	struct sp_head head;
	uint64_t inode;
};

// ---- SP_BIND: before bind. SP_HOST: as asked; SP_POD: bind to `at`. If that gives EADDRINUSE, EADDRNOTAVAIL or EACCES,
// ask again with SP_BIND_TAKEN: the session names another place (port 0: any), or gives the error for the program.
// SP_BOUND: after it, with what the kernel gave; the session says on the console that a port was moved. Answer: a head.
enum sp_bind_flags { SP_BIND_TAKEN = 1, SP_BIND_V6ONLY = 2, SP_BIND_REUSEPORT = 4 };
struct sp_bind {
	struct sp_head head;
	uint32_t network;
	uint32_t flags;
	int32_t reason;          // SP_BIND_TAKEN: the errno of the first try
	uint32_t reserved;
	uint64_t inode;
	struct sp_address asked;
};
struct sp_bind_answer {
	struct sp_head head;
	uint32_t verdict;
	uint32_t reserved;
	struct sp_address at;
};
struct sp_bound {
	struct sp_head head;
	uint32_t network;
	uint32_t flags;
	uint64_t inode;
	struct sp_address asked; // the program's; port 0 if it wanted any
	struct sp_address got;   // the kernel's
};

// ---- SP_LISTEN: after listen succeeded. Answer: a head. The end of listening is the session's to see (sock_diag by
// inode): close, exec and kill tell nobody.
struct sp_listen {
	struct sp_head head;
	uint32_t network;
	uint32_t backlog;
	uint64_t inode;
	struct sp_address at;    // getsockname
};

// ---- SP_WHO: after accept, in getpeername and getsockname, and for the sender of a datagram: what the kernel says, and
// back what the pod would say. family 0 in the answer: as the kernel says. An own end only (peer.family 0) is answered
// from what SP_BIND and SP_BOUND said.
struct sp_who {
	struct sp_head head;
	uint32_t network;
	uint32_t reserved;
	struct sp_address local;
	struct sp_address peer;
};
struct sp_who_answer {
	struct sp_head head;
	uint32_t ttl;            // ms for which it may be used again; 0: once. TCP: 0 or the flow's life
	uint32_t reserved;
	struct sp_address local;
	struct sp_address peer;
};

// ---- SP_DATAGRAM: where a datagram for `to` from this socket goes: SP_HOST, or SP_POD and the session's relay for that
// destination. The relay's answers come from the relay's address; SP_WHO (network UDP, peer = relay) gives the pod's.
// Datagrams of the true client to a port that the debuggee is bound to come from such a relay, too.
struct sp_datagram {
	struct sp_head head;
	uint32_t flags;          // enum sp_connect_flags
	uint32_t reserved;
	uint64_t inode;
	struct sp_address to;
	struct sp_address local; // as in SP_CONNECT
};
// answer: struct sp_connect_answer

// ---- SP_LOOKUP: getaddrinfo, gethostbyname: a name as the pod's libc resolves it (its hosts file, its search list).
enum sp_lookup_flags { SP_LOOKUP_CANONICAL = 1, SP_LOOKUP_CONFIGURED = 2 /* AI_ADDRCONFIG */ };
enum sp_lookup_result {
	SP_FOUND = 0,
	SP_NO_NAME = 1,     // EAI_NONAME, HOST_NOT_FOUND
	SP_NO_DATA = 2,     // the name exists, has no address of that family: EAI_NODATA, NO_DATA
	SP_TRY_AGAIN = 3,   // EAI_AGAIN, TRY_AGAIN
	SP_NO_RECOVERY = 4, // EAI_FAIL, NO_RECOVERY
	SP_ASK_HOST = 5,    // this name is the host's to resolve: call the next function
};
struct sp_lookup {
	struct sp_head head;
	uint32_t family;    // 0: any, AF_INET, AF_INET6
	uint32_t flags;
	// tail: the name, without NUL
};
struct sp_lookup_answer {
	struct sp_head head;
	uint32_t result;    // enum sp_lookup_result
	uint32_t count;     // of addresses, at most SP_ADDRESSES_MAX
	uint32_t canonical; // bytes of the canonical name behind the addresses
	uint32_t reserved;
	// tail: count struct sp_address (port 0), then the canonical name without NUL
};

// ---- SP_REVERSE: getnameinfo, gethostbyaddr. Answer: sp_lookup_answer with count 0 and the name as canonical.
struct sp_reverse {
	struct sp_head head;
	struct sp_address address;
};

// ---- SP_RESOLVE: res_query, res_search, res_send: one DNS message for the pod's resolver (RFC 1035, 4.1).
// The answer's result is SP_FOUND whenever a DNS message came back, whatever its RCODE.
enum sp_resolve_flags { SP_RESOLVE_SEARCH = 1 /* apply the pod's search list to the name in question */ };
struct sp_resolve {
	struct sp_head head;
	uint32_t flags;
	uint32_t reserved;
	// tail: the query
};
struct sp_resolve_answer {
	struct sp_head head;
	uint32_t result;    // enum sp_lookup_result
	uint32_t reserved;
	// tail: the DNS message
};

// ---- Files where there is no FUSE (SP_PATH_FETCH). Paths are absolute; they may hold links, "." and "..", which the session
// follows where they stand.
// SP_FETCH: open. Answer: a head and a descriptor: of a file a read-only memfd, named SP_MEMORY, its inode's number in the
// pod as 16 hexadecimal digits and, where there is room, ":" and its path; of a directory one of the session's that stands for it,
// empty, at the rule's `to`.
#define SP_MEMORY "stepin:"
struct sp_fetch {
	struct sp_head head;
	uint32_t flags;     // of open(2)
	uint32_t what;      // enum sp_fetch_what
	// tail: path without NUL
};
enum sp_fetch_what {
	SP_FETCH_OPEN = 0,
	SP_FETCH_WATCH = 1, // of whatever is there, what inotify can be pointed at (O_PATH); of flags, O_DIRECTORY and O_NOFOLLOW count
};
enum sp_path_flags { SP_NOFOLLOW = 1, SP_REAL = 2 /* SP_LINK: the path without links and dots, as of realpath */ };
// SP_STAT, SP_LINK, SP_LIST.
struct sp_path {
	struct sp_head head;
	uint32_t flags;     // enum sp_path_flags
	uint32_t reserved;
	// tail: path without NUL
};
struct sp_stat_answer {
	struct sp_head head;
	uint64_t inode;
	uint64_t size;
	uint64_t blocks;    // of 512 bytes
	uint64_t device;
	int64_t atime_sec;
	int64_t mtime_sec;
	int64_t ctime_sec;
	uint32_t atime_nsec;
	uint32_t mtime_nsec;
	uint32_t ctime_nsec;
	uint32_t mode;
	uint32_t links;
	uint32_t uid;
	uint32_t gid;
	uint32_t reserved;
};
// SP_LINK's answer: head, tail: the link's text, or the path, without NUL.
// SP_LIST's answer: head and a descriptor: a memfd of `count` records, each an sp_entry and its name.
struct sp_list_answer {
	struct sp_head head;
	uint32_t count;
	uint32_t reserved;
};
struct sp_entry {
	uint64_t inode;
	uint16_t length;    // bytes of the name that follows, without NUL
	uint8_t type;       // DT_REG, DT_DIR, DT_LNK … (dirent.h)
	uint8_t reserved[5];
};

// ---- SP_EXEC: what becomes of a program that is about to be executed.
enum sp_exec_verdict {
	SP_EXEC_SAME = 0,   // execute it with this library and the variable in its environment
	SP_EXEC_WRAP = 1,   // execute argv[0] of the answer with the answer's argv followed by the program's path and
	                    // argv[1..] (front end namespaces: the stub); library and variable leave the environment
	SP_EXEC_HOST = 2,   // a host program: as it is, without library and variable
};                      // head.error: refuse
struct sp_exec {
	struct sp_head head;
	uint32_t flags;     // 0
	uint32_t reserved;
	// tail: the program's path, absolute (or relative to the asker's working directory; /proc/self is the asker's), without NUL
};
struct sp_exec_answer {
	struct sp_head head;
	uint32_t verdict;
	uint32_t count;     // of words in the tail
	// tail: the words, each with its NUL
};

// ---- SP_NOTICE: a line for the console, said once per text by the session. Never answered.
enum sp_notice_what { SP_NOTICE_TEXT = 0, SP_NOTICE_ERROR = 1 };
struct sp_notice {
	struct sp_head head;
	uint32_t what;
	uint32_t reserved;
	// tail: UTF-8 text, one line, without a pod's values
};

#define SP_SIZE(type, bytes) _Static_assert(sizeof(struct type) == (bytes), #type " is not what the other side reads")
SP_SIZE(sp_head, 16);
SP_SIZE(sp_address, 24);
SP_SIZE(sp_hello, 56);
SP_SIZE(sp_hello_answer, 104);
SP_SIZE(sp_table, 16);
SP_SIZE(sp_rule, 24);
SP_SIZE(sp_connect, 88);
SP_SIZE(sp_connect_answer, 48);
SP_SIZE(sp_closing, 24);
SP_SIZE(sp_bind, 64);
SP_SIZE(sp_bind_answer, 48);
SP_SIZE(sp_bound, 80);
SP_SIZE(sp_listen, 56);
SP_SIZE(sp_who, 72);
SP_SIZE(sp_who_answer, 72);
SP_SIZE(sp_datagram, 80);
SP_SIZE(sp_lookup, 24);
SP_SIZE(sp_lookup_answer, 32);
SP_SIZE(sp_reverse, 40);
SP_SIZE(sp_resolve, 24);
SP_SIZE(sp_resolve_answer, 24);
SP_SIZE(sp_fetch, 24);
SP_SIZE(sp_path, 24);
SP_SIZE(sp_stat_answer, 104);
SP_SIZE(sp_list_answer, 24);
SP_SIZE(sp_entry, 16);
SP_SIZE(sp_exec, 24);
SP_SIZE(sp_exec_answer, 24);
SP_SIZE(sp_notice, 24);
#undef SP_SIZE

#endif
