// From what stands in launch.json, or from nothing, to what the adapter gets.
import * as vscode from "vscode";
import { findDlv } from "./debuggers.ts";
import { absoluteProgram, findYAML, type Launch, offer, programFolder, wantsTarget } from "./launch.ts";
import type { Picker } from "./picker.ts";
import { run } from "./stepin.ts";
import { showFailure } from "./show.ts";

type Folder = vscode.WorkspaceFolder | undefined;

export class Configurations implements vscode.DebugConfigurationProvider {
  readonly #picker: Picker;
  readonly #path: () => string;

  constructor(picker: Picker, path: () => string) {
    this.#picker = picker;
    this.#path = path;
  }

  /** For a new launch.json, and for the list of "Select and Start Debugging". */
  provideDebugConfigurations(): vscode.DebugConfiguration[] {
    const offered = offer(vscode.window.activeTextEditor?.document.languageId ?? "go");
    return offered ? [offered] : [];
  }

  /** F5 without a configuration comes with an empty one. */
  resolveDebugConfiguration(_folder: Folder, config: vscode.DebugConfiguration): vscode.DebugConfiguration | undefined {
    if (config.type || config.request || config.name) return config;
    const language = vscode.window.activeTextEditor?.document.languageId;
    const offered = language ? offer(language) : undefined;
    if (!offered) {
      const what = language ? `stepin cannot debug ${language} yet` : "Open the program that is to run in a pod's place";
      void vscode.window.showErrorMessage(what);
    }
    return offered;
  }

  /** The last step: paths are absolute, the target is there, and so is the debugger. undefined: do not start. */
  async resolveDebugConfigurationWithSubstitutedVariables(
    folder: Folder,
    config: vscode.DebugConfiguration,
  ): Promise<vscode.DebugConfiguration | undefined> {
    let launch: Launch = { ...config };
    if (launch.debugger) launch.debugger = absoluteProgram(launch.debugger, folder?.uri.fsPath);
    try {
      if (wantsTarget(launch)) {
        const { target, ...rest } = launch;
        const picked = await this.#target(rest, folder);
        if (!picked) return undefined;
        launch = picked;
      }
    } catch (err) {
      showFailure(err, launch, folder, this.#path());
      return undefined;
    }
    // Our own buttons instead of the editor's dialog; see problems.ts.
    return { ...withDebugger(launch), __showsErrors: true };
  }

  /** The configuration with a target: stepin.yaml's, or the one that the user picks. */
  async #target(launch: Launch, folder: Folder): Promise<Launch | undefined> {
    const cwd = programFolder(launch.debugger, folder?.uri.fsPath ?? process.cwd());
    const yaml = findYAML(cwd);
    if (yaml) {
      const shown = JSON.parse(await run(this.#path(), ["config", "show", yaml], { cwd })) as Launch;
      if (shown.target) return launch;
    }
    const picked = await this.#picker.pick(launch, cwd, true);
    return picked && { ...launch, ...picked };
  }
}

function withDebugger(launch: Launch): Launch {
  const debug = launch.debugger;
  if (debug?.type !== "go" || debug.dlvToolPath) return launch;
  const setting = vscode.workspace.getConfiguration("stepin").get<string>("dlvPath", "");
  const dlv = findDlv(setting, process.env);
  return dlv ? { ...launch, debugger: { ...debug, dlvToolPath: dlv } } : launch; // without it stepin says what to install
}
