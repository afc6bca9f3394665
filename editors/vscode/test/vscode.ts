// As much of VS Code as the tests need: what it is told is kept in `said`, what it answers is set in `answers`.

interface Shown {
  label: string;
  description?: string;
}

export const said: {
  errors: string[];
  /** The buttons of the last message. */
  buttons: string[];
  warnings: string[];
  commands: string[];
  sent: string[];
  clipboard: string[];
  stopped: unknown[];
  /** The titles and steps of progress notifications, and "end" for one that has gone. */
  progress: string[];
  options?: unknown;
} = { errors: [], buttons: [], warnings: [], commands: [], sent: [], clipboard: [], stopped: [], progress: [] };

export const answers: {
  language?: string;
  settings: Record<string, string>;
  /** What the Python extension says is chosen; it is not installed otherwise. */
  python?: string;
  /** The button to press. */
  button?: string;
  /** Chooses a row of a quick pick, or none; null waits for other rows. */
  choose: (rows: Shown[]) => Shown | undefined | null;
  /** The row's own button is pressed instead. */
  rowButton?: boolean;
  /** Commands of other extensions. */
  installed: string[];
} = { settings: {}, choose: (rows) => rows[0], installed: [] };

/** Nothing has been said, and the answers are those of somebody who presses Enter. */
export function afresh(): void {
  for (const list of Object.values(said)) if (Array.isArray(list)) list.length = 0;
  for (const key of ["button", "language", "python", "rowButton"] as const) delete answers[key]; // eslint-disable-line @typescript-eslint/no-dynamic-delete
  Object.assign(answers, { settings: {}, installed: [], choose: (rows: Shown[]) => rows[0] });
}

export class EventEmitter<T> {
  readonly #heard = new Set<(e: T) => unknown>();
  readonly event = (f: (e: T) => unknown): { dispose(): void } => {
    this.#heard.add(f);
    return { dispose: () => void this.#heard.delete(f) };
  };
  fire(e: T): void {
    for (const f of this.#heard) f(e);
  }
  dispose(): void {
    this.#heard.clear();
  }
}

export class Disposable {
  readonly dispose: () => unknown;
  constructor(dispose: () => unknown) {
    this.dispose = dispose;
  }
  static from(...all: { dispose(): unknown }[]): Disposable {
    return new Disposable(() => {
      for (const one of all) one.dispose();
    });
  }
}

/** The status bar's only item. */
export const barItem = {
  ...{ shown: false, text: "", tooltip: "", name: "", command: "", accessibilityInformation: { label: "" } },
  show() {
    this.shown = true;
  },
  hide() {
    this.shown = false;
  },
  dispose() {
    this.shown = false;
  },
};

/** The only view; a test lets it be seen. */
export const view = { visible: false, seen: new EventEmitter<{ visible: boolean }>() };

/** Ends a progress notification as its Cancel button does. */
export const cancelled = new EventEmitter<undefined>();

export const window = {
  get activeTextEditor() {
    return answers.language ? { document: { languageId: answers.language } } : undefined;
  },
  showErrorMessage: (text: string, ...buttons: string[]) => shown(said.errors, text, buttons),
  showWarningMessage: (text: string, ...buttons: (string | object)[]) => shown(said.warnings, text, buttons),
  showInformationMessage: (text: string, ...buttons: string[]) => shown(said.warnings, text, buttons),
  createTerminal: () => ({ show: () => undefined, sendText: (text: string) => said.sent.push(text) }),
  createQuickPick: () => new QuickPick(),
  showQuickPick: (rows: Shown[]) => Promise.resolve(answers.choose(rows) ?? undefined),
  createStatusBarItem: () => barItem,
  createTreeView: () => ({
    get visible() {
      return view.visible;
    },
    onDidChangeVisibility: view.seen.event,
    dispose: () => undefined,
  }),
  async withProgress(options: { title: string }, work: (progress: object, token: object) => Promise<unknown>): Promise<void> {
    said.progress.push(options.title);
    const report = ({ message, increment }: { message?: string; increment?: number }) =>
      said.progress.push(`${message ?? ""} +${increment ?? 0}`);
    await work({ report }, { onCancellationRequested: cancelled.event });
    said.progress.push("end");
  },
};

function shown(list: string[], text: string, buttons: (string | object)[]): Promise<string | undefined> {
  list.push(text);
  said.buttons = buttons.filter((button) => typeof button === "string");
  return Promise.resolve(answers.button);
}

export class ThemeIcon {
  readonly id: string;
  constructor(id: string) {
    this.id = id;
  }
}

export class TreeItem {
  readonly label: string;
  readonly collapsibleState: number;
  constructor(label: string, collapsibleState = 0) {
    this.label = label;
    this.collapsibleState = collapsibleState;
  }
}

export const TreeItemCollapsibleState = { None: 0, Collapsed: 1, Expanded: 2 };
export const StatusBarAlignment = { Left: 1, Right: 2 };
export const ProgressLocation = { Notification: 15 };
export const ConfigurationTarget = { Global: 1 };
export const Uri = { parse: (text: string) => text, file: (text: string) => text };

class QuickPick {
  selectedItems: Shown[] = [];
  activeItems: Shown[] = [];
  #accept = () => undefined as unknown;
  #hide = () => undefined as unknown;
  #button: (e: { item: Shown }) => void = () => undefined;
  onDidAccept(f: () => void) {
    this.#accept = f;
  }
  onDidHide(f: () => void) {
    this.#hide = f;
  }
  onDidTriggerItemButton(f: (e: { item: Shown }) => void) {
    this.#button = f;
  }
  show() {
    return undefined;
  }
  dispose() {
    return undefined;
  }
  get items(): Shown[] {
    return [];
  }
  set items(rows: Shown[]) {
    const row = answers.choose(rows);
    if (row === null) return;
    this.selectedItems = row ? [row] : [];
    if (row && answers.rowButton) this.#button({ item: row });
    else if (row) this.#accept();
    else this.#hide();
  }
}

export const workspace = {
  getConfiguration: () => ({
    get: (name: string, otherwise: string) => answers.settings[name] ?? otherwise,
    update: (name: string, value: unknown) => Promise.resolve(void said.commands.push(`set ${name} ${String(value)}`)),
  }),
};

export const env = {
  clipboard: { writeText: (text: string) => Promise.resolve(void said.clipboard.push(text)) },
  openExternal: (address: string) => Promise.resolve(said.commands.push(`open ${address}`) > 0),
};

export const extensions = {
  getExtension: () =>
    answers.python && {
      activate: () => Promise.resolve({ environments: { getActiveEnvironmentPath: () => ({ path: answers.python }) } }),
    },
};

export const commands = {
  registered: new Map<string, (...args: unknown[]) => unknown>(),
  registerCommand(name: string, f: (...args: unknown[]) => unknown) {
    commands.registered.set(name, f);
    return { dispose: () => commands.registered.delete(name) };
  },
  getCommands: () => Promise.resolve(answers.installed),
  executeCommand(name: string, ...args: unknown[]) {
    said.commands.push([name, ...args.map(String)].join(" "));
    return Promise.resolve();
  },
};

export const DebugConsoleMode = { Separate: 0, MergeWithParent: 1 };

/** What a debug session does is fired here. */
export const happens = {
  starts: new EventEmitter<unknown>(),
  ends: new EventEmitter<unknown>(),
  active: new EventEmitter<unknown>(),
  tells: new EventEmitter<unknown>(),
};

interface Provider {
  resolveDebugConfiguration?: (folder: unknown, config: object) => unknown;
}

export const debug = {
  providers: new Map<string, Provider>(),
  registerDebugConfigurationProvider(type: string, provider: Provider) {
    debug.providers.set(type, provider);
    return { dispose: () => debug.providers.delete(type) };
  },
  onDidStartDebugSession: happens.starts.event,
  onDidTerminateDebugSession: happens.ends.event,
  onDidChangeActiveDebugSession: happens.active.event,
  onDidReceiveDebugSessionCustomEvent: happens.tells.event,
  startDebugging(_folder: unknown, config: { target?: string; incoming?: { mode?: string } }, options: unknown) {
    said.options = options;
    said.commands.push(`start ${config.target ?? ""}${config.incoming?.mode ? ` ${config.incoming.mode}` : ""}`);
    return Promise.resolve(true);
  },
  stopDebugging(session: unknown) {
    said.stopped.push(session);
    return Promise.resolve();
  },
};
