// What the OpenAPI document says of answers, held against those of a running server.
import { yjs } from "@coppice/yjs";
import { CoppiceError, DocumentStorage, graph, type HistoryPolicy, type TreeDocument, tree } from "coppice";
import { afterEach, describe, expect, test } from "vitest";
import * as Y from "yjs";
import { cleanUp, levelStore, type Running, run, typed } from "./support.js";

afterEach(cleanUp);

type Json = Record<string, unknown>;
interface Described {
  readonly paths: Record<string, Record<string, { responses: Record<string, { content: Json }> }>>;
  readonly components: { readonly schemas: Record<string, Json> };
}

const KEYWORDS =
  "type enum anyOf $ref required properties additionalProperties items prefixItems minItems maxItems minimum description";

/** What of a value its schema does not allow, or does not speak of. */
function faults(value: unknown, schema: Json, described: Described, at = ""): string[] {
  const again = (part: unknown, of: unknown, name: string | number) =>
    faults(part, of as Json, described, `${at}/${name}`);
  // Anything.
  if (Object.keys(schema).length === 0) return [];
  const unknown = Object.keys(schema).filter((keyword) => !KEYWORDS.split(" ").includes(keyword));
  if (unknown.length > 0) return [`${at}: the check knows no ${unknown}`];
  if (typeof schema.$ref === "string") {
    const name = schema.$ref.replace("#/components/schemas/", "");
    const named = described.components.schemas[name];
    return named === undefined ? [`${at}: there is no ${name}`] : faults(value, named, described, at);
  }
  if (schema.anyOf !== undefined) {
    const tried = (schema.anyOf as Json[]).map((each) => faults(value, each, described, at));
    return tried.find((found) => found.length === 0) ?? tried.flat();
  }
  const found: string[] = [];
  const types = [schema.type ?? kindOf(value)].flat();
  if (!types.includes(kindOf(value)) && !(types.includes("number") && kindOf(value) === "integer"))
    return [`${at}: ${JSON.stringify(value)} is no ${types}`];
  if (schema.enum !== undefined && !(schema.enum as unknown[]).includes(value)) found.push(`${at}: ${value}`);
  if (typeof value === "number" && value < Number(schema.minimum ?? value)) found.push(`${at}: ${value}`);
  if (Array.isArray(value)) {
    const { prefixItems = [], items, minItems = 0, maxItems = value.length } = schema;
    if (value.length < Number(minItems) || value.length > Number(maxItems)) found.push(`${at}: its length`);
    return [...found, ...value.flatMap((each, i) => again(each, (prefixItems as Json[])[i] ?? items, i))];
  }
  if (typeof value !== "object" || value === null) return found;
  const { required = [], properties = {}, additionalProperties } = schema;
  for (const name of required as string[]) if (!(name in value)) found.push(`${at}: ${name} is missing`);
  for (const [name, part] of Object.entries(value)) {
    const of = (properties as Json)[name] ?? additionalProperties;
    found.push(...(of === undefined ? [`${at}: nothing is said of ${name}`] : again(part, of, name)));
  }
  return found;
}

function jsonOf(content: Json | undefined): Json {
  expect(content).toHaveProperty(["application/json"]);
  return (content as Record<string, { schema: Json }>)["application/json"]!.schema;
}

function kindOf(value: unknown): string {
  if (value === null) return "null";
  if (Array.isArray(value)) return "array";
  return Number.isSafeInteger(value) ? "integer" : typeof value;
}

const counter = graph({
  name: "counter",
  initial: { total: 0 },
  apply: (state, more: number) => ({ total: state.total + more }),
});

/** Documents of several models, with all that one can have; `strange` is of a model that is not there. */
async function everything(): Promise<Running> {
  const backend = await levelStore();
  const storage = await DocumentStorage.open({ backend, models: [yjs(), tree(), counter] });
  for (const text of ["one", "two", "three"])
    await storage.append("notes", [typed(text)], { info: { text } });
  await storage.append("notes", [typed("four")]);
  await storage.tag("notes", "early", 2);
  const outline = await storage.open<TreeDocument>("outline", { model: "tree" });
  outline.change((doc) => void doc.put({ attributes: { text: "one" } }));
  await outline.save();
  await outline.close();
  await (await storage.open("strange", { model: "counter" })).close();
  await storage.close();
  const models = [yjs(), tree()] as unknown as [ReturnType<typeof yjs>];
  const history: HistoryPolicy = "archive";
  return run({
    backend,
    storageOptions: { models, history },
    supervisor: { kill: () => undefined },
    mayFail: true,
  });
}

async function description({ server }: Running): Promise<Described> {
  return (await (await fetch(`${server.url}/api/openapi.json`)).json()) as Described;
}

/** In an order in which each finds what it needs. */
const REQUESTS = `
GET /api/openapi.json
GET /api/figures
GET /api/supervisor
POST /api/supervisor/kill
GET /api/actions
GET /api/documents
GET /api/documents?info=true&limit=1
GET /api/documents/{notes}/actions
GET /api/documents/{notes}
GET /api/documents/{notes}?usage=true
PUT /api/documents/{new}
GET /api/documents/{notes}/history
GET /api/documents/{notes}/history?limit=1
GET /api/documents/{notes}/events
GET /api/documents/{notes}/events?limit=1
GET /api/documents/{notes}/content
GET /api/documents/{outline}/content
GET /api/documents/{notes}/timeline
GET /api/documents/{notes}/graph
GET /api/documents/{outline}/graph
GET /api/documents/{notes}/tags
PUT /api/documents/{notes}/tags/{late}
DELETE /api/documents/{notes}/tags/{late}
POST /api/documents/{notes}/fork?as=copy
POST /api/documents/{notes}/snapshots
POST /api/documents/{notes}/snapshots
POST /api/documents/{notes}/compact?force=true
GET /api/documents/{notes}
GET /api/documents/{notes}/history
GET /api/documents/{notes}/events
GET /api/documents/{notes}/timeline
POST /api/compact?force=true
POST /api/documents/{notes}/check
POST /api/check
POST /api/documents/{copy}/erase
DELETE /api/documents/{new}
GET /api/documents/{new}
GET /api/nothing
PATCH /api/check`;

describe("what is answered", () => {
  test("[SV93] the answers of all routes are of the form that the OpenAPI document gives them", async () => {
    const running = await everything();
    const described = await description(running);
    const left = new Set<string>();
    for (const [path, methods] of Object.entries(described.paths))
      for (const [method, { responses }] of Object.entries(methods))
        if ("application/json" in responses["200"]!.content) left.add(`${method.toUpperCase()} ${path}`);
    for (const request of REQUESTS.trim().split("\n")) {
      const [method = "", address = ""] = request.split(" ");
      const response = await fetch(`${running.server.url}${address.replace(/[{}]/g, "")}`, { method });
      const body: unknown = await response.json();
      const path = address
        .split("?")[0]!
        .replace("/tags/{late}", "/tags/{name}")
        .replace(/\{(?!name)\w+\}/, "{id}");
      const content = described.paths[path]?.[method.toLowerCase()]?.responses["200"]?.content;
      const schema = response.ok ? jsonOf(content) : { $ref: "#/components/schemas/FailedAnswer" };
      expect([request, faults(body, schema, described)]).toEqual([request, []]);
      if (response.ok) left.delete(`${method} ${path}`);
    }
    // Needs a body.
    expect([...left]).toEqual(["POST /api/documents/{id}/import"]);
  });

  test("[SV93] what an import answers is of the form that is described", async () => {
    const running = await everything();
    const described = await description(running);
    const body = await (await fetch(`${running.server.url}/api/documents/notes/export`)).arrayBuffer();
    const response = await fetch(`${running.server.url}/api/documents/new/import`, { method: "POST", body });
    const { paths } = described;
    const { content } = paths["/api/documents/{id}/import"]!.post!.responses["200"]!;
    expect(faults(await response.json(), jsonOf(content), described)).toEqual([]);
  });

  test("[SV93] the check of these answers finds what is missing, too much, or of another type", async () => {
    const described = await description(await run());
    const { schemas } = described.components;
    const of = (name: string, value: unknown) => faults(value, schemas[name]!, described);
    const tag = { name: "a", clock: 1, time: 2, bytes: 3 };
    expect(of("TagsAnswer", { id: "a", tags: [tag] })).toEqual([]);
    expect(of("TagsAnswer", { id: "a", tags: [{ ...tag, more: 1 }] })).toHaveLength(1);
    expect(of("TagsAnswer", { id: "a", tags: [{ ...tag, clock: -1 }] })).toHaveLength(1);
    expect(of("TagsAnswer", { id: 1 })).toHaveLength(2);
    expect(of("SnapshotAnswer", { id: "a", outcome: "perhaps", clock: null })).toHaveLength(1);
  });

  test("[SV93] what is told on the way, of damage and of changes is of the form that is described", async () => {
    const running = await everything();
    const described = await description(running);
    const told = async (method: string, path: string, until: (text: string) => boolean) => {
      const stop = new AbortController();
      const headers = { accept: "text/event-stream" };
      const response = await fetch(`${running.server.url}${path}`, { method, headers, signal: stop.signal });
      let text = "";
      for await (const chunk of response.body!.pipeThrough(new TextDecoderStream())) {
        text += chunk;
        if (until(text)) break;
      }
      stop.abort();
      return [...text.matchAll(/event: (\w+)\ndata: (.*)\n\n/g)].map(([, event, data]) => [event, data]);
    };
    for (const [method, path, names] of [
      ["POST", "/api/compact?force=true", { progress: "CompactAllStepAnswer", result: "CompactAllAnswer" }],
      ["POST", "/api/check", { progress: "CheckStepAnswer", result: "CheckAnswer" }],
      [
        "POST",
        "/api/documents/notes/compact?force=true",
        { progress: "CompactStepAnswer", result: "CompactAnswer" },
      ],
      ["POST", "/api/documents/none/compact", { progress: "CompactStepAnswer", error: "Failed" }],
      ["GET", "/api/changes?figures=true", { change: "ChangeAnswer" }],
    ] as const) {
      const messages = await told(
        method,
        path,
        (text) => text.includes('"figures":{') && text.endsWith("\n\n"),
      );
      expect(new Set(messages.map(([event]) => event))).toEqual(new Set(Object.keys(names)));
      for (const [event = "", data = ""] of messages) {
        const schema = described.components.schemas[(names as Record<string, string>)[event]!]!;
        expect([path, event, faults(JSON.parse(data), schema, described)]).toEqual([path, event, []]);
      }
    }
    const info = running.storage.info.bind(running.storage);
    running.storage.info = async (id, options) => {
      if (id === "notes") throw new CoppiceError("CORRUPT", "damaged");
      return id === "outline" ? undefined : info(id, options);
    };
    const list = await (await fetch(`${running.server.url}/api/documents?info=true`)).json();
    expect(list).toMatchObject({ documents: [{ error: { code: "CORRUPT" } }, { deleted: true }, {}] });
    expect(faults(list, described.components.schemas.ListAnswer!, described)).toEqual([]);
  });

  test("[SV95] documents that fail in a compaction of all are counted, and not those of a dry run", async () => {
    const running = await everything();
    const compact = (query: string) =>
      fetch(`${running.server.url}/api/compact?${query}`, { method: "POST" });
    await (await compact("dryRun=true&force=true")).json();
    expect(running.metrics.value("compactions_failed")).toBe(0);
    const { failures } = (await (await compact("force=true")).json()) as { failures: Json[] };
    expect(failures).toMatchObject([
      { id: "strange", error: { code: "MODEL_UNKNOWN", kind: "unsupported" } },
    ]);
    expect(running.metrics.value("compactions_failed")).toBe(1);
  });

  test("[SV94] a document's facts have what it takes in the store, when asked, and what is archived", async () => {
    const running = await everything();
    const get = async (path: string, method = "GET") =>
      (await (await fetch(`${running.server.url}/api/documents/notes${path}`, { method })).json()) as Json;
    expect(await get("")).toMatchObject({ archivedClock: null });
    expect(await get("")).not.toHaveProperty("usage");
    expect(await get("/snapshots", "POST")).toEqual({ id: "notes", outcome: "taken", clock: 4 });
    expect(await get("/snapshots", "POST")).toEqual({ id: "notes", outcome: "nothing-to-do", clock: null });
    const now = { name: "now", clock: 4, time: expect.any(Number), bytes: expect.any(Number) };
    expect(await get("/tags/now", "PUT")).toEqual({ id: "notes", ...now });
    await running.storage.append("notes", [Y.encodeStateAsUpdate(new Y.Doc())]);
    await running.storage.compact("notes", { force: true });
    const { usage } = (await running.storage.info("notes", { usage: true }))!;
    expect(await get("?usage=true")).toMatchObject({ archivedClock: 0, usage });
    expect(await get("/events")).toMatchObject({
      events: [{ info: { text: "one" } }, {}, {}, { info: null }, {}],
    });
  });
});
