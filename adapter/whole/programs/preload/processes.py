"""Starts children in the ways that programs have, one line of JSON each: what the child sees of the pod, or the errno."""
import errno, json, os, subprocess, sys, threading

SERVER, STATIC = sys.argv[1:3]
CHILD = [sys.executable, "-c", "import socket, sys; s = socket.create_connection((sys.argv[1], 7000)); print(socket.gethostname(), s.recv(100).decode(), end='')", SERVER]


def say(step, value):
    print(json.dumps([step, value]), flush=True)


def attempt(f):
    try:
        return f()
    except OSError as e:
        return errno.errorcode.get(e.errno, str(e))


def child(**how):
    return subprocess.run(CHILD, capture_output=True, text=True, **how).stdout


def spawned(env):
    r, w = os.pipe()
    pid = os.posix_spawn(CHILD[0], CHILD, env, file_actions=[(os.POSIX_SPAWN_DUP2, w, 1), (os.POSIX_SPAWN_CLOSE, r)])
    os.close(w)
    with os.fdopen(r) as out:
        text = out.read()
    os.waitpid(pid, 0)
    return text


def forked():
    """Each of some threads forks children, which go on without executing anything."""
    import socket

    good = []

    def some():
        for _ in range(5):
            pid = os.fork()
            if pid == 0:
                try:
                    s = socket.create_connection((SERVER, 7000))
                    os._exit(0 if s.recv(100).startswith(b"hello") else 1)
                except BaseException:
                    os._exit(2)
            good.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    threads = [threading.Thread(target=some) for _ in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return [len(good), sum(good)]


plain = os.path.join(sys.argv[3], "plain")
with open(plain, "w") as f:
    f.write("echo from a file without a first line\n")
os.chmod(plain, 0o600)
say("vfork", [subprocess._USE_VFORK, child(env={}, close_fds=True)])
say("fork", child(env={}, close_fds=True, preexec_fn=lambda: None))
say("posix_spawn by subprocess", [subprocess._USE_POSIX_SPAWN, child(env={}, close_fds=False)])
say("posix_spawn", spawned({}))
say("new session", child(env={}, start_new_session=True))
say("threads", forked())
say("static", attempt(lambda: subprocess.run([STATIC, "env=WHO", "cat=/etc/config/colour"], capture_output=True, text=True).stdout))
say("system", os.waitstatus_to_exitcode(os.system("exit 7")))
for step, path in {"absent": "/absent/program", "directory": "/tmp", "not executable": plain}.items():
    say(step, attempt(lambda: subprocess.run([path], env={})))
os.chmod(plain, 0o700)
say("no program", attempt(lambda: subprocess.run([plain], env={})))
if os.getuid() == 0:
    say("another user", child(env={}, user=65534, group=65534, extra_groups=[], cwd="/"))
    say("su", subprocess.run(["su", "-s", "/bin/sh", "nobody", "-c", "hostname; id -u"], capture_output=True, text=True).stdout)
