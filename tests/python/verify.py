"""The command of a hook of Debian's `webhook` server: verifies with the library `standardwebhooks`.

WEBHOOK_SECRET=whsec_… python verify.py ID TIMESTAMP SIGNATURE BODY
"""

import os
import sys

from standardwebhooks import Webhook

event_id, timestamp, signature, body = sys.argv[1:]
headers = {"webhook-id": event_id, "webhook-timestamp": timestamp, "webhook-signature": signature}
try:
    Webhook(os.environ["WEBHOOK_SECRET"]).verify(body, headers)
except Exception as error:
    print(f"refused: {error}")
    sys.exit(1)
print(f"verified: {event_id}")
