// From what stands in launch.json, or from nothing, to what the adapter gets.
import * as vscode from "vscode";
import { hasBlock, testsBlock, unfolded } from "./block.ts";
import { findDlv, pythonOf } from "./debuggers.ts";
import { absolutePaths, findYAML, isChild, type Launch, offer, programFolder, wantsTarget } from "./launch.ts";
import type { Picker } from "./picker.ts";
import { Failure, run } from "./stepin.ts";
import { showFailure } from "./show.ts";

type Folder = vscode.WorkspaceFolder | undefined;

export class Configurations implements vscode.DebugConfigurationProvider {
  readonly #picker: Picker;
  readonly #path: () => string;
  readonly #ready: () => Promise<unknown>;

  /** ready rejects with a Failure where no session could be started: said here, the user reads it with its buttons. */
  constructor(picker: Picker, path: () => string, ready: () => Promise<unknown> = () => Promise.resolve()) {
    this.#picker = picker;
    this.#path = path;
    this.#ready = ready;
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
    if (isChild(config)) return { ...config, __startsChildren: true };
    let launch: Launch = { ...config };
    try {
      if (hasBlock(launch)) launch = unfolded(launch);
      if (launch.debugger) launch.debugger = absolutePaths(launch.debugger, folder?.uri.fsPath);
      if (wantsTarget(launch)) {
        const { target, ...rest } = launch;
        const picked = await this.#target(rest, folder);
        if (!picked) return undefined;
        launch = picked;
      }
      await this.#ready();
    } catch (err) {
      showFailure(err, launch, folder, this.#path());
      return undefined;
    }
    // Our own buttons instead of the editor's dialog (problems.ts), children as its own debuggers have them (children.ts), and
    // every session's progress, not that of the focused one only (progress.ts).
    return { ...(await withDebugger(launch, folder)), __showsErrors: true, __startsChildren: true, __showsProgress: true };
  }

  /** The configuration with a target: stepin.yaml's, or the one that the user picks. */
  async #target(launch: Launch, folder: Folder): Promise<Launch | undefined> {
    const cwd = programFolder(launch.debugger, folder?.uri.fsPath ?? process.cwd());
    const yaml = findYAML(cwd);
    if (yaml) {
      const shown = await run(this.#path(), ["config", "show", yaml, "-o", "json"], { cwd }).catch((err: unknown) => {
        throw err instanceof Failure && !err.cures.includes("Open Settings") ? new Failure(err.message, err.hint, ["Open stepin.yaml"]) : err;
      });
      if ((JSON.parse(shown) as Launch).target) return launch;
    }
    const picked = await this.#picker.pick(launch, cwd, true);
    return picked && { ...launch, ...picked };
  }
}

/** For configurations of every other type: those with a block of ours become ours, after their own extension's last step. */
export function blocks(configurations: Configurations): vscode.DebugConfigurationProvider {
  return {
    // Before the variables are put in, since launch.json's may be in the block.
    resolveDebugConfiguration: (folder, config) => {
      const written = vscode.workspace.getConfiguration("launch", folder).get<Launch[]>("configurations", []);
      const block = testsBlock(config, written);
      return block === undefined ? config : { ...config, stepin: block };
    },
    resolveDebugConfigurationWithSubstitutedVariables: (folder, config) =>
      hasBlock(config) ? configurations.resolveDebugConfigurationWithSubstitutedVariables(folder, config) : config,
  };
}

async function withDebugger(launch: Launch, folder: Folder): Promise<Launch> {
  const debug = launch.debugger;
  if (debug?.type === "python" && debug.python === undefined && debug["pythonPath"] === undefined) {
    const python = await chosenPython(folder);
    return python ? { ...launch, debugger: { ...debug, python } } : launch; // without it stepin looks for one
  }
  if (debug?.type !== "go" || debug.dlvToolPath) return launch;
  const setting = vscode.workspace.getConfiguration("stepin").get<string>("dlvPath", "");
  const dlv = findDlv(setting, process.env);
  return dlv ? { ...launch, debugger: { ...debug, dlvToolPath: dlv } } : launch; // without it stepin says what to install
}

/** As much of the Python extension's interface (npm: @vscode/python-extension) as is used here. */
interface PythonExtension {
  environments?: { getActiveEnvironmentPath?: (resource?: vscode.Uri) => { path?: string } };
}

/** The interpreter that the user has chosen in the Python extension, where there is one. */
async function chosenPython(folder: Folder): Promise<string | undefined> {
  const extension = vscode.extensions.getExtension<PythonExtension>("ms-python.python");
  if (!extension) return undefined;
  try {
    const { environments } = await extension.activate();
    return pythonOf(environments?.getActiveEnvironmentPath?.(folder?.uri).path);
  } catch {
    return undefined; // that extension's failure is its own to tell
  }
}
