/**
 * Every maximum and every time of the server, with its unit and its reason. Each can be changed by
 * `serve({ limits })`; `docs/limits-known.md` has them as a table.
 */

export interface ServerLimits {
  /** WebSocket connections, over all documents. Beyond it an upgrade is answered with 503. */
  readonly connectionsMax: number;
  /** WebSocket connections of one network address. Beyond it an upgrade is answered with 429. */
  readonly connectionsPerAddressMax: number;
  /** Connections to one document. */
  readonly connectionsPerDocumentMax: number;
  /** Bytes of one WebSocket message; a longer one closes the connection before it is read. */
  readonly messageBytesMax: number;
  /** Messages a second of one connection, lasting; answers count too, one for each 4 KiB of theirs. */
  readonly messagesPerSecondMax: number;
  /** Bytes on their way to one client. Above it the client gets one joined update once it has caught up. */
  readonly sendBufferBytesMax: number;
  /** Bytes received and not durable yet, over all documents. Above it the server reads no further. */
  readonly unsavedBytesMax: number;
  /**
   * Events of one live document that wait for something missing. Above it such updates are dropped, and their
   * client is asked for all that it has.
   */
  readonly heldEventsMax: number;
  /** Awareness states that one connection may introduce, and bytes of one of them. */
  readonly awarenessStatesMax: number;
  readonly awarenessStateBytesMax: number;
  /**
   * Estimated bytes of all live documents. Above it idle ones leave memory, then no further one is loaded.
   */
  readonly memoryBytesMax: number;
  /** Documents that are loaded at one time; the others wait. */
  readonly loadsMax: number;
  /** Bytes of the body of one HTTP request. */
  readonly bodyBytesMax: number;
  /** Bytes of one that is to be imported; and imports at one time, each of which may hold 65 MiB of it. */
  readonly importBytesMax: number;
  readonly importsMax: number;
  /** Entries of one page of a list. */
  readonly pageEntriesMax: number;
  /** Clients that are told of changes as they happen; a further one is answered with 503, and can ask. */
  readonly watchersMax: number;
  /** Documents that one message to them names; beyond it, it says that others have changed too. */
  readonly changedIdsMax: number;
  /** Compactions that are remembered of one document, and documents of which any are. */
  readonly compactionsMax: number;
  readonly compactedDocumentsMax: number;
  /** The newest events that a drawing of an event graph is made of. */
  readonly graphEventsMax: number;
  /** A document that nobody is connected to leaves memory after so long. */
  readonly idleMs: number;
  /** A connection whose permission and document are not there after so long is closed. */
  readonly loadMs: number;
  /** A connection that has not asked for the document after so long is closed. */
  readonly helloMs: number;
  /** Time between two pings; a client that answers none of two is gone. */
  readonly pingMs: number;
  /**
   * A client that has not caught up after so long is closed, and one that takes nothing of an export for ten
   * times so long.
   */
  readonly slowMs: number;
  /** The headers of a request, and the whole of it, must have come after so long. */
  readonly headersMs: number;
  readonly requestMs: number;
  /** Permissions of open connections are asked for again after so long. */
  readonly reauthorizeMs: number;
  /** How long `close` waits for clients to say goodbye. */
  readonly shutdownMs: number;
}

const KIB = 1024;
const MIB = 1024 * KIB;

export const SERVER_LIMITS: ServerLimits = {
  connectionsMax: 10_000,
  connectionsPerAddressMax: 1_000,
  connectionsPerDocumentMax: 1_000,
  messageBytesMax: 16 * MIB,
  messagesPerSecondMax: 1_000,
  sendBufferBytesMax: MIB,
  unsavedBytesMax: 32 * MIB,
  heldEventsMax: 256,
  awarenessStatesMax: 32,
  awarenessStateBytesMax: 16 * KIB,
  memoryBytesMax: 512 * MIB,
  loadsMax: 8,
  bodyBytesMax: MIB,
  importBytesMax: 1_024 * MIB,
  importsMax: 4,
  pageEntriesMax: 1_000,
  watchersMax: 256,
  changedIdsMax: 64,
  compactionsMax: 64,
  compactedDocumentsMax: 1_000,
  graphEventsMax: 4_096,
  idleMs: 30_000,
  loadMs: 120_000,
  helloMs: 10_000,
  pingMs: 30_000,
  slowMs: 30_000,
  headersMs: 10_000,
  requestMs: 60_000,
  reauthorizeMs: 60_000,
  shutdownMs: 5_000,
};

/** What a timer can wait, some 24 days; one that is to wait longer does not wait at all. */
export const MS_MAX: number = 2 ** 31 - 1;

/**
 * The limits with some changed. Throws a `RangeError` for one that is unknown or not a whole number from 1,
 * and for times that cannot be waited for.
 */
export function serverLimits(changed: Partial<ServerLimits> = {}): ServerLimits {
  for (const [name, value] of Object.entries(changed)) {
    if (!Object.hasOwn(SERVER_LIMITS, name)) {
      throw new RangeError(`there is no limit ${name}; there are ${Object.keys(SERVER_LIMITS).join(", ")}`);
    }
    if (!Number.isSafeInteger(value) || value < 1) throw new RangeError(`${name} must be an integer from 1`);
    if (name.endsWith("Ms") && value > MS_MAX)
      throw new RangeError(`${name} must be at most ${MS_MAX}: a timer waits no longer`);
  }
  const limits = { ...SERVER_LIMITS, ...changed };
  if (limits.requestMs < limits.headersMs)
    throw new RangeError("requestMs must be at least headersMs, which is a part of it");
  return limits;
}
