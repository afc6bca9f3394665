// What can be wrong: a launch that is refused, a broken launch.json or stepin.yaml, a stepin of another version or none, another
// system. Each is one sentence, with the button that mends.
import assert from "node:assert/strict";
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeEach, test } from "node:test";
import type * as vscode from "vscode";
import { Adapter } from "../src/adapter.ts";
import { Configurations } from "../src/configurations.ts";
import { elsewhere } from "../src/elsewhere.ts";
import { Picker } from "../src/picker.ts";
import { tracker } from "../src/show.ts";
import { Versions } from "../src/version.ts";
import { configurations, dir, folder, memory, player, written } from "./played.ts";
import { afresh, answers, commands, debug, said } from "./vscode.ts";

beforeEach(afresh);

test("a refused launch is shown with its buttons", async () => {
  answers.button = "Choose Another Target";
  const session = { configuration: { ...written, target: "deployment/order" } } as unknown as vscode.DebugSession;
  const error = { id: 227, format: "there is no deployment/order", showUser: false };
  tracker(session, () => "stepin").onDidSendMessage?.({ type: "response", command: "launch", success: false, body: { error } });
  await new Promise(setImmediate);
  assert.deepEqual(said.errors, ["stepin: there is no deployment/order"]);
  assert.deepEqual(said.commands, ["start pick"]);
});

test("a port that is somebody else's can be mirrored instead", async () => {
  answers.button = "Mirror Instead";
  const session = { configuration: { ...written, target: "pod/x", incoming: { mode: "steal" } } } as unknown as vscode.DebugSession;
  const error = { id: 213, format: "port 80 is bob@desk's" };
  tracker(session, () => "stepin").onDidSendMessage?.({ type: "response", command: "launch", success: false, body: { error } });
  await new Promise(setImmediate);
  assert.deepEqual(said.commands, ["start pod/x mirror"]);
});

test("whatever stands in launch.json, the window has an answer", async () => {
  const path = player(`console.log('{"items":[]}')`);
  answers.choose = () => undefined;
  const keys = ["target", "namespace", "context", "kubeconfig", "incoming", "debugger", "env"];
  const debuggers = ["type", "program", "cwd", "dlvCwd", "python", "dlvToolPath"];
  for (const wrong of [null, 7, true, [], {}, ["x"], { a: 1 }, "\0", "é\n"]) {
    for (const key of keys) await configurations(path).resolveDebugConfigurationWithSubstitutedVariables(folder, { ...written, [key]: wrong });
    for (const type of ["go", "python", "node", "?"])
      for (const key of debuggers) {
        const launch = { ...written, target: "pod/x", debugger: { type, program: "x", [key]: wrong } };
        const got = await configurations(path).resolveDebugConfigurationWithSubstitutedVariables(folder, launch);
        assert.equal((got?.["debugger"] as Record<string, unknown>)[key] === undefined, false); // stepin says what is wrong
      }
  }
  for (const text of said.errors) assert.match(text, /^stepin: ("\w+" must be a word, not |.*\bcannot be run)/);
});

test("a stepin.yaml that cannot be read is a button away", async (t) => {
  const path = player(`console.error("stepin: stepin.yaml line 1 is no YAML\\nhint: mend it"); process.exit(125)`);
  const yaml = join(dir, "stepin.yaml");
  writeFileSync(yaml, "{");
  t.after(() => {
    rmSync(yaml);
  });
  assert.equal(await configurations(path).resolveDebugConfigurationWithSubstitutedVariables(folder, written), undefined);
  assert.deepEqual([said.errors, said.buttons], [["stepin: stepin.yaml line 1 is no YAML. mend it"], ["Open stepin.yaml"]]);
});

test("a stepin that cannot be run is said before a session is tried", async () => {
  answers.button = "Open Settings";
  const path = join(dir, "no-such");
  const adapter = new Adapter({ path: () => path, cwd: dir, carried: () => ({}), log: () => undefined });
  const provider = new Configurations(new Picker(memory(), () => path), () => path, () => adapter.socket());
  const launch = { ...written, target: "pod/x" };
  assert.equal(await provider.resolveDebugConfigurationWithSubstitutedVariables(folder, launch), undefined);
  assert.match(said.errors.join(), /^stepin: \S+no-such cannot be run: .*ENOENT$/);
  await new Promise(setImmediate);
  assert.deepEqual(said.commands, ["workbench.action.openSettings stepin."]);
});

test("a stepin of another version is said once, with both", async () => {
  const version = (v: string) => player(`console.log("stepin ${v} go1.26 linux/amd64")`);
  const versions = new Versions(version("0.2.0"));
  await versions.compare(version("0.2.0"), dir);
  assert.deepEqual(said.warnings, []);
  answers.button = "Use the Extension's Own";
  const other = version("0.1.0");
  await versions.compare(other, dir);
  await versions.compare(other, dir);
  assert.deepEqual(said.warnings, ["stepin: stepin.path names version 0.1.0, and this extension goes with 0.2.0. Not all may work."]);
  await new Promise(setImmediate);
  assert.deepEqual(said.commands, ["set path undefined"]);
  await assert.rejects(versions.compare(player(`console.log("hello")`), dir), /is no stepin/);
  await new Versions(join(dir, "none")).compare(other, dir);
  assert.equal(said.warnings.length, 1);
});

test("on macOS or Windows itself there is one sentence, and the way to a container", async (t) => {
  const registered = elsewhere(["stepin.doctor"]);
  t.after(() => {
    for (const r of registered) r.dispose();
  });
  const sentence = /^stepin runs on Linux: open this folder in a dev container/;
  assert.equal(debug.providers.get("stepin")?.resolveDebugConfiguration?.(undefined, written), undefined);
  await new Promise(setImmediate);
  assert.match(said.errors.join(), sentence);
  assert.deepEqual(said.buttons, ["How To"]);
  const other = { type: "go", request: "launch", name: "n" };
  assert.equal(debug.providers.get("*")?.resolveDebugConfiguration?.(undefined, other), other);
  assert.equal(said.errors.length, 1);
  answers.installed = ["remote-containers.reopenInContainer", "other"];
  answers.button = "Reopen in Container";
  assert.equal(debug.providers.get("*")?.resolveDebugConfiguration?.(undefined, { ...other, stepin: {} }), undefined);
  commands.registered.get("stepin.doctor")?.();
  await new Promise(setImmediate);
  assert.deepEqual(said.buttons, ["Reopen in Container", "How To"]);
  assert.deepEqual(said.commands, ["remote-containers.reopenInContainer", "remote-containers.reopenInContainer"]);
  answers.button = "How To";
  commands.registered.get("stepin.doctor")?.();
  await new Promise(setImmediate);
  assert.match(said.commands.at(-1) ?? "", /^open https:.*\/docs\/remote.md$/);
});

test("an adapter that does not start says why, and can be tried again", async () => {
  const path = player(`console.error("stepin: no\\nhint: mend it"); process.exit(125)`);
  const adapter = new Adapter({ path: () => path, cwd: dir, carried: () => ({}), log: () => undefined });
  await assert.rejects(adapter.socket(), { message: "no", hint: "mend it" });
  const missing = new Adapter({ path: () => join(dir, "no-such"), cwd: dir, carried: () => ({}), log: () => undefined });
  await assert.rejects(missing.socket(), /cannot be run/);
});

test("another stepin.path counts when no session runs any more", async () => {
  const listening = (word: string) => player(`console.log("${word}"); process.stdin.resume().on("end", () => process.exit())`);
  const paths = [listening("one"), listening("two")];
  let [at, busy] = [0, true];
  const adapter = new Adapter({ path: () => paths[at] ?? "", busy: () => busy, cwd: dir, carried: () => ({}), log: () => undefined });
  const first = await adapter.socket();
  at = 1;
  assert.equal(await adapter.socket(), first);
  busy = false;
  const second = await adapter.socket();
  assert.notEqual(second, first);
  assert.equal(await adapter.socket(), second);
  adapter.dispose();
});
