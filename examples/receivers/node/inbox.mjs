// Receives webhooks: verifies, does the work of each event once, and lets no older event undo a newer one.
//
// WEBHOOK_SECRETS=whsec_…[,whsec_…] node inbox.mjs [port]

import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";

const TOLERANCE = 300; // Seconds that a POST may be old: then a recorded one is worthless.
const REMEMBERED = 30 * 86_400_000; // As long as the sender may repeat: its retention.
// Several while a secret is changed: one that fits is enough.
const keys = process.env.WEBHOOK_SECRETS.split(",").map((s) => Buffer.from(s.replace(/^whsec_/, ""), "base64"));

// In production: two tables, written in one transaction, so that work and memory of it are there together or not at all.
const seen = new Map();
const documents = new Map();

// Whether the POST is the sender's, and of now. The signature covers the bytes as received.
function isVerified(headers, body) {
  const { "webhook-id": id, "webhook-timestamp": sent, "webhook-signature": signatures } = headers;
  if (!id || !signatures || !/^\d+$/.test(sent ?? "")) return false;
  if (Math.abs(Date.now() / 1000 - Number(sent)) > TOLERANCE) return false;
  const right = keys.map((key) => createHmac("sha256", key).update(`${id}.${sent}.`).update(body).digest());
  const given = signatures.split(" ").filter((entry) => entry.startsWith("v1,"));
  return given
    .map((entry) => Buffer.from(entry.slice(3), "base64"))
    .some((one) => right.some((other) => one.length === other.length && timingSafeEqual(one, other)));
}

// Does the event's work, unless it was done.
function take(id, event) {
  const now = Date.now();
  for (const [old, at] of seen) {
    if (at > now - REMEMBERED) break; // In the order in which they came.
    seen.delete(old);
  }
  if (seen.has(id)) return "repeat";
  seen.set(id, now);
  // An event that happened before what is known already comes too late: attempts may overtake each other.
  const [known, changed] = [documents.get(event.data.documentId), Date.parse(event.timestamp)];
  if (known && known.changed >= changed) return "stale";
  documents.set(event.data.documentId, { status: event.data.status, changed });
  return "applied";
}

const server = createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = Buffer.concat(chunks);
  if (!isVerified(request.headers, body)) {
    console.log("refused");
    response.writeHead(401).end();
    return;
  }
  const id = request.headers["webhook-id"];
  try {
    const event = JSON.parse(body.toString("utf8"));
    // A test event: the sender tests the way here, and there is nothing to do.
    console.log(`${event.event === "postrider.test" ? "test" : take(id, event)}: ${id}`);
  } catch (error) {
    console.log(`failed: ${id}: ${error}`);
    seen.delete(id);
    response.writeHead(500).end(); // The sender tries again.
    return;
  }
  response.writeHead(204).end();
});

server.listen(Number(process.argv[2] ?? 7072), "127.0.0.1");
