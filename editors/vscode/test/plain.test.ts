// What needs neither VS Code nor stepin.
import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { attributes, block, type Schema } from "../attributes.ts";
import { hasBlock, testsBlock, unfolded } from "../src/block.ts";
import { carried, findDlv, pythonOf } from "../src/debuggers.ts";
import { absolutePaths, findYAML, offer, programFolder, wantsTarget } from "../src/launch.ts";
import { cures, isFailure, sentence, treated } from "../src/problems.ts";
import { sharers, sharerText } from "../src/state.ts";
import { environment, failure } from "../src/stepin.ts";
import { describe, detail, parse, remembered, sorted } from "../src/targets.ts";

test("Delve is found where Go developers have it", () => {
  const has =
    (...paths: string[]) =>
    (path: string) =>
      paths.includes(path);
  const env = { GOBIN: "/gobin", GOPATH: "/a:/b", HOME: "/home/u", PATH: "/usr/bin:/bin" };
  assert.equal(findDlv("/mine", env, has()), "/mine");
  assert.equal(findDlv("", env, has("/gobin/dlv", "/b/bin/dlv")), "/gobin/dlv");
  assert.equal(findDlv("", env, has("/b/bin/dlv", "/bin/dlv")), "/b/bin/dlv");
  assert.equal(findDlv("", env, has("/home/u/go/bin/dlv", "/bin/dlv")), "/bin/dlv");
  assert.equal(findDlv("", { HOME: "/home/u" }, has("/home/u/go/bin/dlv")), "/home/u/go/bin/dlv");
  assert.equal(findDlv("", env, has()), undefined);
});

test("debuggers that editors bring are handed over", () => {
  assert.deepEqual(carried("/own", undefined), { "js-debug": "/own/js-debug/vsDebugServer.cjs" });
  assert.equal(carried("/own", "/python")["debugpy"], "/python/bundled/libs/debugpy");
});

test("the interpreter that the user has chosen is the program's", () => {
  const has = (path: string) => path === "/env/bin/python";
  assert.equal(pythonOf("/env/bin/python", has), "/env/bin/python");
  assert.equal(pythonOf("/env", has), "/env/bin/python");
  assert.equal(pythonOf("/other", has), undefined);
  assert.equal(pythonOf("python", () => true), undefined);
  assert.equal(pythonOf(undefined), undefined);
});

test("a block makes a launch of another extension's configuration", () => {
  const config = { type: "go", request: "launch", name: "n", program: "/p", env: { A: "1" }, preLaunchTask: "t" };
  assert.ok(!hasBlock(config));
  const stepin = { target: "pod/x", incoming: { mode: "steal" } };
  assert.ok(hasBlock({ ...config, stepin }));
  assert.deepEqual(unfolded({ ...config, stepin }), {
    ...{ type: "stepin", request: "launch", name: "n", preLaunchTask: "t" },
    ...stepin,
    debugger: { type: "go", program: "/p", env: { A: "1" } },
  });
  const node = unfolded({ ...config, type: "pwa-node", __workspaceFolder: "/w", __sessionId: "s", stepin: {} });
  assert.equal(node["__sessionId"], "s");
  assert.deepEqual(node.debugger, { type: "node", program: "/p", env: { A: "1" }, __workspaceFolder: "/w" });
  assert.throws(() => unfolded({ ...config, type: "lldb", stepin }), /cannot debug what lldb debugs/);
  assert.throws(() => unfolded({ ...config, stepin: true }), /must be an object/);
  assert.throws(() => unfolded({ ...config, stepin: { debugger: {} } }), /no key "debugger"/);
});

test("the Go extension's \"debug test\" gets the block of the configuration that debugs tests", () => {
  const tests = { type: "go", request: "launch", name: "tests", mode: "test", stepin: { target: "pod/x" } };
  const written = [{ ...tests, mode: "debug", stepin: { target: "pod/y" } }, { ...tests, type: "lldb" }, tests];
  const made = { type: "go", request: "launch", name: "Debug Test", mode: "test", program: "/p" };
  assert.deepEqual(testsBlock(made, written), tests.stepin);
  assert.equal(testsBlock({ ...made, mode: "debug" }, written), undefined);
  assert.equal(testsBlock({ ...made, __configurationTarget: 5 }, written), undefined);
  assert.equal(testsBlock(tests, written), undefined);
  assert.equal(testsBlock(made, []), undefined);
});

test("F5 without a configuration offers one for the language", () => {
  assert.deepEqual(offer("go")?.debugger, { type: "go", program: "${fileDirname}" });
  assert.deepEqual(offer("python")?.debugger, { type: "python", program: "${file}" });
  assert.deepEqual(offer("typescript")?.debugger, { type: "node", program: "${file}" });
  assert.equal(offer("go")?.target, "pick");
  assert.equal(offer("markdown"), undefined);
});

test("a target is to be picked where there is none", () => {
  const launch = { type: "stepin", request: "launch", name: "" };
  assert.ok(wantsTarget(launch));
  assert.ok(wantsTarget({ ...launch, target: "pick" }));
  assert.ok(!wantsTarget({ ...launch, target: "deployment/pick" }));
});

test("programs are made absolute, import paths are not", (t) => {
  const dir = mkdtempSync(join(tmpdir(), "stepin-test-"));
  t.after(() => {
    rmSync(dir, { recursive: true });
  });
  mkdirSync(join(dir, "cmd/orders"), { recursive: true });
  const program = (p: string) => absolutePaths({ type: "go", program: p }, dir).program;
  assert.equal(program("cmd/orders"), join(dir, "cmd/orders"));
  assert.equal(program("./no/such"), join(dir, "no/such"));
  assert.equal(program("example.com/orders"), "example.com/orders");
  assert.equal(program("/abs"), "/abs");
  assert.equal(absolutePaths({ type: "go", program: "cmd/orders", dlvCwd: "x" }, dir).program, "cmd/orders");
  const script = (debug: object) => absolutePaths({ type: "python", ...debug }, "/w");
  assert.deepEqual(script({ program: "main.py" }), { type: "python", cwd: "/w", program: "/w/main.py" });
  assert.deepEqual(script({ program: "main.py", cwd: "src" }), { type: "python", cwd: "/w/src", program: "/w/src/main.py" });
  assert.deepEqual(script({ module: "flask" }), { type: "python", cwd: "/w", module: "flask" });
  assert.deepEqual(absolutePaths({}, "/w"), {});

  assert.equal(findYAML(join(dir, "cmd/orders")), undefined);
  writeFileSync(join(dir, "stepin.yaml"), "target: deployment/orders\n");
  assert.equal(findYAML(join(dir, "cmd/orders")), join(dir, "stepin.yaml"));
  assert.equal(programFolder({ program: join(dir, "stepin.yaml") }, "/"), dir);
  assert.equal(programFolder({ program: join(dir, "cmd") }, "/"), join(dir, "cmd"));
  assert.equal(programFolder({ program: "example.com/orders" }, dir), dir);
});

test("targets: used ones first, what cannot be one last", () => {
  const item = (target: string, note = "") => ({ namespace: "shop", target, ready: 1, of: 2, ...(note ? { note } : {}) });
  const items = [item("a/1", "no ready pod"), item("b/2"), item("c/3"), item("d/4")];
  const used = remembered(remembered([], item("c/3")), item("d/4"));
  assert.deepEqual(sorted(items, used).map((i) => i.target), ["d/4", "c/3", "b/2", "a/1"]);
  assert.deepEqual(remembered(used, item("c/3")).map((u) => u.target), ["c/3", "d/4"]);
  assert.equal(describe(item("a/1", "no ready pod")), "1/2 ready · no ready pod");
  const mine = { who: "ann@desk", mode: "mirror", ports: [{ network: "tcp", port: 80 }, { network: "udp", port: 53 }] };
  assert.equal(describe({ ...item("a/1"), sessions: [{ who: "" }, mine, mine] }), "1/2 ready · somebody · ann@desk mirror 80, 53/udp");
  const several = { ...item("a/1"), containers: ["app", "mesh"], default: "app" };
  assert.equal(detail(several, true), "shop · app (default), mesh");
  assert.equal(detail({ ...several, containers: ["app"] }, false), "");
  assert.deepEqual(parse(`{"items": null, "missing": ["no right"]}`), { items: [], missing: ["no right"] });
  assert.equal(parse(`{"items": []}`).missing, undefined);
  let many: ReturnType<typeof remembered> = [];
  for (let i = 0; i < 50; i++) many = remembered(many, item(`pod/${i}`));
  assert.equal(many.length, 20);
});

const failed = (id: number, format: string, message = format, command = "launch") =>
  ({ type: "response", command, success: false, message, body: { error: { id, format } } }) as const;

test("errors are one sentence with what mends them", () => {
  const unknown = failed(227, "there is no deployment/order\nhint: did you mean deployment/orders?");
  assert.ok(isFailure(unknown));
  assert.equal(sentence(unknown), "stepin: there is no deployment/order. did you mean deployment/orders?");
  assert.deepEqual(cures(unknown), ["Choose Another Target", "Open launch.json"]);
  assert.equal(sentence(failed(403, "Build error")), undefined);
  assert.equal(sentence(failed(100, "launch was cancelled", "cancelled")), undefined);
  assert.deepEqual(cures(failed(210, "", "", "stepin.setMode")), ["Run Doctor", "Show Log"]);
  assert.deepEqual(cures(failed(213, "", "", "stepin.setMode")), []); // the session that runs is not started anew
  assert.deepEqual(cures({ type: "response", command: "launch", success: false }), ["Show Log"]);
  assert.ok(!isFailure({ type: "response", command: "evaluate", success: false }));
  assert.ok(!isFailure({ type: "response", command: "stepin.sessions", success: false }));
  assert.ok(!isFailure({ type: "event", event: "output" }));
  assert.ok(!isFailure(undefined));
});

test("every number of an error is treated, and no other", () => {
  const go = readFileSync(new URL("../../../pkg/fail/codes.go", import.meta.url), "utf8");
  const numbers = [...go.matchAll(/^\s*\w+\s+Code = (\d+)/gm)].map((m) => Number(m[1]));
  assert.ok(numbers.length > 30);
  const known = Object.keys(treated).map(Number);
  assert.deepEqual(numbers.toSorted(), known.toSorted(), "src/problems.ts: treated has the buttons of each number of pkg/fail/codes.go");
  for (const later of [199, 299, 399, 499]) assert.notDeepEqual(cures(failed(later, "")), []);
});

test("the manifest: what is contributed is there, and is asked for no more than it must", () => {
  const text = readFileSync(new URL("../package.json", import.meta.url), "utf8");
  const { contributes, capabilities } = JSON.parse(text) as {
    capabilities: { untrustedWorkspaces: { supported: boolean; description: string } };
    contributes: {
      commands: { command: string; title: string; category: string }[];
      menus: { commandPalette: { command: string }[] };
      walkthroughs: { steps: { description: string; media: { markdown: string } }[] }[];
    };
  };
  assert.equal(capabilities.untrustedWorkspaces.supported, false);
  assert.ok(capabilities.untrustedWorkspaces.description);
  const source = readdirSync(new URL("../src", import.meta.url)).map((name) => readFileSync(new URL(`../src/${name}`, import.meta.url), "utf8")).join("");
  const commands = contributes.commands.map(({ command }) => command);
  for (const command of commands) assert.ok(source.includes(`registerCommand("${command}"`), command);
  for (const [, command] of source.matchAll(/registerCommand\("(stepin\.\w+)"/g)) assert.ok(commands.includes(command ?? ""), command);
  for (const { category } of contributes.commands) assert.equal(category, "stepin");
  for (const { command } of contributes.menus.commandPalette) assert.ok(commands.includes(command));
  for (const { description, media } of contributes.walkthroughs.flatMap(({ steps }) => steps)) {
    assert.ok(existsSync(new URL(`../${media.markdown}`, import.meta.url)), media.markdown);
    const [, command = ""] = /\(command:([\w.]+)\)/.exec(description) ?? [];
    assert.ok(commands.includes(command) || command.startsWith("workbench.action.debug."), command);
  }
  assert.doesNotMatch(source, /telemetry|createTelemetryLogger|fetch\(/i);
});

test("who shares a target: a row each, this window's first, whatever is said", () => {
  const now = new Date("2026-01-02T12:00:00");
  const all = sharers({ sessions: [{ id: "", who: "", pod: "a" }, { id: "x", who: "eve", since: "2026-01-02T09:05:00" }, { id: "y" }] }, new Set(["y"]));
  assert.deepEqual(all.map((s) => [s.who, sharerText(s, now)]), [
    ["somebody", "this window"],
    ["somebody", ""],
    ["eve", `since ${new Date("2026-01-02T09:05:00").toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })}`],
  ]);
  for (const nothing of [null, undefined, {}, { sessions: null }, { sessions: 7 }, []]) assert.deepEqual(sharers(nothing, new Set()), []);
});

test("stepin's own way of failing is read", () => {
  const f = failure("noise\nstepin: one\nhint: do this\nstepin: two\nhint: or that\n", "otherwise");
  assert.equal(f.message, "one; two");
  assert.equal(f.hint, "do this");
  assert.equal(failure("panic: …", "otherwise").message, "otherwise");
});

test("the debuggee gets nothing that VS Code put into the environment", () => {
  assert.deepEqual(environment({ PATH: "/bin", VSCODE_PID: "1", ELECTRON_RUN_AS_NODE: "1" }), { PATH: "/bin" });
});

test("launch.json's help is the schema, and lets a target be picked", () => {
  const read = (name: string): unknown => JSON.parse(readFileSync(new URL(`../${name}`, import.meta.url), "utf8"));
  const schema = read("schema/launch.json") as Schema;
  const made = attributes(schema);
  assert.deepEqual(Object.keys(made.properties), Object.keys(schema.properties));
  const target = new RegExp(made.properties["target"]?.pattern ?? "^$");
  for (const good of ["pick", "deployment/orders", "local/4711", "${command:stepin.pickTarget}", "pod/${env:POD}"]) assert.match(good, target);
  for (const bad of ["orders", "picked"]) assert.doesNotMatch(bad, target);
  const within = block(schema);
  assert.deepEqual(Object.keys(within.properties), Object.keys(schema.properties).filter((key) => key !== "debugger"));
  assert.deepEqual(within["required"], []);
  // The snippets' configurations have no key that the schema does not know.
  interface Snippet {
    body: Record<string, unknown>;
  }
  const manifest = read("package.json") as { contributes: { debuggers: { configurationSnippets: Snippet[] }[] } };
  for (const snippet of manifest.contributes.debuggers[0]?.configurationSnippets ?? []) {
    for (const key of Object.keys(snippet.body))
      assert.ok(key in schema.properties || ["type", "request", "name"].includes(key), key);
  }
});
