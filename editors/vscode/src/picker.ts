// The target picker: it opens at once and fills when the cluster has answered. Who is on the pods comes later still, since
// that is asked of their agents.
import * as vscode from "vscode";
import type { Launch } from "./launch.ts";
import { Failure, run } from "./stepin.ts";
import { type Context, describe, detail, type Listing, parse, remembered, sorted, type Target, type Used } from "./targets.ts";

/** What a row leads to. */
type Choice = { target: Target; container?: string } | "everywhere" | "contexts";

interface Row extends vscode.QuickPickItem {
  choice: Choice;
}

const usedKey = "stepin.targets";

export interface Picked {
  target: string;
  namespace: string;
  context?: string;
}

/** Where targets are looked for. */
interface Where {
  launch: Launch;
  cwd: string;
  everywhere: boolean;
  /** Whether another namespace, or another cluster, may be chosen. */
  free: boolean;
}

const containerButton = { iconPath: new vscode.ThemeIcon("package"), tooltip: "Choose the container" };

export class Picker {
  readonly #memory: vscode.Memento;
  readonly #path: () => string;

  constructor(memory: vscode.Memento, path: () => string) {
    this.#memory = memory;
    this.#path = path;
  }

  /**
   * Asks which target; undefined: none. free says whether one of another namespace or context may be picked.
   * Rejects with stepin's own Failure where the cluster cannot be asked.
   */
  async pick(launch: Launch, cwd: string, free: boolean): Promise<Picked | undefined> {
    const where: Where = { launch, cwd, everywhere: false, free };
    for (;;) {
      const choice = await this.#ask(where);
      if (choice === undefined) return undefined;
      if (choice === "everywhere") {
        where.everywhere = true;
      } else if (choice === "contexts") {
        const context = await this.#context(where);
        if (context === undefined) return undefined;
        const { namespace, ...rest } = where.launch; // of the other cluster
        where.launch = { ...rest, context };
        where.everywhere = false;
      } else {
        const { target, container } = choice;
        await this.#memory.update(usedKey, remembered(this.#used(), target));
        const { context } = where.launch;
        const suffix = container ? `/container/${container}` : "";
        return { target: target.target + suffix, namespace: target.namespace, ...(context ? { context } : {}) };
      }
    }
  }

  #used(): Used[] {
    return this.#memory.get<Used[]>(usedKey, []);
  }

  #ask(where: Where): Promise<Choice | undefined> {
    const box = vscode.window.createQuickPick<Row>();
    box.title = "stepin: whose place does the program take?";
    box.placeholder = "Asking the cluster …";
    box.matchOnDetail = box.matchOnDescription = true;
    box.keepScrollPosition = true; // when it is known who is on the pods
    box.busy = true;
    box.ignoreFocusOut = true; // the cluster may take a second, and the user looks at something meanwhile
    const stop = new AbortController();
    return new Promise<Choice | undefined>((resolve, reject) => {
      let chooses = false; // a container, in a list of its own
      box.onDidAccept(() => {
        resolve(box.selectedItems[0]?.choice);
      });
      box.onDidHide(() => {
        if (!chooses) resolve(undefined);
      });
      box.onDidTriggerItemButton(({ item }) => {
        if (typeof item.choice === "string") return;
        chooses = true;
        chooseContainer(item.choice.target).then(resolve, reject);
      });
      box.show();
      this.#fill(box, where, stop.signal).catch(reject);
    }).finally(() => {
      stop.abort();
      box.dispose();
    });
  }

  /** Fills the list. Who is on the pods comes with it. */
  async #fill(box: vscode.QuickPick<Row>, where: Where, signal: AbortSignal): Promise<void> {
    const listing = await this.#list(where, signal);
    box.items = rows(listing, this.#used(), where);
    box.placeholder = placeholder(listing);
    box.busy = false;
  }

  async #list(where: Where, signal: AbortSignal): Promise<Listing> {
    const text = await run(this.#path(), ["targets", "-o", "json", ...flags(where)], { cwd: where.cwd, signal });
    try {
      return parse(text);
    } catch {
      throw new Failure("stepin targets said what this extension does not understand", "stepin.path names another version", ["Open Settings"]);
    }
  }

  async #context({ launch, cwd }: Where): Promise<string | undefined> {
    const text = await run(this.#path(), ["targets", "--contexts", "-o", "json", ...given("--kubeconfig", "kubeconfig", launch)], { cwd });
    const contexts = JSON.parse(text) as Context[];
    const items = contexts.map((c) => ({
      label: c.name,
      description: [c.current ? "current" : "", c.cluster === c.name ? "" : c.cluster, c.namespace ?? ""].filter(Boolean).join(" · "),
    }));
    const title = "stepin: in which cluster?";
    return (await vscode.window.showQuickPick(items, { title, placeHolder: "The kubeconfig's contexts", ignoreFocusOut: true }))?.label;
  }
}

function flags({ launch, everywhere }: Where): string[] {
  const list: string[] = everywhere ? ["-A"] : given("-n", "namespace", launch);
  return [...list, ...given("--context", "context", launch), ...given("--kubeconfig", "kubeconfig", launch)];
}

/** A flag with the key's value, where there is one. */
function given(flag: string, key: "namespace" | "context" | "kubeconfig", launch: Launch): string[] {
  const value: unknown = launch[key];
  if (value === undefined || value === "") return [];
  if (typeof value !== "string" || value.includes("\0")) throw new Failure(`"${key}" must be a word, not ${JSON.stringify(value)}`, "", ["Open launch.json"]);
  return [flag, value];
}

async function chooseContainer(target: Target): Promise<Choice | undefined> {
  const items = (target.containers ?? []).map((label) => ({ label, description: label === target.default ? "default" : "" }));
  const title = `stepin: which container of ${target.target}?`;
  const chosen = await vscode.window.showQuickPick(items, { title, ignoreFocusOut: true });
  return chosen && { target, container: chosen.label };
}

function rows(listing: Listing, used: Used[], where: Where): Row[] {
  const list: Row[] = sorted(listing.items, used).map((target) => ({
    label: target.target,
    description: describe(target),
    detail: detail(target, where.everywhere),
    choice: { target },
    ...((target.containers ?? []).length > 1 ? { buttons: [containerButton] } : {}),
  }));
  if (!where.free) return list;
  if (!where.everywhere) list.push({ label: "$(list-tree) All namespaces …", alwaysShow: true, choice: "everywhere" });
  list.push({ label: "$(server-environment) Another context …", alwaysShow: true, choice: "contexts" });
  return list;
}

function placeholder(listing: Listing): string {
  if (listing.items.length === 0) return listing.missing?.[0] ?? "There is nothing here that can be a target";
  return listing.missing?.length ? `Not all may be listed: ${listing.missing.join("; ")}` : "A workload means all its ready pods";
}
