// "debug test" in the place of a pod, as the Go and Python extensions start it (stand-ins do here).
import assert from "node:assert/strict";
import { join } from "node:path";
import { opened, writeLaunch } from "./f5.ts";
import type { Workbench } from "./workbench.ts";

const files = { go: "main_test.go", python: "test_orders.py" };
/** Which configuration has the block: what the Go extension starts is none of launch.json's, the other is told its purpose. */
const written = {
  go: { type: "go", request: "launch", name: "tests", mode: "test", program: "${workspaceFolder}" },
  python: { ...{ type: "debugpy", request: "launch", name: "tests" }, purpose: ["debug-test"], envFile: "${workspaceFolder}/.env" },
};
const passed = { go: /PASS/, python: /OK/ };

export type Tested = keyof typeof files;

/** A test of the folder stands at its breakpoint with the pod's values, and passes. */
export async function debugTest(
  w: Workbench,
  { folder, language, stepin, sees }: { folder: string; language: Tested; stepin: object; sees: Record<string, RegExp> },
): Promise<void> {
  writeLaunch(folder, { configurations: [{ ...written[language], stepin }] });
  const line = await opened(w, folder, join(folder, files[language]));
  await w.lens("debug test");
  assert.equal(await w.paused(), line);
  for (const [name, value] of Object.entries(sees)) assert.match(await w.variable(name), value, name);
  w.tell(`${language}: paused in a test`);
  await w.press("F5");
  await w.console(passed[language]);
  await w.ended();
}
