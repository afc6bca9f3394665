// What a launch configuration is here, and the decisions about one that need no VS Code.
import { existsSync, statSync } from "node:fs";
import { dirname, isAbsolute, join } from "node:path";
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
  dlvCwd?: string;
  dlvToolPath?: string;
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

/** Whether the target is still to be picked. */
export function wantsTarget(launch: Launch): boolean {
  return !launch.target || launch.target === "pick";
}

/** debugger.program as an absolute path, so that it does not matter where the adapter was started. */
export function absoluteProgram(debug: Debugger, folder: string | undefined): Debugger {
  const { program, dlvCwd } = debug;
  if (!program || !folder || dlvCwd || isAbsolute(program)) return debug;
  const path = join(folder, program);
  // In Go a bare name may be an import path, which is no path.
  return existsSync(path) || program.startsWith(".") ? { ...debug, program: path } : debug;
}

/** The folder that the program is in, where a stepin.yaml upwards counts. */
export function programFolder(debug: Debugger | undefined, folder: string): string {
  const program = debug?.program;
  if (!program || !isAbsolute(program)) return folder;
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
