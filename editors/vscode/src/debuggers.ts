// Where the real debuggers are. Nothing here knows of VS Code.
import { accessSync, constants, statSync } from "node:fs";
import { delimiter, isAbsolute, join } from "node:path";

/** Finds Delve where Go developers have it: the setting, GOBIN, GOPATH/bin (by default ~/go/bin), PATH. */
export function findDlv(setting: string, env: NodeJS.ProcessEnv, executable = isExecutable): string | undefined {
  if (setting) return setting; // a wrong one is for stepin to complain about
  const list = (name: string) => (env[name] ?? "").split(delimiter).filter(Boolean);
  const gopath = list("GOPATH");
  if (gopath.length === 0 && env["HOME"]) gopath.push(join(env["HOME"], "go"));
  const folders = [...list("GOBIN"), ...gopath.map((p) => join(p, "bin")), ...list("PATH")];
  return folders.map((folder) => join(folder, "dlv")).find(executable);
}

/**
 * The real debuggers that come with an editor, by stepin's names for them: js-debug's server in this extension's folder, and
 * debugpy in that of the extension ms-python.debugpy, where that is installed.
 */
export function carried(own: string, python: string | undefined): Record<string, string> {
  const found: Record<string, string> = { "js-debug": join(own, "js-debug/vsDebugServer.cjs") };
  if (python) found["debugpy"] = join(python, "bundled/libs/debugpy");
  return found;
}

/** The interpreter of what the Python extension calls an environment's path: an interpreter, or a virtual environment's folder. */
export function pythonOf(path: string | undefined, executable = isExecutable): string | undefined {
  if (!path || !isAbsolute(path)) return undefined; // "python" is what it says where none was chosen
  return [path, join(path, "bin/python")].find(executable);
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return statSync(path).isFile();
  } catch {
    return false;
  }
}
