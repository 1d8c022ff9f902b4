/**
 * Requests that offer to go on in another protocol than WebSocket: HTTP/2, as Java's `HttpClient` and
 * `curl --http2` do with each. Whoever does not take such an offer answers the request as if there were none.
 *
 * Node hands all of them over as upgrades, behind which it reads no request any more; so the request is
 * written again without the offer, and read once more. The connection ends with its answer: nothing is known
 * of how often that can be done to one.
 */

import type { Server as HttpServer, IncomingMessage, ServerResponse } from "node:http";
import type { Socket } from "node:net";

const LEFT_OUT: ReadonlySet<string> = new Set(["upgrade", "http2-settings", "connection"]);

export function offersAnother({ headers }: IncomingMessage): boolean {
  return headers.upgrade?.toLowerCase() !== "websocket";
}

/** `head`: what has been read behind the headers. `before`: an answer under way to the same connection. */
export function answerAnyway(
  server: HttpServer,
  { method, url, httpVersion, rawHeaders }: IncomingMessage,
  socket: Socket,
  head: Buffer,
  before: ServerResponse | undefined,
): void {
  const lines = [`${method} ${url} HTTP/${httpVersion}`, "Connection: close"];
  for (let index = 0; index < rawHeaders.length; index += 2) {
    const [name = "", value = ""] = rawHeaders.slice(index);
    if (!LEFT_OUT.has(name.toLowerCase())) lines.push(`${name}: ${value}`);
  }
  socket.unshift(Buffer.concat([Buffer.from(`${lines.join("\r\n")}\r\n\r\n`, "latin1"), head]));
  if (before === undefined) server.emit("connection", socket);
  else readBehind(before, server, socket);
}

/** What is read once more gets its answers in a line of its own, which would wait for ever for this one. */
function readBehind(before: ServerResponse, server: HttpServer, socket: Socket): void {
  // Nobody else hears of it meanwhile.
  const gone = () => socket.destroy();
  socket.on("error", gone);
  before.once("close", () => {
    if (!socket.writable) return;
    // Node gave the connection some time to come with its next request.
    socket.setTimeout(0);
    server.emit("connection", socket);
    socket.off("error", gone);
  });
}
