// The extension's entry: what VS Code asks for, and who answers.
import { homedir } from "node:os";
import * as vscode from "vscode";
import { Adapter } from "./adapter.ts";
import { startChild } from "./children.ts";
import { blocks, Configurations } from "./configurations.ts";
import { carried } from "./debuggers.ts";
import type { Launch } from "./launch.ts";
import { Picker } from "./picker.ts";
import { doctor, showFailure, tracker } from "./show.ts";

export function activate(context: vscode.ExtensionContext): void {
  const path = () =>
    vscode.workspace.getConfiguration("stepin").get<string>("path", "") || context.asAbsolutePath("bin/stepin");
  const log = vscode.window.createOutputChannel("stepin");
  const adapter = new Adapter({
    path,
    cwd: windowFolder(),
    carried: () => carried(context.extensionPath, vscode.extensions.getExtension("ms-python.debugpy")?.extensionPath),
    log: (text) => {
      log.append(text);
    },
  });
  const picker = new Picker(context.workspaceState, path);
  const configurations = new Configurations(picker, path);
  context.subscriptions.push(
    log,
    adapter,
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
    vscode.commands.registerCommand("stepin.doctor", () => {
      doctor(path());
    }),
    vscode.commands.registerCommand("stepin.showLog", () => {
      log.show();
    }),
    vscode.commands.registerCommand("stepin.pickTarget", async (launch?: Launch) => {
      const config = launch ?? { type: "stepin", request: "launch", name: "" };
      try {
        // As a variable of launch.json it can only be a word, so it stays within the configuration's namespace.
        return (await picker.pick(config, windowFolder(), false))?.target;
      } catch (err) {
        showFailure(err, config, undefined, path());
        return undefined;
      }
    }),
  );
}

/** Where the adapter is started; programs are absolute by then. */
function windowFolder(): string {
  return vscode.workspace.workspaceFolders?.[0]?.uri.fsPath ?? homedir();
}
