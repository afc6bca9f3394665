"""What main.go does, in Python."""
import os
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Orders(BaseHTTPRequestHandler):
    def do_GET(self):
        caller = "%s:%d" % self.client_address[:2]
        given = os.environ.get("GIVEN", "")
        variable = os.environ.get(sys.argv[1])
        file = open(sys.argv[2]).read().strip()
        host = socket.gethostname()
        text = f"Order on your desk: {host}, {variable}, {file}, {given}, to {caller}\n"  # a breakpoint's line
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())


ThreadingHTTPServer(("", 8080), Orders).serve_forever()
