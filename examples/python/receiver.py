"""Receives webhooks and verifies them with the library `standardwebhooks`.

WEBHOOK_SECRET=whsec_… python receiver.py [port]
"""

import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks import Webhook

webhook = Webhook(os.environ["WEBHOOK_SECRET"])
seen = set()  # In production: a table, kept for as long as the sender retries.


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        # The signature covers the bytes as received: verify before parsing.
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        try:
            event = webhook.verify(body, dict(self.headers))
        except Exception as error:
            print(f"refused: {error}", flush=True)
            return self.answer(401)
        event_id = self.headers["webhook-id"]
        if event.get("event") == "postrider.test":  # The sender tests the way here: there is nothing to do.
            print(f"test: {event_id}", flush=True)
        elif event_id not in seen:  # Delivery is at least once; the id is the same on every attempt.
            seen.add(event_id)
            print(f"verified: {event_id} {event['event']} {event['data']}", flush=True)
        self.answer(204)

    def answer(self, status):
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 7072
    ThreadingHTTPServer(("127.0.0.1", port), Receiver).serve_forever()
