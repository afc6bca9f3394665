"""The debuggee of TestF5Python and TestKill: a service that looks at the pod and says what it has seen."""
import base64
import json
import os
import socket
import sys
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WANTED = json.loads(sys.argv[1])


def fetch(url):
    try:
        return urllib.request.urlopen(url, timeout=20).read().decode()
    except Exception as e:
        return "error: %r" % e


def look():
    """All that WANTED names, as base64 of JSON: what a debugger shows of that needs no quotes."""
    seen = {
        "Host": socket.gethostname(),
        "Env": {name: os.environ.get(name, "") for name in WANTED["Env"]},
        "Files": {path: open(path).read().rstrip("\n") for path in WANTED["Files"]},
        "Fetched": {url: fetch(url) for url in WANTED["URLs"]},
    }
    return base64.b64encode(json.dumps(seen).encode()).decode()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        path, _, query = self.path.partition("?")
        caller = "%s:%d" % self.client_address[:2]
        said = look() if path == "/look" else ""
        answer = {"Who": "debuggee", "Host": socket.gethostname(), "Pid": os.getpid(), "Path": path}  # a breakpoint's line
        answer.update(Caller=caller, Query=query, Said=len(said))
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("", 8080), Handler).serve_forever()
