"""A receiver as Stripe's documentation has it: `stripe.Webhook.construct_event` decides.

WEBHOOK_SECRET=whsec_… python stripe_receiver.py PORT
"""

import os
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

import stripe


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        payload = self.rfile.read(int(self.headers["content-length"]))
        try:
            stripe.Webhook.construct_event(
                payload, self.headers["Stripe-Signature"], os.environ["WEBHOOK_SECRET"]
            )
        except (ValueError, stripe.SignatureVerificationError) as error:
            print(f"refused: {error}", flush=True)
            self.send_response(401)
        else:
            print(f"verified: {self.headers['webhook-id']}", flush=True)
            self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


HTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver).serve_forever()
