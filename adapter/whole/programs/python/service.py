"""The debuggee of TestPython: a service that says what it sees of the pod."""
import json
import os
import socket
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def call(address):
    """What the server at an address says of its caller."""
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=10) as s:
        return s.makefile().readline().strip()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        path = self.path
        answer = {  # the breakpoint of the tests
            "Who": os.environ.get("WHO", ""),
            "Hostname": socket.gethostname(),
            "Client": "%s:%d" % self.client_address,
            "Path": path,
            "Unset": os.environ.get("UNSET"),
            "Secret": os.environ.get("SECRET", ""),
        }
        try:
            answer["File"] = open("/etc/config/small").read()
            if path.startswith("/call/"):
                answer["Caller"] = call(path.removeprefix("/call/"))
            if path.startswith("/child"):
                child = os.path.join(os.path.dirname(__file__), "child.py")
                answer["Child"] = subprocess.run([sys.executable, child, path], stdout=subprocess.PIPE, text=True).stdout
        except Exception as e:
            answer["Error"] = repr(e)
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("", 8080), Handler)
    print("listening on", server.server_address, flush=True)
    server.serve_forever()
