// The status bar's item while sessions run, and its menu.
import * as vscode from "vscode";
import type { Live } from "./live.ts";
import { barLabel, barText, barTooltip, modes } from "./state.ts";

/** How many running sessions `when` clauses can ask for. */
const runningKey = "stepin.running";

/** Shows the active session in the status bar; what it returns is to be disposed of. */
export function bar(live: Live): vscode.Disposable {
  const item = vscode.window.createStatusBarItem("session", vscode.StatusBarAlignment.Left);
  item.name = "stepin Session";
  item.command = "stepin.menu";
  let running = -1;
  const show = () => {
    const shown = live.shown();
    if (running !== (shown?.running ?? 0)) {
      running = shown?.running ?? 0;
      void vscode.commands.executeCommand("setContext", runningKey, running);
    }
    if (!shown) {
      item.hide();
      return;
    }
    item.text = barText(shown);
    item.tooltip = barTooltip(shown);
    item.accessibilityInformation = { label: barLabel(shown), role: "button" };
    item.show();
  };
  show();
  return vscode.Disposable.from(item, live.onChange(show));
}

interface Entry extends vscode.QuickPickItem {
  does: () => Thenable<unknown>;
}

/** The menu of the active session. */
export async function menu(live: Live): Promise<void> {
  const running = live.active();
  if (!running) return;
  const { state } = running;
  const home = state.namespace ? state.pods?.find((pod) => pod.home) : undefined; // what kubectl knows by it
  const command = (name: string) => () => vscode.commands.executeCommand(name);
  const entries: Entry[] = [
    { label: "$(arrow-swap) Switch the Mode …", description: `now ${state.mode}`, does: () => switchMode(live) },
    { label: "$(organization) Cluster Sessions", description: "who else is on the target", does: command("stepin.sessions.focus") },
    { label: "$(output) Show the Adapter's Log", does: command("stepin.showLog") },
    { label: "$(go-to-file) Open launch.json", does: command("workbench.action.debug.configure") },
    ...(home ? [{ label: "$(copy) Copy the Pod's Name", description: home.name, does: () => vscode.env.clipboard.writeText(home.name) }] : []),
    { label: "$(debug-stop) End the Session", description: "the pod serves itself again", does: () => vscode.debug.stopDebugging(running.session) },
  ];
  const chosen = await vscode.window.showQuickPick(entries, { title: `stepin: ${state.target}`, placeHolder: "What now?" });
  await chosen?.does();
}

/** Asks which mode and switches to it. What the adapter refuses is shown where its answers are read (show.ts). */
export async function switchMode(live: Live): Promise<void> {
  const running = live.active();
  if (!running) return;
  const now = running.state.mode;
  const items = modes.map(({ mode, means }) => ({ label: mode, description: mode === now ? `${means} (now)` : means }));
  const chosen = await vscode.window.showQuickPick(items, { title: `stepin: ${running.state.target}`, placeHolder: "What shall become of the pod's requests?" });
  if (!chosen || chosen.label === now) return;
  await running.session.customRequest("stepin.setMode", { mode: chosen.label }).then(undefined, () => undefined);
}
