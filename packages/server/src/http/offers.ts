/**
 * Requests that offer to go on in another protocol than WebSocket: HTTP/2, as Java's `HttpClient` and
 * `curl --http2` do with each. Whoever does not take such an offer answers the request as if there were none.
 *
 * Node hands all of them over as upgrades, behind which it reads no request any more; so the request is
 * written again without the offer, and read once more. The connection ends with its answer: nothing is known
 * of how often that can be done to one.
 */

import type { Server as HttpServer, IncomingMessage } from "node:http";
import type { Duplex } from "node:stream";

const LEFT_OUT: ReadonlySet<string> = new Set(["upgrade", "http2-settings", "connection"]);

export function offersAnother({ headers }: IncomingMessage): boolean {
  return headers.upgrade?.toLowerCase() !== "websocket";
}

/** `head`: what has been read behind the headers. */
export function answerAnyway(
  server: HttpServer,
  { method, url, httpVersion, rawHeaders }: IncomingMessage,
  socket: Duplex,
  head: Buffer,
): void {
  const lines = [`${method} ${url} HTTP/${httpVersion}`, "Connection: close"];
  for (let index = 0; index < rawHeaders.length; index += 2) {
    const [name = "", value = ""] = rawHeaders.slice(index);
    if (!LEFT_OUT.has(name.toLowerCase())) lines.push(`${name}: ${value}`);
  }
  socket.unshift(Buffer.concat([Buffer.from(`${lines.join("\r\n")}\r\n\r\n`, "latin1"), head]));
  server.emit("connection", socket);
}
