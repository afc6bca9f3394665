// The extension's parts with a window that is played (test/vscode.ts) and with the real stepin, where it is built.
import assert from "node:assert/strict";
import { existsSync, rmSync, statSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { dirname, join } from "node:path";
import { beforeEach, test } from "node:test";
import type * as vscode from "vscode";
import { Adapter } from "../src/adapter.ts";
import { startChild } from "../src/children.ts";
import { blocks } from "../src/configurations.ts";
import { configurations, dir, folder, listing, player, written } from "./played.ts";
import { afresh, answers, said } from "./vscode.ts";

const stepin = join(import.meta.dirname, "../../../bin/stepin");

beforeEach(() => {
  afresh();
  answers.settings = { dlvPath: "/the/dlv" };
});

test("an empty configuration becomes one for the open program, or a sentence", () => {
  answers.language = "go";
  const empty = {} as vscode.DebugConfiguration;
  assert.equal(configurations("").resolveDebugConfiguration(folder, empty)?.type, "stepin");
  answers.language = "markdown";
  assert.equal(configurations("").resolveDebugConfiguration(folder, empty), undefined);
  assert.deepEqual(said.errors, ["stepin cannot debug markdown yet"]);
  assert.equal(configurations("").resolveDebugConfiguration(folder, written), written);
});

test("a missing target is picked, and the debugger handed over", async () => {
  const path = player(`if (process.argv.slice(2).join(" ") !== "targets -o json -n shop") process.exit(1);
    console.log(${JSON.stringify(JSON.stringify(listing))})`);
  const config = { ...written, namespace: "shop", target: "pick" };
  const got = await configurations(path).resolveDebugConfigurationWithSubstitutedVariables(folder, config);
  assert.deepEqual(got, {
    ...written,
    namespace: "shop",
    target: "deployment/orders",
    debugger: { type: "go", program: dir, dlvToolPath: "/the/dlv" },
    __showsErrors: true,
    __startsChildren: true,
    __showsProgress: true,
  });
});

test("a block in another's configuration becomes ours, others stay as they are", async () => {
  const other = { type: "go", request: "launch", name: "n", program: dir };
  const provider = blocks(configurations(""));
  const resolve = (config: vscode.DebugConfiguration) =>
    provider.resolveDebugConfigurationWithSubstitutedVariables?.(folder, config) as Promise<unknown>;
  assert.equal(await resolve(other), other);
  assert.deepEqual(await resolve({ ...other, stepin: { target: "pod/x" } }), {
    ...{ type: "stepin", request: "launch", name: "n", target: "pod/x" },
    debugger: { type: "go", program: dir, dlvToolPath: "/the/dlv" },
    __showsErrors: true,
    __startsChildren: true,
    __showsProgress: true,
  });
  assert.equal(await resolve({ ...other, type: "lldb", stepin: {} }), undefined);
  assert.deepEqual(said.errors, [`stepin: stepin cannot debug what lldb debugs. Leave the key "stepin" out`]);
});

test("a Python program runs with the interpreter that is chosen, unless it names one", async () => {
  answers.python = process.execPath;
  const launch = { ...written, target: "pod/x", debugger: { type: "python", program: "x.py" } };
  const python = async (debug: object) =>
    ((await configurations("").resolveDebugConfigurationWithSubstitutedVariables(folder, { ...launch, debugger: debug }))?.["debugger"] as {
      python?: string;
    }).python;
  assert.equal(await python(launch.debugger), process.execPath);
  assert.equal(await python({ ...launch.debugger, python: "/mine" }), "/mine");
  delete answers.python;
  assert.equal(await python(launch.debugger), undefined);
});

test("all namespaces are a row away", async () => {
  const path = player(`console.log(process.argv.includes("-A") ? ${JSON.stringify(JSON.stringify(listing))} : '{"items":[]}')`);
  const got = await configurations(path).resolveDebugConfigurationWithSubstitutedVariables(folder, written);
  assert.equal(got?.["namespace"], "shop");
});

test("another context is a row away, too", async () => {
  const path = player(`const args = process.argv.slice(2).join(" ");
    if (args === "targets --contexts -o json") console.log('[{"name":"far","cluster":"f"}]');
    else if (args === "targets -o json --context far") console.log(${JSON.stringify(JSON.stringify(listing))});
    else console.log('{"items":[]}')`);
  answers.choose = (rows) => rows.find((r) => ["far", "deployment/orders"].includes(r.label)) ?? rows.at(-1);
  const got = await configurations(path).resolveDebugConfigurationWithSubstitutedVariables(folder, { ...written, namespace: "near" });
  assert.deepEqual([got?.["context"], got?.["namespace"], got?.["target"]], ["far", "shop", "deployment/orders"]);
});

test("a container is a button away", async () => {
  const several = { items: [{ ...listing.items[0], containers: ["app", "mesh"], default: "app" }] };
  const path = player(`console.log(${JSON.stringify(JSON.stringify(several))})`);
  answers.rowButton = true;
  answers.choose = (rows) => rows.find((r) => ["mesh", "deployment/orders"].includes(r.label));
  const got = await configurations(path).resolveDebugConfigurationWithSubstitutedVariables(folder, written);
  assert.equal(got?.["target"], "deployment/orders/container/mesh");
});

test("who is on the pods comes with the list", async () => {
  const sessions = [{ who: "ann@desk", ports: [{ network: "tcp", port: 8080 }], mode: "steal" }];
  const path = player(`console.log(${JSON.stringify(JSON.stringify({ items: [{ ...listing.items[0], sessions }] }))})`);
  answers.choose = (rows) => rows.find((r) => r.description === "1/1 ready · ann@desk steal 8080") ?? null;
  const got = await configurations(path).resolveDebugConfigurationWithSubstitutedVariables(folder, written);
  assert.equal(got?.["target"], "deployment/orders");
});

test("no pick, no start, and nothing is said", async () => {
  answers.choose = () => undefined;
  const path = player(`console.log('{"items":[]}')`);
  assert.equal(await configurations(path).resolveDebugConfigurationWithSubstitutedVariables(folder, written), undefined);
  assert.deepEqual(said.errors, []);
});

test("a cluster that cannot be asked is one sentence, and doctor a button away", async () => {
  answers.button = "Run Doctor";
  const path = player(`console.error("stepin: no kubeconfig\\nhint: kubectl config view"); process.exit(125)`);
  const config = { ...written, namespace: "it's" };
  assert.equal(await configurations(path).resolveDebugConfigurationWithSubstitutedVariables(folder, config), undefined);
  assert.deepEqual(said.errors, ["stepin: no kubeconfig. kubectl config view"]);
  await new Promise(setImmediate);
  assert.deepEqual(said.sent, [`'${path}' 'doctor' '-n' 'it'\\''s'`]);
});

test("a target that is there is not asked for, nor one of stepin.yaml", async (t) => {
  const path = player(`console.log(process.argv[2] === "config" ? '{"target":"deployment/orders"}' : "nobody asks")`);
  const there = { ...written, target: "pod/x" };
  const got = await configurations(path).resolveDebugConfigurationWithSubstitutedVariables(folder, there);
  assert.equal(got?.["target"], "pod/x");
  const yaml = join(dir, "stepin.yaml");
  writeFileSync(yaml, "target: deployment/orders\n");
  t.after(() => {
    rmSync(yaml);
  });
  const under = await configurations(path).resolveDebugConfigurationWithSubstitutedVariables(folder, written);
  assert.ok(under && !("target" in under));
});

test("a child session's configuration is the adapter's own", async () => {
  const child = { type: "stepin", request: "launch", name: "child", __pendingTargetId: "1", __stepin: { socket: "/s" } };
  const resolved = await configurations("").resolveDebugConfigurationWithSubstitutedVariables(folder, child);
  assert.deepEqual(resolved, { ...child, __startsChildren: true });
});

test("a child session is started in its parent's console, and ends with it", async () => {
  const session = { type: "stepin", workspaceFolder: folder } as unknown as vscode.DebugSession;
  const configuration = { type: "stepin", name: "child", target: "x" };
  await startChild({ session, event: "stepin.startDebugging", body: { request: "attach", configuration } });
  assert.deepEqual(said.commands, ["start x"]);
  assert.deepEqual(said.options, {
    ...{ parentSession: session, lifecycleManagedByParent: true, consoleMode: 1, compact: true },
  });
  await startChild({ session, event: "other", body: {} });
  assert.equal(said.commands.length, 1);
});

test("one adapter for all sessions, in a directory of its own, gone with the window", async () => {
  const adapter = new Adapter({ path: () => stepin, cwd: dir, carried: () => ({ "js-debug": "/own/server.js" }), log: () => undefined });
  const [first, second] = await Promise.all([adapter.socket(), adapter.socket()]);
  assert.equal(first, second);
  assert.equal(statSync(dirname(first)).mode & 0o777, 0o700);
  await new Promise<void>((resolve, reject) => {
    const body = `{"seq":1,"type":"request","command":"initialize"}`;
    connect(first, function (this: ReturnType<typeof connect>) {
      this.write(`Content-Length: ${body.length}\r\n\r\n${body}`);
    })
      .on("data", function (this: ReturnType<typeof connect>, data) {
        assert.match(data.toString(), /"success":true/);
        this.destroy();
        resolve();
      })
      .on("error", reject);
  });
  adapter.dispose();
  while (existsSync(first)) await new Promise((resolve) => setTimeout(resolve, 10));
  const again = await adapter.socket(); // the next session's
  assert.notEqual(again, first);
  adapter.dispose();
  while (existsSync(again)) await new Promise((resolve) => setTimeout(resolve, 10));
});
