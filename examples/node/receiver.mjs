// Receives webhooks and verifies them with the library `standardwebhooks`.
//
// WEBHOOK_SECRET=whsec_… node receiver.mjs [port]

import { createServer } from "node:http";
import { Webhook } from "standardwebhooks";

const webhook = new Webhook(process.env.WEBHOOK_SECRET);
const seen = new Set(); // In production: a table, kept for as long as the sender retries.

const server = createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  // The signature covers the bytes as received: verify before parsing.
  const body = Buffer.concat(chunks).toString("utf8");
  let event;
  try {
    event = webhook.verify(body, request.headers);
  } catch (error) {
    console.log(`refused: ${error.message}`);
    response.writeHead(401).end();
    return;
  }
  const id = request.headers["webhook-id"];
  if (event.event === "postrider.test") {
    // The sender tests the way here: there is nothing to do.
    console.log(`test: ${id}`);
  } else if (!seen.has(id)) {
    // Delivery is at least once; the id is the same on every attempt.
    seen.add(id);
    console.log(`verified: ${id} ${event.event} ${JSON.stringify(event.data)}`);
  }
  response.writeHead(204).end();
});

server.listen(Number(process.argv[2] ?? 7072), "127.0.0.1");
