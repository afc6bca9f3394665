// The extension's entry: what VS Code asks for, and who answers.
import { homedir } from "node:os";
import * as vscode from "vscode";
import { Adapter } from "./adapter.ts";
import { bar, menu, switchMode } from "./bar.ts";
import { startChild } from "./children.ts";
import { blocks, Configurations } from "./configurations.ts";
import { carried } from "./debuggers.ts";
import { elsewhere } from "./elsewhere.ts";
import type { Launch } from "./launch.ts";
import { Live } from "./live.ts";
import { Picker } from "./picker.ts";
import { Progresses } from "./progress.ts";
import { type Node, SessionsView } from "./sessions.ts";
import { doctor, showFailure, tracker } from "./show.ts";
import { Versions } from "./version.ts";

export function activate(context: vscode.ExtensionContext): void {
  if (process.platform !== "linux") {
    const { contributes } = context.extension.packageJSON as { contributes: { commands: { command: string }[] } };
    context.subscriptions.push(...elsewhere(contributes.commands.map(({ command }) => command)));
    return;
  }
  const own = context.asAbsolutePath("bin/stepin");
  const path = () => vscode.workspace.getConfiguration("stepin").get<string>("path", "") || own;
  const log = vscode.window.createOutputChannel("stepin");
  const live = new Live();
  const adapter = new Adapter({
    path,
    busy: () => live.all().length > 0,
    cwd: windowFolder(),
    carried: () => carried(context.extensionPath, vscode.extensions.getExtension("ms-python.debugpy")?.extensionPath),
    log: (text) => {
      log.append(text);
    },
  });
  const versions = new Versions(own);
  const picker = new Picker(context.workspaceState, path);
  const configurations = new Configurations(picker, path, () => Promise.all([versions.compare(path(), windowFolder()), adapter.socket()]));
  context.subscriptions.push(
    log,
    adapter,
    live,
    bar(live),
    new Progresses(),
    vscode.debug.registerDebugConfigurationProvider("stepin", configurations),
    vscode.debug.registerDebugConfigurationProvider("*", blocks(configurations)),
    vscode.debug.registerDebugConfigurationProvider(
      "stepin",
      { provideDebugConfigurations: () => configurations.provideDebugConfigurations() },
      vscode.DebugConfigurationProviderTriggerKind.Dynamic,
    ),
    vscode.debug.registerDebugAdapterDescriptorFactory("stepin", {
      createDebugAdapterDescriptor: async () => new vscode.DebugAdapterNamedPipeServer(await adapter.socket()),
    }),
    vscode.debug.registerDebugAdapterTrackerFactory("stepin", {
      createDebugAdapterTracker: (session) => tracker(session, path),
    }),
    vscode.debug.onDidReceiveDebugSessionCustomEvent(startChild),
    vscode.commands.registerCommand("stepin.showLog", () => {
      log.show();
    }),
    ...sessionCommands(live, path),
    ...targetCommands(picker, path),
  );
}

/** What can be done with the sessions that run. */
function sessionCommands(live: Live, path: () => string): { dispose(): unknown }[] {
  const view = new SessionsView(live);
  const { registerCommand } = vscode.commands;
  return [
    view,
    registerCommand("stepin.menu", () => menu(live)),
    registerCommand("stepin.setMode", () => switchMode(live)),
    registerCommand("stepin.stop", () => vscode.debug.stopDebugging(live.active()?.session)),
    registerCommand("stepin.refreshSessions", () => view.refresh()),
    registerCommand("stepin.stopSession", (node?: Node) => view.stop(node)),
    registerCommand("stepin.doctor", () => {
      doctor(path(), live.active()?.session.configuration);
    }),
  ];
}

function targetCommands(picker: Picker, path: () => string): vscode.Disposable[] {
  const pick = async (launch: Launch, free: boolean) => {
    try {
      return await picker.pick(launch, windowFolder(), free);
    } catch (err) {
      showFailure(err, launch, undefined, path());
      return undefined;
    }
  };
  const nothing = { type: "stepin", request: "launch", name: "" };
  return [
    // As a variable of launch.json it can only be a word, so it stays within the configuration's namespace.
    vscode.commands.registerCommand("stepin.pickTarget", async (launch?: Launch) => (await pick(launch ?? nothing, false))?.target),
    vscode.commands.registerCommand("stepin.copyTarget", async () => {
      const picked = await pick(nothing, true);
      if (!picked) return;
      const keys = Object.entries(picked).map(([key, value]) => `"${key}": ${JSON.stringify(value)}`);
      await vscode.env.clipboard.writeText(`${keys.join(", ")},`);
      const open = "Open launch.json";
      const button = await vscode.window.showInformationMessage(`${picked.target} is in the clipboard, for the configuration.`, open);
      if (button === open) await vscode.commands.executeCommand("workbench.action.debug.configure");
    }),
  ];
}

/** Where the adapter is started; programs are absolute by then. */
function windowFolder(): string {
  return vscode.workspace.workspaceFolders?.[0]?.uri.fsPath ?? homedir();
}
