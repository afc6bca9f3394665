"""Serves HTTP at a port and says who calls."""
import http.server, json, sys


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        local = self.connection.getsockname()
        body = json.dumps({"who": "debuggee", "client": self.client_address[0], "peer": self.connection.getpeername()[0],
                           "local": "%s:%d" % local[:2], "path": self.path}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


http.server.ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Handler).serve_forever()
