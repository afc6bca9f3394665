// Child sessions: those of js-debug, whose own session has no program, and of debugpy's subprocesses.
import * as vscode from "vscode";

/** What the adapter sends instead of startDebugging (adapter/dap: childEvent), with the same arguments. */
const wish = "stepin.startDebugging";

interface Wish {
  request: string;
  configuration: vscode.DebugConfiguration;
}

/**
 * Starts a child session as the editor's own debuggers do: in its parent's console, and stopped and restarted with it. One
 * that VS Code starts itself has a console and buttons of its own, which leave the parent running.
 */
export async function startChild({ session, event, body }: vscode.DebugSessionCustomEvent): Promise<void> {
  if (session.type !== "stepin" || event !== wish) return;
  const { configuration, request } = body as Wish;
  await vscode.debug.startDebugging(session.workspaceFolder, { ...configuration, request }, {
    parentSession: session,
    lifecycleManagedByParent: true,
    consoleMode: vscode.DebugConsoleMode.MergeWithParent,
    compact: true,
  });
}
