"""Serves HTTP at a port by workers that were forked after listen, as prefork servers do; and is an application for gunicorn."""
import http.server, json, os, socket, sys


def said(peer):
    return json.dumps({"who": "debuggee", "client": peer, "path": str(os.getpid()), "hostname": socket.gethostname()}).encode()


def app(environ, start):
    start("200 OK", [("Content-Type", "application/json")])
    return [said(environ["REMOTE_ADDR"])]


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = said(self.client_address[0])
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


if __name__ == "__main__":
    server = http.server.HTTPServer(("0.0.0.0", int(sys.argv[1])), Handler)
    for _ in range(3):
        if os.fork() == 0:
            server.serve_forever()
    os.wait()
