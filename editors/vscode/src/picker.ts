// The target picker: it opens at once and fills when the cluster has answered.
import * as vscode from "vscode";
import type { Launch } from "./launch.ts";
import { Failure, run } from "./stepin.ts";
import { describe, detail, type Listing, parse, remembered, sorted, type Target, type Used } from "./targets.ts";

interface Row extends vscode.QuickPickItem {
  picked?: never;
  choice?: Target | "everywhere";
}

const usedKey = "stepin.targets";

export interface Picked {
  target: string;
  namespace: string;
}

export class Picker {
  readonly #memory: vscode.Memento;
  readonly #path: () => string;

  constructor(memory: vscode.Memento, path: () => string) {
    this.#memory = memory;
    this.#path = path;
  }

  /**
   * Asks which target; undefined: none. namespaces says whether one of another namespace may be picked.
   * Rejects with stepin's own Failure where the cluster cannot be asked.
   */
  async pick(launch: Launch, cwd: string, namespaces: boolean): Promise<Picked | undefined> {
    let everywhere = false;
    for (;;) {
      const choice = await this.#ask(launch, cwd, everywhere, namespaces && !everywhere);
      if (choice === "everywhere") {
        everywhere = true;
        continue;
      }
      if (!choice) return undefined;
      await this.#memory.update(usedKey, remembered(this.#used(), choice));
      return { target: choice.target, namespace: choice.namespace };
    }
  }

  #used(): Used[] {
    return this.#memory.get<Used[]>(usedKey, []);
  }

  #ask(launch: Launch, cwd: string, everywhere: boolean, offerMore: boolean): Promise<Row["choice"]> {
    const box = vscode.window.createQuickPick<Row>();
    box.title = "stepin: whose place does the program take?";
    box.placeholder = "Asking the cluster …";
    box.matchOnDetail = true;
    box.busy = true;
    box.ignoreFocusOut = true; // the cluster may take a second, and the user looks at something meanwhile
    const stop = new AbortController();
    return new Promise<Row["choice"]>((resolve, reject) => {
      box.onDidAccept(() => {
        const row = box.selectedItems[0];
        if (row?.choice) resolve(row.choice);
      });
      box.onDidHide(() => {
        resolve(undefined);
      });
      box.show();
      this.#list(launch, cwd, everywhere, stop.signal).then((listing) => {
        box.items = rows(listing, this.#used(), everywhere, offerMore);
        box.placeholder = placeholder(listing);
        box.busy = false;
      }, reject);
    }).finally(() => {
      stop.abort();
      box.dispose();
    });
  }

  async #list(launch: Launch, cwd: string, everywhere: boolean, signal: AbortSignal): Promise<Listing> {
    const args = ["targets", "-o", "json"];
    if (everywhere) args.push("-A");
    else if (launch.namespace) args.push("-n", launch.namespace);
    if (launch.context) args.push("--context", launch.context);
    if (launch.kubeconfig) args.push("--kubeconfig", launch.kubeconfig);
    const text = await run(this.#path(), args, { cwd, signal });
    try {
      return parse(text);
    } catch {
      throw new Failure("stepin targets said what this extension does not understand", "stepin.path names another version");
    }
  }
}

function rows(listing: Listing, used: Used[], everywhere: boolean, offerMore: boolean): Row[] {
  const list: Row[] = sorted(listing.items, used).map((t) => ({
    label: t.target,
    description: describe(t),
    detail: detail(t, everywhere),
    choice: t,
  }));
  if (offerMore) list.push({ label: "$(list-tree) All namespaces …", alwaysShow: true, choice: "everywhere" });
  return list;
}

function placeholder(listing: Listing): string {
  if (listing.items.length === 0) return listing.missing?.[0] ?? "There is nothing here that can be a target";
  return listing.missing?.length ? `Not all may be listed: ${listing.missing.join("; ")}` : "A workload means all its ready pods";
}
