// A "stepin" block inside another extension's configuration. That extension reads its own keys as always (its envFile, its
// interpreter, its tools' paths), and when it has done so, the whole becomes a launch of ours. Nothing here knows of VS Code.
import type { Debugger, Launch } from "./launch.ts";
import { Failure } from "./stepin.ts";

/** debugger.type by the type of the configuration that holds the block: those of the Go, Python and JavaScript extensions. */
const debuggers: Record<string, string> = {
  go: "go",
  debugpy: "python",
  python: "python",
  "pwa-node": "node",
  node: "node",
};

/** The keys that are VS Code's own, whatever the type; they stay where they are. */
const editors = new Set([
  "type",
  "request",
  "name",
  "noDebug",
  "preLaunchTask",
  "postDebugTask",
  "presentation",
  "internalConsoleOptions",
  "serverReadyAction",
  "suppressMultipleSessionWarning",
  "__configurationTarget",
  "__restart",
  "__sessionId",
]);

/** Whether a configuration holds a block of ours. */
export function hasBlock(config: Launch): boolean {
  return config.type !== "stepin" && config["stepin"] !== undefined;
}

/**
 * The launch that a configuration with a block means. Its type becomes ours, so that the sessions of its children come to
 * the same adapter. Throws a Failure where there is no such launch.
 */
export function unfolded(config: Launch): Launch {
  const { stepin: block, ...all } = config;
  const type = debuggers[config.type];
  if (!type) throw new Failure(`stepin cannot debug what ${config.type} debugs`, 'Leave the key "stepin" out');
  if (typeof block !== "object" || block === null || Array.isArray(block))
    throw new Failure(`"stepin" must be an object such as {"target": "deployment/orders"}`);
  const top: Record<string, unknown> = {};
  const own: Debugger = {};
  for (const [key, value] of Object.entries(all)) (editors.has(key) ? top : own)[key] = value;
  if ("debugger" in block) throw new Failure(`"stepin" has no key "debugger" here`, "The debugger's keys are the configuration's own");
  const { name, request } = config;
  return { ...top, ...block, type: "stepin", request, name, debugger: { ...own, type } };
}

/**
 * The block for a test: the Go extension's "debug test" makes its configuration itself and asks no launch.json, so it gets the
 * block of the first Go configuration there that debugs tests. One of launch.json's own (VS Code marks those) is left alone.
 */
export function testsBlock(config: Launch, written: Launch[]): unknown {
  const test = (c: Launch) => c.type === "go" && c["mode"] === "test";
  if (!test(config) || hasBlock(config) || "__configurationTarget" in config) return undefined;
  return written.find((c) => test(c) && hasBlock(c))?.["stepin"];
}
