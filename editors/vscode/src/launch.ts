// What a launch configuration is here, and the decisions about one that need no VS Code.
import { existsSync, statSync } from "node:fs";
import { dirname, isAbsolute, join, resolve } from "node:path";
import schema from "../schema/launch.json" with { type: "json" };

/** The keys that the extension reads or writes; all others pass untouched. */
export interface Launch {
  type: string;
  request: string;
  name: string;
  target?: string;
  namespace?: string;
  context?: string;
  kubeconfig?: string;
  debugger?: Debugger;
  [key: string]: unknown;
}

export interface Debugger {
  type?: string;
  program?: string;
  cwd?: string;
  dlvCwd?: string;
  dlvToolPath?: string;
  python?: unknown;
  [key: string]: unknown;
}

/** debugger.type by the language of the open file. */
const byLanguage: Record<string, string> = {
  go: "go",
  python: "python",
  javascript: "node",
  javascriptreact: "node",
  typescript: "node",
  typescriptreact: "node",
};

/** What this version's stepin can debug, as its schema says. */
const known: string[] = schema.properties.debugger.properties.type.enum;

/** The configuration that F5 offers for an open file, or undefined where stepin cannot debug its language. */
export function offer(language: string): Launch | undefined {
  const type = byLanguage[language];
  if (type === undefined || !known.includes(type)) return undefined;
  const program = type === "go" ? "${fileDirname}" : "${file}";
  return {
    type: "stepin",
    request: "launch",
    name: "In the cluster",
    target: "pick",
    debugger: { type, program },
  };
}

/** Whether it is a child session's, which the adapter has asked for (adapter/dap: childKey): its parent has the target. */
export function isChild(launch: Launch): boolean {
  return "__stepin" in launch;
}

/** Whether the target is still to be picked. */
export function wantsTarget(launch: Launch): boolean {
  return !launch.target || launch.target === "pick";
}

/**
 * debugger with absolute paths, so that it does not matter where the adapter was started. One that is not as it should be stays
 * as it is: stepin says what is wrong with it.
 */
export function absolutePaths(debug: Debugger, folder: string | undefined): Debugger {
  const wrong = [debug.program, debug.cwd, debug.dlvCwd].some((path: unknown) => path !== undefined && typeof path !== "string");
  if (!folder || wrong) return debug;
  if (debug.type === "python" || debug.type === "node") {
    // As the extensions of these languages have it.
    const cwd = resolve(folder, debug.cwd ?? "");
    return { ...debug, cwd, ...(debug.program ? { program: resolve(cwd, debug.program) } : {}) };
  }
  const { program, dlvCwd } = debug;
  if (debug.type !== "go" || !program || dlvCwd || isAbsolute(program)) return debug;
  const path = join(folder, program);
  // A bare name may be an import path, which is no path.
  return existsSync(path) || program.startsWith(".") ? { ...debug, program: path } : debug;
}

/** The folder that the program is in, where a stepin.yaml upwards counts. */
export function programFolder(debug: Debugger | undefined, folder: string): string {
  const program: unknown = debug?.program;
  if (typeof program !== "string" || !isAbsolute(program)) return folder;
  try {
    return statSync(program).isDirectory() ? program : dirname(program);
  } catch {
    return folder;
  }
}

/** The nearest stepin.yaml from a folder upwards. */
export function findYAML(folder: string): string | undefined {
  for (let dir = folder; ; dir = dirname(dir)) {
    const path = join(dir, "stepin.yaml");
    if (existsSync(path)) return path;
    if (dirname(dir) === dir) return undefined;
  }
}
