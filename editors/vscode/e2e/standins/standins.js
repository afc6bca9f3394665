// What the Go and Python extensions do with a configuration of theirs, as far as it can go wrong with a block of ours: defaults
// in the first step, and in the last one, when variables have been put in, envFile into env and their own tools' paths. They
// have no debug adapter: a session that is not stepin's fails.
"use strict";
const fs = require("fs");
const vscode = require("vscode");

const tools = { go: { debugAdapter: "dlv-dap" }, debugpy: { python: "/usr/bin/python3", justMyCode: true } };

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
};
