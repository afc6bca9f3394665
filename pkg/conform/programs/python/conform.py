"""The conformance program in Python: what the standard library makes of libc's calls. Lines "what: result"."""

import asyncio
import errno
import http.client
import json
import mmap
import os
import pathlib
import select
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading

C = os.environ["CONFORM_C"]
STATIC = os.environ["CONFORM_STATIC"]
PATIENCE = 20  # seconds, for what does answer


def say(what, result):
    print(f"{what}: {result}", flush=True)


def attempt(what, call):
    try:
        say(what, call())
    except OSError as e:
        name = errno.errorcode.get(e.errno, e.errno) if not isinstance(e, socket.gaierror) else "gaierror"
        say(what, f"{type(e).__name__} {name}")


def environment():
    for name in ("GREETING", "TWO_WORDS", "EMPTY", "ABSENT", "HTTP_PROXY"):
        say(name, repr(os.environ.get(name)))
    say("gethostname", socket.gethostname())
    say("uname", os.uname().nodename)


def names():
    for name in ("server", "server.shop.svc.cluster.local", "external.example", "absent.example", "localhost"):
        attempt(f"getaddrinfo {name}", lambda: sorted({a[4][0] for a in socket.getaddrinfo(name, 80)}))
    attempt("gethostbyname", lambda: socket.gethostbyname("server"))


def exchange(c):
    first = c.recv(200).decode().strip()
    c.sendall(b"echo")
    return first, c.recv(200).decode(), c.getsockname()[0], c.getpeername()


def dial(host, port, timeout=PATIENCE):
    with socket.create_connection((host, port), timeout) as c:
        return exchange(c)


def nonblocking():
    with socket.socket() as c:
        c.setblocking(False)
        e = c.connect_ex(("203.0.113.7", 7000))
        say("connect_ex", "ok" if e in (0, errno.EINPROGRESS) else errno.errorcode[e])
        select.select([], [c], [], PATIENCE)
        say("SO_ERROR", c.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
        c.setblocking(True)
        say("exchange", exchange(c))


async def gathers():
    async def one(host, port):
        try:
            reader, writer = await asyncio.open_connection(host, port)
            line = await reader.readline()
            peer = writer.get_extra_info("peername")[:2]
            writer.close()
            return line.decode().strip(), peer
        except OSError as e:
            return errno.errorcode.get(e.errno, e.errno)

    async def limited(host, port):
        try:
            return await asyncio.wait_for(one(host, port), 1.5)
        except asyncio.TimeoutError:
            return "no answer"

    to = [("server", 7000), ("203.0.113.7", 7000), ("2001:db8:7::7", 7000), ("203.0.113.7", 7001), ("192.0.2.1", 80)]
    for (host, port), result in zip(to, await asyncio.gather(*(limited(*t) for t in to))):
        say(f"asyncio {host} {port}", result)


def out():
    attempt("server by name", lambda: dial("server", 7000))
    attempt("server, v6", lambda: dial("2001:db8:7::7", 7000))
    attempt("refused", lambda: dial("203.0.113.7", 7001))
    attempt("unreachable", lambda: dial("192.0.2.193", 80))
    attempt("silent", lambda: dial("192.0.2.1", 80, 1))
    nonblocking()
    asyncio.run(gathers())

    def get():
        c = http.client.HTTPConnection("server", 8000, timeout=PATIENCE)
        c.request("GET", "/where")
        return c.getresponse().read().decode().strip()

    attempt("http", get)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as u:
        u.settimeout(PATIENCE)
        u.sendto(b"one", ("203.0.113.7", 7002))
        say("udp", u.recvfrom(100))
        u.connect(("203.0.113.7", 7002))
        u.send(b"two")
        say("udp connected", (u.recv(100), u.getsockname()[0], u.getpeername()))


def listen():
    with socket.create_server(("", 8090)) as s:
        say("own", s.getsockname())
        say("listen", "call ready 8090")
        s.settimeout(PATIENCE)
        c, peer = s.accept()
        say("peer", (peer[0], c.getpeername()[0], c.getsockname()))
        say("heard", c.recv(100))
        c.sendall(b"answer")
        c.close()


def files():
    for path in ("/data", "/data/plain", "/data/sub/deep/file", "/data/link", "/data/dangling", "/data/absent", "/config/greeting"):
        p = pathlib.Path(path)
        say(path, [p.exists(), p.is_dir(), p.is_file(), p.is_symlink(), os.access(path, os.R_OK), os.access(path, os.W_OK)])
        attempt(f"size {path}", lambda: os.stat(path).st_size if p.is_file() else "no file")
    attempt("listdir", lambda: sorted(os.listdir("/data")))
    attempt("scandir", lambda: sorted((e.name, e.is_dir(), e.is_symlink()) for e in os.scandir("/data")))
    attempt("walk", lambda: sorted((d, sorted(f)) for d, _, f in os.walk("/data")))
    attempt("glob", lambda: sorted(map(str, pathlib.Path("/data").rglob("*"))))
    attempt("realpath", lambda: os.path.realpath("/data/sub/../link"))
    attempt("realpath, links in the middle", lambda: os.path.realpath("/data/short/../deep/file"))
    attempt("resolve", lambda: pathlib.Path("/data/folder/deep/file").resolve())
    attempt("samefile", lambda: (os.path.samefile("/data/link", "/data/plain"), os.path.samefile("/data/link", "/data/json")))
    attempt("fwalk", lambda: sorted((d, sorted(f)) for d, _, f, _ in os.fwalk("/data")))
    attempt("readlink", lambda: os.readlink("/data/link"))
    attempt("read", lambda: pathlib.Path("/config/greeting").read_text())
    attempt("json", lambda: json.load(open("/data/json")))
    with tempfile.TemporaryDirectory() as copy:
        attempt("copytree", lambda: sorted(os.listdir(shutil.copytree("/data/sub", copy + "/sub"))))
        attempt("copied", lambda: pathlib.Path(copy, "sub/deep/file").read_text())
    with open("/data/plain", "rb") as f:
        of, at = os.fstat(f.fileno()), os.stat("/data/plain")
        say("fstat", [os.path.samestat(of, at), of.st_mtime_ns == at.st_mtime_ns, of.st_mode == at.st_mode])
    attempt("write", lambda: open("/data/new", "w"))
    attempt("rename", lambda: os.rename("/data/plain", "/data/other"))
    attempt("mkdir", lambda: os.mkdir("/data/new"))
    attempt("unlink", lambda: os.unlink("/data/plain"))
    with open("/data/plain", "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as m:
        say("mmap", m[:8])
    here = os.getcwd()
    os.chdir("/data/sub")
    say("getcwd", os.getcwd())
    say("relative", pathlib.Path("deep/file").read_text())
    say("abspath", os.path.abspath("x"))
    say("relative listdir", (sorted(os.listdir()), sorted(os.listdir("deep"))))
    attempt("relative, absent", lambda: os.stat("plain"))
    os.chdir(here)
    fd = os.open("/data", os.O_RDONLY)
    say("dir_fd", os.read(os.open("plain", os.O_RDONLY, dir_fd=fd), 100))
    say("listdir of a descriptor", sorted(os.listdir(fd)))
    say("stat by descriptor", os.stat("sub", dir_fd=fd).st_mode & 0o170000)
    os.close(fd)


def processes():
    def run(argv, **more):
        r = subprocess.run(argv, capture_output=True, text=True, **more)
        return r.returncode, r.stdout.strip(), r.stderr.strip()

    attempt("run", lambda: run([C, "child", "run"]))
    attempt("run, env={}", lambda: run([C, "child", "empty"], env={}))
    attempt("run, close_fds=False", lambda: run([C, "child", "open"], close_fds=False, env={}))
    attempt("run, cwd", lambda: run([C, "child", "elsewhere"], cwd="/data"))
    attempt("run, new session", lambda: run([C, "child", "session"], start_new_session=True))
    attempt("run, preexec_fn", lambda: run([C, "child", "preexec"], preexec_fn=lambda: None, env={}))
    attempt("shell", lambda: run(f"{C} child shell", shell=True))
    if STATIC:
        attempt("static", lambda: run([STATIC, "child"]))
        attempt("static, env={}", lambda: run([STATIC, "child"], env={}))
    attempt("absent", lambda: run(["/absent/program"]))
    attempt("not executable", lambda: run(["/etc/passwd"]))
    attempt("itself", lambda: run([sys.executable, "-c", "import socket; print(socket.gethostname())"], env={}))
    attempt("posix_spawn", lambda: os.waitstatus_to_exitcode(os.waitpid(os.posix_spawn(C, [C, "child", "spawn"], {}), 0)[1]))
    attempt("os.system", lambda: os.waitstatus_to_exitcode(os.system(f"{C} child system")))

    def forks():
        pid = os.fork()
        if pid == 0:
            attempt("in the child of a thread", lambda: dial("203.0.113.7", 7000))
            os._exit(0)
        say("fork in a thread", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    t = threading.Thread(target=forks)
    t.start()
    t.join()


if __name__ == "__main__":
    assert ssl  # what most programs load
    for subject in (environment, names, out, listen, files, processes):
        if not sys.argv[1:] or subject.__name__ in sys.argv[1:]:
            subject()
