/**
 * One seed for every property test, so that a run can be repeated; fast-check prints it with each failure.
 *
 * COPPICE_SEED=<integer> searches elsewhere. A test that passes its own seed keeps it.
 */
import fc from "fast-check";

const seed = Number(process.env.COPPICE_SEED ?? 20_261_120);
if (!Number.isSafeInteger(seed)) throw new TypeError("COPPICE_SEED is not an integer");

fc.configureGlobal({ ...fc.readConfigureGlobal(), seed });
