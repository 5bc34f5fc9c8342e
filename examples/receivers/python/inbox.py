"""Receives webhooks: verifies, does the work of each event once, and lets no older event undo a newer one.

WEBHOOK_SECRETS=whsec_…[,whsec_…] python inbox.py [port] [database]
"""

import base64
import hashlib
import hmac
import json
import os
import sqlite3
import sys
import time
from datetime import datetime
from http.server import BaseHTTPRequestHandler, HTTPServer

TOLERANCE = 300  # Seconds that a POST may be old: then a recorded one is worthless.
# Several while a secret is changed: one that fits is enough.
KEYS = [base64.b64decode(secret.removeprefix("whsec_")) for secret in os.environ["WEBHOOK_SECRETS"].split(",")]


def verified(headers, body):
    """Whether the POST is the sender's, and of now. The signature covers the bytes as received."""
    event_id, sent, signatures = (headers.get(f"webhook-{name}", "") for name in ("id", "timestamp", "signature"))
    if not event_id or not sent.isdecimal() or abs(time.time() - int(sent)) > TOLERANCE:
        return False
    signed = f"{event_id}.{sent}.".encode() + body
    given = [entry[3:] for entry in signatures.split(" ") if entry.startswith("v1,")]
    right = [base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode() for key in KEYS]
    return any(hmac.compare_digest(one, other) for one in given for other in right)


def take(database, event_id, event):
    """Does the event's work, unless it was done. One transaction: work and memory of it are there together or not at all."""
    document = event["data"]["documentId"]
    with database:
        try:
            database.execute("INSERT INTO seen (id, at) VALUES (?, ?)", (event_id, time.time()))
        except sqlite3.IntegrityError:
            return "repeat"
        # An event that happened before what is known already comes too late: attempts may overtake each other.
        changed = database.execute(
            """INSERT INTO documents (id, status, changed) VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE
               SET status = excluded.status, changed = excluded.changed WHERE excluded.changed > documents.changed""",
            (document, event["data"].get("status"), datetime.fromisoformat(event["timestamp"]).timestamp()),
        )
        return "applied" if changed.rowcount else "stale"


class Inbox(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if not verified(self.headers, body):
            print("refused", flush=True)
            return self.answer(401)
        event_id, event = self.headers["webhook-id"], json.loads(body)
        if event["event"] == "postrider.test":  # The sender tests the way here: there is nothing to do.
            print(f"test: {event_id}", flush=True)
            return self.answer(204)
        try:
            print(f"{take(self.server.database, event_id, event)}: {event_id}", flush=True)
        except Exception as error:
            print(f"failed: {event_id}: {error!r}", flush=True)
            return self.answer(500)  # The sender tries again.
        self.answer(204)

    def answer(self, status):
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 7072
    server = HTTPServer(("127.0.0.1", port), Inbox)
    server.database = sqlite3.connect(sys.argv[2] if len(sys.argv) > 2 else ":memory:")
    server.database.executescript(
        """CREATE TABLE IF NOT EXISTS seen (id TEXT PRIMARY KEY, at REAL);
           CREATE TABLE IF NOT EXISTS documents (id TEXT PRIMARY KEY, status TEXT, changed REAL);
           DELETE FROM seen WHERE at < unixepoch() - 30 * 86400;"""
    )
    server.serve_forever()
