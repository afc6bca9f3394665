// What the Go and Python extensions do with a configuration of theirs, as far as it can go wrong with a block of ours: defaults
// in the first step, and in the last one, when variables have been put in, envFile into env and their own tools' paths; and
// what they start at "debug test". They have no debug adapter: a session that is not stepin's fails.
"use strict";
const fs = require("fs");
const path = require("path");
const vscode = require("vscode");

const tools = { go: { debugAdapter: "dlv-dap" }, debugpy: { python: "/usr/bin/python3", justMyCode: true } };

/** The Go extension makes a configuration itself, whatever launch.json has (vscode-go: goTest.ts, debugTestAtCursor). */
function goTest(document, name) {
  return {
    ...{ name: "Debug Test", type: "go", request: "launch", mode: "test", program: path.dirname(document.fileName) },
    ...{ env: {}, envFile: "${workspaceFolder}/.env", args: ["-test.run", `^${name}$`], buildFlags: "", sessionID: "s1" },
  };
}

/** The Python extension takes launch.json's for this purpose (vscode-python: debugLauncher.ts). */
function pythonTest(document, name) {
  const all = vscode.workspace.getConfiguration("launch", document.uri).get("configurations");
  const written = all.find(({ type, purpose }) => type === "debugpy" && purpose?.includes("debug-test"));
  const module = path.basename(document.fileName, ".py");
  return {
    ...{ console: "internalConsole", redirectOutput: true, subProcess: true, ...written, request: "launch", purpose: [] },
    ...{ program: path.join(__dirname, "runner.py"), args: ["-k", name, module] },
  };
}

const tests = { go: [/^func (Test\w+)/, goTest], python: [/^ +def (test_\w+)/, pythonTest] };

exports.activate = (context) => {
  for (const [type, own] of Object.entries(tools)) {
    context.subscriptions.push(
      vscode.debug.registerDebugConfigurationProvider(type, {
        resolveDebugConfiguration: (folder, config) => ({ cwd: folder.uri.fsPath, ...config }),
        resolveDebugConfigurationWithSubstitutedVariables: (_folder, { envFile, ...config }) => {
          const lines = fs.readFileSync(envFile, "utf8").trim().split("\n");
          const env = Object.fromEntries(lines.map((line) => line.split("=")));
          return { ...config, ...own, env: { ...env, ...config.env } };
        },
      }),
    );
  }
  context.subscriptions.push(
    vscode.commands.registerCommand("standins.debugTest", (document, name) => {
      const [, configuration] = tests[document.languageId];
      return vscode.debug.startDebugging(vscode.workspace.getWorkspaceFolder(document.uri), configuration(document, name));
    }),
  );
  for (const [language, [pattern]] of Object.entries(tests)) {
    context.subscriptions.push(
      vscode.languages.registerCodeLensProvider(language, {
        provideCodeLenses: (document) =>
          document.getText().split("\n").flatMap((line, i) => {
            const name = pattern.exec(line)?.[1];
            if (!name) return [];
            const command = { title: "debug test", command: "standins.debugTest", arguments: [document, name] };
            return [new vscode.CodeLens(new vscode.Range(i, 0, i, 0), command)];
          }),
      }),
    );
  }
};
