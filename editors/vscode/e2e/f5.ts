// The gesture itself: a breakpoint, F5, a request to the pod that stops at it, its variables, continue, the caller's
// answer, stop.
import assert from "node:assert/strict";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Place, Workbench } from "./workbench.ts";

export interface Gesture {
  name: string; // of screenshots and log
  folder: string;
  file: string; // absolute
  mark: string; // the breakpoint goes to the line with this text
  launch: object; // what launch.json holds
  ready: string; // what the Debug Console says when the pod's requests come here
  variables: Record<string, RegExp>; // seen at the breakpoint
  env?: NodeJS.ProcessEnv;
  /** What is done between F5 and the session, such as picking a target. */
  between?: (w: Workbench) => Promise<void>;
  /** Sends a request to the pod and returns its answer; a request may be under way already. */
  ask: () => Promise<string>;
  answered: RegExp; // by the debuggee
  afterwards: RegExp; // by the pod, when all is over
}

export async function f5(g: Gesture): Promise<void> {
  mkdirSync(join(g.folder, ".vscode"), { recursive: true });
  writeFileSync(join(g.folder, ".vscode/launch.json"), JSON.stringify({ version: "0.2.0", configurations: [g.launch] }, undefined, 2));
  const at: Place = { folder: g.folder, file: g.file, line: lineOf(g.file, g.mark) };
  const w = await Workbench.start(g.name, g.env ?? {});
  try {
    await gesture(w, g, at);
  } catch (err) {
    await w.screenshot("failed").catch(() => undefined);
    throw err;
  } finally {
    await w.close();
  }
}

async function gesture(w: Workbench, g: Gesture, at: Place): Promise<void> {
  await w.open(at);
  w.tell("opened, breakpoint set");
  await w.press("F5");
  await g.between?.(w);
  await w.console(g.ready);
  w.tell("F5, the pod's requests come here");
  const answer = g.ask();
  let settled = false;
  void answer.finally(() => (settled = true)).catch(() => undefined);
  assert.equal(await w.paused(), at.line);
  for (const [name, value] of Object.entries(g.variables)) assert.match(await w.variable(name), value, name);
  await w.screenshot("paused");
  assert.ok(!settled, "the caller was answered while the debuggee stood");
  w.tell("paused");
  await w.press("F5");
  assert.match(await answer, g.answered);
  w.tell("answered");
  await w.press("Shift+F5");
  await w.ended();
  w.tell("ended");
  for (const end = Date.now() + 5000; ; ) {
    const text = await g.ask();
    if (g.afterwards.test(text)) return;
    assert.ok(Date.now() < end, `after the session the pod answers ${text}`);
  }
}

function lineOf(file: string, mark: string): number {
  const line = readFileSync(file, "utf8").split("\n").findIndex((text) => text.includes(mark));
  assert.ok(line >= 0, `${file} has no ${mark}`);
  return line + 1;
}
