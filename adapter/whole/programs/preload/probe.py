"""Says what a program in the pod's place sees, one line of JSON a step: each by the name of the step and what came of it."""
import asyncio, errno, json, os, select, socket, subprocess, sys

SERVER = sys.argv[1]


def say(step, value):
    print(json.dumps([step, value]), flush=True)


def attempt(f):
    try:
        return f()
    except OSError as e:
        return errno.errorcode.get(e.errno, str(e)) if not isinstance(e, socket.gaierror) else "gaierror %d" % e.errno


def read(path):
    with open(path) as f:
        return f.read()


def call(host, port, timeout=None):
    s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    s.settimeout(timeout)
    try:
        s.connect((host, port))
        return [s.recv(100).decode(), s.getpeername()[0], s.getpeername()[1], s.getsockname()[0]]
    finally:
        s.close()


def late(host, port):
    s = socket.socket()
    s.setblocking(False)
    ep = select.epoll()
    ep.register(s, select.EPOLLIN | select.EPOLLOUT)
    first = s.connect_ex((host, port))
    s_events = []
    for _ in range(50):
        events = ep.poll(2)
        if events:
            s_events = events[0][1]
            break
    err = s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    text = ""
    if not err:
        s.setblocking(True)
        text = s.recv(100).decode()
    s.close()
    return [errno.errorcode.get(first, first), errno.errorcode.get(err, err), text]


def datagram(connected):
    s = socket.socket(type=socket.SOCK_DGRAM)
    s.settimeout(10)
    if connected:
        s.connect((SERVER, 7001))
        s.send(b"hello")
        data, peer = s.recvfrom(100)
        return [data.decode(), peer, s.getpeername()]
    s.sendto(b"hello", (SERVER, 7001))
    data, peer = s.recvfrom(100)
    return [data.decode(), list(peer)]


async def streams():
    r, w = await asyncio.open_connection(SERVER, 7000)
    text = await r.read(100)
    w.close()
    return text.decode()


say("env", os.environ.get("WHO"))
say("hostname", [socket.gethostname(), os.uname().nodename])
say("file", attempt(lambda: read("/etc/config/colour")))
say("list", attempt(lambda: sorted(n for n in os.listdir("/etc/config") if not n.startswith(".."))))
say("stat", attempt(lambda: os.stat("/etc/config/colour").st_size))
say("write", attempt(lambda: open("/etc/config/colour", "a")))
say("resolv", attempt(lambda: read("/etc/resolv.conf")))
say("name", attempt(lambda: socket.gethostbyname("orders")))
say("missing name", attempt(lambda: socket.getaddrinfo("nowhere.example.com", 80)))
say("connect", attempt(lambda: call(SERVER, 7000)))
say("refused", attempt(lambda: call(SERVER, 7999)))
say("unreachable", attempt(lambda: call("192.0.2.193", 1)))
say("late", attempt(lambda: late(SERVER, 7000)))
say("late refused", attempt(lambda: late(SERVER, 7999)))
say("asyncio", attempt(lambda: asyncio.run(streams())))
say("datagram", attempt(lambda: datagram(False)))
say("connected datagram", attempt(lambda: datagram(True)))
say("child", subprocess.run([sys.executable, "-c", "import socket; print(socket.gethostname())"], env={}, capture_output=True, text=True).stdout.strip())
