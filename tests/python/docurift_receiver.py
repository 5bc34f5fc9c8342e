"""A receiver for the headers that DocuRift documents, written with nothing but Python's own library.

X-DocuRift-Signature is the hexadecimal HMAC-SHA256 of `{X-DocuRift-Timestamp}.{body}`, keyed with the text `whsec_…`;
X-DocuRift-Event-Id is the event's id.

WEBHOOK_SECRET=whsec_… python docurift_receiver.py PORT
"""

import hashlib
import hmac
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer


def verified(headers, body):
    timestamp, signature = headers["X-DocuRift-Timestamp"], headers["X-DocuRift-Signature"]
    if not timestamp or not signature or abs(time.time() - int(timestamp)) > 300:
        return False
    message = timestamp.encode() + b"." + body
    expected = hmac.new(os.environ["WEBHOOK_SECRET"].encode(), message, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected, signature)


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if verified(self.headers, body):
            print(f"verified: {self.headers['X-DocuRift-Event-Id']}", flush=True)
            self.send_response(200)
        else:
            print("refused: the signature is not right", flush=True)
            self.send_response(401)
        self.end_headers()

    def log_message(self, *_):
        pass


HTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver).serve_forever()
