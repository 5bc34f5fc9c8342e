"""An endpoint outside of the pods that takes its time and remembers what it was sent."""

import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Receiver:
    """Listens on an address, at a port of its own."""

    def __init__(self, address):
        self.seen, self.delay, self.lock = Counter(), 0.0, threading.Lock()
        self.under_way = 0
        handler = type("Handler", (Handler,), {"receiver": self})
        self.server = Server((address, 0), handler)
        self.url = f"http://{address}:{self.port}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def port(self):
        return self.server.server_address[1]

    def stop(self):
        self.server.shutdown()
        self.server.server_close()

    def take(self, event):
        with self.lock:
            self.seen[event] += 1
            self.under_way += 1
        time.sleep(self.delay)
        with self.lock:
            self.under_way -= 1


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.receiver.take(self.headers["webhook-id"])
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass
