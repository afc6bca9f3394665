// The view "Cluster Sessions" in the Run and Debug panel: who is on the targets of this window's sessions. It asks when it is
// shown, when a session's state has changed and at its button's press, and never twice at once.
import * as vscode from "vscode";
import type { Live, Running } from "./live.ts";
import { sentenceOf } from "./problems.ts";
import { place, type Sharer, sharers, sharerText } from "./state.ts";

/** How long the agents may take to tell, in ms: one that is reached answers within a second. */
const patience = 10_000;
/** How many sessions of one target are listed: more than a team has. */
const maxRows = 100;

/** One target, and what its sessions said. */
interface Target {
  title: string;
  where: string;
  asked: Running;
  sharers: Sharer[];
  trouble?: string; // instead of sharers
}

export type Node = { target: Target } | { sharer: Sharer; target: Target } | { words: string };

export class SessionsView implements vscode.TreeDataProvider<Node> {
  readonly #live: Live;
  readonly #changed = new vscode.EventEmitter<undefined>();
  readonly onDidChangeTreeData = this.#changed.event;
  readonly #view: vscode.TreeView<Node>;
  readonly #subscriptions: { dispose(): unknown }[];
  #targets: Target[] | undefined; // until it has been asked for
  #asking = false;
  #wanted = 0; // how often anybody wanted to know

  constructor(live: Live) {
    this.#live = live;
    this.#view = vscode.window.createTreeView<Node>("stepin.sessions", { treeDataProvider: this });
    this.#subscriptions = [
      this.#changed,
      this.#view,
      this.#view.onDidChangeVisibility(({ visible }) => {
        if (visible) void this.refresh();
      }),
      live.onState(() => void this.refresh()),
    ];
  }

  dispose(): void {
    for (const s of this.#subscriptions) s.dispose();
  }

  /** Asks anew, if anybody sees it; a call while that is under way makes it ask once more. */
  async refresh(): Promise<void> {
    if (!this.#view.visible) return;
    const wanted = ++this.#wanted;
    if (this.#asking) return;
    this.#asking = true;
    const own = new Set(this.#live.all().flatMap(({ state }) => state.session ?? []));
    this.#targets = await Promise.all(this.#byTarget().map((asked) => ask(asked, own)));
    this.#changed.fire(undefined);
    this.#asking = false;
    if (this.#wanted !== wanted) await this.refresh();
  }

  /** Ends a session: this window's own as its stop button does, another of mine after a question. */
  async stop(node: Node | undefined): Promise<void> {
    if (!node || !("sharer" in node)) return;
    const { sharer, target } = node;
    const own = this.#live.all().find(({ state }) => state.session === sharer.id) ?? (sharer.own ? target.asked : undefined);
    if (own) {
      await vscode.debug.stopDebugging(own.session);
      return;
    }
    const stop = "Stop";
    const detail = `${sharer.who}, ${sharerText(sharer, new Date())}. Its program is ended, and the pods serve themselves again.`;
    if ((await vscode.window.showWarningMessage(`Stop this session of yours on ${target.title}?`, { modal: true, detail }, stop)) !== stop) return;
    await target.asked.session.customRequest("stepin.stopSession", { id: sharer.id }).then(undefined, () => undefined); // show.ts says why not
    await this.refresh();
  }

  getChildren(node?: Node): Node[] {
    if (!node) {
      if (this.#live.all().length === 0) return []; // the welcome is shown instead
      return (this.#targets ?? []).map((target) => ({ target }));
    }
    if (!("target" in node) || "sharer" in node) return [];
    const { target } = node;
    if (target.trouble) return [{ words: target.trouble }];
    const rows: Node[] = target.sharers.slice(0, maxRows).map((sharer) => ({ sharer, target }));
    const left = target.sharers.length - maxRows;
    return left > 0 ? [...rows, { words: `${left} more` }] : rows;
  }

  getTreeItem(node: Node): vscode.TreeItem {
    if ("words" in node) return new vscode.TreeItem(node.words);
    if (!("sharer" in node)) {
      const item = new vscode.TreeItem(node.target.title, vscode.TreeItemCollapsibleState.Expanded);
      item.description = node.target.where;
      item.iconPath = new vscode.ThemeIcon("server-environment");
      return item;
    }
    const { sharer, target } = node;
    const item = new vscode.TreeItem(sharer.who);
    const text = sharerText(sharer, new Date());
    item.description = text;
    item.tooltip = [sharer.who, text, sharer.pods.slice(0, maxRows).join(", ")].filter(Boolean).join("\n");
    item.iconPath = new vscode.ThemeIcon(sharer.own ? "vm-running" : sharer.mine ? "person" : "account");
    item.contextValue = sharer.own || sharer.mine ? "mine" : "other";
    item.accessibilityInformation = { label: `${sharer.who} on ${target.title}, ${text}` };
    return item;
  }

  /** A session of each target, to be asked. */
  #byTarget(): Running[] {
    const found = new Map<string, Running>();
    for (const r of this.#live.all()) {
      const key = JSON.stringify([r.state.context, r.state.namespace, r.state.target]);
      if (!found.get(key)?.ready) found.set(key, r);
    }
    return [...found.values()];
  }
}

/** What a session's adapter says of its target. */
async function ask(asked: Running, own: ReadonlySet<string>): Promise<Target> {
  const target = { title: asked.state.target, where: place(asked.state).trim(), asked, sharers: [] };
  if (!asked.ready) return { ...target, trouble: "The session is starting …" };
  let timer: NodeJS.Timeout | undefined;
  const slow = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      reject(new Error(`No answer within ${patience / 1000} s`));
    }, patience);
  });
  try {
    const answer: unknown = await Promise.race([asked.session.customRequest("stepin.sessions", {}), slow]);
    return { ...target, sharers: sharers(answer, own) };
  } catch (err) {
    return { ...target, trouble: sentenceOf(err instanceof Error ? err.message : String(err)) };
  } finally {
    clearTimeout(timer);
  }
}
