// The one `stepin dap --listen` of a window: every session of the window connects to it, so that a child session finds
// its parent's. It starts with the first session and ends with the window, even one that is killed: it watches its
// standard input, which this process holds.
import { type ChildProcess, spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { existsSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { environment, failure, unusable } from "./stepin.ts";

export interface AdapterOptions {
  /** The stepin to run. */
  path: () => string;
  /** Whether sessions run, for which an adapter of another path must stay. */
  busy?: () => boolean;
  cwd: string;
  /** Real debuggers for who has none of his own, by stepin's names for them. */
  carried: () => Record<string, string>;
  /** Gets the adapter's standard error, in pieces as they come. */
  log: (text: string) => void;
}

/** How long the adapter may take to listen, in ms: it does so before anything else, in some 30. */
const startTime = 10_000;

export class Adapter {
  readonly #options: AdapterOptions;
  #running: Promise<string> | undefined;
  #path: string | undefined; // what runs
  #child: ChildProcess | undefined;

  constructor(options: AdapterOptions) {
    this.#options = options;
  }

  /** The socket to connect to; starts the adapter where none runs. Rejects with a Failure. */
  socket(): Promise<string> {
    const { path, busy } = this.#options;
    if (this.#path !== path() && !busy?.()) this.dispose();
    this.#running ??= this.#listen().catch((err: unknown) => {
      this.#running = undefined;
      throw err;
    });
    return this.#running;
  }

  /** Ends the adapter and with it every session. */
  dispose(): void {
    this.#child?.kill();
    this.#child = this.#running = undefined;
  }

  #listen(): Promise<string> {
    const { cwd, log } = this.#options;
    const path = (this.#path = this.#options.path());
    const socket = newSocket();
    const carried = Object.entries(this.#options.carried()).map(([name, at]) => `--debugger=${name}=${at}`);
    const child = spawn(path, ["dap", "--listen", `unix:${socket}`, "--until-eof", ...carried], {
      cwd,
      env: environment(process.env),
      stdio: ["pipe", "pipe", "pipe"],
    });
    this.#child = child;
    let errors = "";
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      if (errors.length < 4096) errors += text;
      log(text);
    });
    return new Promise((resolve, reject) => {
      const slow = setTimeout(() => {
        child.kill();
        reject(unusable(path, `did not listen within ${startTime / 1000} s`));
      }, startTime);
      child.stdout.once("data", () => {
        clearTimeout(slow);
        resolve(socket);
      });
      child.on("error", (err) => {
        clearTimeout(slow);
        reject(unusable(path, `cannot be run: ${err.message}`));
      });
      child.on("close", () => {
        clearTimeout(slow);
        if (this.#child === child) this.#child = this.#running = undefined;
        reject(failure(errors, `${path} ended at once`));
      });
    });
  }
}

/**
 * A new socket's path, in a directory that stepin makes 0700 and refuses where it is not: who reaches the socket can run
 * programs. The directory stays; the socket goes with the adapter, also where this process was killed.
 */
function newSocket(): string {
  const runtime = process.env["XDG_RUNTIME_DIR"];
  const own = runtime && existsSync(runtime) ? join(runtime, "stepin-dap") : join(tmpdir(), `stepin-dap-${process.getuid?.() ?? 0}`);
  return join(own, `vscode-${randomUUID()}.sock`);
}
