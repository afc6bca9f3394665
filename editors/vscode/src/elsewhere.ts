// Where extensions run on macOS or Windows itself there is no stepin: one sentence, and the way to where there is.
import * as vscode from "vscode";
import { hasBlock } from "./block.ts";

const docs = "https://github.com/stepin-dev/stepin/blob/main/docs/remote.md";

/** The ways out: the button, and another extension's command behind it. */
const ways = [
  { button: "Reopen in Container", command: "remote-containers.reopenInContainer" },
  { button: "Reopen in WSL", command: "remote-wsl.reopenInWSL" },
];

/** Everything that would start stepin says instead where it runs. commands are those that the extension contributes. */
export function elsewhere(commands: string[]): vscode.Disposable[] {
  const refuse: vscode.DebugConfigurationProvider["resolveDebugConfiguration"] = (_folder, config) => {
    if (config.type && config.type !== "stepin" && !hasBlock(config)) return config;
    void say();
    return undefined;
  };
  return [
    ...["stepin", "*"].map((type) => vscode.debug.registerDebugConfigurationProvider(type, { resolveDebugConfiguration: refuse })),
    ...commands.map((name) => vscode.commands.registerCommand(name, say)),
  ];
}

async function say(): Promise<void> {
  const there = await vscode.commands.getCommands(true);
  const possible = ways.filter(({ command }) => there.includes(command));
  const how = "How To";
  const text = "stepin runs on Linux: open this folder in a dev container, in WSL2 or on a machine by Remote-SSH.";
  const button = await vscode.window.showErrorMessage(text, ...possible.map((way) => way.button), how);
  const way = possible.find((w) => w.button === button);
  if (way) await vscode.commands.executeCommand(way.command);
  else if (button === how) await vscode.env.openExternal(vscode.Uri.parse(docs));
}
