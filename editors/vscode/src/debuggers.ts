// Where the real debuggers are. Nothing here knows of VS Code.
import { accessSync, constants, statSync } from "node:fs";
import { delimiter, join } from "node:path";

/** Finds Delve where Go developers have it: the setting, GOBIN, GOPATH/bin (by default ~/go/bin), PATH. */
export function findDlv(setting: string, env: NodeJS.ProcessEnv, executable = isExecutable): string | undefined {
  if (setting) return setting; // a wrong one is for stepin to complain about
  const list = (name: string) => (env[name] ?? "").split(delimiter).filter(Boolean);
  const gopath = list("GOPATH");
  if (gopath.length === 0 && env["HOME"]) gopath.push(join(env["HOME"], "go"));
  const folders = [...list("GOBIN"), ...gopath.map((p) => join(p, "bin")), ...list("PATH")];
  return folders.map((folder) => join(folder, "dlv")).find(executable);
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return statSync(path).isFile();
  } catch {
    return false;
  }
}
