// Whether the stepin of the setting is of this extension's version: what one says the other may not understand.
import * as vscode from "vscode";
import { openSettings } from "./show.ts";
import { run, unusable } from "./stepin.ts";

/** How long `stepin version` may take, in ms; it does nothing else. */
const patience = 10_000;

export class Versions {
  readonly #own: string;
  #told: string | undefined;

  /** own is the stepin in the extension. */
  constructor(own: string) {
    this.#own = own;
  }

  /** Says once that path's version is another than the extension's. Rejects with a Failure where path is no stepin. */
  async compare(path: string, cwd: string): Promise<void> {
    if (path === this.#own || path === this.#told) return;
    const its = await version(path, cwd);
    const ours = await version(this.#own, cwd).catch(() => its); // an extension that is being developed has none
    this.#told = path;
    if (its === ours) return;
    const text = `stepin: stepin.path names version ${its}, and this extension goes with ${ours}. Not all may work.`;
    const own = "Use the Extension's Own";
    const settings = "Open Settings";
    void vscode.window.showWarningMessage(text, own, settings).then((button) => {
      if (button === settings) return openSettings();
      if (button === own) return vscode.workspace.getConfiguration("stepin").update("path", undefined, vscode.ConfigurationTarget.Global);
      return undefined;
    });
  }
}

async function version(path: string, cwd: string): Promise<string> {
  const said = await run(path, ["version"], { cwd, signal: AbortSignal.timeout(patience) });
  const [name, number] = said.split(" ");
  if (name !== "stepin" || !number) throw unusable(path, "is no stepin");
  return number;
}
