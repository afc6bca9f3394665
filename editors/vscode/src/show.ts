// Showing errors: one sentence, and buttons that mend.
import * as vscode from "vscode";
import { findYAML, type Launch, programFolder } from "./launch.ts";
import { type Cure, cures, isFailure, sentence } from "./problems.ts";
import { Failure } from "./stepin.ts";

type Folder = vscode.WorkspaceFolder | undefined;

/** Shows why a launch, or what was asked of a session, was refused; the adapter leaves it to us (__showsErrors). */
export function tracker(session: vscode.DebugSession, path: () => string): vscode.DebugAdapterTracker {
  return {
    onDidSendMessage(message: unknown) {
      if (!isFailure(message)) return;
      const text = sentence(message);
      if (text) void show(text, cures(message), session.configuration, session.workspaceFolder, path());
    },
  };
}

/** Shows what went wrong before there was a session. */
export function showFailure(err: unknown, launch: Launch, folder: Folder, path: string): void {
  const failure = err instanceof Failure ? err : new Failure(err instanceof Error ? err.message : String(err));
  const hint = failure.hint ? `. ${failure.hint}` : "";
  void show(`stepin: ${failure.message}${hint}`, failure.cures, launch, folder, path);
}

async function show(text: string, buttons: readonly Cure[], launch: Launch, folder: Folder, path: string): Promise<void> {
  const cure = await vscode.window.showErrorMessage(text, ...buttons);
  if (cure) await mend(cure, launch, folder, path);
}

async function mend(cure: Cure, launch: Launch, folder: Folder, path: string): Promise<void> {
  switch (cure) {
    case "Open launch.json":
      await vscode.commands.executeCommand("workbench.action.debug.configure");
      break;
    case "Open stepin.yaml": {
      const yaml = findYAML(programFolder(launch.debugger, folder?.uri.fsPath ?? process.cwd()));
      if (yaml) await vscode.window.showTextDocument(vscode.Uri.file(yaml));
      break;
    }
    case "Open Settings":
      await openSettings();
      break;
    case "Choose Another Target":
      await vscode.debug.startDebugging(folder, { ...launch, target: "pick" });
      break;
    case "Mirror Instead":
      await vscode.debug.startDebugging(folder, { ...launch, incoming: { ...(launch["incoming"] as object | undefined), mode: "mirror" } });
      break;
    case "Run Doctor":
      doctor(path, launch);
      break;
    case "Show Log":
      await vscode.commands.executeCommand("stepin.showLog");
  }
}

export async function openSettings(): Promise<void> {
  await vscode.commands.executeCommand("workbench.action.openSettings", "stepin.");
}

/** Runs doctor in a terminal, for the launch's target where there is one. */
export function doctor(path: string, launch?: Launch): void {
  const args = ["doctor"];
  if (launch?.target && launch.target !== "pick" && !launch.target.startsWith("local/")) args.push("-t", launch.target);
  if (launch?.namespace) args.push("-n", launch.namespace);
  if (launch?.context) args.push("--context", launch.context);
  if (launch?.kubeconfig) args.push("--kubeconfig", launch.kubeconfig);
  const line = [path, ...args].map((word) => `'${word.replaceAll("'", `'\\''`)}'`).join(" ");
  const terminal = vscode.window.createTerminal("stepin doctor");
  terminal.show();
  terminal.sendText(line); // in the user's shell, so that the terminal stays when doctor has ended
}
