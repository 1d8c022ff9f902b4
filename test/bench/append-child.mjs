/**
 * The process of one side of durable appends. Its first seconds do not count: until the code is compiled each second
 * appends more than the one before, and a server runs for longer.
 */
import { SIDES, update } from "./append-sides.mjs";
import { answer } from "./child.mjs";

answer(async ({ side, location, writers, documents, warmUpMs, ms }) => {
  const { run, close } = await SIDES[side](location, update(), writers, documents);
  await run(warmUpMs);
  const result = await run(ms);
  await close();
  return result;
});
