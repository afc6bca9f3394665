// The gesture itself: a breakpoint, F5, a request to the pod that stops at it, its variables, a step, continue, the
// caller's answer, stop.
import assert from "node:assert/strict";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { until, type Workbench } from "./workbench.ts";

export interface Gesture {
  folder: string;
  file: string; // of the folder
  launch: { name: string };
  ready: RegExp; // what the Debug Console says when the pod's requests come here
  variables: Record<string, RegExp>; // seen at the breakpoint
  /** What is done between F5 and the session, such as picking a target. */
  between?: () => Promise<void>;
  /** Sends a request to the pod and returns its answer; a request may be under way already. */
  ask: () => Promise<string>;
  /** Who answers while the program is debugged, and who when all is over. */
  answered: RegExp;
  afterwards: RegExp;
  /** What is done when the caller has been answered, before the stop. */
  then?: () => Promise<void>;
}

/** The line of each of the desk's programs that has the breakpoint. */
const mark = "a breakpoint's line";

/** Writes launch.json. */
export function writeLaunch(folder: string, launch: object): void {
  mkdirSync(join(folder, ".vscode"), { recursive: true });
  writeFileSync(join(folder, ".vscode/launch.json"), JSON.stringify({ version: "0.2.0", ...launch }, undefined, 2));
}

/** What a caller is going to get. */
export interface Asked {
  answer: Promise<string>;
}

/** The gesture up to the breakpoint. */
export async function pausedAt(w: Workbench, g: Gesture): Promise<Asked> {
  writeLaunch(g.folder, { configurations: [g.launch] });
  const file = join(g.folder, g.file);
  const line = await opened(w, g.folder, file);
  await w.selected(g.launch.name);
  w.tell(`${g.launch.name}: opened, breakpoint set`);
  await w.press("F5");
  await g.between?.();
  await w.console(g.ready);
  w.tell("F5, the pod's requests come here");
  const answer = g.ask();
  answer.catch(() => undefined); // until somebody awaits it
  assert.equal(await w.paused(), line);
  for (const [name, value] of Object.entries(g.variables)) assert.match(await w.variable(name), value, name);
  await w.screenshot(`${g.launch.name}, paused`);
  w.tell("paused");
  return { answer };
}

/** Opens a program with the breakpoint in its line, and returns the line's number. */
export async function opened(w: Workbench, folder: string, file: string): Promise<number> {
  const line = lineOf(file, mark);
  await w.open({ folder, file, line });
  return line;
}

/** The gesture from the breakpoint to the end. */
export async function finish(w: Workbench, g: Gesture, { answer }: Asked): Promise<void> {
  const stolen = g.answered !== g.afterwards;
  if (stolen) {
    const still = Symbol("the caller has no answer");
    assert.equal(await Promise.race([answer, Promise.resolve(still)]), still);
    // Only here: a copy's program may be stopped by the next copy instead.
    const line = await w.paused();
    await w.press("F10");
    await until("the next line", async () => (await w.paused()) === line + 1);
    w.tell("stepped");
    await w.press("F5");
  }
  assert.match(await answer, g.answered);
  w.tell("answered");
  await g.then?.();
  await w.press("Shift+F5");
  await w.ended();
  w.tell("ended");
  await backAgain(g.ask, g.afterwards);
}

/** Waits until the pod answers itself. */
export async function backAgain(ask: () => Promise<string>, pattern: RegExp): Promise<void> {
  await until("the pod's own answer", async () => pattern.test(await ask()));
}

/** Asks, and lets the program run on at each stop, until somebody gets such an answer. */
export async function askOn(w: Workbench, ask: () => Promise<string>, pattern: RegExp): Promise<void> {
  let found = false;
  const asking = (async () => {
    while (!pattern.test(await ask()));
    found = true;
  })();
  await until("the answer", async () => {
    if (!found && (await w.stands())) await w.press("F5");
    return found;
  }, 200);
  await asking;
}

function lineOf(file: string, text: string): number {
  const line = readFileSync(file, "utf8").split("\n").findIndex((l) => l.includes(text));
  assert.ok(line >= 0, `${file} has no ${text}`);
  return line + 1;
}
