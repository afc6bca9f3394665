// As much of VS Code as the tests need: what it is told is kept in `said`, what it answers is set in `answers`.

export const said: { errors: string[]; commands: string[]; sent: string[]; options?: unknown } = { errors: [], commands: [], sent: [] };

export const answers: {
  language?: string;
  settings: Record<string, string>;
  /** What the Python extension says is chosen; it is not installed otherwise. */
  python?: string;
  /** The button to press. */
  button?: string;
  /** Chooses a row of a quick pick, or none. */
  choose: (rows: { label: string }[]) => { label: string } | undefined;
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
};

class QuickPick {
  selectedItems: { label: string }[] = [];
  #accept = () => undefined as unknown;
  #hide = () => undefined as unknown;
  onDidAccept(f: () => void) {
    this.#accept = f;
  }
  onDidHide(f: () => void) {
    this.#hide = f;
  }
  show() {
    return undefined;
  }
  dispose() {
    return undefined;
  }
  set items(rows: { label: string }[]) {
    const row = answers.choose(rows);
    this.selectedItems = row ? [row] : [];
    if (row) this.#accept();
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
