// What can be wrong before or during a session, and what the user reads then.
import assert from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { backAgain, writeLaunch } from "./f5.ts";
import { until, Workbench } from "./workbench.ts";

/** A program of the folder's that never gets so far. */
const program = { type: "python", program: "orders.py", python: "/usr/bin/python3" };
const first = { type: "stepin", request: "launch", debugger: program };

/** What is said where the kubeconfig is /nowhere. */
const nowhere = /kubeconfig.*\/nowhere/;

export interface Wrong {
  name: string;
  launch: object;
  says: RegExp;
  button: string;
}

/** Configurations that cannot be started, with what is said of each and a button that mends. */
export const wrongs = (folder: string): Wrong[] => [
  {
    name: "a key that does not exist",
    launch: { target: "local/1", incomming: { mode: "steal" } },
    says: /incomming.*did you mean "incoming"/,
    button: "Open launch.json",
  },
  {
    name: "a value that cannot be",
    launch: { target: "deployment/orders", incoming: { mode: "stael" } },
    says: /incoming\.mode.*stael/,
    button: "Open launch.json",
  },
  { name: "no kubeconfig", launch: { target: "pick", kubeconfig: "/nowhere" }, says: nowhere, button: "Run Doctor" },
  {
    name: "no cluster",
    launch: { target: "deployment/orders", kubeconfig: closed(folder) },
    says: /cluster.*cannot be reached/,
    button: "Run Doctor",
  },
];

/** The same for somebody who may do nothing in the cluster. */
export const powerlessWrongs = (namespace: string, kubeconfig: string): Wrong[] => [
  {
    name: "no right to see the target",
    launch: { target: "deployment/orders", namespace, kubeconfig },
    says: /forbidden: the right to .* is missing/,
    button: "Run Doctor",
  },
];

/** A kubeconfig of a cluster that nobody is at. */
function closed(folder: string): string {
  const path = join(folder, "closed.yaml");
  const config = {
    ...{ apiVersion: "v1", kind: "Config", "current-context": "closed" },
    clusters: [{ name: "closed", cluster: { server: "https://127.0.0.1:1" } }],
    contexts: [{ name: "closed", context: { cluster: "closed", user: "nobody" } }],
    users: [{ name: "nobody", user: {} }],
  };
  writeFileSync(path, JSON.stringify(config));
  return path;
}

/** Tries each of them in one window. */
export async function refused(w: Workbench, folder: string, all: Wrong[]): Promise<void> {
  writeLaunch(folder, { configurations: [] });
  await w.open({ folder, file: join(folder, "orders.py"), line: 10 });
  for (const { name, launch, says, button } of all) {
    writeLaunch(folder, { configurations: [{ ...first, name, ...launch }] });
    await w.selected(name);
    await w.press("F5");
    await w.told(says, button);
    if (button === "Open launch.json") await w.tab("launch.json");
    await w.ended();
    w.tell(name);
  }
}

/** A launch.json that nobody has finished writing: VS Code takes what it can read of it, and what is missing is asked for. */
export async function unfinished(w: Workbench, folder: string): Promise<void> {
  mkdirSync(join(folder, ".vscode"), { recursive: true });
  const text = JSON.stringify({ configurations: [{ ...first, name: "half", incoming: { mode: "steal" } }] });
  writeFileSync(join(folder, ".vscode/launch.json"), text.slice(0, text.indexOf(',"incoming"')));
  await w.open({ folder, file: join(folder, "orders.py"), line: 10 });
  await w.selected("half");
  await w.press("F5");
  await w.told(nowhere, "Open launch.json");
  await w.tab("launch.json");
}

/** A folder that the user does not trust: VS Code asks before anything of it runs, and does nothing if he goes on not to. */
export async function untrusted(name: string, env: NodeJS.ProcessEnv, folder: string, running: () => string[]): Promise<void> {
  writeLaunch(folder, { configurations: [{ ...first, name: "untrusted", target: "local/1" }] });
  const w = await Workbench.start(`${name}, untrusted`, env, false);
  try {
    await w.visit({ folder, file: join(folder, "orders.py"), line: 10 });
    const dialog = w.page.locator(".monaco-dialog-box", { hasText: /trust/i });
    await until("the question", async () => {
      await w.press("F5"); // lost until VS Code is there
      await dialog.waitFor({ timeout: 3000 });
      return true;
    });
    await dialog.getByRole("button", { name: "Cancel" }).click();
    await dialog.waitFor({ state: "hidden" });
    // VS Code's own look-outs for ports are no business of ours.
    assert.deepEqual(running().filter((line) => /bin\/stepin|orders\.py/.test(line)), []);
  } finally {
    await w.close();
  }
}

/** Two windows on one target: the second is told who holds the port, and gets it when the first has ended. */
export async function twoWindows(
  w: Workbench,
  { folders, target, ready, ask, own }: { folders: [string, string]; target: object; ready: RegExp; ask: () => Promise<string>; own: RegExp },
): Promise<void> {
  const second = await w.another();
  for (const [i, window] of [w, second].entries()) {
    const folder = folders[i] ?? "";
    const launch = { ...first, name: "steal", ...target, incoming: { mode: "steal", ports: [8080] } };
    writeLaunch(folder, { configurations: [{ ...launch, debugger: { ...program, args: ["X", "/dev/null"] } }] });
    await window.open({ folder, file: join(folder, "orders.py"), line: 15 });
    await window.selected("steal");
    await window.press("F5");
    await window.console(i === 0 ? ready : /port 8080 .*is held by .+ since/);
  }
  await second.screenshot("held");
  w.tell("the second has read who holds the port");
  await w.press("Shift+F5");
  await w.ended();
  await second.console(ready);
  w.tell("the second has the port");
  await second.press("Shift+F5");
  await second.ended();
  await second.page.close();
  await backAgain(ask, own);
}

/** A target that goes while it is picked. */
export async function gone(
  w: Workbench,
  folder: string,
  { namespace, target, remove }: { namespace: string; target: string; remove: () => Promise<unknown> },
): Promise<void> {
  writeLaunch(folder, { configurations: [{ ...first, name: "gone", target: "pick", namespace }] });
  await w.open({ folder, file: join(folder, "orders.py"), line: 10 });
  await w.selected("gone");
  await w.press("F5");
  await w.pick(target, remove);
  await w.told(/there is no deployment/, "Choose Another Target");
  await w.listed("deployment/");
  await w.press("Escape");
}
