"""The service of `stepin demo` where namespaces cannot be made: it tells what it knows of an order, and every part of
the answer comes from somewhere that only its pod has. It must never know anything of stepin."""

import http.server
import os
import sys
import urllib.request

PORT, FOLDER, BY = int(sys.argv[1]), sys.argv[2], sys.argv[3]  # the last says who answers


class Orders(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        customer = "%s:%d" % self.client_address
        currency = os.environ.get("CURRENCY", "?")
        greeting = read(os.path.join(FOLDER, "greeting"))
        stock = get(os.environ.get("STOCK", ""))
        text = "%s Order %s: %s in stock, 12.50 %s each." % (greeting, os.path.basename(self.path), stock, currency)
        self.answer("%s (%s, to %s)\n" % (text, BY, customer))  # the demo stops here

    def answer(self, text):
        print(text, end="", flush=True)
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


def read(path):
    """A file's text, without the end of its last line."""
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return "?"


def get(url):
    """What another service says. A proxy of the developer's is not asked."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5) as answer:
            return answer.read(1024).decode().strip()
    except (OSError, ValueError):
        return "?"


http.server.ThreadingHTTPServer.daemon_threads = True
server = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Orders)
print("orders listens on port %d" % server.server_address[1], flush=True)
server.serve_forever()
