// A receiver as GitHub's documentation has it: `verify` of @octokit/webhooks-methods decides.
//
// WEBHOOK_SECRET=whsec_… node github_receiver.mjs PORT

import { createServer } from "node:http";

import { verify } from "@octokit/webhooks-methods";

const server = createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = Buffer.concat(chunks).toString("utf8");
  const signature = request.headers["x-hub-signature-256"] ?? "";
  const verified = signature !== "" && (await verify(process.env.WEBHOOK_SECRET, body, signature));
  console.log(verified ? `verified: ${request.headers["webhook-id"]}` : "refused: the signature is not right");
  response.writeHead(verified ? 200 : 401).end();
});

server.listen(Number(process.argv[2]), "127.0.0.1");
