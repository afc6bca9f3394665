// Running the stepin binary: for a result, or for as long as the window lives. Nothing here knows of VS Code.
import { spawn } from "node:child_process";
import type { Cure } from "./problems.ts";

/** An error of stepin's own: one sentence, what to do about it (may be empty), and the buttons that do it. */
export class Failure extends Error {
  readonly hint: string;
  readonly cures: readonly Cure[];
  constructor(sentence: string, hint = "", cures: readonly Cure[] = ["Run Doctor", "Open launch.json"]) {
    super(sentence);
    this.hint = hint;
    this.cures = cures;
  }
}

/** That stepin itself, not what it was asked for, fails; both where the setting may be wrong. */
export function unusable(path: string, why: string): Failure {
  return new Failure(`${path} ${why}`, "", ["Open Settings", "Show Log"]);
}

export interface RunOptions {
  cwd: string;
  signal?: AbortSignal;
}

/** Bytes of a result that are read: a few thousand targets take one megabyte. */
const maxResult = 16 << 20;
/** Bytes of standard error that are kept: the last lines say what went wrong. */
const maxErrors = 64 << 10;

/** Runs `stepin ARGUMENTS` and returns its standard output. Rejects with a Failure. */
export function run(path: string, args: string[], options: RunOptions): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(path, args, {
      cwd: options.cwd,
      env: environment(process.env),
      stdio: ["ignore", "pipe", "pipe"],
      ...(options.signal ? { signal: options.signal } : {}),
    });
    let result = "";
    let errors = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      result += text;
      if (result.length > maxResult) child.kill();
    });
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      errors = (errors + text).slice(-maxErrors);
    });
    child.on("error", (err) => {
      reject(options.signal?.aborted ? err : unusable(path, `cannot be run: ${err.message}`));
    });
    child.on("close", (status, signal) => {
      if (status === 0) resolve(result);
      else reject(failure(errors, `stepin ${args[0] ?? ""} ended with ${signal ?? `status ${status ?? -1}`}`));
    });
  });
}

/** Reads stepin's way of failing, `stepin: SENTENCE` and `hint: …`; several problems are several sentences. */
export function failure(stderr: string, otherwise: string): Failure {
  const said: string[] = [];
  const hints: string[] = [];
  for (const line of stderr.split("\n")) {
    if (line.startsWith("stepin: ")) said.push(line.slice("stepin: ".length));
    else if (line.startsWith("hint: ")) hints.push(line.slice("hint: ".length));
  }
  return new Failure(said.join("; ") || otherwise, hints[0] ?? "");
}

/** The developer's environment without what VS Code has put in for its own processes: a debuggee would obey it. */
export function environment(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(env).filter(([name]) => !/^(VSCODE|ELECTRON)_/.test(name)));
}
