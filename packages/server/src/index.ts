/** The public API of the server on one screen. */

export {
  type AccessRequest,
  type Action,
  type Authorize,
  bearerTokens,
  checkOrigins,
  describeRefusal,
  type Refusal,
  type TokenGrant,
} from "./access.js";
export type { ContentPart } from "./http/answers.js";
export { contentOf } from "./http/content.js";
export type { Supervisor } from "./http/supervisor-routes.js";
export { SERVER_LIMITS, type ServerLimits } from "./limits.js";
export { type CounterName, type Gauges, ServerMetrics } from "./metrics.js";
export { type CoppiceServer, createServer, DEFAULT_PORT, type ServerOptions, serve } from "./server.js";
export { CLOSE, type CloseReason } from "./sync/protocol.js";
