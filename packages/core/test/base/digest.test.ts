import { createHash } from "node:crypto";
import { seededRandom } from "coppice/testing";
import { describe, expect, test } from "vitest";
import { toHex } from "../../src/base/bytes.js";
import { Sha256 } from "../../src/base/digest.js";

describe("SHA-256", () => {
  test("[BE6] the digest equals Node's, whole or in pieces, for every length around a block", () => {
    const random = seededRandom(1);
    for (let length = 0; length < 200; length++) {
      const bytes = random.bytes(length);
      const expected = createHash("sha256").update(bytes).digest("hex");
      expect(toHex(new Sha256().update(bytes).finish())).toBe(expected);
      const pieces = new Sha256();
      for (let at = 0; at < length; ) {
        const end = at + 1 + random.int(90);
        pieces.update(bytes.subarray(at, end));
        at = end;
      }
      expect(toHex(pieces.finish())).toBe(expected);
    }
    const large = random.bytes(1_000_003);
    expect(toHex(new Sha256().update(large).finish())).toBe(createHash("sha256").update(large).digest("hex"));
  });
});
