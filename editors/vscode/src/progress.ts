// What the adapter does while a program starts, as a notification with Cancel. VS Code shows a DAP progress of its own only for
// the session that it looks at, so not for the second of a compound, nor for the start after one that failed or was cancelled
// (1.100 to 1.139, debugProgress.ts). So the adapter sends us the events instead, with the same bodies (__showsProgress).
import * as vscode from "vscode";

/** How long a start may take without a word, in ms: as VS Code's own. */
const delay = 500;

interface Body {
  progressId: string;
  title?: string;
  message?: string;
  percentage?: number;
}

/** One that is under way. */
interface Shown {
  message: string;
  percentage: number;
  report: ((step: { message?: string; increment?: number }) => void) | undefined;
  end: () => void;
}

export class Progresses {
  /** By session and progress. */
  readonly #all = new Map<string, Shown>();
  readonly #subscriptions = [
    vscode.debug.onDidReceiveDebugSessionCustomEvent((e) => {
      this.#event(e);
    }),
    vscode.debug.onDidTerminateDebugSession((session) => {
      this.#endAll(`${session.id} `);
    }),
  ];

  dispose(): void {
    this.#endAll("");
    for (const s of this.#subscriptions) s.dispose();
  }

  #event({ session, event, body }: vscode.DebugSessionCustomEvent): void {
    if (session.type !== "stepin") return;
    const { progressId: id, ...rest } = (body ?? {}) as Body;
    const key = `${session.id} ${id}`;
    if (event === "stepin.progressStart") this.#start(key, session, id, rest.message ?? "");
    else if (event === "stepin.progressUpdate") update(this.#all.get(key), rest);
    else if (event === "stepin.progressEnd") this.#all.get(key)?.end();
  }

  #start(key: string, session: vscode.DebugSession, progressId: string, message: string): void {
    let finish: (() => void) | undefined;
    const over = new Promise<void>((resolve) => (finish = resolve));
    const shown: Shown = {
      message,
      percentage: 0,
      report: undefined,
      end: () => {
        clearTimeout(timer);
        this.#all.delete(key);
        finish?.();
      },
    };
    const timer = setTimeout(() => {
      const options = { location: vscode.ProgressLocation.Notification, title: `stepin: ${session.name}`, cancellable: true };
      void vscode.window.withProgress(options, (progress, token) => {
        shown.report = (step) => {
          progress.report(step);
        };
        shown.report({ message: shown.message, increment: shown.percentage });
        token.onCancellationRequested(() => {
          session.customRequest("cancel", { progressId }).then(undefined, () => undefined); // it has just ended
        });
        return over;
      });
    }, delay);
    this.#all.set(key, shown);
  }

  #endAll(prefix: string): void {
    for (const [key, shown] of this.#all) if (key.startsWith(prefix)) shown.end();
  }
}

function update(shown: Shown | undefined, { message, percentage }: Omit<Body, "progressId">): void {
  if (!shown) return;
  const increment = percentage === undefined ? 0 : Math.max(0, percentage - shown.percentage);
  shown.percentage += increment;
  shown.message = message ?? shown.message;
  shown.report?.({ message: shown.message, ...(increment > 0 ? { increment } : {}) });
}
