// Receives webhooks and verifies signatures of scheme v1a (Ed25519) with Node's own crypto: it holds no secret.
//
// WEBHOOK_PUBLIC_KEY=whpk_… node receiver_v1a.mjs [port]

import { createPublicKey, verify } from "node:crypto";
import { createServer } from "node:http";

const TOLERANCE_SECONDS = 300;
// What comes before the 32 bytes of an Ed25519 key in DER (RFC 8410).
const SPKI = Buffer.from("302a300506032b6570032100", "hex");

const [, coded] = /^whpk_(.+)$/.exec(process.env.WEBHOOK_PUBLIC_KEY);
const key = createPublicKey({
  key: Buffer.concat([SPKI, Buffer.from(coded, "base64")]),
  format: "der",
  type: "spki",
});
const seen = new Set(); // In production: a table, kept for as long as the sender retries.

function isVerified(headers, body) {
  const { "webhook-id": id, "webhook-timestamp": timestamp, "webhook-signature": list } = headers;
  if (!id || !list || !/^\d+$/.test(timestamp ?? "")) return false;
  if (Math.abs(Date.now() / 1000 - Number(timestamp)) > TOLERANCE_SECONDS) return false;
  // The signature covers the bytes as received: verify before parsing.
  const signed = Buffer.concat([Buffer.from(`${id}.${timestamp}.`), body]);
  // During a rotation there are several; entries of other schemes are for others.
  return list
    .split(" ")
    .filter((entry) => entry.startsWith("v1a,"))
    .some((entry) => verify(null, signed, key, Buffer.from(entry.slice(4), "base64")));
}

const server = createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = Buffer.concat(chunks);
  if (!isVerified(request.headers, body)) {
    console.log("refused: no signature of the public key");
    response.writeHead(401).end();
    return;
  }
  const id = request.headers["webhook-id"];
  if (JSON.parse(body.toString("utf8")).event === "postrider.test") {
    console.log(`test: ${id}`); // The sender tests the way here: there is nothing to do.
  } else {
    if (!seen.has(id)) console.log(`verified: ${id}`); // Delivery is at least once; the id is the same on every attempt.
    seen.add(id);
  }
  response.writeHead(204).end();
});

server.listen(Number(process.argv[2] ?? 8000), "127.0.0.1");
