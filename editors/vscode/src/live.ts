// The window's running sessions, as their adapter tells of them. A child session (Node's, a subprocess's) is its parent's.
import * as vscode from "vscode";
import { type Launch, isChild } from "./launch.ts";
import { counted, isState, type Shown, type State } from "./state.ts";

/** One running session. */
export interface Running {
  session: vscode.DebugSession;
  state: State;
  requests: number;
  /** Whether the adapter answers questions: it does when the launch has been answered. */
  ready: boolean;
}

/** How long the window's words may be behind a burst of events, in ms. */
const lag = 200;

export class Live {
  readonly #running = new Map<string, Running>();
  readonly #heard = new Set<() => void>();
  #active: string | undefined;
  #telling: NodeJS.Timeout | undefined;
  #changedState = false;
  readonly #subscriptions: vscode.Disposable[];
  readonly #states = new Set<() => void>();

  constructor() {
    this.#subscriptions = [
      vscode.debug.onDidReceiveDebugSessionCustomEvent((e) => {
        this.#event(e);
      }),
      vscode.debug.onDidStartDebugSession((session) => {
        this.#started(session);
      }),
      vscode.debug.onDidTerminateDebugSession((session) => {
        if (this.#running.delete(session.id)) this.#tell(true);
      }),
      vscode.debug.onDidChangeActiveDebugSession((session) => {
        const own = session && root(session);
        if (own?.type === "stepin") this.#active = own.id;
        this.#tell(false);
      }),
    ];
  }

  /** Calls f, at most five times a second, after a change of what is shown; dispose of what it returns. */
  onChange(f: () => void): vscode.Disposable {
    return listen(this.#heard, f);
  }

  /** The same, but not for requests. */
  onState(f: () => void): vscode.Disposable {
    return listen(this.#states, f);
  }

  all(): Running[] {
    return [...this.#running.values()];
  }

  /** The active one, else the one that was, else any. */
  active(): Running | undefined {
    return this.#running.get(this.#active ?? "") ?? this.all().at(-1);
  }

  shown(): Shown | undefined {
    const active = this.active();
    return active && { name: active.session.name, state: active.state, requests: active.requests, running: this.#running.size };
  }

  dispose(): void {
    clearTimeout(this.#telling);
    for (const s of this.#subscriptions) s.dispose();
  }

  /** A session that tells nothing by itself (an older stepin) is shown as its configuration has it. */
  #started(session: vscode.DebugSession): void {
    if (session.type !== "stepin" || isChild(session.configuration)) return;
    const told = this.#running.get(session.id);
    this.#put(session, told?.state ?? fromConfiguration(session.configuration), true);
    if (told) return;
    session.customRequest("stepin.state", {}).then(
      (state: unknown) => {
        if (isState(state) && this.#running.has(session.id)) this.#put(session, state);
      },
      () => undefined, // what the configuration says must do
    );
  }

  #event({ session, event, body }: vscode.DebugSessionCustomEvent): void {
    if (session.type !== "stepin" || (event !== "stepin.state" && event !== "stepin.request")) return;
    const own = root(session);
    if (event === "stepin.state") {
      if (isState(body) && own.id === session.id) this.#put(session, body);
      return;
    }
    const running = this.#running.get(own.id);
    if (!running) return; // the last words of one that has ended
    running.requests += counted(body);
    this.#tell(false);
  }

  #put(session: vscode.DebugSession, state: State, ready = this.#running.get(session.id)?.ready ?? false): void {
    this.#running.set(session.id, { requests: 0, ...this.#running.get(session.id), session, state, ready });
    this.#tell(true);
  }

  #tell(state: boolean): void {
    this.#changedState ||= state;
    this.#telling ??= setTimeout(() => {
      this.#telling = undefined;
      if (this.#changedState) for (const f of this.#states) f();
      this.#changedState = false;
      for (const f of this.#heard) f();
    }, lag);
  }
}

function listen(set: Set<() => void>, f: () => void): vscode.Disposable {
  set.add(f);
  return new vscode.Disposable(() => set.delete(f));
}

/** The session that has the target. */
export function root(session: vscode.DebugSession): vscode.DebugSession {
  return isChild(session.configuration) && session.parentSession ? root(session.parentSession) : session;
}

function fromConfiguration(config: Launch): State {
  const { target, namespace, context } = config;
  const mode = (config["incoming"] as { mode?: unknown } | undefined)?.mode;
  return {
    target: target ?? config.name,
    ...(namespace ? { namespace } : {}),
    ...(context ? { context } : {}),
    mode: typeof mode === "string" ? mode : "mirror",
  };
}
