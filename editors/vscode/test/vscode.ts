// As much of VS Code as the tests need: what it is told is kept in `said`, what it answers is set in `answers`.

interface Shown {
  label: string;
  description?: string;
}

export const said: { errors: string[]; commands: string[]; sent: string[]; options?: unknown } = { errors: [], commands: [], sent: [] };

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
} = { settings: {}, choose: (rows) => rows[0] };

export const window = {
  get activeTextEditor() {
    return answers.language ? { document: { languageId: answers.language } } : undefined;
  },
  showErrorMessage(text: string): Promise<string | undefined> {
    said.errors.push(text);
    return Promise.resolve(answers.button);
  },
  createTerminal: () => ({ show: () => undefined, sendText: (text: string) => said.sent.push(text) }),
  createQuickPick: () => new QuickPick(),
  showQuickPick: (rows: Shown[]) => Promise.resolve(answers.choose(rows) ?? undefined),
};

export class ThemeIcon {
  readonly id: string;
  constructor(id: string) {
    this.id = id;
  }
}

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
  getConfiguration: () => ({ get: (name: string, otherwise: string) => answers.settings[name] ?? otherwise }),
};

export const extensions = {
  getExtension: () =>
    answers.python && {
      activate: () => Promise.resolve({ environments: { getActiveEnvironmentPath: () => ({ path: answers.python }) } }),
    },
};

export const commands = {
  executeCommand(name: string) {
    said.commands.push(name);
    return Promise.resolve();
  },
};

export const DebugConsoleMode = { Separate: 0, MergeWithParent: 1 };

export const debug = {
  startDebugging(_folder: unknown, config: { target?: string }, options: unknown) {
    said.options = options;
    said.commands.push(`start ${config.target ?? ""}`);
    return Promise.resolve(true);
  },
};
