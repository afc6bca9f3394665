/* The conformance program in C: one file per subject, each printing lines "subject what: result". It is linked
   dynamically and statically from the same source. The tests' pod is described in ../../pod.go. */
#ifndef CONFORM_H
#define CONFORM_H

#include <netinet/in.h>
#include <sys/socket.h>

/* say prints one line: the subject's name, what was tried, how it ended. */
void say(const char *what, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* result is "ok" for 0 and up, else the name of errno. */
const char *result(long value);
const char *errno_name(int number);

/* text of an address, with its port (0: "port" if it is not 0, since such a port is the kernel's choice). */
const char *address(const struct sockaddr_storage *a, int with_port);

/* at fills a with an address and returns its length. */
socklen_t at(struct sockaddr_storage *a, const char *ip, int port);

/* self is this program's own path; static_program another program, linked statically and written in Go, or "". */
extern const char *self, *static_program;

void environment_subject(void);
void names_subject(void);
void tcp_subject(void);
void udp_subject(void);
void listen_subject(void);
void files_subject(void);
void places_subject(void);
void processes_subject(void);
void cost_subject(void); /* not compared: nanoseconds */

#endif
