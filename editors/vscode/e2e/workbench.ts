// A real VS Code (code-server) with the packed extension, in a real browser (Debian's Chromium), for one test: started
// on loopback in a home of its own, and gone at its end.
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { createServer } from "node:net";
import { mkdirSync, mkdtempSync, openSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { type Browser, chromium, type Locator, type Page } from "playwright-core";

const root = join(import.meta.dirname, "../../..");
const codeServer = join(root, ".tools/code-server/out/node/entry.js");
const platform = `linux-${process.arch}`;
/** Where screenshots and logs stay. */
export const kept = join(root, ".tools/build/e2e-vscode");

/** How long any one thing may take to be seen, in ms: far beyond what a slow machine needs. */
const patience = 60_000;

/** What a user would choose so that nothing asks or moves. */
const settings = {
  "workbench.startupEditor": "none",
  "workbench.colorTheme": "Default Light Modern",
  "window.commandCenter": false,
  "chat.disableAIFeatures": true,
  "remote.autoForwardPorts": false,
  "workbench.secondarySideBar.defaultVisibility": "hidden",
  "editor.minimap.enabled": false,
  "debug.openDebug": "openOnSessionStart",
  "debug.internalConsoleOptions": "openOnSessionStart",
  "extensions.ignoreRecommendations": true,
  "workbench.tips.enabled": false,
  "telemetry.telemetryLevel": "off",
};

export interface Place {
  folder: string;
  file: string; // absolute
  line: number; // where the breakpoint goes
}

export class Workbench {
  readonly page: Page;
  readonly #name: string;
  readonly #browser: Browser;
  readonly #server: ChildProcess;
  readonly #home: string;
  readonly #port: number;
  #shots = 0;
  #since = Date.now();

  private constructor(name: string, page: Page, browser: Browser, server: ChildProcess, home: string, port: number) {
    this.#name = name;
    this.page = page;
    this.#browser = browser;
    this.#server = server;
    this.#home = home;
    this.#port = port;
  }

  /** Starts it; env is laid over this process's. name is that of the log and the screenshots. */
  static async start(name: string, env: NodeJS.ProcessEnv, trusts = true): Promise<Workbench> {
    mkdirSync(kept, { recursive: true });
    const home = mkdtempSync(join(tmpdir(), "stepin-vscode-"));
    mkdirSync(join(home, "data/User"), { recursive: true });
    writeFileSync(join(home, "data/User/settings.json"), JSON.stringify(settings));
    const port = await freePort();
    const server = serve(name, home, port, env, trusts);
    try {
      await until("code-server", async () => (await fetch(`http://127.0.0.1:${port}/healthz`)).ok);
      const browser = await launchBrowser();
      const page = await browser.newPage({ viewport: { width: 1280, height: 800 } });
      page.setDefaultTimeout(patience);
      return new Workbench(name, page, browser, server, home, port);
    } catch (err) {
      server.kill();
      rmSync(home, { recursive: true, force: true });
      throw err;
    }
  }

  async close(): Promise<void> {
    await this.#browser.close();
    const ended = new Promise((resolve) => this.#server.once("exit", resolve));
    this.#server.kill();
    await ended;
    rmSync(this.#home, { recursive: true, force: true, maxRetries: 5 });
  }

  /** A second window, in the same browser; it goes with the first. */
  async another(): Promise<Workbench> {
    const page = await this.#browser.newPage({ viewport: { width: 1280, height: 800 } });
    page.setDefaultTimeout(patience);
    return new Workbench(`${this.#name}, second`, page, this.#browser, this.#server, this.#home, this.#port);
  }

  /** Opens the folder with the file at the line. */
  async visit(at: Place): Promise<void> {
    const file = `vscode-remote://127.0.0.1:${this.#port}${at.file}:${at.line}:1`;
    const payload = JSON.stringify([["openFile", file], ["gotoLineMode", "true"]]);
    const query = new URLSearchParams({ folder: at.folder, payload });
    await this.page.goto(`http://127.0.0.1:${this.#port}/?${query}`);
    await this.page.locator(".editor-instance .view-lines").waitFor();
  }

  /** Opens the folder with the file at the line, and sets a breakpoint there, which must be the first. */
  async open(at: Place): Promise<void> {
    await this.visit(at);
    // Keys that are pressed before the extensions have started are lost, without a word.
    const dot = this.page.locator('.editor-instance .glyph-margin-widgets [class*="codicon-debug-breakpoint"]');
    await until("the breakpoint", async () => {
      await this.page.keyboard.press("F9");
      await dot.first().waitFor({ timeout: 2000 }); // it must not be pressed twice in vain
      return true;
    });
    await this.page.keyboard.press("Control+Shift+D");
  }

  /** Waits until F5 would start a configuration. */
  async selected(name: string): Promise<void> {
    await this.page.locator(".start-debug-action-item-label").getByText(name, { exact: true }).waitFor();
  }

  /** Waits for words in the Debug Console. */
  async console(words: RegExp): Promise<void> {
    await this.page.locator(".repl .monaco-list-row", { hasText: words }).first().waitFor();
  }

  /** Waits until the program stands at a line, and returns that line's number. */
  async paused(): Promise<number> {
    await this.page.locator(".debug-top-stack-frame-line").first().waitFor();
    const number = this.page.locator(".editor-instance .active-line-number");
    return Number(await number.first().textContent());
  }

  /** Whether a program stands. */
  async stands(): Promise<boolean> {
    return (await this.page.locator(".debug-top-stack-frame-line").count()) > 0;
  }

  /** Waits for a variable in the Variables view and returns its value. */
  async variable(name: string): Promise<string> {
    const rows = this.page.locator(".debug-variables .monaco-list-row");
    const text = await rows.filter({ hasText: new RegExp(`^${name}\\s*=`) }).first().textContent();
    return (text ?? "").replace(/^.*?=\s*/, "");
  }

  /** Presses a key. */
  async press(key: string): Promise<void> {
    await this.page.keyboard.press(key);
  }

  /** Waits for a row of the list that has opened. */
  async listed(label: string): Promise<Locator> {
    const row = this.page.locator(".quick-input-widget .monaco-list-row", { hasText: label }).first();
    await row.waitFor();
    return row;
  }

  /** Waits for a row of the list that has opened, and takes it; between is done while it is shown. */
  async pick(label: string, between?: () => Promise<unknown>): Promise<void> {
    const row = await this.listed(label);
    await between?.();
    await row.click();
  }

  /** Waits until a file has a tab. */
  async tab(name: string): Promise<void> {
    await this.page.locator(".tab", { hasText: name }).first().waitFor();
  }

  /** Waits for a notification with such words, and presses its button, if one is named. */
  async told(words: RegExp, button?: string): Promise<void> {
    const said = this.page.locator(".notifications-toasts .notification-list-item", { hasText: words }).first();
    await said.waitFor();
    if (button) await said.getByRole("button", { name: button }).click();
  }

  /** The item of the status bar with such words, once it is there. */
  async status(words: RegExp): Promise<Locator> {
    const item = this.page.locator(".statusbar-item", { hasText: words }).first();
    await item.waitFor();
    return item;
  }

  /** Opens a section of the side bar, and waits for a row in it. */
  async section(title: string, row: RegExp): Promise<void> {
    const pane = this.page.locator(".pane", { has: this.page.locator(".pane-header", { hasText: title }) });
    const header = pane.locator(".pane-header");
    if ((await header.getAttribute("aria-expanded")) !== "true") await header.click();
    await pane.locator(".monaco-list-row", { hasText: row }).first().waitFor();
  }

  /**
   * Presses what stands above a line of the program, such as "debug test". An editor that has asked before the extension was
   * there has been seen not to ask again.
   */
  async lens(words: string): Promise<void> {
    const lens = this.page.locator(".codelens-decoration a", { hasText: words }).first();
    await lens.waitFor({ timeout: patience / 6 }).catch(() => this.page.reload());
    await lens.click();
  }

  /** Waits until no session runs. The toolbar is hidden then, not removed. */
  async ended(): Promise<void> {
    await this.page.locator(".debug-toolbar").waitFor({ state: "hidden" });
  }

  /** Prints what has been done and how long it took. */
  tell(what: string): void {
    const now = Date.now();
    console.log(`  ${what}: ${((now - this.#since) / 1000).toFixed(1)} s`);
    this.#since = now;
  }

  async screenshot(what: string): Promise<void> {
    this.#shots++;
    await this.page.screenshot({ path: join(kept, `${this.#name}-${this.#shots}-${what}.png`) });
  }
}

function serve(name: string, home: string, port: number, env: NodeJS.ProcessEnv, trusts: boolean): ChildProcess {
  const dirs = ["--user-data-dir", join(home, "data"), "--extensions-dir", join(home, "extensions")];
  // VSCODE_CLI keeps PATH for the extensions; else it is read anew from a login shell.
  const environment = { ...process.env, ...env, ...goCaches(), HOME: home, VSCODE_CLI: "1" };
  for (const vsix of [join(root, `bin/stepin-${platform}.vsix`), standins(home)])
    execFileSync(process.execPath, [codeServer, ...dirs, "--install-extension", vsix, "--force"], {
      env: environment,
      stdio: "ignore",
    });
  const log = openSync(join(kept, `${name}.log`), "w");
  const flags = ["--auth", "none", "--bind-addr", `127.0.0.1:${port}`, "--disable-telemetry", "--disable-update-check"];
  // A closed browser would otherwise leave the session for three hours.
  flags.push("--disable-getting-started-override", "--reconnection-grace-time", "5");
  if (trusts) flags.push("--disable-workspace-trust");
  return spawn(process.execPath, [codeServer, ...flags, ...dirs], { env: environment, stdio: ["ignore", log, log] });
}

/** Packs the stand-ins for extensions that no registry has into a folder, and returns the package's path. */
function standins(folder: string): string {
  const vsix = join(folder, "standins.vsix");
  const vsce = createRequire(import.meta.url).resolve("@vscode/vsce/package.json");
  const flags = ["--no-dependencies", "--skip-license", "--allow-missing-repository", "--out", vsix];
  execFileSync(process.execPath, [join(dirname(vsce), "vsce"), "package", ...flags], {
    cwd: join(import.meta.dirname, "standins"),
    stdio: ["ignore", "ignore", "inherit"],
  });
  return vsix;
}

/** The developer's own caches, which another HOME would hide: every build would begin with the standard library. */
function goCaches(): NodeJS.ProcessEnv {
  const names = ["GOCACHE", "GOMODCACHE", "GOPATH"];
  return JSON.parse(execFileSync("go", ["env", "-json", ...names], { encoding: "utf8" })) as NodeJS.ProcessEnv;
}

function launchBrowser(): Promise<Browser> {
  const args = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"];
  args.push("--disable-background-networking", "--disable-component-update", "--disable-sync");
  return chromium.launch({ executablePath: "/usr/bin/chromium", args });
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer().once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const address = server.address();
      server.close(() => {
        resolve(typeof address === "object" && address ? address.port : 0);
      });
    });
  });
}

/** Tries until it is so, or throws. An error counts as no. */
export async function until(what: string, so: () => Promise<boolean> | boolean, pause = 50): Promise<void> {
  const end = Date.now() + patience;
  while (Date.now() < end) {
    if (await Promise.resolve().then(so).catch(() => false)) return;
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
  throw new Error(`${what} did not come within ${patience / 1000} s`);
}
