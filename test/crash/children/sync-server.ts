/**
 * The server that the tests kill: y-websocket style or Hocuspocus, over one LevelDB store, telling its clients
 * what is durable.
 *
 * Arguments: kind ("y-websocket" or "hocuspocus"), location, port (0: any). Says `OPEN port` on standard output once
 * it listens.
 */
import { writeSync } from "node:fs";
import { hocuspocusPersistence } from "@coppice/hocuspocus";
import { levelBackend } from "@coppice/level";
import { yjs } from "@coppice/yjs";
import { websocketPersistence } from "@coppice/yjs/dropins";
import { Server } from "@hocuspocus/server";
import { DocumentStorage, everyEvents } from "coppice";
import { YWebsocketServer } from "../../support/y-websocket-server.js";

const [kind, location, port] = process.argv.slice(2) as [string, string, string];
const storage = await DocumentStorage.open({
  // Small buffers and many snapshots, so that the store itself is often at work when it is killed.
  backend: levelBackend(location, { writeBufferBytes: 64 * 1024 }),
  models: [yjs()],
  snapshotPolicy: everyEvents(200),
});

if (kind === "hocuspocus") {
  const server = new Server({
    quiet: true,
    address: "127.0.0.1",
    port: Number(port),
    stopOnSignals: false,
    extensions: [hocuspocusPersistence(storage, { announceMs: 5 })],
  });
  await server.listen();
  writeSync(1, `OPEN ${server.address.port}\n`);
} else {
  const persistence = websocketPersistence(storage, {
    onDurable: ({ id, clock, pending, clients }) => {
      server.tell(id, { clock, pending, clients: Object.fromEntries(clients) });
    },
  });
  const server = await YWebsocketServer.listen(persistence, Number(port));
  writeSync(1, `OPEN ${server.port}\n`);
}
