// What the adapter tells about a running session, and the words for it. Nothing here knows of VS Code.

/** The event `stepin.state`, and the answer to the request of that name. */
export interface State {
  target: string;
  namespace?: string;
  context?: string;
  mode: string;
  pods?: { name: string; home?: boolean; connected?: boolean }[] | null;
  ports?: Port[] | null;
  who?: string;
  session?: string;
  since?: string;
  paused?: boolean;
}

/** port is the debuggee's; pod the one that it stands for, where that is another. */
export interface Port {
  port: number;
  pod?: number;
  network?: string;
}

/** One of the answer to `stepin.sessions`: a session on one of the target's pods. */
export interface OnTarget {
  id: string;
  pod?: string;
  namespace?: string;
  who?: string; // "" where the agent does not tell
  mode?: string;
  ports?: (Port | number)[] | null;
  since?: string;
  mine?: boolean; // it may be stopped
  own?: boolean; // it is the one that asked
}

/** What a session can do with the pod's requests, as the menu has it. */
export const modes: { mode: string; means: string }[] = [
  { mode: "mirror", means: "the program gets copies, the pod answers" },
  { mode: "steal", means: "the program answers in the pod's place" },
  { mode: "off", means: "the program gets none" },
];

/** A running session as the status bar has it. */
export interface Shown {
  /** What its configuration is called. */
  name: string;
  state: State;
  /** How many requests have been answered so far. */
  requests: number;
  /** How many sessions run in this window. */
  running: number;
}

export function isState(body: unknown): body is State {
  const s = body as Partial<State> | null | undefined;
  return typeof s?.target === "string" && typeof s.mode === "string";
}

/** How many requests an event `stepin.request` stands for: itself, and those that were left out before it. */
export function counted(body: unknown): number {
  const skipped = (body as { skipped?: unknown } | null | undefined)?.skipped;
  return 1 + (typeof skipped === "number" && skipped > 0 ? skipped : 0);
}

/** The status bar's text; a picture stands for the pause. */
export function barText({ state, requests }: Shown): string {
  const name = state.target.replace(/^(?!local\/)[^/]*\//, ""); // a bare process id says nothing
  return `$(${state.paused ? "debug-pause" : "server-process"}) ${name}: ${state.mode}, ${many(requests, "request")}`;
}

/** The same for who cannot see it. */
export function barLabel({ state, requests, running }: Shown): string {
  const paused = state.paused ? ", paused" : "";
  const several = running > 1 ? `, one of ${running} sessions` : "";
  return `stepin session: ${state.target}, ${state.mode}, ${many(requests, "request")} so far${paused}${several}`;
}

/** What the pointer finds, one fact a line. */
export function barTooltip({ name, state, requests, running }: Shown): string {
  const pods = state.pods ?? [];
  const away = pods.filter((pod) => pod.connected === false).length;
  return [
    `${name}: in the place of ${state.target}${place(state)}`,
    `Incoming: ${state.mode}${ports(state.ports ?? [])}; ${many(requests, "request")} so far${state.paused ? "; paused" : ""}`,
    pods.length > 0 ? `${many(pods.length, "pod")}: ${pods.slice(0, maxNames).map((p) => p.name).join(", ")}${pods.length > maxNames ? " …" : ""}` : "",
    away > 0 ? `No way to ${away} of them now` : "",
    running > 1 ? `${running} sessions run in this window; this is the active one's` : "",
  ]
    .filter(Boolean)
    .join("\n");
}

/** How many pods are named before three dots. */
const maxNames = 5;

/** Where a target is, in words; empty where there is no cluster. */
export function place({ namespace, context }: { namespace?: string; context?: string }): string {
  return [namespace ? ` in ${namespace}` : "", context ? ` (${context})` : ""].join("");
}

/** One session on a target, whatever many pods it is on. */
export interface Sharer {
  id: string;
  who: string;
  mode: string;
  ports: string;
  since?: string;
  pods: string[];
  mine: boolean;
  own: boolean;
}

/** The answer's rows by session: this window's own first, then mine, then the longest there. ids are all this window's own. */
export function sharers(answer: unknown, ids: ReadonlySet<string>): Sharer[] {
  const list = (answer as { sessions?: unknown } | null | undefined)?.sessions;
  const found = new Map<string, Sharer>();
  for (const s of (Array.isArray(list) ? list : []) as OnTarget[]) {
    const key = s.id || `${s.who ?? ""} ${s.pod ?? ""}`; // of an agent that tells no more
    const known = found.get(key);
    if (known) {
      if (s.pod && !known.pods.includes(s.pod)) known.pods.push(s.pod);
      continue;
    }
    found.set(key, {
      id: s.id,
      who: s.who || "somebody",
      mode: s.mode ?? "",
      ports: ports(s.ports ?? []).trim(),
      ...(s.since ? { since: s.since } : {}),
      pods: s.pod ? [s.pod] : [],
      mine: s.mine === true,
      own: s.own === true || ids.has(s.id),
    });
  }
  const rank = (s: Sharer) => (s.own ? 0 : s.mine ? 1 : 2);
  return [...found.values()].sort((a, b) => rank(a) - rank(b) || (a.since ?? "").localeCompare(b.since ?? ""));
}

/** What stands behind who it is. */
export function sharerText(s: Sharer, now: Date): string {
  return [[s.mode, s.ports].filter(Boolean).join(" "), s.own ? "this window" : s.mine ? "yours" : "", since(s.since, now)].filter(Boolean).join(" · ");
}

/** "since 10:32", with the day where that is not today. */
function since(at: string | undefined, now: Date): string {
  const then = new Date(at ?? "");
  if (Number.isNaN(then.getTime())) return "";
  const time = then.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  const day = then.toDateString() === now.toDateString() ? "" : `${then.toLocaleDateString()} `;
  return `since ${day}${time}`;
}

/** " 8080, 53/udp"; the pod's numbers, since that is what several share. */
function ports(list: (Port | number)[]): string {
  const words = list.map((p) => {
    if (typeof p === "number") return `${p}`;
    const number = p.pod ?? p.port;
    return p.network && p.network !== "tcp" ? `${number}/${p.network}` : `${number}`;
  });
  return words.length > 0 ? ` ${[...new Set(words)].join(", ")}` : "";
}

function many(n: number, what: string): string {
  return `${n} ${what}${n === 1 ? "" : "s"}`;
}
