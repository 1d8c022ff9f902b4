/**
 * Another program that has the database open: classic-level alone, without Coppice. Arguments: the address of
 * classic-level's module, the location. Says `OPEN` or `REFUSED code`, and ends when its input ends.
 */
const [module, location] = process.argv.slice(2);
const { ClassicLevel } = await import(module);
const db = new ClassicLevel(location);
try {
  await db.open();
  process.stdout.write("OPEN\n");
  for await (const _ of process.stdin);
  await db.close();
} catch (error) {
  process.stdout.write(`REFUSED ${error.cause?.code}\n`);
}
