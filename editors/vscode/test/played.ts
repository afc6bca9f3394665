// What the tests of the window share: a folder, a stepin that is played, a memory.
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type * as vscode from "vscode";
import { Configurations } from "../src/configurations.ts";
import { Picker } from "../src/picker.ts";

export const dir = mkdtempSync(join(tmpdir(), "stepin-test-"));
process.on("exit", () => {
  rmSync(dir, { recursive: true });
});

export const listing = { items: [{ namespace: "shop", target: "deployment/orders", ready: 1, of: 1 }] };

/** A stepin that says what it is told to, and what it was asked. */
export function player(script: string): string {
  const path = join(dir, `stepin-${Math.random()}`);
  writeFileSync(path, `#!/usr/bin/env node\n${script}\n`);
  chmodSync(path, 0o755);
  return path;
}

export function memory(): vscode.Memento {
  const kept = new Map<string, unknown>();
  return {
    keys: () => [...kept.keys()],
    get: (key: string, otherwise?: unknown) => kept.get(key) ?? otherwise,
    update: (key: string, value: unknown) => Promise.resolve(void kept.set(key, value)),
  } as vscode.Memento;
}

export function configurations(path: string, memo = memory()): Configurations {
  return new Configurations(new Picker(memo, () => path), () => path);
}

export const folder = { uri: { fsPath: dir } } as unknown as vscode.WorkspaceFolder;
export const written = { type: "stepin", request: "launch", name: "n", debugger: { type: "go", program: "." } };
