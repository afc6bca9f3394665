// Makes the .vsix for one platform: node pack.ts STEPIN JS-DEBUG TARGET OUT, with STEPIN the binary and JS-DEBUG the folder
// of js-debug's DAP server that go in, and TARGET linux-x64 or linux-arm64; or node pack.ts OUT, the one for all others, which
// has neither and says where stepin runs (src/elsewhere.ts). The extension is put together in a folder of its own: the
// package.json there has the configuration's schema, which VS Code wants inline.
import { execFileSync } from "node:child_process";
import { chmodSync, copyFileSync, cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { buildSync } from "esbuild";
import { attributes, block, type Schema } from "./attributes.ts";

const here = import.meta.dirname;

const args = process.argv.slice(2);
const out = args.pop();
const [stepin, jsDebug, target] = args;
if (!out || (args.length > 0 && !target)) throw new Error("usage: node pack.ts [STEPIN JS-DEBUG TARGET] OUT");

interface Manifest {
  files?: string[];
  scripts?: unknown;
  devDependencies?: unknown;
  contributes: { debuggers: { type: string; configurationAttributes: { launch: unknown } }[] };
}

function manifest(): Manifest {
  const m = JSON.parse(readFileSync(join(here, "package.json"), "utf8")) as Manifest;
  const schema = JSON.parse(readFileSync(join(here, "schema/launch.json"), "utf8")) as Schema;
  for (const d of m.contributes.debuggers) d.configurationAttributes.launch = attributes(schema);
  // VS Code lays what is contributed for "*" over every debugger's.
  m.contributes.debuggers.push({ type: "*", configurationAttributes: { launch: { properties: { stepin: block(schema) } } } });
  m.files = [...(stepin ? ["bin"] : []), "dist", "js-debug", "schema", "walkthrough", "README.md", "LICENSE"];
  delete m.scripts;
  delete m.devDependencies;
  return m;
}

/** What js-debug's server loads: itself, what the debuggee loads, and what keeps Node from taking it for a module. */
const server = ["vsDebugServer.cjs", "bootloader.js", "watchdog.js", "hash.js", "chromehash_bg.wasm", "vendor", "package.json"];

function stage(dir: string): void {
  rmSync(dir, { recursive: true, force: true });
  mkdirSync(dir, { recursive: true });
  for (const name of ["README.md", "LICENSE", "js-debug", "schema", "walkthrough"]) cpSync(join(here, name), join(dir, name), { recursive: true });
  writeFileSync(join(dir, "package.json"), JSON.stringify(manifest(), undefined, 2));
  buildSync({
    entryPoints: [join(here, "src/extension.ts")],
    outfile: join(dir, "dist/extension.cjs"),
    bundle: true,
    platform: "node",
    format: "cjs",
    target: "node22",
    external: ["vscode"],
    minify: true,
    sourcemap: false,
    logLevel: "warning",
  });
}

function stagePrograms(stepin: string, jsDebug: string, dir: string): void {
  mkdirSync(join(dir, "bin"));
  copyFileSync(stepin, join(dir, "bin/stepin"));
  chmodSync(join(dir, "bin/stepin"), 0o755);
  for (const name of server) cpSync(join(jsDebug, name), join(dir, "js-debug", name), { recursive: true });
}

const dir = join(dirname(resolve(out)), `../.tools/build/vscode-${target ?? "universal"}`);
stage(dir);
if (stepin && jsDebug) stagePrograms(stepin, jsDebug, dir);
const vsce = join(dirname(createRequire(import.meta.url).resolve("@vscode/vsce/package.json")), "vsce");
const platform = target ? ["--target", target] : [];
execFileSync(process.execPath, [vsce, "package", ...platform, "--no-dependencies", "--out", resolve(out)], {
  cwd: dir,
  stdio: ["ignore", "ignore", "inherit"],
});
